"""Building blocks of both networks.

Shape legend: B batch, T frames in the window, N tokens per frame, L tokens in one attention, D width, C channels,
H W rows and columns, M mel bins, F mel steps per video frame.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowreel.models.positions import rotate, sinusoid


class Modulation(NamedTuple):
    """Shift, scale and gate of one residual branch, each (B, T, 1, D)."""

    shift: Tensor
    scale: Tensor
    gate: Tensor


def modulate(x: Tensor, m: Modulation) -> Tensor:
    """``x * (1 + scale) + shift``, per frame. x (B, T, N, D)."""
    return torch.addcmul(m.shift, x, 1 + m.scale)


def chunk(x: Tensor, parts: int) -> tuple[Tensor, ...]:
    """(B, T, parts * D) -> ``parts`` tensors (B, T, 1, D) that broadcast over the tokens of a frame."""
    return x.unsqueeze(2).chunk(parts, dim=-1)


MOST_SEQUENCES = 65535
"""In one attention: the batch is an axis of the grid of CUDA's kernels (github.com/pytorch/pytorch/issues/146704)."""

SHORT = 64
"""Tokens up to which attention on a CPU is trained twice as fast written out."""


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Scaled dot-product attention of any number of sequences: (batch, heads, L, D / heads), all four."""
    if len(q) <= MOST_SEQUENCES:
        with torch.autocast("cpu", enabled=False):
            if q.device.type == "cpu" and q.requires_grad and q.shape[-2] <= SHORT and not causal:
                return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1) @ v
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    parts = [slice(i, i + MOST_SEQUENCES) for i in range(0, len(q), MOST_SEQUENCES)]
    return torch.cat([attend(q[part], k[part], v[part], causal) for part in parts])


class SelfAttention(nn.Module):
    """Multi-head self-attention over the second-last axis; all axes before it are batch.

    Args:
        rope: (cos, sin) tables are given at call time; queries and keys are rotated by them.
        qk_norm: normalise queries and keys per head (arXiv 2302.05442).
    """

    def __init__(self, dim: int, heads: int, qk_norm: bool = False, causal: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.q_norm: nn.Module = nn.LayerNorm(dim // heads, eps=1e-6) if qk_norm else nn.Identity()
        self.k_norm: nn.Module = nn.LayerNorm(dim // heads, eps=1e-6) if qk_norm else nn.Identity()

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """x (..., L, D) -> (..., L, D); ``rope`` two tables (L, D / heads)."""
        *batch, length, dim = x.shape
        qkv = self.qkv(x)
        if qkv.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            qkv = qkv.float()  # in bfloat16 the backward pass of attention takes ten times as long on a CPU
        qkv = qkv.view(-1, length, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (batch, heads, L, D / heads)
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        out = attend(q, k, v, self.causal)
        return self.proj(out.transpose(1, 2).reshape(*batch, length, dim))


class MLP(nn.Module):
    """Two linear maps with a tanh-approximated GELU between them. (..., D) -> (..., D)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class GatedMLP(nn.Module):
    """``fc2(silu(a) * b)`` with ``a, b = fc1(x)`` (arXiv 2002.05202). (..., D) -> (..., D)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 2 * hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(F.silu(gate) * value)


class PatchEmbed(nn.Module):
    """Non-overlapping patches of every frame to tokens: (B, T, C, H, W) -> (B, T, N, D)."""

    def __init__(self, channels: int, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x.flatten(0, 1)).flatten(2).transpose(1, 2).unflatten(0, x.shape[:2])


def unpatchify(x: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """Tokens (B, T, N, patch * patch * C) on a grid (rows, columns) -> (B, T, C, rows * patch, columns * patch)."""
    rows, columns = grid
    x = x.unflatten(-1, (patch, patch, -1)).unflatten(2, (rows, columns))  # (B, T, rows, columns, p, q, C)
    return x.permute(0, 1, 6, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)


class TimeEmbed(nn.Module):
    """Sinusoids of ``scale * t + offset`` and two linear maps: (B, T) -> (B, T, D).

    R-FLAV embeds ``999 t + 1``, GenerativeFlow ``t`` itself.
    """

    def __init__(self, dim: int, scale: float = 1.0, offset: float = 0.0, frequencies: int = 256) -> None:
        super().__init__()
        self.scale, self.offset, self.frequencies = scale, offset, frequencies
        self.mlp = nn.Sequential(nn.Linear(frequencies, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        table = sinusoid(t.float() * self.scale + self.offset, self.frequencies)
        return self.mlp(table.to(self.mlp[0].weight.dtype))


class FinalLayer(nn.Module):
    """Modulated norm and a linear map to the values of a token."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(dim, out)
        self.modulation = nn.Linear(dim, 2 * dim)

    def forward(self, x: Tensor, m: Modulation) -> Tensor:
        return self.linear(modulate(self.norm(x), m))


class DropPath(nn.Module):
    """Stochastic depth: drop a residual branch for whole samples, scale the others up (arXiv 1603.09382)."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x
        keep = 1 - self.probability
        return x * x.new_empty(x.shape[0], *(1,) * (x.ndim - 1)).bernoulli_(keep).div_(keep)


# --- positions ----------------------------------------------------------------------------------------------------
