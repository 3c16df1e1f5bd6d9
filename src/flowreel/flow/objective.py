"""The training objective: the flow-matching loss of a batch.

A sample has a *role*: which of its frames are clean (t = 1) and how the others' times depend on each other. Roles come
from the same schedules that sampling walks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from flowreel.flow.guidance import Unconditional
from flowreel.flow.roles import EDGE
from flowreel.flow.types import Latents, Model, Times, mix, per_frame


def losses(
    model: Model,
    data: Latents,
    noise: Latents,
    t: Times,
    label: Tensor | dict[str, Tensor] | None = None,
    weight: Literal["none", "logit_normal"] = "none",
    guidance: Tensor | None = None,
    unconditional: Unconditional | None = None,
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
        unconditional: the inputs of the null class's pass; by default the same x and t.
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
            null = model(*(unconditional(x, times) if unconditional else (x, times)), None)
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
