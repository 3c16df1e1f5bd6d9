"""Choosing a few of many: the same share of every clip, spread over all of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def shares(lengths: Sequence[int], limit: int, least: int = 1) -> list[int]:
    """How many of ``limit`` frames each clip gives: the same of all, where a clip has so many; the rest from others.
    Where there is not enough for ``least`` of each, some clips give nothing, spread evenly over them."""
    given = [0] * len(lengths)
    usable = [i for i, length in enumerate(lengths) if length > 0]
    chosen = [usable[k] for k in spread(len(usable), max(1, limit // least)).tolist()]
    shortest_first = sorted(chosen, key=lambda i: lengths[i])
    for place, i in enumerate(shortest_first):
        given[i] = min(lengths[i], limit // (len(chosen) - place))
        limit -= given[i]
    return given


def spread(count: int, wanted: int) -> Tensor:
    """``wanted`` indices (or all) spread evenly over ``count``."""
    wanted = min(count, wanted)
    return torch.tensor([(2 * i + 1) * count // (2 * wanted) for i in range(wanted)], dtype=torch.long)
