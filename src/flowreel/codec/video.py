"""One interface to every autoencoder of single frames: ours, and diffusers' AutoencoderKL, -DC and -Tiny.

Knows: how each kind is loaded and called. Does not know: scales; latents here are raw, as the network makes them.

Shape legend: N frames, H W rows and columns in pixels, C channels of latents, h w their rows and columns.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowreel.codec.tiny import TinyAutoencoder
from flowreel.config import VideoCodecConfig
from flowreel.errors import InputError, require

BATCH = 16
"""Frames that go through the network together: bounds the memory."""


class VideoAutoencoder:
    """The autoencoder that ``config`` names, loaded when it is first needed.

    Args:
        folder: where the weights lie if ``config.source`` is "" (kind "tiny").
        module: a network that is there already (in training, in tests).
    """

    def __init__(
        self,
        config: VideoCodecConfig,
        folder: Path | None = None,
        module: nn.Module | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.folder, self.device = config, folder, torch.device(device)
        self._module = module.to(self.device) if module is not None else None

    @property
    def module(self) -> Any:
        """The network in evaluation mode.

        Raises:
            InputError: it can't be loaded; says what to do.
        """
        if self._module is None:
            self._module = self._load().eval().to(self.device)
        return self._module

    @torch.no_grad()
    def encode(self, frames: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """uint8 frames (N, H, W, 3) -> raw latents (N, C, h, w) float32 on the CPU.

        ``generator`` draws from the posterior if ``config.posterior`` is "sample".
        """
        return torch.cat([self._encode(part, generator) for part in frames.split(BATCH)])

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Raw latents (N, C, h, w) -> uint8 frames (N, H, W, 3) on the CPU."""
        return torch.cat([self._decode(part) for part in latents.split(BATCH)])

    def to(self, device: torch.device | str) -> VideoAutoencoder:
        """The same autoencoder on another device."""
        return VideoAutoencoder(self.config, self.folder, self._module, device)

    def _encode(self, frames: Tensor, generator: torch.Generator | None) -> Tensor:
        x = frames.to(self.device).movedim(-1, 1).float() / 127.5 - 1
        if self.config.kind == "tiny":
            mean, logvar = self.module.encode(x)
            return _draw(mean, torch.exp(logvar / 2), self.config.posterior, generator)
        encoded = self.module.encode(x)
        if self.config.kind == "AutoencoderKL":
            posterior = encoded.latent_dist
            return _draw(posterior.mean, posterior.std, self.config.posterior, generator)
        return encoded[0].float().cpu()  # AutoencoderDC and AutoencoderTiny have no posterior

    def _decode(self, latents: Tensor) -> Tensor:
        decoded = self.module.decode(latents.to(self.device))
        x = decoded if self.config.kind == "tiny" else decoded[0]
        return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).movedim(1, -1).contiguous().cpu()

    def _load(self) -> nn.Module:
        if self.config.kind == "tiny":
            if self.folder is None:
                return TinyAutoencoder(self.config)
            return TinyAutoencoder.load(self.folder)
        if not self.config.source:
            raise InputError(
                f"this checkpoint does not say which autoencoder its {self.config.channels}-channel latents are of: "
                "load it with autoencoder= (a hub id or a path)"
            )
        return _from_diffusers(self.config)


def _draw(mean: Tensor, std: Tensor, posterior: str, generator: torch.Generator | None) -> Tensor:
    mean = mean.float().cpu()
    return mean + std.float().cpu() * torch.randn(mean.shape, generator=generator) if posterior == "sample" else mean


def _from_diffusers(config: VideoCodecConfig) -> nn.Module:
    """``from_pretrained`` of the kind's class, from the hub or a path."""
    diffusers = require("diffusers", "vae")
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    revision = {"revision": config.revision} if config.revision else {}
    try:
        return getattr(diffusers, config.kind).from_pretrained(config.source, **revision)
    except (OSError, ValueError) as error:
        raise InputError(
            f"the autoencoder {config.source} ({config.kind}) could not be loaded: {str(error).strip().splitlines()[0]}\n"
            "Give a folder that holds it, or run once where the hub can be reached"
        ) from error
