"""Fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(autouse=True, scope="session")
def _threads() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def close(got: torch.Tensor, want: torch.Tensor, relative: float = 1e-5) -> None:
    """Equal to ``relative`` of the wanted output's size."""
    assert got.shape == want.shape, (tuple(got.shape), tuple(want.shape))
    error = (got - want).abs().max() / want.abs().max()
    assert error <= relative, f"off by {float(error):.2e} of the largest value"
