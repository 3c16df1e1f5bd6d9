"""Training the small autoencoder: which frames it sees, its losses, resuming, and the codec's folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from flowreel.codec import Codec, TinyAutoencoder
from flowreel.config import CodecTrainConfig, Timing, VideoCodecConfig
from flowreel.data.sources import find_clips
from flowreel.errors import InputError
from flowreel.media import Clip
from flowreel.training import checkpoint
from flowreel.training.autoencoder import (
    AutoencoderTask,
    Reconstruction,
    divergence,
    frames_per_clip,
    from_unit,
    psnr,
    read_frames,
    reconstruction_losses,
    to_unit,
    train_codec,
)


def quiet(text: str) -> None:
    pass


def image(grey: int, side: int = 48) -> np.ndarray:
    """A grey ground with a bright disc."""
    y, x = np.mgrid[:side, :side] - side / 2
    frame = np.full((side, side, 3), grey, np.uint8)
    frame[(y**2 + x**2) < (side / 4) ** 2] = (230, 120, 40)
    return frame


def write(path: Path, frames: int, first: int, has_audio: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = np.stack([image(first + 4 * i) for i in range(frames)])
    audio = np.zeros(frames * 1600, np.float32) if has_audio else None
    Clip(images, audio, 10.0).save(path)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write(folder / "train" / "a.mp4", 20, 0)
    write(folder / "train" / "b.mp4", 6, 100, has_audio=False)
    write(folder / "test" / "c.mp4", 4, 40)
    return folder


def config(**changes: object) -> CodecTrainConfig:
    base = CodecTrainConfig(steps=4, batch=4, log=1, save=2, preview=0, size=32, frames=16, channels=4, width=8)
    return replace(base, **changes)  # type: ignore[arg-type]


# --- frames -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lengths", "limit", "shares"),
    [
        ([10, 10, 10], 30, [10, 10, 10]),
        ([10, 10, 10], 9, [3, 3, 3]),
        ([2, 50, 50], 22, [2, 10, 10]),
        ([100, 0, 3], 1000, [100, 0, 3]),
        ([5, 5, 5], 2, [1, 0, 1]),
        ([], 5, []),
    ],
)
def test_shares_are_even_and_use_what_there_is(lengths, limit, shares):
    assert frames_per_clip(lengths, limit) == shares


def test_frames_are_spread_over_clips_and_over_time(clips: Path):
    sources = [source for source in find_clips(clips) if source.split == "train"]
    frames, numbers, has_audio = read_frames(sources, config(), 12, quiet)
    assert frames.shape == (12, 32, 32, 3)
    assert frames.dtype == torch.uint8
    assert numbers.tolist() == [0] * 6 + [1] * 6
    assert has_audio
    corners = frames[:, 0, 0, 0].float()
    expected = torch.tensor([4 * ((2 * i + 1) * 20 // 12) for i in range(6)] + [100 + 4 * i for i in range(6)])
    assert (corners - expected).abs().max() < 4  # a lossy file


def test_unreadable_clips_are_reported_and_left_out(clips: Path, tmp_path: Path):
    (tmp_path / "good.mp4").write_bytes((clips / "train" / "b.mp4").read_bytes())
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    said: list[str] = []
    task = AutoencoderTask(find_clips(tmp_path), config(), said.append)
    assert len(task.frames) == 6
    assert not task.timing.has_audio
    assert "bad.mp4" in said[0]
    (tmp_path / "good.mp4").unlink()
    with pytest.raises(InputError, match="none of the clips"):
        AutoencoderTask(find_clips(tmp_path), config(), quiet)


def test_every_frame_is_seen_once_an_epoch(clips: Path):
    task = AutoencoderTask(find_clips(clips), config(steps=8), quiet)
    seen = torch.cat([batch["frames"] for batch in task.batches(0, 0, 1)])
    for epoch in seen.split(len(task.frames)):
        assert len({frame.numpy().tobytes() for frame in epoch}) == len({f.numpy().tobytes() for f in task.frames})


def test_sample_depends_on_its_number_alone(clips: Path):
    whole = next(AutoencoderTask(find_clips(clips), config(), quiet).batches(1, 0, 1))
    cut = [next(AutoencoderTask(find_clips(clips), config(), quiet).batches(1, rank, 2)) for rank in (0, 1)]
    for name, value in whole.items():
        assert torch.equal(value, torch.cat([part[name] for part in cut]))


# --- losses -------------------------------------------------------------------------------------------------------


def test_unit_range_round_trip():
    frames = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(-1, -1, -1, 3)
    unit = to_unit(frames)
    assert unit.shape == (1, 3, 16, 16)
    assert (unit.min(), unit.max()) == (-1, 1)
    assert torch.equal(from_unit(unit), frames)
    assert torch.equal(from_unit(unit * 3)[0, 0, 0], torch.zeros(3, dtype=torch.uint8))


def test_perfect_reconstruction_costs_nothing_and_an_offset_no_edges():
    frames = torch.rand(2, 3, 8, 8)
    assert all(value == 0 for value in reconstruction_losses(frames, frames).values())
    offset = reconstruction_losses(frames + 0.5, frames)
    torch.testing.assert_close(offset["pixel"], torch.tensor(0.75))
    torch.testing.assert_close(offset["edge"], torch.tensor(0.0), atol=1e-6, rtol=0)


def test_divergence_matches_torch():
    mean, logvar = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, torch.exp(logvar / 2)), normal(0.0, 1.0)).mean()
    torch.testing.assert_close(divergence(mean, logvar), expected)


# --- runs ---------------------------------------------------------------------------------------------------------


def test_four_steps_equal_two_and_two_to_the_bit(clips: Path, tmp_path: Path):
    train_codec(clips, tmp_path / "whole", config(), quiet)
    for steps in (2, 4):
        train_codec(clips, tmp_path / "parts", config(steps=steps), quiet)
    a, b = (checkpoint.latest(tmp_path / name, quiet) for name in ("whole", "parts"))
    assert a is not None
    assert b is not None
    for name, tensors in a.parts.items():
        assert all(torch.equal(value, b.parts[name][key]) for key, value in tensors.items())


def test_run_folder_is_a_codec_with_unit_latents(clips: Path, tmp_path: Path):
    train_codec(clips, tmp_path / "codec", config(steps=20, save=20, preview=20), quiet)
    codec = Codec.load(tmp_path / "codec", Timing(10))
    assert codec.config.video.channels == 4
    assert codec.config.audio is not None
    frames = AutoencoderTask(find_clips(clips), config(), quiet).frames
    latents = codec.to_model(codec.encode(Clip(frames.numpy(), np.zeros(len(frames) * 1600, np.float32))))["video"]
    assert latents.shape == (len(frames), 4, 4, 4)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), atol=0.02, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), atol=0.05, rtol=0)
    with Image.open(tmp_path / "codec" / "previews" / "20" / "reconstruction.png") as image:
        assert image.size == (8 * 32, 4 * 32)


def test_training_learns(clips: Path, tmp_path: Path):
    settings = config(steps=80, save=80, log=80, batch=8, width=16)
    task = AutoencoderTask(find_clips(clips), settings, quiet)
    before = task.validate(task.averaged)
    train_codec(clips, tmp_path / "codec", settings, quiet)
    trained = Reconstruction(Codec.load(tmp_path / "codec", Timing(10)).video.module)
    after = task.validate(trained)
    assert set(before) == {"psnr", "training_psnr"}
    assert all(after[name] > before[name] + 3 for name in before), (before, after)


def test_psnr_is_over_all_pixels_in_dB():
    frames = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    again = frames.clone()
    again[0] += 10
    assert psnr(again, frames) == pytest.approx(10 * np.log10(255**2 / 50))


# --- with a discriminator-------------------------------------------------------------------------------------------


def test_without_a_discriminator_one_loss_trains_all(clips: Path):
    task = AutoencoderTask(find_clips(clips), config(), quiet)
    assert task.networks == ()
    assert task.averaged is task.module
    losses = task.losses(task.module, next(task.batches(0, 0, 1)))
    assert set(losses) == {"pixel", "edge", "kl"}


def test_a_discriminator_leaves_the_first_weights_and_losses_unchanged(clips: Path):
    alone, adversarial = (
        AutoencoderTask(find_clips(clips), config(adversarial=weight), quiet) for weight in (0.0, 0.1)
    )
    for name, value in alone.averaged.state_dict().items():
        assert torch.equal(value, adversarial.averaged.state_dict()[name])
    batch = next(alone.batches(0, 0, 1)) | {"step": torch.tensor(0)}
    losses = adversarial.losses(adversarial.module, batch, "autoencoder")
    assert losses.pop("adversarial") == 0
    for name, value in alone.losses(alone.module, batch).items():
        assert torch.equal(losses.pop(name), value)
    assert not losses


@pytest.mark.parametrize(
    ("network", "step", "names"),
    [
        ("discriminator", 2, set()),
        ("discriminator", 3, {"discriminator"}),
        ("autoencoder", 2, {"pixel", "edge", "kl", "adversarial"}),
        ("autoencoder", 3, {"pixel", "edge", "kl", "adversarial"}),
    ],
)
def test_each_update_moves_one_network_and_the_discriminator_starts_later(clips: Path, network, step, names):
    task = AutoencoderTask(find_clips(clips), config(adversarial=0.1, adversarial_start=3), quiet)
    for name in task.networks:
        task.module.get_submodule(name).requires_grad_(name == network)
    losses = task.losses(task.module, next(task.batches(0, 0, 1)) | {"step": torch.tensor(step)}, network)
    assert set(losses) == names
    if losses:
        torch.stack(list(losses.values())).sum().backward()
    moved = {name.split(".")[0] for name, weight in task.module.named_parameters() if weight.grad is not None}
    assert moved == ({network} if names else set())


def test_with_a_discriminator_four_steps_equal_two_and_two_and_it_is_not_exported(clips: Path, tmp_path: Path):
    settings = config(adversarial=0.1, adversarial_start=1)
    train_codec(clips, tmp_path / "whole", settings, quiet)
    for steps in (2, 4):
        train_codec(clips, tmp_path / "parts", replace(settings, steps=steps), quiet)
    a, b = (checkpoint.latest(tmp_path / name, quiet) for name in ("whole", "parts"))
    assert a is not None
    assert b is not None
    assert {name.split(".")[0] for name in a.model} == {"autoencoder", "discriminator"}
    for name, tensors in a.parts.items():
        assert all(torch.equal(value, b.parts[name][key]) for key, value in tensors.items())
    exported = load_file(tmp_path / "whole" / "autoencoder" / "model.safetensors")
    assert exported.keys() == TinyAutoencoder(VideoCodecConfig(channels=4, width=8)).state_dict().keys()


def test_a_run_of_an_older_version_has_a_class_name_for_its_kind(clips: Path, tmp_path: Path):
    run = tmp_path / "run"
    train_codec(clips, run, config(steps=2), quiet)
    path = run / "training" / "2" / "state.json"
    state = json.loads(path.read_text())
    assert state["settings"]["run"] == "autoencoder"

    def resume_as(kind: str) -> None:
        options = state["settings"]["config"] | {"tracker": "trackio"}  # which is no tracker any more
        path.write_text(json.dumps(state | {"settings": state["settings"] | {"run": kind, "config": options}}))
        train_codec(clips, run, config(steps=3), quiet)

    with pytest.raises(InputError, match="run: was vocoder, now autoencoder"):
        resume_as("VocoderTrainConfig")
    resume_as("CodecTrainConfig")
    assert checkpoint.steps(run) == [2, 3]


def test_silent_clips_make_a_codec_of_video_alone(tmp_path: Path):
    write(tmp_path / "clips" / "a.mp4", 4, 20, has_audio=False)
    said: list[str] = []
    train_codec(tmp_path / "clips", tmp_path / "codec", config(steps=1, preview=1), said.append)
    assert Codec.load(tmp_path / "codec", Timing(10, 0, 0)).config.audio is None


def test_rates_without_a_log_mel_make_a_codec_of_video_alone(clips: Path, tmp_path: Path):
    said: list[str] = []
    train_codec(clips, tmp_path / "codec", config(steps=1, fps=17.0), said.append)
    assert any("video alone" in line for line in said)
    assert Codec.load(tmp_path / "codec", Timing(17, 0, 0)).config.video.width == 8


def test_sizes_must_fit_the_factor(clips: Path):
    with pytest.raises(InputError, match="multiple of 8"):
        AutoencoderTask(find_clips(clips), config(size=36), quiet)
    with pytest.raises(InputError, match="adversarial"):
        AutoencoderTask(find_clips(clips), config(adversarial=-1.0), quiet)


def test_a_network_without_spread_still_has_finite_statistics(clips: Path):
    task = AutoencoderTask(find_clips(clips), config(), quiet)
    for parameter in task.module.parameters():
        nn.init.zeros_(parameter)
    shift, scale = task._statistics(task.module.get_submodule("autoencoder"))
    assert np.isfinite([*shift, *scale]).all()
