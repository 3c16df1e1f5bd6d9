"""The one sampler: an endless stream of finished blocks, with constant memory.

A clip is its first block with ``block = frames``; rolling is ``block < frames``. What is known (a given audio, a
given frame, the clip to be continued) is a condition, held at t = 1; it changes nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from flowreel.flow.schedule import blocks, ramp, roll
from flowreel.flow.solver import Step, euler, integrate
from flowreel.flow.types import Latents, Times, Velocity, per_frame

Noise: TypeAlias = Callable[[int], Latents]
"""``noise(k)``: k fresh frames of every stream, ``(B, k, ...)``."""

Condition: TypeAlias = Callable[[int, int], tuple[Latents, dict[str, Tensor]] | None]
"""``condition(start, k)``: what is known of frames start .. start + k of the stream's timeline, as latents
``(B, k, ...)`` and a mask ``(B, k)`` per known stream (streams may be left out); None where nothing is known."""


def stream(
    velocity: Velocity,
    noise: Noise,
    frames: int,
    steps: int,
    block: int = 1,
    context: int = 0,
    step: Step = euler,
    condition: Condition | None = None,
    lookahead: int = 0,
    warmup_steps: int | None = None,
) -> Generator[Latents, None, None]:
    """Yield blocks of finished frames for ever.

    The window warms up along ``ramp`` (``warmup_steps * m`` solver steps, m blocks), then every turn walks ``roll``
    (``steps`` solver steps), finishes one block, and appends a block of noise. If the first ``context`` frames are
    known the window begins with them as history, and they are not yielded. Otherwise it begins without history,
    ``frames - context`` long, and finished blocks stay in it until ``context`` is reached.

    Args:
        velocity: called afresh for every evaluation, so what it is bound to may change while the stream rolls.
        noise: called once with ``frames``, then once a turn with ``block``.
        frames: length of the full window, context and lookahead included.
        steps: solver steps per turn, at least 1.
        condition: what is known, see :data:`Condition`.
        lookahead: how many frames at the window's end stay noise, so that what is known of them is seen early. Where
            nothing more is known they take shape as well, a block more each turn.
        warmup_steps: solver steps per block of the warm-up, at least 1; by default ``steps``.

    Yields:
        ``{stream: (B, block, ...)}``.

    Raises:
        ValueError: at the call, if the window can't be cut so or steps is below 1; while it runs, if the condition
            knows a stream that the noise does not have.
    """
    blocks(frames, block, context, lookahead)
    warmup_steps = steps if warmup_steps is None else warmup_steps
    if min(steps, warmup_steps) < 1:
        raise ValueError(f"steps must be at least 1, not {min(steps, warmup_steps)}")
    return _roll_on(velocity, noise, frames, steps, block, context, step, condition, lookahead, warmup_steps)


@torch.no_grad()
def _roll_on(
    velocity: Velocity,
    noise: Noise,
    frames: int,
    steps: int,
    block: int,
    context: int,
    step: Step,
    condition: Condition | None,
    lookahead: int,
    warmup_steps: int,
) -> Generator[Latents, None, None]:
    m = blocks(frames, block, context, lookahead)
    first = noise(frames)
    history = context if _all_known(condition, context, first) else 0
    window = _Window.of({k: v[:, context - history :] for k, v in first.items()}, condition, 0)
    end = window.length
    turn = torch.linspace(0, 1, steps + 1)
    warmup = torch.linspace(0, 1, warmup_steps * m + 1)
    window = window.walk(velocity, ramp(warmup, end, block, history, lookahead), step)
    while True:
        yield {k: v[:, history : history + block].clone() for k, v in window.x.items()}
        if history < context:
            history += block
        else:
            window = window.without(block)
        window = window.joined(_Window.of(noise(block), condition, end))
        end += block
        times = roll(turn, window.length, block, history, lookahead)
        if lookahead >= block and not window.known(block):
            lookahead -= block
            further = roll(turn, window.length, block, history, lookahead)
            times = torch.lerp(times[:1], further[-1:], turn[:, None])
        window = window.walk(velocity, times, step)


@dataclass(frozen=True)
class _Window:
    """Latents ``(B, T, ...)`` and a mask ``(B, T)`` of the frames that are held, per stream."""

    x: Latents
    held: dict[str, Tensor]

    @classmethod
    def of(cls, x: Latents, condition: Condition | None, start: int) -> _Window:
        """Noise ``x`` for the frames from ``start`` on, with what is known of them put in."""
        length = next(iter(x.values())).shape[1]
        latents, masks = (condition(start, length) if condition else None) or ({}, {})
        if not set(masks) <= set(x):
            raise ValueError(f"the condition knows {', '.join(sorted(masks))}, but there are only {', '.join(x)}")
        held = {k: torch.zeros(v.shape[:2], dtype=torch.bool, device=v.device) for k, v in x.items()}
        held |= {k: mask.to(held[k]).expand_as(held[k]) for k, mask in masks.items()}
        known = {k: torch.where(per_frame(held[k], v), latents[k].to(v), v) for k, v in x.items() if k in masks}
        return cls(x | known, held)

    @property
    def length(self) -> int:
        return next(iter(self.x.values())).shape[1]

    def known(self, frames: int) -> bool:
        """Whether anything is held in the newest ``frames`` frames."""
        return any(bool(held[:, -frames:].any()) for held in self.held.values())

    def without(self, frames: int) -> _Window:
        """The window after its oldest ``frames`` frames have left."""
        return _Window({k: v[:, frames:] for k, v in self.x.items()}, {k: v[:, frames:] for k, v in self.held.items()})

    def joined(self, newer: _Window) -> _Window:
        return _Window(
            {k: torch.cat([v, newer.x[k]], dim=1) for k, v in self.x.items()},
            {k: torch.cat([v, newer.held[k]], dim=1) for k, v in self.held.items()},
        )

    def walk(self, velocity: Velocity, grid: Tensor, step: Step) -> _Window:
        """Integrate along ``grid`` with held frames at t = 1."""

        def hold(t: Times) -> Times:
            return {k: v.masked_fill(self.held[k], 1) for k, v in t.items()}

        x = integrate(velocity, self.x, grid, lambda v, x, t, t_next: step(v, x, hold(t), hold(t_next)))
        return _Window(x, self.held)


def _all_known(condition: Condition | None, context: int, x: Latents) -> bool:
    known = condition(0, context) if condition is not None and context else None
    return known is not None and all(k in known[1] and bool(known[1][k].all()) for k in x)
