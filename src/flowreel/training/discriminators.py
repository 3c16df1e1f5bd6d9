"""Discriminators of audio and of frames, adversarial losses, and the module that holds generator and discriminator.

Audio has HiFi-GAN's discriminators (arXiv 2010.05646), frames a patch discriminator (arXiv 1611.07004), of any width.

Shapes: B batch, S audio samples, H W rows and columns in pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

PERIODS = (2, 3, 5, 7, 11)
SCALES = 3
_AUDIO_SLOPE, _FRAME_SLOPE = 0.1, 0.2
_GROUPS = 8


class DiscriminatorOutput(NamedTuple):
    """Scores in any shape (B, ...), high for real samples, and the feature maps of the layers before them."""

    scores: Tensor
    features: list[Tensor]


class AudioDiscriminator(nn.Module):
    """HiFi-GAN's multi-period and multi-scale discriminators: waveform (B, S) -> one output each.

    ``width`` is the channels of their first layers (published: 32 and 128), a multiple of 8. Each scale halves the
    sample rate of the one before.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.periods = nn.ModuleList(_PeriodDiscriminator(period, width) for period in PERIODS)
        self.scales = nn.ModuleList(_ScaleDiscriminator(width) for _ in range(SCALES))
        self.halve = nn.AvgPool1d(4, 2, padding=2)

    def forward(self, waveform: Tensor) -> list[DiscriminatorOutput]:
        x = waveform[:, None]
        outputs = [discriminator(x) for discriminator in self.periods]
        for number, discriminator in enumerate(self.scales):
            x = self.halve(x) if number else x
            outputs.append(discriminator(x))
        return outputs


class _PeriodDiscriminator(nn.Module):
    """Convolves the waveform, folded into rows of ``period`` samples, along the columns."""

    def __init__(self, period: int, width: int) -> None:
        super().__init__()
        self.period = period
        widths = [1, width, 2 * width, 4 * width, 4 * width]
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(below, above, (5, 1), (3, 1), padding=(2, 0)))
            for below, above in itertools.pairwise(widths)
        )
        self.convs.append(weight_norm(nn.Conv2d(widths[-1], widths[-1], (5, 1), padding=(2, 0))))
        self.last = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, x: Tensor) -> DiscriminatorOutput:
        x = F.pad(x, (0, -x.shape[-1] % self.period))
        return _run(self.convs, self.last, x.unflatten(-1, (-1, self.period)), _AUDIO_SLOPE)


class _ScaleDiscriminator(nn.Module):
    """Convolves the waveform itself, with long kernels in groups."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [
                weight_norm(nn.Conv1d(1, width, 15, padding=7)),
                weight_norm(nn.Conv1d(width, 2 * width, 41, 4, padding=20, groups=width // 4)),
                weight_norm(nn.Conv1d(2 * width, 4 * width, 41, 4, padding=20, groups=width // 2)),
                weight_norm(nn.Conv1d(4 * width, 4 * width, 41, 4, padding=20, groups=width // 2)),
                weight_norm(nn.Conv1d(4 * width, 4 * width, 5, padding=2)),
            ]
        )
        self.last = weight_norm(nn.Conv1d(4 * width, 1, 3, padding=1))

    def forward(self, x: Tensor) -> DiscriminatorOutput:
        return _run(self.convs, self.last, x, _AUDIO_SLOPE)


class PatchDiscriminator(nn.Module):
    """Frames (B, 3, H, W) in [-1, 1] -> one output with a score per patch of about 34 pixels.

    Strided convolutions, ``width`` channels in the first one, a multiple of 8. Group norm keeps the samples of a batch
    independent of each other.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width]
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, padding=1)]
        for number, (below, above) in enumerate(itertools.pairwise(widths)):
            conv = nn.Conv2d(below, above, 4, 2 if number == 0 else 1, padding=1)
            layers.append(nn.Sequential(conv, nn.GroupNorm(_GROUPS, above)))
        self.convs = nn.ModuleList(layers)
        self.last = nn.Conv2d(widths[-1], 1, 4, padding=1)

    def forward(self, frames: Tensor) -> list[DiscriminatorOutput]:
        return [_run(self.convs, self.last, frames, _FRAME_SLOPE)]


def _run(convs: nn.ModuleList, last: nn.Module, x: Tensor, slope: float) -> DiscriminatorOutput:
    features = []
    for conv in convs:
        x = F.leaky_relu(conv(x), slope)
        features.append(x)
    return DiscriminatorOutput(last(x), features)


class Adversarial(nn.Module):
    """A generator and its discriminator, with one forward pass for the update of either.

    Args:
        name: what the generator is called: an attribute of this module, and its name in :attr:`networks`.
        discriminator: maps real or generated samples to a list of :class:`DiscriminatorOutput`.
    """

    def __init__(self, name: str, generator: nn.Module, discriminator: nn.Module) -> None:
        super().__init__()
        self.networks = ("discriminator", name)
        """In update order."""
        self.add_module(name, generator)
        self.discriminator = discriminator

    def forward(
        self, network: str, inputs: Sequence[Tensor], real: Tensor | None, active: bool
    ) -> tuple[Any, list[DiscriminatorOutput], list[DiscriminatorOutput]]:
        """Run the generator on ``inputs`` and, if ``active``, the discriminator on ``real`` and on its output.

        In the discriminator's update the generator runs without gradients. Of a tuple that the generator returns, the
        discriminator gets the first. Returns the generator's output and the discriminator's for ``real`` and for the
        generated samples; an empty list for what was not run.
        """
        generator = self.get_submodule(self.networks[1])
        with torch.set_grad_enabled(torch.is_grad_enabled() and network != "discriminator"):
            output = generator(*inputs)
        if not active:
            return output, [], []
        of_real = [] if real is None else self.discriminator(real)
        return output, of_real, self.discriminator(output[0] if isinstance(output, tuple) else output)


# --- losses -------------------------------------------------------------------------------------------------------


def lsgan_discriminator_loss(real: Sequence[DiscriminatorOutput], generated: Sequence[DiscriminatorOutput]) -> Tensor:
    """Least squares (arXiv 1611.04076): real samples should score 1, generated ones 0; summed over discriminators."""
    pairs = zip(real, generated, strict=True)
    return _sum([(1 - r.scores.float()).square().mean() + g.scores.float().square().mean() for r, g in pairs])


def lsgan_generator_loss(generated: Sequence[DiscriminatorOutput]) -> Tensor:
    """Least squares: generated samples should score 1; summed over discriminators."""
    return _sum([(1 - g.scores.float()).square().mean() for g in generated])


def feature_matching_loss(real: Sequence[DiscriminatorOutput], generated: Sequence[DiscriminatorOutput]) -> Tensor:
    """The absolute difference of the feature maps of real and generated samples (arXiv 1910.06711, 2010.05646), summed
    over discriminators and their layers. Real samples get no gradient."""
    return _sum(
        [
            (a.detach().float() - b.float()).abs().mean()
            for r, g in zip(real, generated, strict=True)
            for a, b in zip(r.features, g.features, strict=True)
        ]
    )


def hinge_discriminator_loss(real: Sequence[DiscriminatorOutput], generated: Sequence[DiscriminatorOutput]) -> Tensor:
    """Hinge (arXiv 1705.02894): no gain beyond a score of 1 for real samples and -1 for generated ones; summed over
    discriminators."""
    pairs = zip(real, generated, strict=True)
    return _sum([(F.relu(1 - r.scores.float()).mean() + F.relu(1 + g.scores.float()).mean()) / 2 for r, g in pairs])


def hinge_generator_loss(generated: Sequence[DiscriminatorOutput]) -> Tensor:
    """The negated mean score of generated samples, summed over discriminators."""
    return _sum([-g.scores.float().mean() for g in generated])


def _sum(losses: list[Tensor]) -> Tensor:
    return torch.stack(losses).sum()
