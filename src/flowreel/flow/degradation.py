"""Degrading the history of a training sample, the way errors accumulate in a long rollout."""

from __future__ import annotations

import torch

from flowreel.flow.roles import _uniform
from flowreel.flow.types import Latents, Times


def worn(data: Latents, t: Times, generator: torch.Generator) -> Latents:
    """One sample whose frames are worn as by a long roll: the nearer a frame is to the data, the more.

    A model that only saw perfect frames copies its own small errors on and on while it rolls. One that saw worn frames
    beside perfect ones that are farther from the data mends them. What does not move, the median over time, stays; what
    moves fades by a, drawn from [-0.3, 1] (below 0 it stands out more), and its channels change by a tenth. Frames
    below a time drawn from [0, 0.9] are as they were, those above it by a drawn width are worn in full.

    Args:
        data: (T, ...) per stream.
        t: (T,) per stream. A stream that is held as a whole is not worn.
        generator: the sample's own.

    Returns:
        As ``data``.
    """
    begin, width = 0.9 * _uniform(generator), 0.05 + 0.45 * _uniform(generator)
    result = {}
    for k, x in data.items():
        fade = 1.3 * _uniform(generator) - 0.3
        change = 0.1 * torch.randn(x.shape[1:2], generator=generator).to(x)
        if bool((t[k] == 1).all()):
            result[k] = x
            continue
        still = x.median(dim=0, keepdim=True).values
        share = ((t[k] - begin) / width).clamp(0, 1).reshape(-1, 1, 1, 1).to(x)
        result[k] = x + share * (change[:, None, None] - fade) * (x - still)
    return result
