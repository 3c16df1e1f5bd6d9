"""Position embeddings: sine and cosine tables over patches and time, and rotary embeddings (RoPE, arXiv 2104.09864)."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


def sinusoid(x: Tensor, dim: int, period: float = 10000.0) -> Tensor:
    """Cosines, then sines, of x (...) at dim / 2 frequencies from 1 down to 1/period (arXiv 1706.03762): (..., dim)."""
    half = dim // 2
    frequencies = torch.exp(-math.log(period) / half * torch.arange(half, dtype=torch.float32, device=x.device))
    angles = x.unsqueeze(-1) * frequencies
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=-1), (0, dim % 2))


def sincos_2d(dim: int, rows: int, columns: int, span: float = 16.0) -> Tensor:
    """Fixed positions of a grid of patches, both axes scaled to ``span`` (so any resolution reads alike): (N, dim).

    The first half of the width holds the row, the second the column, each as sines then cosines (as in ViT-MAE,
    arXiv 2111.06377).
    """
    if dim % 4:
        raise ValueError(f"2-D sinusoidal positions need a width that is a multiple of 4, not {dim}")
    omega = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64, device="cpu") / (dim // 4))

    def axis(count: int) -> Tensor:
        angles = torch.outer(torch.arange(count, dtype=torch.float64, device="cpu") / (count / span), omega)
        return torch.cat([angles.sin(), angles.cos()], dim=1)  # (count, dim / 2)

    row = axis(rows)[:, None].expand(-1, columns, -1)
    column = axis(columns)[None].expand(rows, -1, -1)
    return torch.cat([row, column], dim=-1).reshape(rows * columns, dim).float()


def rope_table(seconds: Tensor, head_dim: int, shortest: float = 0.04, longest: float = 20.0) -> tuple[Tensor, Tensor]:
    """Cosines and sines that rotate queries and keys by their time in seconds (rotary positions, arXiv 2104.09864).

    The rotation periods run from ``shortest`` to ``longest`` seconds, so that audio and video share one clock and
    neither frame rate nor window length enters the weights.

    Args:
        seconds: (L,) place of each token in time, on the CPU (the angles need float64, which not every device has).

    Returns:
        two tables (L, head_dim), on the CPU.
    """
    ratio = torch.linspace(0, 1, head_dim // 2, dtype=torch.float64, device="cpu")
    omega = 2 * math.pi / (shortest * (longest / shortest) ** ratio)
    angles = torch.outer(seconds.double(), omega)
    angles = torch.cat([angles, angles], dim=1)
    return angles.cos().float(), angles.sin().float()


@lru_cache(maxsize=32)
def patch_places(dim: int, rows: int, columns: int, device: torch.device) -> Tensor:
    """:func:`sincos_2d` where it is needed, made once."""
    return sincos_2d(dim, rows, columns).to(device)


@lru_cache(maxsize=32)
def clock(fps: float, frames: int, steps: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """:func:`rope_table` of ``steps`` tokens evenly within each of ``frames`` frames, made once."""
    within = (torch.arange(steps, device="cpu") + 0.5) / steps
    seconds = ((torch.arange(frames, device="cpu")[:, None] + within) / fps).flatten()
    cos, sin = rope_table(seconds, head_dim)
    return cos.to(device), sin.to(device)


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the halves of the last axis of x (..., L, head_dim) against each other."""
    cos, sin = (part.to(device=x.device, dtype=x.dtype) for part in table)
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-b, a], dim=-1) * sin
