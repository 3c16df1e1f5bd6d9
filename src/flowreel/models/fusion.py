"""Cross-modal fusion in three variants, the only code that sees both streams.

``fusion.compute_modulation(c)`` depends on the conditions alone; ``fusion(x, modulations)`` gives the streams and the
modulation of each stream's MLP. x is ``{stream: (B, T, N, D)}``, c is ``{stream: (B, T, D)}``.

- ``mean`` (a): a stream's modulation comes from the per-frame mean of the *other* stream's tokens;
- ``joint`` (b): joint self-attention over both streams' tokens of a frame, modulation from time and class;
- ``mean_time`` (c): as (a), plus the stream's own time/class embedding: the published one.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowreel.models.layers import Modulation, SelfAttention, chunk, modulate
from flowreel.models.network import init_zero

Fused = tuple[dict[str, Tensor], dict[str, Modulation]]


class MeanFusion(nn.Module):
    """(a) and, with ``conditioned``, (c). ``normed``: means have root mean square 1, so that a stream that grows can't
    make the other grow."""

    def __init__(self, dim: int, streams: tuple[str, ...], conditioned: bool, normed: bool = False) -> None:
        super().__init__()
        self.normed = normed
        self.conditioned = conditioned or len(streams) == 1
        self.others = {k: [other for other in streams if other != k] for k in streams}
        self.pool = nn.ModuleDict({k: nn.Linear(dim, dim) for k in streams if len(streams) > 1})
        self.modulation = nn.ModuleDict({k: nn.Linear(dim, 3 * dim) for k in streams})

    def init_weights(self) -> None:
        init_zero(*self.modulation.values())

    def compute_modulation(self, c: dict[str, Tensor]) -> dict[str, Tensor]:
        return c

    def forward(self, x: dict[str, Tensor], c: dict[str, Tensor]) -> Fused:
        means = {k: x[k].mean(dim=2) for k in self.pool}
        if self.normed:
            means = {k: F.rms_norm(mean, mean.shape[-1:]) for k, mean in means.items()}
        pooled = {k: pool(means[k]) for k, pool in self.pool.items()}
        modulations = {}
        for k in x:
            parts = [pooled[other] for other in self.others[k]] + ([c[k]] if self.conditioned else [])
            scale, shift, gate = chunk(self.modulation[k](F.silu(sum(parts[1:], parts[0]))), 3)
            modulations[k] = Modulation(shift, scale, gate)
        return x, modulations


class JointFusion(nn.Module):
    """(b)."""

    def __init__(self, dim: int, streams: tuple[str, ...], heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.attention = SelfAttention(dim, heads, qk_norm)
        self.norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.ModuleDict({k: nn.Linear(dim, 6 * dim) for k in streams})

    def init_weights(self) -> None:
        init_zero(*self.modulation.values())

    def compute_modulation(self, c: dict[str, Tensor]) -> dict[str, tuple[Modulation, Modulation]]:
        parts = {k: chunk(self.modulation[k](F.silu(c[k])), 6) for k in c}
        return {k: (Modulation(*p[:3]), Modulation(*p[3:])) for k, p in parts.items()}

    def forward(self, x: dict[str, Tensor], modulations: dict[str, tuple[Modulation, Modulation]]) -> Fused:
        tokens = torch.cat([modulate(self.norm(x[k]), modulations[k][0]) for k in x], dim=2)
        attended = self.attention(tokens).split([v.shape[2] for v in x.values()], dim=2)
        mixed = {k: torch.addcmul(x[k], modulations[k][0].gate, y) for k, y in zip(x, attended, strict=True)}
        return mixed, {k: modulations[k][1] for k in x}


def build(kind: str, dim: int, streams: tuple[str, ...], heads: int, qk_norm: bool, normed: bool = False) -> Any:
    """The fusion named ``kind``: "mean", "joint" or "mean_time"; ``normed`` is for the means."""
    if kind == "joint":
        return JointFusion(dim, streams, heads, qk_norm)
    return MeanFusion(dim, streams, conditioned=kind == "mean_time", normed=normed)
