"""The options of sampling, one list for ``flowreel generate`` and the Python API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flowreel.config.base import check_fields, hidden

GRADIENT_SCALE = 25.0
"""R-FLAV's published scale, 100 with a mean over its batch of 4, for one sample."""

Solver = Literal["euler", "heun"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class SamplingConfig:
    """How to sample. None takes what the pipeline was trained or saved with."""

    guidance: float | None = None
    """classifier-free guidance scale: 1 is none, 0 leaves the class out"""
    steps: int | None = None
    """solver steps per turn of a rolling window, or for a whole clip"""
    warmup_steps: int | None = None
    """solver steps per block of the first window; default: as many as steps, twice as many after a prefix"""
    solver: Solver | None = None
    """the rule of a solver step"""
    block: int | None = None
    """frames that are finished together; the length of the window makes clips"""
    context: int | None = hidden(None)
    """finished frames that the window keeps in sight"""
    lookahead: int | None = None
    """frames at the window's end that stay noise, so that conditioning there is seen early"""
    window: int | None = hidden(None)
    """frames in the window; other lengths than the trained one need rotary positions"""
    method: Literal["auto", "hold", "gradient"] = "auto"
    """how audio or video conditioning is followed: held clean, by the gradient through the network, or as trained"""
    gradient_scale: float = GRADIENT_SCALE
    """strength of method gradient"""
    precision: Precision = "float32"
    """arithmetic of the network; bfloat16 is faster on GPUs and on CPUs that have it"""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class ResolvedSampling(SamplingConfig):
    """:class:`SamplingConfig` with nothing left open."""

    guidance: float = 1.0
    steps: int = 4
    warmup_steps: int = 4
    solver: Solver = "euler"
    block: int = 1
    context: int = 0
    lookahead: int = 0
    window: int = 1
    method: Literal["hold", "gradient"] = "hold"
