"""The small image autoencoder: hundreds of 64x64 frames a second on one CPU core.

Residual blocks of two convolutions; between sizes a strided or upsampling convolution beside a parameter-free shortcut
that moves pixels into channels and back (residual autoencoding, as in DC-AE, arXiv 2410.10733).

Shapes: N frames, H W pixels, C latent channels, f the factor.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowreel.codec import folder as weights
from flowreel.config import VideoCodecConfig
from flowreel.errors import InputError
from flowreel.utils.tensors import load_tensors

_GROUPS = 8
_LOGVAR_RANGE = (-30.0, 2.0)
"""Of the latents' log-variance. A standard deviation of more than e times that of all latents is no use, and one
frame with e^10 times would drown a training step in noise."""


class TinyAutoencoder(nn.Module):
    """A convolutional variational autoencoder (arXiv 1312.6114).

    Of ``config`` it takes ``channels`` C of the latents; ``factor`` f between pixels and latents, a power of two from
    2; ``width`` channels at half the frame's size, twice and four times that below: a multiple of 8. Raises InputError
    for other values.
    """

    def __init__(self, config: VideoCodecConfig | None = None) -> None:
        super().__init__()
        config = config or VideoCodecConfig()
        channels, factor, width = config.channels, config.factor, config.width
        if factor < 2 or factor & (factor - 1):
            raise InputError(f"the factor of the autoencoder must be 2, 4, 8 or another power of two, not {factor}")
        if width < _GROUPS or width % _GROUPS:
            raise InputError(f"the width of the autoencoder must be a multiple of {_GROUPS}, not {width}")
        if channels < 1:
            raise InputError(f"the autoencoder needs at least 1 latent channel, not {channels}")
        self.channels, self.factor, self.width = channels, factor, width
        widths = [width * min(2**level, 4) for level in range(factor.bit_length() - 1)]
        pairs = list(itertools.pairwise(widths))

        encoder: list[nn.Module] = [nn.PixelUnshuffle(2), _conv(3 * 4, width), _Residual(width)]
        for above, below in pairs:
            encoder += [_Down(above, below), _Residual(below)]
        self.encoder = nn.Sequential(*encoder, _ToLatents(widths[-1], channels))

        decoder: list[nn.Module] = [_FromLatents(channels, widths[-1]), _Residual(widths[-1])]
        for above, below in reversed(pairs):
            decoder += [_Up(below, above), _Residual(above)]
        self.decoder = nn.Sequential(*decoder, _conv(width, 3 * 4), nn.PixelShuffle(2))
        self.to(memory_format=torch.channels_last)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (N, 3, H, W) in [-1, 1] -> mean and log-variance of the latents, each (N, C, H/f, W/f)."""
        height, width = x.shape[-2:]
        if height % self.factor or width % self.factor:
            raise InputError(f"frames of {height}x{width} can't be encoded: both must be multiples of {self.factor}")
        mean, logvar = self.encoder(x.contiguous(memory_format=torch.channels_last)).chunk(2, 1)
        return mean.contiguous(), logvar.clamp(*_LOGVAR_RANGE).contiguous()

    def decode(self, z: Tensor) -> Tensor:
        """Latents (N, C, h, w) -> frames (N, 3, h*f, w*f), about [-1, 1], not clamped."""
        return self.decoder(z.contiguous(memory_format=torch.channels_last)).contiguous()

    def save(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors."""
        config = {"channels": self.channels, "factor": self.factor, "width": self.width}
        weights.write(Path(folder), config, self)

    @classmethod
    def load(cls, folder: str | Path) -> TinyAutoencoder:
        """Read what :meth:`save` wrote, in evaluation mode. Raises InputError for a folder that is not one."""
        folder = Path(folder)
        config = weights.read_config(folder)
        if set(config) != {"channels", "factor", "width"}:
            raise InputError(f"{folder / weights.CONFIG} should have channels, factor and width, not {sorted(config)}")
        model = cls(VideoCodecConfig(**config))
        path = folder / weights.WEIGHTS
        weights.fill(model, load_tensors(path), path)
        return model.eval()


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(_GROUPS, channels)
        self.conv1 = _conv(channels, channels)
        self.conv2 = _conv(channels, channels, gain=0.3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(self.norm(x)))))


class _Down(nn.Module):
    """Half the size: a strided convolution beside the means of neighbouring pixels' channels."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.out = out
        self.conv = nn.Conv2d(channels, out, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + _group_mean(F.pixel_unshuffle(x, 2), self.out)


class _Up(nn.Module):
    """Twice the size: a convolution of the enlarged map beside channels laid out as neighbouring pixels."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.repeats = 4 * out // channels
        self.conv = _conv(channels, out)

    def forward(self, x: Tensor) -> Tensor:
        enlarged = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.conv(enlarged) + F.pixel_shuffle(x.repeat_interleave(self.repeats, 1), 2)


class _ToLatents(nn.Module):
    """Mean and log-variance, with a shortcut to the mean where the channels divide."""

    def __init__(self, channels: int, latents: int) -> None:
        super().__init__()
        self.latents, self.shortcut = latents, channels % latents == 0
        self.conv = _conv(channels, 2 * latents)

    def forward(self, x: Tensor) -> Tensor:
        moments = self.conv(x)
        if not self.shortcut:
            return moments
        mean, logvar = moments.chunk(2, 1)
        return torch.cat((mean + _group_mean(x, self.latents), logvar), 1)


class _FromLatents(nn.Module):
    def __init__(self, latents: int, channels: int) -> None:
        super().__init__()
        self.repeats = channels // latents if channels % latents == 0 else 0
        self.conv = _conv(latents, channels)

    def forward(self, z: Tensor) -> Tensor:
        return self.conv(z) + z.repeat_interleave(self.repeats, 1) if self.repeats else self.conv(z)


def _conv(channels: int, out: int, gain: float = 1.0) -> nn.Conv2d:
    conv = nn.Conv2d(channels, out, 3, padding=1)
    with torch.no_grad():
        conv.weight.mul_(gain)
    return conv


def _group_mean(x: Tensor, out: int) -> Tensor:
    return x.unflatten(1, (out, -1)).mean(2)
