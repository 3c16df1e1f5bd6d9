"""Networks that tell the real from the made, for training against, and the losses of both sides.

Knows: HiFi-GAN's judges of sound (arXiv 2010.05646) and the patch judge of pictures (arXiv 1611.07004), of any width;
least-squares and hinge losses. Does not know: what made what they judge, when it is trained, how losses are weighed.

Shapes: B batch, S audio samples, H W rows and columns in pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

PERIODS = (2, 3, 5, 7, 11)
SCALES = 3
_SLOPE, _PICTURE_SLOPE = 0.1, 0.2
_GROUPS = 8


class Judgement(NamedTuple):
    """What one network says: a score per place, in any shape (B, ...), high for the real, and the maps before it."""

    scores: Tensor
    features: list[Tensor]


class SoundJudges(nn.Module):
    """HiFi-GAN's multi-period and multi-scale discriminators, ``width`` channels wide at first (published: 32 and 128),
    a multiple of 8: waveform (B, S) -> one judgement each. Sound at half the rate is for the next scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.periods = nn.ModuleList(_PeriodJudge(period, width) for period in PERIODS)
        self.scales = nn.ModuleList(_ScaleJudge(width) for _ in range(SCALES))
        self.halve = nn.AvgPool1d(4, 2, padding=2)

    def forward(self, waveform: Tensor) -> list[Judgement]:
        x = waveform[:, None]
        judgements = [judge(x) for judge in self.periods]
        for number, judge in enumerate(self.scales):
            x = self.halve(x) if number else x
            judgements.append(judge(x))
        return judgements


class _PeriodJudge(nn.Module):
    """Looks at every ``period``-th sample: the waveform as rows of one period, convolved along the columns."""

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

    def forward(self, x: Tensor) -> Judgement:
        x = F.pad(x, (0, -x.shape[-1] % self.period))
        return _judge(self.convs, self.last, x.unflatten(-1, (-1, self.period)))


class _ScaleJudge(nn.Module):
    """Looks at the waveform itself, with long kernels in groups."""

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

    def forward(self, x: Tensor) -> Judgement:
        return _judge(self.convs, self.last, x)


def _judge(convs: nn.ModuleList, last: nn.Module, x: Tensor) -> Judgement:
    features = []
    for conv in convs:
        x = F.leaky_relu(conv(x), _SLOPE)
        features.append(x)
    return Judgement(last(x), features)


class PatchJudge(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] -> a judgement with a score per patch of about 34 pixels: strided convolutions,
    ``width`` channels wide at first, a multiple of 8. Norms look at one picture each, so that samples don't mix."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width]
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, padding=1)]
        for number, (below, above) in enumerate(itertools.pairwise(widths)):
            conv = nn.Conv2d(below, above, 4, 2 if number == 0 else 1, padding=1)
            layers.append(nn.Sequential(conv, nn.GroupNorm(_GROUPS, above)))
        self.convs = nn.ModuleList(layers)
        self.last = nn.Conv2d(widths[-1], 1, 4, padding=1)

    def forward(self, pictures: Tensor) -> Judgement:
        features, x = [], pictures
        for conv in self.convs:
            x = F.leaky_relu(conv(x), _PICTURE_SLOPE)
            features.append(x)
        return Judgement(self.last(x), features)


# --- losses -------------------------------------------------------------------------------------------------------


def least_squares(real: Sequence[Judgement], made: Sequence[Judgement]) -> Tensor:
    """The judges' loss (arXiv 1611.04076): the real should score 1 and the made 0; summed over judges."""
    pairs = zip(real, made, strict=True)
    return _sum([(1 - r.scores.float()).square().mean() + m.scores.float().square().mean() for r, m in pairs])


def least_squares_to_pass(made: Sequence[Judgement]) -> Tensor:
    """The maker's loss: what it made should score 1; summed over judges."""
    return _sum([(1 - m.scores.float()).square().mean() for m in made])


def feature_distance(real: Sequence[Judgement], made: Sequence[Judgement]) -> Tensor:
    """The absolute difference of what judges see in the real and in the made (arXiv 1910.06711, 2010.05646), summed
    over judges and their layers."""
    return _sum(
        [
            (a.detach().float() - b.float()).abs().mean()
            for r, m in zip(real, made, strict=True)
            for a, b in zip(r.features, m.features, strict=True)
        ]
    )


def hinge(real: Judgement, made: Judgement) -> Tensor:
    """The judge's loss (arXiv 1705.02894): no gain beyond a score of 1 for the real and -1 for the made."""
    return (F.relu(1 - real.scores.float()).mean() + F.relu(1 + made.scores.float()).mean()) / 2


def hinge_to_pass(made: Judgement) -> Tensor:
    """The maker's loss: the higher the score of what it made, the better."""
    return -made.scores.float().mean()


def _sum(losses: list[Tensor]) -> Tensor:
    return torch.stack(losses).sum()
