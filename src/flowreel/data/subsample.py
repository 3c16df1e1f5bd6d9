"""Even subsampling of frames: equally many from each clip, evenly spaced over its length."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def frames_per_clip(lengths: Sequence[int], limit: int, least: int = 1) -> list[int]:
    """Distribute ``limit`` frames over clips of these lengths.

    Each clip gives equally many; what short clips lack is taken from the others. If ``limit`` is too small for
    ``least`` frames from each clip, some clips, evenly spaced among them, give none.
    """
    counts = [0] * len(lengths)
    usable = [i for i, length in enumerate(lengths) if length > 0]
    chosen = [usable[k] for k in evenly_spaced(len(usable), max(1, limit // least)).tolist()]
    shortest_first = sorted(chosen, key=lambda i: lengths[i])
    for place, i in enumerate(shortest_first):
        counts[i] = min(lengths[i], limit // (len(chosen) - place))
        limit -= counts[i]
    return counts


def evenly_spaced(count: int, wanted: int) -> Tensor:
    """``wanted`` indices, evenly spaced in range(``count``); all of them if there are fewer."""
    wanted = min(count, wanted)
    return torch.tensor([(2 * i + 1) * count // (2 * wanted) for i in range(wanted)], dtype=torch.long)
