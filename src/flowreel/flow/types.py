"""The types of latents, times, models and velocities.

Shape legend: B batch, T frames in the window, C channels, H W rows and columns, M mel bins, F mel steps per frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from torch import Tensor

Latents: TypeAlias = dict[str, Tensor]
"""``{"video": (B, T, C, H, W), "audio": (B, T, 1, M, F)}``; without the key ``"audio"`` where there is no audio."""

Times: TypeAlias = dict[str, Tensor]
"""The same keys, each (B, T) in [0, 1]: 0 noise, 1 data."""

Velocity: TypeAlias = Callable[[Latents, Times, Times], Latents]
"""``velocity(x, t, t_next)``: label and guidance already bound."""


def per_frame(t: Tensor, like: Tensor) -> Tensor:
    """``t`` (B, T) with singleton axes added until it broadcasts against ``like`` (B, T, ...)."""
    return t.reshape(*t.shape, *(1,) * (like.ndim - t.ndim))


def mix(data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """``t * data + (1 - t) * noise`` with ``t`` (B, T) over (B, T, ...)."""
    t = per_frame(t, data)
    return t * data + (1 - t) * noise


class Model(Protocol):
    """What a network is to this package: velocities of all streams from latents, times and a label.

    ``label`` is (B,) class indices (``num_classes`` is the null class), one such tensor per stream, or None.
    """

    def __call__(self, x: Latents, t: Times, label: Tensor | dict[str, Tensor] | None = None) -> Latents: ...
