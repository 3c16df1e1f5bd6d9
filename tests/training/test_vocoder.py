"""Training a vocoder, here a HiFi-GAN: which audio it is trained on, its updates, resuming, and the folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from flowreel.codec.mel import log_mel
from flowreel.codec.vocoder import load
from flowreel.config import MelConfig, SinusoidsTrainConfig, VocoderTrainConfig
from flowreel.data.sources import find_clips
from flowreel.errors import InputError
from flowreel.media import Clip, read_audio
from flowreel.training import checkpoint
from flowreel.training.audio_segments import mel_distance, read_clip_audio
from flowreel.training.hifigan import fused
from flowreel.training.vocoder import VocoderTask, train_vocoder
from tests.runs import check_shown_again, same

RATE = 4000
MEL = MelConfig(sample_rate=RATE, n_fft=256, win_length=160, hop=40, bins=20, fmax=2000)


def quiet(text: str) -> None:
    pass


def write(path: Path, seconds: float, pitch: float = 300, has_audio: bool = True) -> None:
    """A tone in noise that swells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    t = np.arange(round(seconds * 16000)) / 16000
    noise = 0.05 * np.random.default_rng(0).standard_normal(len(t))
    audio = ((0.4 * np.sin(2 * np.pi * pitch * t) + noise) * (0.2 + 0.8 * t / seconds)).astype(np.float32)
    Clip(np.zeros((round(seconds * 10), 16, 16, 3), np.uint8), audio if has_audio else None, 10.0).save(path)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write(folder / "train" / "a.mkv", 3)
    write(folder / "train" / "b.mkv", 1, 700)
    write(folder / "train" / "c.mkv", 1, has_audio=False)
    write(folder / "test" / "d.mkv", 1, 500)
    return folder


def config(**changes: object) -> VocoderTrainConfig:
    base = VocoderTrainConfig(
        kind="hifigan",
        steps=4,
        batch=4,
        log=1,
        save=2,
        preview=0,
        validate=0,
        segment=8,
        width=16,
        rates=(8, 5),
        resblock_kernels=(3,),
        discriminator=8,
        adversarial_start=1,
        mel=MEL,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def task(clips: Path, **changes: object) -> VocoderTask:
    return VocoderTask(find_clips(clips), config(**changes), quiet)


# --- audio --------------------------------------------------------------------------------------------------------


def test_audio_of_all_clips_is_held_and_silent_ones_are_skipped(clips: Path) -> None:
    waveforms, numbers = read_clip_audio(find_clips(clips), config(), 100, quiet, least=1)
    assert [len(audio) for audio in waveforms] == [3 * RATE, RATE, RATE]
    assert numbers == [0, 1, 3]
    torch.testing.assert_close(waveforms[1], torch.from_numpy(read_audio(clips / "train" / "b.mkv", RATE)))


def test_a_limit_is_shared_by_the_clips_and_spread_over_the_time_of_each(clips: Path, monkeypatch) -> None:
    monkeypatch.setattr("flowreel.training.audio_segments.PIECE", 0.5)
    sources = find_clips(clips)[:2]
    waveforms, numbers = read_clip_audio(sources, config(), 2.0, quiet, least=1)
    assert numbers == [0, 0, 1]
    assert [len(audio) for audio in waveforms] == [RATE // 2, RATE // 2, RATE]
    whole = read_audio(sources[0].path, RATE)
    starts = range(len(whole) - RATE // 2)
    found = [min(starts, key=lambda at: np.abs(whole[at : at + len(s)] - s.numpy()).sum()) for s in waveforms[:2]]
    assert found[0] < len(whole) / 3 < found[1]


def test_clips_are_left_out_rather_than_cut_below_what_is_used(clips: Path) -> None:
    waveforms, numbers = read_clip_audio(find_clips(clips), config(), 1.5, quiet, least=80)
    assert len(numbers) == 1
    assert all(len(audio) >= 80 * config().mel.hop for audio in waveforms)
    assert not any((audio[-100:] == 0).all() for audio in waveforms)


def test_peak_is_one_for_each_clip(clips: Path) -> None:
    waveforms, _ = read_clip_audio(find_clips(clips)[:2], config(peak=0.9), 100, quiet, least=1)
    assert [round(audio.abs().max().item(), 3) for audio in waveforms] == [0.9, 0.9]


def test_short_audio_is_padded_with_silence(tmp_path: Path) -> None:
    write(tmp_path / "a.mkv", 0.1)
    held = task(tmp_path, segment=20)
    assert [len(audio) for audio in held.waveforms] == [20 * 40]
    assert not held.waveforms[0][RATE // 5 :].any()
    assert next(held.batches(0, 0, 1))["log_mel"].shape == (4, 20, 20)


def test_unreadable_clips_are_reported(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "silent.mkv").write_bytes((clips / "train" / "c.mkv").read_bytes())
    (tmp_path / "bad.mkv").write_bytes(b"nothing")
    said: list[str] = []
    with pytest.raises(InputError, match="none of the clips"):
        VocoderTask(find_clips(tmp_path), config(), said.append)
    assert "bad.mkv" in said[0]


def test_segments_are_cut_from_the_whole_clips_mel_and_fit_their_audio(clips: Path) -> None:
    held = task(clips)
    hop, wholes = MEL.hop, [log_mel(audio[None], MEL)[0] for audio in held.waveforms]
    for batch in held.batches(0, 0, 1):
        for mel, audio, clip in zip(batch["log_mel"], batch["audio"], batch["clip"].tolist(), strict=True):
            k = held.clips.index(clip)
            places = range(wholes[k].shape[1] - 7)
            (at,) = [at for at in places if torch.equal(mel, wholes[k][:, at : at + 8])][:1]
            assert torch.equal(audio, held.waveforms[k][at * hop : (at + 8) * hop])


def test_start_positions_are_uniform(clips: Path) -> None:
    held = task(clips)
    generator = torch.Generator().manual_seed(0)
    drawn = [held._place(generator) for _ in range(4000)]
    share = sum(k == 0 for k, _ in drawn) / len(drawn)
    assert abs(share - 293 / (293 + 93)) < 0.03
    assert {at for k, at in drawn if k == 1} == set(range(93))


def test_sample_depends_on_its_number_alone(clips: Path) -> None:
    whole = list(task(clips).batches(0, 0, 1))[1]
    later = next(task(clips).batches(1, 0, 1))
    cut = [next(task(clips).batches(1, rank, 2)) for rank in (0, 1)]
    for name, value in whole.items():
        assert torch.equal(value, later[name])
        assert torch.equal(value, torch.cat([part[name] for part in cut]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rates": (8, 4)}, "make 32 samples of a mel step, but mel.hop is 40"),
        ({"width": 18}, "multiple of 4"),
        ({"discriminator": 12}, "multiple of 8"),
        ({"segment": 0}, "segment"),
        ({"seconds": 0.0}, "seconds"),
        ({"kind": "wavenet"}, "one of sinusoids, hifigan, not 'wavenet'"),
        ({"sinusoids": SinusoidsTrainConfig(width=8)}, r"sinusoids\.\* are options of another vocoder"),
    ],
)
def test_impossible_settings_are_refused(clips: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        task(clips, **changes)


# --- updates ------------------------------------------------------------------------------------------------------


def gradients(held: VocoderTask, step: int, network: str) -> tuple[dict[str, torch.Tensor], set[str]]:
    """The losses of a network, and whose parameters they move."""
    for name in held.networks:
        held.module.get_submodule(name).requires_grad_(name == network)
        held.module.get_submodule(name).zero_grad()
    losses = held.losses(held.module, next(held.batches(0, 0, 1)) | {"step": torch.tensor(step)}, network)
    if losses:
        torch.stack(list(losses.values())).sum().backward()
    moved = {name.split(".")[0] for name, p in held.module.named_parameters() if p.grad is not None and p.grad.any()}
    return losses, moved


def test_each_update_moves_one_network_and_the_discriminator_starts_later(clips: Path) -> None:
    held = task(clips)
    assert gradients(held, 0, "discriminator") == ({}, set())
    alone, moved = gradients(held, 0, "generator")
    assert moved == {"generator"}
    assert alone["feature"] == alone["adversarial"] == 0 < alone["mel"]
    losses, moved = gradients(held, 1, "discriminator")
    assert (set(losses), moved) == ({"discriminator"}, {"discriminator"})
    losses, moved = gradients(held, 1, "generator")
    assert (set(losses), moved) == ({"mel", "feature", "adversarial"}, {"generator"})
    assert all(value > 0 for value in losses.values())


def test_fused_weights_give_the_same_audio_and_leave_the_network_unchanged(clips: Path) -> None:
    held = task(clips)
    mel = next(held.batches(0, 0, 1))["log_mel"]
    with torch.no_grad():
        before = held.averaged(mel)
        torch.testing.assert_close(fused(held.averaged)(mel), before, atol=1e-6, rtol=0)
        assert torch.equal(held.averaged(mel), before)


def test_mel_distance_of_a_waveform_and_its_double() -> None:
    audio = torch.randn(1, 4000) * 0.1
    assert mel_distance(audio, audio, MEL) == 0
    torch.testing.assert_close(mel_distance(2 * audio, audio, MEL).item(), np.log(2), atol=0.01, rtol=0)


def test_silent_output_has_a_gradient(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the floor of the log-mel the distance has no gradient: training looks below it."""
    held = task(clips, adversarial_start=9)
    batch = next(held.batches(0, 0, 1)) | {"step": torch.tensor(0)}
    silent = (1e-7 * torch.randn(batch["audio"].shape)).requires_grad_()
    monkeypatch.setattr(held.module, "forward", lambda *_: (silent, [], []))
    mel_distance(silent, batch["audio"], MEL).backward()
    assert silent.grad is not None
    assert not silent.grad.any()
    held.losses(held.module, batch, "generator")["mel"].backward()
    assert silent.grad.any()


# --- runs ---------------------------------------------------------------------------------------------------------


def test_four_steps_equal_two_and_two_to_the_bit(clips: Path, tmp_path: Path) -> None:
    train_vocoder(clips, tmp_path / "whole", config(), quiet)
    for steps in (2, 4):
        train_vocoder(
            clips, tmp_path / "parts", config(steps=steps, optim=replace(config().optim, schedule="constant")), quiet
        )
    saved = checkpoint.latest(tmp_path / "whole", quiet)
    assert saved is not None
    assert {name.split(".")[0] for name in saved.model} == {"generator", "discriminator"}
    assert same(tmp_path / "whole", tmp_path / "parts")


def test_run_folder_is_a_vocoder(clips: Path, tmp_path: Path) -> None:
    said: list[str] = []
    out = train_vocoder(clips, tmp_path / "vocoder", config(preview=4, validate=2), said.append)
    vocoder = load(out)
    assert (vocoder.hop, vocoder.config.mel) == (40, MEL)
    assert vocoder(torch.zeros(1, 20, 5)).shape == (1, 200)
    assert not any(
        "discriminator" in name or "parametrizations" in name for name in load_file(out / "model.safetensors")
    )
    shown = out / "previews" / "4"
    for name in ("training", "held-out"):
        waveforms = [read_audio(shown / f"{name} {kind}.wav", RATE) for kind in ("original", "resynthesis")]
        assert len(waveforms[0]) == len(waveforms[1]) > 0
    with Image.open(shown / "spectrograms.png") as image, Image.open(shown / "training original.png") as one:
        assert image.size == (one.width, 4 * one.height)
    assert any("of training audio, " in line and "of held-out audio" in line for line in said)
    check_shown_again(out, lambda: train_vocoder(clips, out, config(preview=4, validate=2), quiet))


def test_without_test_clips_training_audio_validates(tmp_path: Path) -> None:
    write(tmp_path / "a.mkv", 1)
    said: list[str] = []
    held = VocoderTask(find_clips(tmp_path), config(), said.append)
    assert set(held.validate(held.averaged)) == {"training_log_mel"}
    assert any("no audio in test/" in line for line in said)


@pytest.mark.slow
def test_training_learns(clips: Path, tmp_path: Path) -> None:
    settings = config(
        steps=300, save=300, log=300, segment=16, width=64, resblock_kernels=(3, 7), adversarial_start=250
    )
    held = VocoderTask(find_clips(clips), settings, quiet)
    before = held.validate(held.averaged)
    after = held.validate(load(train_vocoder(clips, tmp_path / "vocoder", settings, quiet)))
    assert after["training_log_mel"] < 0.6 * before["training_log_mel"], (before, after)
    assert after["log_mel"] < before["log_mel"], (before, after)
