"""Continuing a clip: the history goes through the decoder first, and the join is blended."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from flowreel.codec import StreamDecoder
from flowreel.media import Clip
from flowreel.pipeline.conditioning import Conditioning, KnownMedia, stack
from flowreel.pipeline.continuation import ContinuationDecoder
from tests.conftest import tiny_pipeline

HISTORY = {"video": torch.zeros(1, 4, 1, 2, 2), "audio": torch.zeros(1, 4, 1, 2, 2)}


class Scripted:
    """A decoder that keeps what it is given and gives the clips of a script."""

    def __init__(self, batch: int, *chunks: Clip) -> None:
        self.batch, self.pushed = batch, list[dict[str, torch.Tensor]]()
        self._chunks = list(chunks)

    def push(self, latents: dict[str, torch.Tensor]) -> list[Clip]:
        self.pushed.append(latents)
        return self.finish()

    def finish(self) -> list[Clip]:
        return [self._chunks.pop(0)] * self.batch if self._chunks else []


def grey(*values: int, first: int = 0) -> Clip:
    """Frames of one grey each, and audio that counts its samples."""
    frames = np.stack([np.full((2, 3, 3), value, np.uint8) for value in values])
    return Clip(frames, np.arange(first * 1600, (first + len(values)) * 1600, dtype=np.float32) / 1e6)


def known(last: int, audio: np.ndarray | None = None) -> Conditioning:
    return Conditioning(HISTORY, 4, (KnownMedia(last=replace(grey(last), audio=audio)),))


def continued(conditioning: Conditioning, batch: int, *chunks: Clip) -> list[list[Clip]]:
    """What comes out of a continuation whose decoder gives ``chunks``, and then nothing."""
    decoder = ContinuationDecoder(Scripted(batch, *chunks), conditioning)  # type: ignore[arg-type]
    latents = {k: torch.ones(batch, 3, *v.shape[2:]) for k, v in HISTORY.items()}
    parts = [decoder.push(latents) for _ in chunks]
    assert decoder.finish() == []
    return parts


def test_history_goes_first_and_does_not_come_out() -> None:
    scripted = Scripted(2, grey(1, 2, 3), grey(100, 10, 20, first=3))
    decoder = ContinuationDecoder(scripted, known(100))  # type: ignore[arg-type]
    latents = {k: torch.ones(2, 3, *v.shape[2:]) for k, v in HISTORY.items()}
    assert decoder.push(latents) == []
    (clip, _) = decoder.push(latents)
    first, second = scripted.pushed
    assert {k: v.shape[:2] for k, v in first.items()} == {"video": (2, 7), "audio": (2, 7)}
    assert all(bool((v[:, :4] == 0).all() and (v[:, 4:] == 1).all()) for v in first.values())
    assert all(torch.equal(second[k], latents[k]) for k in latents)
    assert clip.frames[:, 0, 0, 0].tolist() == [10, 20]
    np.testing.assert_array_equal(clip.audio, grey(0, 0, first=4).audio)


def test_the_residual_fades_across_chunks() -> None:
    chunks = [grey(0, 0, 0, 100, 50, 50), grey(50, 50, 50, 50)]
    parts = continued(stack([known(110), known(80)]), 2, *chunks)
    up, down = (np.concatenate([part[n].frames[:, 0, 0, 0] for part in parts]) for n in range(2))
    assert up.tolist() == [58, 56, 54, 52, 50, 50]  # of 10 more than the decoder gave, 0.8, 0.6, 0.4, 0.2 are left
    assert down.tolist() == [34, 38, 42, 46, 50, 50]
    assert chunks[0].frames[4, 0, 0, 0] == 50  # unchanged


def test_nothing_fades_where_the_last_frame_is_not_known() -> None:
    ((clip,),) = continued(Conditioning(HISTORY, 4), 1, grey(0, 0, 0, 100, 50))
    assert clip.frames[:, 0, 0, 0].tolist() == [50]


def test_history_is_not_held_with_its_clip() -> None:
    pipe = tiny_pipeline(roles=("joint", "context"), contexts=(0, 2))
    last = pipe.condition(prefix=pipe.generate(seconds=1.0, seed=9)).media[0].last
    assert last is not None
    assert last.audio is not None
    assert last.frames.base is None
    assert last.audio.base is None


def test_the_waves_of_the_sound_meet() -> None:
    """A tone that was given goes on; the decoder's has another phase."""
    time = np.arange(7 * 1600) / 16000
    tone, decoded = (np.sin(2 * np.pi * 440 * time + phase).astype(np.float32) / 2 for phase in (0.0, 2.0))
    chunk = replace(grey(0, 0, 0, 100, 50, 50, 50), audio=decoded)
    ((clip,),) = continued(known(100, tone[3 * 1600 : 4 * 1600]), 1, chunk)
    assert clip.audio is not None
    steps = np.abs(np.diff(np.concatenate([tone[: 4 * 1600], clip.audio])))
    before = np.abs(np.diff(np.concatenate([tone[: 4 * 1600], decoded[4 * 1600 :]])))
    assert before[6399] > 3 * np.median(steps)
    assert steps[6399] < steps[:6399].max()
    assert steps.max() < before[6399] / 2
    np.testing.assert_array_equal(clip.audio[320:], decoded[4 * 1600 + 320 :])
    short = replace(grey(0, 0, 0, 100, 50), audio=decoded[: 5 * 1600])
    ((clip,),) = continued(known(100, tone[:20]), 1, short)  # less audio than a frame has
    assert clip.audio is not None


def test_blended_frames_stay_in_range() -> None:
    ((clip,),) = continued(known(255), 1, grey(0, 0, 0, 10, 250))
    assert clip.frames.max() == 255


@pytest.mark.parametrize("sound", [True, False])
def test_a_generation_decodes_what_follows_with_its_history(sound: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    roles = ("joint", "context")
    pipe = tiny_pipeline(roles=roles, contexts=(0, 2), sound=sound)
    source = pipe.generate(seconds=1.0, seed=9)
    pushed: list[dict[str, torch.Tensor]] = []
    push = StreamDecoder.push
    monkeypatch.setattr(StreamDecoder, "push", lambda self, latents: pushed.append(latents) or push(self, latents))
    more = pipe.generate(prefix=source, seconds=1.0, seed=1, label=0)
    (whole,) = pipe.codec.decode({k: torch.cat([latents[k] for latents in pushed], dim=1) for k in pushed[0]})
    history, rest = whole.cut(2)
    assert rest is not None
    np.testing.assert_allclose(more.frames[4:].astype(int), rest.frames[4:], atol=1)  # decoded in other batches
    lost = source.frames[-1].astype(float) - history.frames[-1]
    np.testing.assert_allclose(more.frames[0], (rest.frames[0] + 0.8 * lost).clip(0, 255), atol=1.51)
    if sound:
        assert more.audio is not None
        assert rest.audio is not None
        np.testing.assert_allclose(more.audio[320:], rest.audio[320:], atol=1e-5)
        assert not np.allclose(more.audio[:320], rest.audio[:320], atol=1e-5)


def test_a_clip_is_cut_with_its_sound() -> None:
    clip = replace(grey(1, 2, 3), label="ball")
    first, rest = clip.cut(2)
    assert rest is not None
    assert (len(first.frames), len(first.audio), len(rest.frames), len(rest.audio)) == (2, 3200, 1, 1600)  # type: ignore[arg-type]
    assert first.label == rest.label == "ball"
    assert clip.cut(3)[1] is None
    uneven = Clip(np.zeros((2, 2, 2, 3), np.uint8), np.zeros(1333, np.float32), 24.0)  # 666.67 samples a frame
    early, late = uneven.cut(1)[0].audio, replace(uneven, audio=np.zeros(1334, np.float32)).cut(1, before=1)[0].audio
    assert (len(early), len(late)) == (667, 666)  # type: ignore[arg-type]
