"""Solvers: pure functions that move latents from one set of times to the next.

A solver knows nothing of models, labels or guidance: it gets a velocity. Frames may stand at different times and
move by different amounts; a frame whose time does not change does not move.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from flowreel.flow.types import Latents, Times, Velocity, per_frame

Step: TypeAlias = Callable[[Velocity, Latents, Times, Times], Latents]


def euler(velocity: Velocity, x: Latents, t: Times, t_next: Times) -> Latents:
    """One Euler step from ``t`` to ``t_next``, per frame."""
    return _advance(x, velocity(x, t, t_next), t, t_next)


def heun(velocity: Velocity, x: Latents, t: Times, t_next: Times) -> Latents:
    """One Heun step (explicit trapezoid, second order).

    Frames that arrive at ``t_next = 1`` take the Euler step, as the network is not trained at the data end: so a
    clip ends with an Euler step (the rule of Karras et al., arXiv 2206.00364, which GenerativeFlow follows).
    """
    first = velocity(x, t, t_next)
    ahead = _advance(x, first, t, t_next)
    inner = {k: t_next[k] < 1 for k in x}
    if not any(bool(mask.any()) for mask in inner.values()):
        return ahead
    second = velocity(ahead, t_next, t_next)
    slope = {k: torch.where(per_frame(inner[k], x[k]), (first[k] + second[k]) / 2, first[k]) for k in x}
    return _advance(x, slope, t, t_next)


def integrate(velocity: Velocity, x: Latents, grid: Tensor, step: Step = euler) -> Latents:
    """Walk ``x`` along ``grid`` (K+1, frames), the times of all streams and samples, with one ``step`` per row."""
    for t, t_next in itertools.pairwise(grid):
        x = step(velocity, x, spread(t, x), spread(t_next, x))
    return x


def spread(t: Tensor, x: Latents) -> Times:
    """The times ``t`` (frames,) for every stream and sample of ``x``."""
    return {k: t.to(v.device, torch.float32).expand(v.shape[0], -1) for k, v in x.items()}


def _advance(x: Latents, v: Latents, t: Times, t_next: Times) -> Latents:
    return {k: x[k] + per_frame(t_next[k] - t[k], x[k]) * v[k] for k in x}
