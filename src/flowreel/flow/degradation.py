"""Degrading the history of a training sample, the way errors accumulate in a long rollout."""

from __future__ import annotations

import torch

from flowreel.flow.roles import uniform
from flowreel.flow.types import Latents, Times


def degrade(data: Latents, t: Times, generator: torch.Generator) -> Latents:
    """Degrade the frames of one sample the way errors accumulate in a long rollout.

    Frames closer to the data (higher t) are degraded more. A model that only saw perfect frames copies its own small
    errors on while it rolls. One that saw degraded frames beside perfect ones that are farther from the data corrects
    them. What does not move, the median over time, stays. What moves fades by a share drawn from [-0.3, 1] (below 0 it
    stands out more), and its channels change by a tenth. Frames below a time drawn from [0, 0.9] stay; the degradation
    rises over a drawn width above it.

    Args:
        data: (T, ...) per stream.
        t: (T,) per stream. A stream that is clean as a whole is not degraded.
        generator: the sample's own.

    Returns:
        As ``data``.
    """
    begin, width = 0.9 * uniform(generator), 0.05 + 0.45 * uniform(generator)
    result = {}
    for k, x in data.items():
        fade = 1.3 * uniform(generator) - 0.3
        change = 0.1 * torch.randn(x.shape[1:2], generator=generator).to(x)
        if bool((t[k] == 1).all()):
            result[k] = x
            continue
        still = x.median(dim=0, keepdim=True).values
        share = ((t[k] - begin) / width).clamp(0, 1).reshape(-1, 1, 1, 1).to(x)
        result[k] = x + share * (change[:, None, None] - fade) * (x - still)
    return result
