"""The training objective: what is drawn for a sample, and the loss of a batch.

A sample plays a *role*: which of its frames are given (t = 1) and how the others' times hang together. Roles come
from the same schedules that sampling walks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from flowreel.flow.guidance import Weaker
from flowreel.flow.schedule import ramp, roll
from flowreel.flow.types import Latents, Model, Times, mix, per_frame

ROLES = ("joint", "independent", "audio_clean", "video_clean", "context")
WHOLE = frozenset({"audio_clean", "video_clean"})
"""Roles in which a whole stream is given."""
EDGE = 1e-6
"""Times are kept this far from 0 and 1, where the logit-normal weight is not defined; t = 1 itself means held."""


def draw_times(
    generator: torch.Generator,
    frames: int,
    streams: Sequence[str],
    *,
    shares: Mapping[str, float],
    warmup: float = 0.2,
    blocks: Sequence[int] = (1,),
    contexts: Sequence[int] = (),
    lookaheads: Sequence[int] = (),
    progress: Literal["uniform", "logit_normal"] = "uniform",
) -> dict[str, Tensor]:
    """Draw the role of one sample and from it the time of every frame.

    Args:
        generator: the sample's own.
        frames: length of the window.
        streams: of the model; with one stream only the roles ``joint`` and ``context`` can be drawn.
        shares: role -> relative share (see :data:`ROLES`).
        warmup: share of ``ramp``, the rest is ``roll`` (0.2 as published).
        blocks, contexts, lookaheads: drawn evenly; contexts for the role ``context`` alone, lookaheads (how many frames
            at the end stay noise) for the roles that are given a whole stream, and with none as one more of them for
            ``joint``, which guidance by what is given compares those with.
        progress: the law of u; ``logit_normal`` is sigmoid of a standard normal.

    Returns:
        stream -> (frames,) times in [0, 1]; exactly 1 where a frame is given, exactly 0 where it stays noise.
    """
    role = _draw_role(generator, shares, streams)
    block = _choose(generator, blocks)
    context = _choose(generator, contexts) if role == "context" else 0
    whole = role in WHOLE
    ahead = lookaheads if whole else (0, *lookaheads) if role == "joint" else ()
    lookahead = _choose(generator, ahead) if lookaheads and ahead else 0
    schedule = ramp if _uniform(generator) < warmup else roll

    def times() -> Tensor:
        u = (
            torch.sigmoid(torch.randn(1, generator=generator))
            if progress == "logit_normal"
            else torch.rand(1, generator=generator)
        )
        t = schedule(u, frames, block, context, lookahead)[0]
        end = frames - lookahead
        return torch.cat([t[:context], t[context:end].clamp(EDGE, 1 - EDGE), t[end:]])

    shared = times()
    drawn = {stream: times() if role == "independent" and i else shared for i, stream in enumerate(streams)}
    if whole:
        drawn[role.removesuffix("_clean")] = torch.ones(frames)
    return drawn


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


def losses(
    model: Model,
    data: Latents,
    noise: Latents,
    t: Times,
    label: Tensor | dict[str, Tensor] | None = None,
    weight: Literal["none", "logit_normal"] = "none",
    guidance: Tensor | None = None,
    weaker: Weaker | None = None,
    counted: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Per stream, the mean over B*T frames of w(t) times the frame's mean squared velocity error.

    Frames held at t = 1 count 0 and stay in the denominator, so that shards of a batch add up. ``weight``
    "logit_normal" is the density of sigmoid(N(0, 1)) at t (arXiv 2403.03206).

    With ``guidance`` s above 1 the model learns its own guided velocity (arXiv 2502.12154), which sampling then has in
    one pass: a sample's target ``data - noise`` becomes ``data - noise + (1 - 1/s) * (v_label - v_null)``, without a
    gradient through the difference. A model that meets it has ``v_label = v_null + s * (mean(data - noise) - v_null)``.

    Args:
        data, noise: (B, T, ...) per stream.
        t: (B, T) per stream; clamped to [1e-6, 1 - 1e-6] where it is not exactly 1.
        guidance: (B,) of 1 or more; 1 for samples whose class was dropped: from their velocity the others are led away.
        weaker: what the null class is given; by default the same x and t.
        counted: (B, T) per stream, False for frames that count 0 like held ones; by default none.

    Returns:
        stream -> scalar.

    Raises:
        ValueError: no such weight.
    """
    if weight not in ("none", "logit_normal"):
        raise ValueError(f"weight must be 'none' or 'logit_normal', not {weight!r}")
    held = {k: t[k] == 1 for k in data}
    inner = {k: t[k].clamp(EDGE, 1 - EDGE) for k in data}
    times = {k: torch.where(held[k], t[k], inner[k]) for k in data}
    x = {k: mix(data[k], noise[k], times[k]) for k in data}
    predicted = model(x, times, label)
    target = {k: data[k] - noise[k] for k in data}
    if guidance is not None:
        with torch.no_grad():  # after the other pass: autocast would keep weights that were cast without a gradient
            null = model(*(weaker(x, times) if weaker else (x, times)), None)
            lead = (1 - 1 / guidance).unsqueeze(1)
            target = {k: v + per_frame(lead, v) * (predicted[k].detach() - null[k]) for k, v in target.items()}
    result = {}
    for k in data:
        error = (predicted[k] - target[k]).square().flatten(2).mean(2)  # (B, T)
        left_out = held[k] if counted is None else held[k] | ~counted[k]
        w = logit_normal_density(inner[k]) if weight == "logit_normal" else torch.ones_like(inner[k])
        result[k] = torch.where(left_out, 0, error * w).mean()
    return result


def logit_normal_density(t: Tensor) -> Tensor:
    """The density of sigmoid(N(0, 1)) at ``t`` in (0, 1)."""
    return torch.exp(-torch.logit(t).square() / 2) / (math.sqrt(2 * math.pi) * t * (1 - t))


def _draw_role(generator: torch.Generator, shares: Mapping[str, float], streams: Sequence[str]) -> str:
    possible = ROLES if len(streams) > 1 else ("joint", "context")
    weights = [shares.get(role, 0.0) for role in possible]
    unknown = set(shares) - set(ROLES)
    if unknown or sum(weights) <= 0:
        raise ValueError(
            f"shares {dict(shares)} for {list(streams)}: give at least one of {', '.join(possible)} a share above 0"
        )
    mark = _uniform(generator) * sum(weights)
    for role, share in zip(possible, weights, strict=True):
        mark -= share
        if mark < 0:
            return role
    return [role for role, share in zip(possible, weights, strict=True) if share][-1]


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand(1, generator=generator))


def _choose(generator: torch.Generator, options: Sequence[int]) -> int:
    return options[int(torch.randint(len(options), (1,), generator=generator))]
