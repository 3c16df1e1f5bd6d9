"""One interface to autoencoders of single frames: ours, and those of diffusers (KL, DC, Tiny).

Shape legend: N frames, H W rows and columns in pixels, C channels of latents, h w their rows and columns.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from flowreel.codec.tiny import TinyAutoencoder
from flowreel.config import VideoCodecConfig, VideoKind
from flowreel.errors import InputError, require
from flowreel.utils.reporting import say

PIXELS, FRAMES = 16 * 256 * 256, 32
"""Pixels and frames that go through the network together at most: bounds the memory, and stays in the CPU's cache."""
CONFIG = "config.json"


def to_unit(frames: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) in [-1, 1]."""
    return frames.movedim(-1, 1).float() / 127.5 - 1


def from_unit(frames: Tensor) -> Tensor:
    """The inverse of :func:`to_unit`, rounded and clamped."""
    return ((frames.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).movedim(1, -1)


class VideoAutoencoder:
    """The autoencoder that ``config`` names, loaded when it is first needed.

    Args:
        folder: where the weights lie if ``config.source`` is "". Without it the kind "tiny" has fresh weights, the same
            every time.
        module: a network that is there already (in training, in tests).

    Raises:
        InputError: there is no such kind.
    """

    def __init__(
        self,
        config: VideoCodecConfig,
        folder: Path | None = None,
        module: nn.Module | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if config.kind not in get_args(VideoKind):
            raise InputError(f"no autoencoder is of the kind {config.kind!r}: choose {', '.join(get_args(VideoKind))}")
        self.config, self.folder, self.device = config, folder, torch.device(device)
        self._module = module.eval().to(self.device) if module is not None else None

    @property
    def module(self) -> Any:
        """The network in evaluation mode.

        Raises:
            InputError: it can't be loaded; says what to do.
        """
        if self._module is None:
            self._module = self._load().eval().to(self.device)
        return self._module

    def load(self) -> None:
        """Load the network now, to see its errors before it is needed."""
        self._module = self.module

    @torch.no_grad()
    def encode(self, frames: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """uint8 frames (N, H, W, 3) -> raw latents (N, C, h, w) float32 on the CPU.

        ``generator``, of the CPU, draws from the posterior if ``config.posterior`` is "sample", frame by frame: the
        latents of frames in one call or in several are the same.

        Raises:
            InputError: H or W is no multiple of the factor, or there is no generator to draw with.
        """
        factor, (height, width) = self.config.factor, frames.shape[1:3]
        if height % factor or width % factor:
            raise InputError(f"frames of {height} x {width} can't be encoded: both must be multiples of {factor}")
        if self.config.posterior == "sample" and generator is None:
            raise InputError("posterior 'sample' draws latents at random: pass a generator")
        return torch.cat([self._encode(part, generator) for part in frames.split(_batch(height * width))])

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Raw latents (N, C, h, w) -> uint8 frames (N, H, W, 3) on the CPU."""
        height, width = latents.shape[-2:]
        parts = latents.split(_batch(height * width * self.config.factor**2))
        return torch.cat([self._decode(part) for part in parts])

    def to(self, device: torch.device | str) -> VideoAutoencoder:
        """The same autoencoder on another device. The network moves, as modules do."""
        return VideoAutoencoder(self.config, self.folder, self._module, device)

    def with_config(self, config: VideoCodecConfig) -> VideoAutoencoder:
        """The same under another config; the network is kept if it is the one that ``config`` names."""
        free = {"posterior": config.posterior, "shift": config.shift, "scale": config.scale}
        same = replace(self.config, **free) == config  # type: ignore[arg-type]
        return VideoAutoencoder(config, self.folder, self._module if same else None, self.device)

    def save(self, folder: Path) -> None:
        """Write the weights into ``folder`` if the codec's folder is their home; others are named by the config."""
        if self.config.kind == "tiny":
            self.module.save(folder)
        elif not self.config.source:
            self.module.save_pretrained(folder)

    def _encode(self, frames: Tensor, generator: torch.Generator | None) -> Tensor:
        x = to_unit(frames.to(self.device))
        encoded = self.module.encode(x)
        if self.config.kind == "tiny":
            mean, std = encoded[0], torch.exp(encoded[1] / 2)
        elif self.config.kind == "AutoencoderKL":
            mean, std = encoded.latent_dist.mean, encoded.latent_dist.std
        else:  # AutoencoderDC and AutoencoderTiny have no posterior
            return encoded[0].float().cpu()
        mean = mean.float().cpu()
        if self.config.posterior == "mean":
            return mean
        return mean + std.float().cpu() * torch.stack([torch.randn(mean.shape[1:], generator=generator) for _ in mean])

    def _decode(self, latents: Tensor) -> Tensor:
        decoded = self.module.decode(latents.float().to(self.device))
        x = decoded if self.config.kind == "tiny" else decoded[0]
        return from_unit(x).contiguous().cpu()

    def _load(self) -> nn.Module:
        source = self.config.source
        if self.config.kind == "tiny":
            return TinyAutoencoder.load(self.folder) if self.folder is not None else _fresh(self.config)
        if not source and self.folder is not None and (self.folder / CONFIG).is_file():
            source = str(self.folder)
        if not source:
            raise InputError(
                f"this checkpoint does not say which autoencoder its {self.config.channels}-channel latents are of: "
                "load it with autoencoder= (a hub id or a path)"
            )
        return _from_diffusers(replace(self.config, source=source))


def _batch(pixels: int) -> int:
    return max(1, min(FRAMES, PIXELS // max(1, pixels)))


def _fresh(config: VideoCodecConfig) -> TinyAutoencoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TinyAutoencoder(config)


def _from_diffusers(config: VideoCodecConfig) -> nn.Module:
    """``from_pretrained`` of the kind's class, from a folder or the hub."""
    source, local = config.source, Path(config.source).is_dir()
    if not local and (source.startswith((".", "/", "~")) or source.count("/") > 1):
        raise InputError(
            f"there is no folder {source}: give the path of a saved {config.kind}, or a hub id (owner/name)"
        )
    diffusers = require("diffusers", "vae")
    if not local:
        say(f"loading the autoencoder {source} from the hub, and downloading what is not here yet")
    revision = {"revision": config.revision} if config.revision and not local else {}
    try:
        with _quiet():
            network, info = getattr(diffusers, config.kind).from_pretrained(
                source, output_loading_info=True, **revision
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:  # not there, not that kind, not its weights
        advice = (
            "is the folder whole, and of that kind?"
            if local
            else "check the id and the network, or give the path of a folder that holds it (autoencoder=, --codec)"
        )
        raise InputError(
            f"the autoencoder {source} ({config.kind}) can't be loaded: {_reason(error)}\n{advice}"
        ) from error
    if missing := sorted(info["missing_keys"]):  # diffusers goes on with random weights in their place
        raise InputError(
            f"{source} does not hold a whole {config.kind}: {len(missing)} tensors are missing, the first is "
            f"{missing[0]}"
        )
    return network


def _reason(error: BaseException) -> str:
    """The first line of the error, and that of the one at the bottom of it (the network's, most often)."""
    deepest = error
    while cause := deepest.__cause__ or deepest.__context__:
        deepest = cause
    lines = [(str(e).strip().splitlines() or [type(e).__name__])[0][:200] for e in (error, deepest)]
    return lines[0] if lines[0] == lines[1] else f"{lines[0]} ({lines[1]})"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what diffusers says about its own defaults and its use of the hub."""
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*local_dir_use_symlinks", category=UserWarning)
            yield
    finally:
        logging.set_verbosity(before)
