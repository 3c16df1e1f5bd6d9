"""Training our small autoencoder on single frames: what :mod:`flowreel.loop` needs to know about pixels.

Knows: which frames are held in memory, what a good reconstruction is. Does not know: how the network is built
(``codec/tiny.py``) or how a codec's folder is laid out (``codec/codec.py``).

Shape legend: N frames, B of them in a batch, H W rows and columns in pixels, C h w a frame's latents.
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
import torch.nn.functional as F
from torch import Tensor, nn

from flowreel.codec import Codec, TinyAutoencoder
from flowreel.codec.video import from_unit, to_unit
from flowreel.config import AudioCodecConfig, CodecConfig, CodecTrainConfig, Timing, VideoCodecConfig
from flowreel.dataset import GlobalOrder
from flowreel.errors import InputError
from flowreel.loop import NOISE, ROLE, WEIGHTS, Batch, Report, fit, purpose_seed
from flowreel.media import iterate, probe
from flowreel.moments import Moments
from flowreel.sources import Source, find_clips

JUDGED, SHOWN, MEASURED = 64, 8, 512
"""How many frames the PSNR is over, how many of them the preview shows, and how many the statistics are over."""


def train_codec(clips: Path | str, out: Path | str, config: CodecTrainConfig, report: Report = print) -> Path:
    """Train the small autoencoder on the folder ``clips``; ``out`` becomes a codec's folder, for ``prepare --codec``.

    Running the same command again goes on from the last checkpoint; see :func:`flowreel.loop.fit`.
    """
    out = Path(out)
    return fit(CodecTask(find_clips(clips, leave_out=out), config, report), out, config, report)


class Reconstruction(nn.Module):
    """The forward pass that training needs, as one module."""

    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, frames: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Frames (B, 3, H, W) in [-1, 1] -> their reconstruction, and mean and log-variance (B, C, h, w) of the
        posterior, from which the latents are drawn with ``noise`` (their mean without)."""
        mean, logvar = self.autoencoder.encode(frames)
        latents = mean if noise is None else mean + torch.exp(logvar / 2) * noise
        return self.autoencoder.decode(latents), mean, logvar


class CodecTask:
    """Training the autoencoder on frames drawn evenly from clips. It is judged on some of
    them, and on frames of the test clips if there are any."""

    def __init__(self, sources: Sequence[Source], config: CodecTrainConfig, report: Report) -> None:
        self.video = VideoCodecConfig(kind="tiny", channels=config.channels, width=config.width, fit=config.fit)
        if config.size % self.video.factor or config.size < 1:
            raise InputError(f"size {config.size} must be a multiple of {self.video.factor}, the codec's factor")
        if config.checkpointing:
            raise InputError("checkpointing is for flows: the small autoencoder has no blocks to recompute")
        self.config, self.report = config, report
        train = [source for source in sources if source.split == "train"]
        test = [source for source in sources if source.split == "test"]
        self.frames, self.clips, sound = read_frames(train, config, config.frames, report)
        if not len(self.frames):
            raise InputError("none of the clips for training can be read: the reasons are in the lines above")
        held_out, _, _ = read_frames(test, config, JUDGED, report)
        self.judged = {"training": self.frames[_spread(len(self.frames), JUDGED)]}
        if len(held_out):
            self.judged["held-out"] = held_out
        report(f"{len(self.frames)} frames of {len(set(self.clips.tolist()))} clips at {config.size}x{config.size}")
        self.timing = _timing(config.fps, sound, report)
        torch.manual_seed(purpose_seed(config.seed, WEIGHTS, 0))
        self.module: nn.Module = Reconstruction(TinyAutoencoder(self.video))
        self.data = {"frames": hashlib.sha256(self.frames.numpy().tobytes()).hexdigest()[:16]}
        self._order = lru_cache(4)(
            lambda epoch: np.random.default_rng((config.seed, ROLE, epoch)).permutation(len(self.frames))
        )

    def batches(self, start: int, rank: int, world: int) -> Iterator[Batch]:
        config, side = self.config, self.config.size // self.video.factor
        for positions in GlobalOrder(config.batch, start, config.steps, rank, world, config.optim.accumulate):
            places = [divmod(n, len(self.frames)) for n in positions]
            numbers = torch.tensor([int(self._order(epoch)[place]) for epoch, place in places])
            generators = [torch.Generator().manual_seed(purpose_seed(config.seed, NOISE, n)) for n in positions]
            noise = [torch.randn(config.channels, side, side, generator=generator) for generator in generators]
            yield {"frames": self.frames[numbers], "noise": torch.stack(noise), "clip": self.clips[numbers]}

    def losses(self, module: nn.Module, batch: Batch) -> dict[str, Tensor]:
        frames = to_unit(batch["frames"])
        reconstruction, mean, logvar = module(frames, batch["noise"])
        return reconstruction_losses(reconstruction.float(), frames) | {"kl": self.config.kl * divergence(mean, logvar)}

    def preview(self, module: nn.Module, folder: Path, step: int) -> None:
        """Originals above their reconstructions: of training frames, then of held-out ones."""
        rows: list[Tensor] = []
        quality: list[str] = []
        for name, frames in self.judged.items():
            parts = frames.to(_device(module)).split(self.config.batch)
            again = torch.cat([from_unit(module(to_unit(part))[0]) for part in parts]).cpu()
            error = (again.float() - frames.float()).square().mean().item()
            quality.append(f"{10 * math.log10(255**2 / max(error, 1e-9)):.2f} dB on {len(frames)} {name} frames")
            shown = _spread(len(frames), SHOWN)
            rows += [torch.cat(list(pictures[shown]), dim=1) for pictures in (frames, again)]  # side by side
        self.report(f"step {step}: PSNR {', '.join(quality)}")
        _save_picture(rows, folder / "reconstruction.png")

    def export(self, module: nn.Module, folder: Path, step: int) -> None:  # noqa: ARG002
        autoencoder = module.get_submodule("autoencoder")
        shift, scale = self._statistics(autoencoder)
        video = dataclasses.replace(self.video, shift=shift, scale=scale)
        audio = AudioCodecConfig() if self.timing.has_audio else None
        config, device = CodecConfig(video, audio), _device(autoencoder)  # a codec moves its network to its device
        Codec(config, self.timing, video_module=autoencoder, device=device).save(folder)

    @torch.no_grad()
    def _statistics(self, autoencoder: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Per channel, the mean and the inverse standard deviation of the latents."""
        chosen = self.frames[_spread(len(self.frames), MEASURED)].to(_device(autoencoder))
        latents = torch.cat([autoencoder.encode(to_unit(part))[0] for part in chosen.split(self.config.batch)])
        moments = Moments.of(latents.movedim(1, -1).flatten(0, -2))
        return tuple(moments.mean.tolist()), tuple(moments.scale.tolist())


# --- losses -------------------------------------------------------------------------------------------------------


def reconstruction_losses(reconstruction: Tensor, frames: Tensor) -> dict[str, Tensor]:
    """``pixel``: absolute plus squared error; ``edge``: absolute error of the differences between neighbours (after
    arXiv 1511.05440), which keeps outlines sharp. Both (B, 3, H, W) in [-1, 1]; means over everything."""
    error = reconstruction - frames
    edges = (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()) / 2
    return {"pixel": error.abs().mean() + error.square().mean(), "edge": edges}


def divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)) in nats, the mean over all latents (arXiv 1312.6114)."""
    mean, logvar = mean.float(), logvar.float()
    return (mean.square() + logvar.exp() - 1 - logvar).mean() / 2


# --- frames -------------------------------------------------------------------------------------------------------


def read_frames(
    sources: Sequence[Source], config: CodecTrainConfig, limit: int, report: Report
) -> tuple[Tensor, Tensor, bool]:
    """At most ``limit`` frames, drawn evenly over the clips and over the time of each.

    Returns uint8 (N, H, W, 3), the numbers of their clips among ``sources`` (N,), and whether any clip has sound.
    Clips that can't be read are reported and left out.
    """
    lengths: list[int] = []
    sound = False
    for source in sources:
        try:
            info = probe(source.path)
        except InputError as error:
            report(f"left out {source.name}: {error}")
            lengths.append(0)
            continue
        lengths.append(max(1, round(info.seconds * config.fps)))
        sound |= info.has_audio
    frames: list[np.ndarray] = []
    clips: list[int] = []
    for number, (source, length, share) in enumerate(zip(sources, lengths, shares(lengths, limit), strict=True)):
        wanted = set(_spread(length, share).tolist())
        try:
            found = list(_pick(source.path, config, wanted))
        except InputError as error:
            report(f"left out {source.name}: {error}")
            continue
        frames += found
        clips += [number] * len(found)
    size = (0, config.size, config.size, 3)
    return torch.from_numpy(np.stack(frames) if frames else np.empty(size, np.uint8)), torch.tensor(clips), sound


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


def shares(lengths: Sequence[int], limit: int) -> list[int]:
    """How many of ``limit`` frames each clip gives: the same of all, where a clip has so many; the rest from others."""
    given = [0] * len(lengths)
    shortest_first = sorted(range(len(lengths)), key=lambda i: lengths[i])
    for place, i in enumerate(shortest_first):
        given[i] = min(lengths[i], limit // (len(lengths) - place))
        limit -= given[i]
    return given


def _timing(fps: float, sound: bool, report: Report) -> Timing:
    """The clocks of the codec: with sound if the clips have it and the frame rate goes with the default mel steps."""
    if sound:
        try:
            return Timing(fps)
        except InputError as error:
            report(f"the codec is for pictures alone: {error}")
    return Timing(fps, 0, 0)


def _spread(count: int, wanted: int) -> Tensor:
    """``wanted`` indices (or all) spread evenly over ``count``."""
    wanted = min(count, wanted)
    return torch.tensor([(2 * i + 1) * count // (2 * wanted) for i in range(wanted)], dtype=torch.long)


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def _save_picture(rows: Sequence[Tensor], path: Path) -> None:
    """Rows (H, W, 3) of perhaps unequal width, below each other on black."""
    from PIL import Image

    width = max(row.shape[1] for row in rows)
    pixels = torch.cat([F.pad(row, (0, 0, 0, width - row.shape[1])) for row in rows]).numpy()
    Image.fromarray(pixels).save(path)
