"""Training the small autoencoder on single frames.

Shapes: N frames, B of them in a batch, H W rows and columns in pixels, C h w a frame's latents.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from flowreel.codec import Codec, TinyAutoencoder
from flowreel.codec.autoencoder import from_unit, to_unit
from flowreel.config import AudioCodecConfig, CodecConfig, CodecTrainConfig, PrepareConfig, Timing, VideoCodecConfig
from flowreel.config.clocks import mel_for, timing_with_sound
from flowreel.data.dataset import GlobalOrder
from flowreel.data.sources import Source, find_clips, probed
from flowreel.data.statistics import Moments
from flowreel.data.subsample import evenly_spaced, frames_per_clip
from flowreel.errors import InputError
from flowreel.flow.noise import seeded
from flowreel.media import iterate, stack_images
from flowreel.training import checkpoint
from flowreel.training.discriminators import (
    Adversarial,
    PatchDiscriminator,
    hinge_discriminator_loss,
    hinge_generator_loss,
)
from flowreel.training.loop import fit
from flowreel.training.task import NOISE, ROLE, WEIGHTS, Batch, device_of, purpose_seed
from flowreel.utils.distributed import Processes
from flowreel.utils.reporting import Report

EVALUATED, SHOWN, MEASURED = 64, 8, 512
"""Frames that the PSNR is over, frames of the preview, and frames that the statistics are over."""


def train_codec(clips: Path | str, out: Path | str, config: CodecTrainConfig, report: Report = print) -> Path:
    """Train the small autoencoder on the folder ``clips``; ``out`` becomes a codec's folder, for ``prepare --codec``.

    Running the same command again resumes from the last checkpoint; see :func:`flowreel.training.loop.fit`.
    """
    out = Path(out)
    return fit(AutoencoderTask(find_clips(clips, out, report), config, report), out, config, report)


class Reconstruction(nn.Module):
    """Encoder, latents and decoder as one forward pass."""

    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, frames: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Frames (B, 3, H, W) in [-1, 1] -> their reconstruction, and mean and log-variance (B, C, h, w) of the
        posterior, from which the latents are drawn with ``noise`` (their mean without)."""
        mean, logvar = self.autoencoder.encode(frames)
        latents = mean if noise is None else mean + torch.exp(logvar / 2) * noise
        return self.autoencoder.decode(latents), mean, logvar


class AutoencoderTask:
    """Training the autoencoder on frames drawn evenly from clips, with a discriminator if ``adversarial`` is above 0.

    It is validated on some of these frames, and on frames of the test clips if there are any.
    """

    kind = "autoencoder"

    def __init__(self, sources: Sequence[Source], config: CodecTrainConfig, report: Report) -> None:
        self.video = VideoCodecConfig(kind="tiny", channels=config.channels, width=config.width, fit=config.fit)
        if config.size % self.video.factor or config.size < 1:
            raise InputError(f"size {config.size} must be a multiple of {self.video.factor}, the codec's factor")
        self.config, self.report = config, report
        train = [source for source in sources if source.split == "train"]
        test = [source for source in sources if source.split == "test"]
        self.frames, self.clips, audio = read_frames(train, config, config.frames, report)
        if not len(self.frames):
            raise InputError("none of the clips for training can be read: the reasons are in the lines above")
        held_out, _, _ = read_frames(test, config, EVALUATED, report)
        self.evaluated = {"training": self.frames[evenly_spaced(len(self.frames), EVALUATED)]}
        if len(held_out):
            self.evaluated["held-out"] = held_out
        report(f"{len(self.frames)} frames of {len(set(self.clips.tolist()))} clips at {config.size}x{config.size}")
        self.timing = _timing(config.fps, audio, report)
        torch.manual_seed(purpose_seed(config.seed, WEIGHTS, 0))
        reconstruction = Reconstruction(TinyAutoencoder(self.video))
        self.averaged: nn.Module = reconstruction
        self.module: nn.Module = reconstruction
        self.networks: tuple[str, ...] = ()
        self.loss_names: tuple[str, ...] = ("pixel", "edge", "kl")
        if config.adversarial:
            adversarial = Adversarial("autoencoder", reconstruction, PatchDiscriminator(config.width))
            self.module, self.networks = adversarial, adversarial.networks
            self.loss_names += ("adversarial", "discriminator")
        self.data = {"frames": hashlib.sha256(self.frames.numpy().tobytes()).hexdigest()[:16]}
        self._order = lru_cache(4)(
            lambda epoch: np.random.default_rng((config.seed, ROLE, epoch)).permutation(len(self.frames))
        )

    def batches(self, start: int, rank: int, world: int) -> Iterator[Batch]:
        config, side = self.config, self.config.size // self.video.factor
        for positions in GlobalOrder(config.batch, start, config.steps, rank, world, config.optim.accumulate):
            places = [divmod(n, len(self.frames)) for n in positions]
            numbers = torch.tensor([int(self._order(epoch)[place]) for epoch, place in places])
            generators = seeded([purpose_seed(config.seed, NOISE, n) for n in positions])
            noise = [torch.randn(config.channels, side, side, generator=generator) for generator in generators]
            yield {"frames": self.frames[numbers], "noise": torch.stack(noise), "clip": self.clips[numbers]}

    def losses(self, module: nn.Module, batch: Batch, network: str = "") -> dict[str, Tensor]:
        """Nothing for the discriminator before step ``adversarial_start``; the adversarial loss is 0 then."""
        frames = to_unit(batch["frames"])
        if not network:
            return self._reconstruction(frames, *module(frames, batch["noise"]))
        active = int(batch["step"]) >= self.config.adversarial_start
        if network == "discriminator" and not active:
            return {}
        real = frames if network == "discriminator" else None
        output, of_real, of_generated = module(network, [frames, batch["noise"]], real, active)
        if network == "discriminator":
            return {"discriminator": hinge_discriminator_loss(of_real, of_generated)}
        adversarial = hinge_generator_loss(of_generated) if active else frames.new_zeros(())
        return self._reconstruction(frames, *output) | {"adversarial": self.config.adversarial * adversarial}

    def _reconstruction(self, frames: Tensor, output: Tensor, mean: Tensor, logvar: Tensor) -> dict[str, Tensor]:
        return reconstruction_losses(output.float(), frames) | {"kl": self.config.kl * divergence(mean, logvar)}

    @torch.no_grad()
    def validate(self, module: nn.Module) -> dict[str, float]:
        """``psnr``: of held-out frames, in dB; ``training_psnr``: of training frames."""
        names = {"held-out": "psnr", "training": "training_psnr"}
        return {names[name]: psnr(self._reconstruct(module, frames), frames) for name, frames in self.evaluated.items()}

    def preview(self, module: nn.Module, folder: Path, step: int) -> None:  # noqa: ARG002
        """Originals above their reconstructions: of training frames, then of held-out ones."""
        rows: list[np.ndarray] = []
        for frames in self.evaluated.values():
            shown = frames[evenly_spaced(len(frames), SHOWN)]
            rows += [np.concatenate(list(part.numpy()), axis=1) for part in (shown, self._reconstruct(module, shown))]
        stack_images(rows, folder / "reconstruction.png")

    def _reconstruct(self, module: nn.Module, frames: Tensor) -> Tensor:
        """Frames (N, H, W, 3) uint8 -> their reconstruction, of the same shape and type."""
        parts = frames.to(device_of(module)).split(self.config.batch)
        return torch.cat([from_unit(module(to_unit(part))[0]) for part in parts]).cpu()

    def export(self, module: nn.Module, folder: Path, step: int) -> None:  # noqa: ARG002
        autoencoder = module.get_submodule("autoencoder")
        shift, scale = self._statistics(autoencoder)
        video = dataclasses.replace(self.video, shift=shift, scale=scale)
        audio = AudioCodecConfig(mel_for(self.config.fps)) if self.timing.has_audio else None
        config, device = CodecConfig(video, audio), device_of(autoencoder)  # a codec moves its network to its device
        Codec(config, self.timing, video_module=autoencoder, device=device).save(folder)

    @torch.no_grad()
    def _statistics(self, autoencoder: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Per channel, the mean and the inverse standard deviation of the latents."""
        chosen = self.frames[evenly_spaced(len(self.frames), MEASURED)].to(device_of(autoencoder))
        latents = torch.cat([autoencoder.encode(to_unit(part))[0] for part in chosen.split(self.config.batch)])
        moments = Moments.of(latents.movedim(1, -1).flatten(0, -2))
        return tuple(moments.mean.tolist()), tuple(moments.scale.tolist())


# --- losses -------------------------------------------------------------------------------------------------------


def reconstruction_losses(reconstruction: Tensor, frames: Tensor) -> dict[str, Tensor]:
    """``pixel``: absolute plus squared error; ``edge``: absolute error of the differences between neighbouring pixels
    (after arXiv 1511.05440), which keeps outlines sharp. Both images (B, 3, H, W) in [-1, 1]; means over everything."""
    error = reconstruction - frames
    edges = (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()) / 2
    return {"pixel": error.abs().mean() + error.square().mean(), "edge": edges}


def divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)) in nats, the mean over all latents (arXiv 1312.6114)."""
    mean, logvar = mean.float(), logvar.float()
    return (mean.square() + logvar.exp() - 1 - logvar).mean() / 2


def psnr(reconstruction: Tensor, frames: Tensor) -> float:
    """The peak signal-to-noise ratio in dB of uint8 frames, from the squared error over all of them."""
    error = (reconstruction.float() - frames.float()).square().mean().item()
    return 10 * math.log10(255**2 / max(error, 1e-9))


# --- for flowreel prepare ---


def is_fitted(training: Path, config: PrepareConfig) -> bool:
    """Whether fitting in ``training`` is complete, with its last export."""
    steps = checkpoint.steps(training)
    return bool(steps) and steps[-1] >= config.codec_steps and checkpoint.exported(training) == steps[-1]


def fit_for_prepare(
    clips: Path, training: Path, config: PrepareConfig, report: Report, processes: Processes | None, keep: bool
) -> Path:
    """Fit the autoencoder for ``flowreel prepare`` without ``--codec``, with the settings of that command.

    Args:
        training: the run's folder, which is returned.
        processes: those that share the work; None for this one alone.
        keep: use a finished fit in ``training``.

    Raises:
        InputError: the processes can't share a batch, or the fit can't be resumed.
    """
    if keep and is_fitted(training, config):
        return training
    settings = CodecTrainConfig(
        steps=config.codec_steps,
        size=min(config.height_width),
        fps=config.fps,
        fit="crop" if config.fit == "random" else config.fit,
        seed=config.seed,
    )
    world = processes.world if processes is not None else 1
    if settings.batch % world:
        shares = [str(n) for n in range(1, settings.batch + 1) if settings.batch % n == 0]
        raise InputError(
            f"no codec was given, and {world} processes can't share the batch of {settings.batch} that one is fitted "
            f"with: start {' or '.join(shares)}, or fit one before with flowreel train-codec and give it with --codec"
        )
    report("no codec was given: fitting the small autoencoder on the clips first (--codec takes a finished one)")
    try:
        train_codec(clips, training, settings, report)
    except InputError as error:
        if not checkpoint.steps(training):
            raise
        raise InputError(
            f"{error}\nThis is the autoencoder that was being fitted: delete {training} to start again."
        ) from error
    if processes is not None:
        processes.wait()  # rank 0 writes the last export
    return training


# --- frames -------------------------------------------------------------------------------------------------------


def read_frames(
    sources: Sequence[Source], config: CodecTrainConfig, limit: int, report: Report
) -> tuple[Tensor, Tensor, bool]:
    """At most ``limit`` frames, drawn evenly over the clips and over the time of each.

    Returns uint8 (N, H, W, 3), the numbers of their clips among ``sources`` (N,), and whether any clip has audio.
    Clips that can't be read are reported and left out.
    """
    infos = list(probed(sources, report))
    lengths = [max(1, round(info.seconds * config.fps)) if info else 0 for info in infos]
    audio = any(info.has_audio for info in infos if info)
    frames: list[np.ndarray] = []
    clips: list[int] = []
    for number, (source, length, share) in enumerate(
        zip(sources, lengths, frames_per_clip(lengths, limit), strict=True)
    ):
        wanted = set(evenly_spaced(length, share).tolist())
        try:
            found = list(_pick(source.path, config, wanted))
        except InputError as error:
            report(f"left out {source.name}: {error}")
            continue
        frames += found
        clips += [number] * len(found)
    size = (0, config.size, config.size, 3)
    return torch.from_numpy(np.stack(frames) if frames else np.empty(size, np.uint8)), torch.tensor(clips), audio


def _pick(path: Path, config: CodecTrainConfig, wanted: set[int]) -> Iterator[np.ndarray]:
    if not wanted:
        return
    number = 0
    seconds = (max(wanted) + 1) / config.fps
    for chunk in iterate(path, fps=config.fps, size=config.size, fit=config.fit, audio=False, seconds=seconds):
        for frame in chunk.frames:
            if number in wanted:
                yield frame.copy()  # a view would keep the whole chunk
            number += 1


def _timing(fps: float, audio: bool, report: Report) -> Timing:
    """The clocks of the codec: with audio if the clips have it and a log-mel fits the frame rate."""
    if audio:
        try:
            return timing_with_sound(fps, mel_for(fps))
        except InputError as error:
            report(f"the codec is for video alone: {error}")
    return Timing(fps, 0, 0)
