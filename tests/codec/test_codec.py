"""The codec's three spaces, its folder, and its stream: chunks equal the whole, pictures wait for their sound."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flowreel.codec import Codec, StreamDecoder, TinyAutoencoder, codec, mel
from flowreel.codec.hifigan import HiFiGAN, VocoderConfig
from flowreel.codec.sinusoids import SinusoidalVocoder, SinusoidsConfig
from flowreel.codec.vocoder import GriffinLim
from flowreel.config import AudioCodecConfig, CodecConfig, MelConfig, Timing, VideoCodecConfig, to_dict
from flowreel.errors import InputError
from flowreel.media import Clip

MEL = MelConfig(n_fft=512, win_length=512, bins=16)
VIDEO = VideoCodecConfig(channels=4, factor=4, width=8, shift=(0.1, -0.2, 0.3, 0.0), scale=(1.0, 2.0, 0.5, 3.0))
SOUND = AudioCodecConfig(mel=MEL, shift=-0.3, scale=2.5, vocoder="hifigan")
VOCODER = VocoderConfig(16, 16, (5, 4, 4, 2), (11, 8, 8, 4), (3, 7), ((1, 3), (1, 3)), "1")
TIMING = Timing(10, 16000, 160)


def build(sound: bool = True, hifigan: bool = True, fps: float = 10, **changes: Any) -> Codec:
    torch.manual_seed(5)
    audio = dataclasses.replace(SOUND, **{"vocoder": "hifigan" if hifigan else "", **changes}) if sound else None
    vocoder = HiFiGAN(VOCODER) if sound and hifigan else None
    timing = Timing(fps, 16000, 160) if sound else Timing(fps, 0, 0)
    return Codec(CodecConfig(VIDEO, audio), timing, video_module=TinyAutoencoder(VIDEO), vocoder=vocoder)


def clip(frames: int = 6, sound: bool = True, samples: int | None = None, **changes: Any) -> Clip:
    rng = np.random.default_rng(0)
    pictures = rng.integers(256, size=(frames, 8, 12, 3), dtype=np.uint8)
    waveform = rng.uniform(-0.5, 0.5, frames * 1600 if samples is None else samples).astype(np.float32)
    return Clip(pictures, waveform if sound else None, **changes)


def latents(batch: int = 2, frames: int = 12, sound: bool = True, steps: int = 10) -> dict[str, torch.Tensor]:
    video = torch.randn(batch, frames, 4, 2, 3)
    return {"video": video} | ({"audio": torch.randn(batch, frames, 1, 16, steps)} if sound else {})


def run(decoder: StreamDecoder, data: dict[str, torch.Tensor], chunks: tuple[int, ...]) -> list[list[Clip]]:
    starts = itertools.accumulate((0, *chunks[:-1]))
    pushed = [decoder.push({k: v[:, a : a + n] for k, v in data.items()}) for a, n in zip(starts, chunks, strict=True)]
    return [*pushed, decoder.finish()]


def join(parts: list[list[Clip]]) -> list[Clip]:
    return [Clip.join(clips) for clips in zip(*[part for part in parts if part], strict=True)]


# --- media -> stored ----------------------------------------------------------------------------------------------


def test_stored_latents_are_raw_latents_and_log_mel() -> None:
    own = build()
    stored = own.encode(clip())
    assert {k: v.shape for k, v in stored.items()} == {"video": (6, 4, 2, 3), "audio": (6, 1, 16, 10)}
    assert all(v.dtype == torch.float32 and not v.requires_grad for v in stored.values())
    assert torch.equal(stored["video"], own.video.encode(torch.from_numpy(clip().frames)))
    log_mel = mel.log_mel(torch.from_numpy(clip().audio)[None], MEL)[0]
    for frame in range(6):
        assert torch.equal(stored["audio"][frame, 0], log_mel[:, frame * 10 : (frame + 1) * 10])


def test_sound_only_if_both_have_it() -> None:
    assert set(build().encode(clip(sound=False))) == {"video"}
    assert set(build(sound=False).encode(clip())) == {"video"}
    without = build().at(Timing(10, 0, 0))
    assert not without.has_audio
    assert set(without.encode(clip())) == {"video"}


def test_peak_normalises_where_the_config_says_so() -> None:
    quiet = dataclasses.replace(clip(), audio=clip().audio * 0.1)
    plain, peak = build(), build(peak=0.95)
    assert not torch.allclose(plain.encode(quiet)["audio"], plain.encode(clip())["audio"])
    torch.testing.assert_close(peak.encode(quiet)["audio"], peak.encode(clip())["audio"], atol=1e-2, rtol=0)


def test_a_sound_off_by_less_than_a_frame_is_fitted_and_by_more_refused() -> None:
    own = build()
    for samples in (6 * 1600 - 7, 6 * 1600 + 7):
        assert own.encode(clip(samples=samples))["audio"].shape == (6, 1, 16, 10)
    with pytest.raises(InputError, match="6000 samples, but its 6 frames last 9600"):
        own.encode(clip(samples=6000))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fps": 12.0}, "12 frames a second, the codec 10"),
        ({"sample_rate": 8000}, "8000 Hz, the codec's 16000"),
    ],
)
def test_other_rates_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build().encode(clip(**changes))


def test_parts_of_frames_are_refused() -> None:
    with pytest.raises(InputError, match="2000 samples are not whole video frames of 1600"):
        build().encode_audio(np.zeros(2000, np.float32))
    with pytest.raises(InputError, match="9 x 12 can't be encoded: both must be multiples of 4"):
        build().encode_video(np.zeros((1, 9, 12, 3), np.uint8))


def test_posterior_samples_are_a_function_of_clip_and_generator() -> None:
    video = dataclasses.replace(VIDEO, posterior="sample")
    own = build().with_config(CodecConfig(video, SOUND))
    first, again = own.encode(clip())["video"], own.encode(clip())["video"]
    other = own.encode(clip(), torch.Generator().manual_seed(1))["video"]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, build().encode(clip())["video"])


# --- stored <-> model ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lead", [(), (2,)])
def test_scales_and_back_with_and_without_a_batch(lead: tuple[int, ...]) -> None:
    own = build()
    floor, ceiling = np.log([MEL.floor, MEL.ceiling])
    log_mel = torch.empty(*lead, 3, 1, 16, 10).uniform_(floor, ceiling)
    stored = {"video": torch.randn(*lead, 3, 4, 2, 3), "audio": log_mel}
    model = own.to_model(stored)
    for c in range(4):
        expected = (stored["video"][..., c, :, :] - VIDEO.shift[c]) * VIDEO.scale[c]
        torch.testing.assert_close(model["video"][..., c, :, :], expected)
    unit = 2 * (log_mel - floor) / (ceiling - floor) - 1
    torch.testing.assert_close(model["audio"], (unit + 0.3) * 2.5)
    back = own.from_model(model)
    for k in stored:
        torch.testing.assert_close(back[k], stored[k], atol=1e-5, rtol=1e-5)


def test_one_shift_and_scale_serve_all_channels_and_halves_become_floats() -> None:
    own = build().with_config(CodecConfig(dataclasses.replace(VIDEO, shift=(1.0,), scale=(0.18215,)), SOUND))
    stored = {"video": torch.randn(3, 4, 2, 3).half(), "audio": torch.randn(3, 1, 16, 10).half()}
    model = own.to_model(stored)
    assert all(v.dtype == torch.float32 for v in model.values())
    torch.testing.assert_close(model["video"], (stored["video"].float() - 1) * 0.18215)


def test_log_mel_is_kept_between_floor_and_ceiling() -> None:
    stored = build().from_model({"audio": torch.tensor([-100.0, 100.0]).view(1, 1, 1, 2)})
    torch.testing.assert_close(stored["audio"].flatten().exp(), torch.tensor([MEL.floor, MEL.ceiling]))


def test_an_unknown_audio_scale_is_asked_for() -> None:
    own, data = build(scale=0.0), latents()
    for call in (own.from_model, own.to_model, own.decode):
        with pytest.raises(InputError, match=r"pass audio_scale= to flowreel\.load"):
            call(data)
    assert len(own.decode({"video": data["video"]})) == 2  # pictures need none


@pytest.mark.parametrize(
    ("change", "timing", "message"),
    [
        ({"video": dataclasses.replace(VIDEO, scale=(1.0, 2.0))}, TIMING, "scale has 2 numbers for 4 channels"),
        ({}, Timing(10, 16000, 200), "hop 160, the timing at 16000 Hz with hop 200"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(change: dict[str, Any], timing: Timing, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Codec(dataclasses.replace(CodecConfig(VIDEO, SOUND), **change), timing)


# --- model -> media -----------------------------------------------------------------------------------------------


CHUNKS = ((1,) * 12, (12,), (5, 1, 0, 3, 3), (2,) * 6)


@pytest.mark.parametrize("chunks", CHUNKS, ids=lambda c: f"{len(c)} pushes")
@pytest.mark.parametrize("fps", [10, 20])
def test_streamed_equals_whole(chunks: tuple[int, ...], fps: int) -> None:
    own, data = build(fps=fps), latents(steps=100 // fps)
    parts = run(own.decoder(2), data, chunks)
    stored = own.from_model(data)
    with torch.no_grad():
        sound = own.vocoder(stored["audio"].squeeze(2).transpose(1, 2).flatten(2)).clamp(-1, 1)
    for sample, made in enumerate(join(parts)):
        assert (made.fps, made.sample_rate) == (fps, 16000)
        assert np.abs(made.frames.astype(int) - own.video.decode(stored["video"][sample]).numpy()).max() <= 1
        np.testing.assert_allclose(made.audio, sound[sample].numpy(), atol=1e-6)


def test_every_chunk_has_the_sound_of_its_frames_as_soon_as_it_is_final() -> None:
    own = build()
    after = own.vocoder.context[1]
    parts = run(own.decoder(2), latents(), (1,) * 12)
    made = 0
    for pushed, part in enumerate(parts[:-1], start=1):
        assert len(part) in (0, 2)
        for one in part:
            assert len(one.audio) == 1600 * len(one.frames)
        made += len(part[0].frames) if part else 0
        assert made == max(0, (10 * pushed - after) // 10)
    assert len(parts[-1][0].frames) == 12 - made
    assert made < 12


def test_whole_decoding_is_the_stream_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    own, data = build(), latents(frames=9)
    whole = own.decode(data)
    monkeypatch.setattr(codec, "_CHUNK", 4)
    for a, b in zip(own.decode(data), whole, strict=True):
        np.testing.assert_allclose(a.audio, b.audio, atol=1e-6)
        assert np.abs(a.frames.astype(int) - b.frames).max() <= 1


def test_griffin_lim_stands_in_for_a_vocoder() -> None:
    own = build(hifigan=False)
    assert isinstance(own.vocoder, GriffinLim)
    data = own.to_model({k: v[None] for k, v in own.encode(clip(8)).items()})
    parts = [join(run(own.decoder(1), data, chunks))[0] for chunks in ((8,), (1,) * 8, (3, 5))]
    assert parts[0].audio.shape == (8 * 1600,)
    assert np.abs(parts[0].audio).max() <= 1
    for part in parts[1:]:
        np.testing.assert_allclose(part.audio, parts[0].audio, atol=1e-4)
    again = own.encode(parts[0])["audio"]
    assert (again - own.encode(clip(8))["audio"]).abs().mean() < 0.5


def test_pictures_alone_do_not_wait() -> None:
    own = build(sound=False)
    parts = run(own.decoder(2), latents(sound=False), (4, 8))
    assert [len(part[0].frames) if part else 0 for part in parts] == [4, 8, 0]
    made = join(parts)
    assert len(made) == 2
    assert all(one.audio is None and one.frames.shape == (12, 8, 12, 3) for one in made)
    assert join(run(build().decoder(2), latents(sound=False), (12,)))[0].audio is None


def test_sound_is_clipped_and_finite() -> None:
    own = build()
    with torch.no_grad():
        own.vocoder.conv_post.weight.mul_(1e4)
    made = own.decode(latents(1, 4))[0]
    assert np.abs(made.audio).max() == 1
    assert made.audio.dtype == np.float32


def test_a_stream_holds_a_bounded_amount() -> None:
    own = build(hifigan=False)
    own._vocoder = GriffinLim(MEL, iterations=1)
    decoder = own.decoder(1)
    for _ in range(30):
        decoder.push(latents(1, 1))
        assert len(decoder._frames) <= 3
        assert decoder._samples.shape[1] <= 3 * 1600
        assert decoder._samples.base is None


def test_misuse_of_a_decoder_is_refused() -> None:
    own = build()
    decoder = own.decoder(2)
    with pytest.raises(InputError, match="takes 2 samples"):
        decoder.push(latents(3))
    with pytest.raises(InputError, match="5 mel steps per frame, but the clocks say 10"):
        decoder.push(latents(steps=5))
    decoder = own.decoder(2)
    decoder.push(latents())
    with pytest.raises(InputError, match="takes audio and video"):
        decoder.push(latents(sound=False))
    decoder.finish()
    with pytest.raises(InputError, match="finished"):
        decoder.push(latents())
    with pytest.raises(InputError, match="has no audio"):
        build(sound=False).at(TIMING).decode(latents())


# --- folder and settings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sound", "hifigan"), [(True, True), (True, False), (False, False)])
def test_save_then_load_gives_the_same(sound: bool, hifigan: bool, tmp_path: Path) -> None:
    own = build(sound, hifigan)
    own.save(tmp_path / "a")
    loaded = Codec.load(tmp_path / "a")
    assert (loaded.config, loaded.timing) == (own.config, own.timing)
    loaded.save(tmp_path / "b")  # before anything was loaded
    data = latents(1, 4, sound)
    made = [c.decode(data)[0] for c in (own, loaded, Codec.load(tmp_path / "b"))]
    for one in made[1:]:
        np.testing.assert_array_equal(one.frames, made[0].frames)
        if sound:
            np.testing.assert_array_equal(one.audio, made[0].audio)
    assert (tmp_path / "a" / "vocoder").exists() == hifigan
    assert torch.equal(own.encode(clip())["video"], loaded.encode(clip())["video"])


def test_other_clocks_and_scales_share_the_networks() -> None:
    own = build()
    faster = own.at(Timing(20, 16000, 160))
    assert faster.video.module is own.video.module
    assert faster.vocoder is own.vocoder
    assert faster.encode(clip(fps=20.0, samples=4800))["audio"].shape == (6, 1, 16, 5)
    scaled = own.with_config(CodecConfig(dataclasses.replace(VIDEO, scale=(2.0,)), SOUND))
    assert scaled.video.module is own.video.module
    assert scaled.vocoder is own.vocoder
    assert isinstance(own.with_config(CodecConfig(VIDEO, AudioCodecConfig(mel=MEL))).vocoder, GriffinLim)
    fallback = build(hifigan=False)
    assert fallback.vocoder.config == MEL
    wider = dataclasses.replace(MEL, bins=20)
    assert fallback.with_config(CodecConfig(VIDEO, AudioCodecConfig(mel=wider))).vocoder.config == wider
    assert own.to("cpu") is own


def test_a_vocoder_of_another_kind_takes_the_place(tmp_path: Path) -> None:
    SinusoidalVocoder(SinusoidsConfig(MEL, bands=16, width=8, layers=1)).save(tmp_path / "waves")
    other = build().with_vocoder(tmp_path / "waves")
    assert other.config.audio is not None
    assert other.config.audio.vocoder == "sinusoids"
    other.save(tmp_path / "codec")
    loaded = Codec.load(tmp_path / "codec")
    assert isinstance(loaded.vocoder, SinusoidalVocoder)
    data = latents(1, 3)
    np.testing.assert_array_equal(*(c.decode(data)[0].audio for c in (other, loaded)))
    assert other.with_config(other.config).vocoder is other.vocoder
    assert isinstance(other.with_config(CodecConfig(VIDEO, AudioCodecConfig(mel=MEL))).vocoder, GriffinLim)
    with pytest.raises(InputError, match="no folder that holds it"):
        _ = other.with_config(CodecConfig(VIDEO, SOUND)).vocoder


def test_a_named_autoencoder_is_saved_by_name(tmp_path: Path) -> None:
    video = VideoCodecConfig(kind="AutoencoderKL", source="owner/name", revision="abc", channels=4)
    Codec(CodecConfig(video), Timing(10, 0, 0)).save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json"]
    assert Codec.load(tmp_path).config.video == video


def test_what_is_not_a_codec_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a codec \(it has no config\.json\)"):
        Codec.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model": {}}))
    with pytest.raises(InputError, match="it has model, not codec and timing"):
        Codec.load(tmp_path)
    values = {"codec": to_dict(CodecConfig(VIDEO, SOUND)), "timing": to_dict(TIMING)}
    (tmp_path / "config.json").write_text(json.dumps(values))
    own = Codec.load(tmp_path)  # networks load at first use
    with pytest.raises(InputError, match=r"autoencoder is not the folder of a network: it has no config\.json"):
        own.encode(clip())
    with pytest.raises(InputError, match=r"vocoder is not the folder of a network"):
        _ = own.vocoder
    HiFiGAN(dataclasses.replace(VOCODER, num_mels=17)).save(tmp_path / "vocoder")
    with pytest.raises(InputError, match="takes 17 mel bins with hop 160, but the log-mel has 16 with hop 160"):
        _ = own.vocoder
    HiFiGAN(dataclasses.replace(VOCODER, mel=dataclasses.replace(MEL, fmin=20.0))).save(tmp_path / "vocoder")
    with pytest.raises(InputError, match=r"was trained on .*fmin=20\.0.*train one on that log-mel"):
        _ = own.vocoder
    with pytest.raises(InputError, match="no folder that holds it"):
        _ = Codec(CodecConfig(VIDEO, SOUND), TIMING).vocoder
    with pytest.raises(InputError, match="has no audio"):
        _ = build(sound=False).vocoder
