"""Choosing a few of many: the same share of every clip, spread over all of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def shares(lengths: Sequence[int], limit: int) -> list[int]:
    """How many of ``limit`` frames each clip gives: the same of all, where a clip has so many; the rest from others."""
    given = [0] * len(lengths)
    shortest_first = sorted(range(len(lengths)), key=lambda i: lengths[i])
    for place, i in enumerate(shortest_first):
        given[i] = min(lengths[i], limit // (len(lengths) - place))
        limit -= given[i]
    return given


def spread(count: int, wanted: int) -> Tensor:
    """``wanted`` indices (or all) spread evenly over ``count``."""
    wanted = min(count, wanted)
    return torch.tensor([(2 * i + 1) * count // (2 * wanted) for i in range(wanted)], dtype=torch.long)
