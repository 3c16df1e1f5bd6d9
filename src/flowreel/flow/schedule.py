"""Schedules: the time of every frame of a window, as a function of progress u.

A window of ``frames`` is cut into blocks of ``block`` frames; the first ``context`` frames are finished history, at
t = 1, and the last ``lookahead`` frames stay noise, at t = 0: conditioning there is seen before anything takes shape
that should follow it. With ``m = (frames - context - lookahead) / block`` blocks between them, ``ramp`` warms up from
pure noise to a staggered window and ``roll`` moves every block 1/m nearer to the data. ``block=1, context=0`` is
R-FLAV's rolling flow matching (arXiv 2503.08307); ``block=frames`` makes both ``t = u``: a clip.
"""

from __future__ import annotations

import torch
from torch import Tensor


def blocks(frames: int, block: int = 1, context: int = 0, lookahead: int = 0) -> int:
    """How many blocks m are between the context and the lookahead.

    Raises:
        ValueError: the window can't be cut so.
    """
    inner = frames - context - lookahead
    if block < 1 or min(context, lookahead) < 0 or inner < 1 or context % block or inner % block:
        ahead = f" and lookahead {lookahead}" if lookahead else ""
        raise ValueError(
            f"a window of {frames} frames with context {context}{ahead} can't be cut into blocks of {block}: "
            "context and what is left of the window must be multiples of block, none below 0 and something left"
        )
    return inner // block


def ramp(u: Tensor, frames: int, block: int = 1, context: int = 0, lookahead: int = 0) -> Tensor:
    """Warm-up: a frame in block b after the context is at ``clamp(u - b/m, 0, 1)``.

    Args:
        u: (K,) progress in [0, 1].
        frames: length of the window, context and lookahead included.

    Returns:
        (K, frames) times in [0, 1].
    """
    m = blocks(frames, block, context, lookahead)
    # (u*m - b)/m rather than u - b/m: then ramp(1) and roll(1) are the same floating-point expression
    return _spread((_column(u) * m - _index(u, m)) / m, block, context, lookahead)


def roll(u: Tensor, frames: int, block: int = 1, context: int = 0, lookahead: int = 0) -> Tensor:
    """Steady state: a frame in block b after the context is at ``(m - 1 - b + u) / m``.

    Args:
        u: (K,) progress in [0, 1].
        frames: length of the window, context and lookahead included.

    Returns:
        (K, frames) times in [0, 1].
    """
    m = blocks(frames, block, context, lookahead)
    return _spread((m - 1 - _index(u, m) + _column(u)) / m, block, context, lookahead)


def _column(u: Tensor) -> Tensor:
    if u.ndim != 1:
        raise ValueError(f"progress u must have one axis (K,), not shape {tuple(u.shape)}")
    return u[:, None]


def _index(u: Tensor, m: int) -> Tensor:
    return torch.arange(m, device=u.device, dtype=u.dtype)


def _spread(times: Tensor, block: int, context: int, lookahead: int) -> Tensor:
    """(K, m) times of blocks -> (K, context + m * block + lookahead) times of frames."""
    frames = times.clamp(0, 1).repeat_interleave(block, dim=1)
    ends = frames.new_ones(len(frames), context), frames.new_zeros(len(frames), lookahead)
    return torch.cat([ends[0], frames, ends[1]], dim=1)
