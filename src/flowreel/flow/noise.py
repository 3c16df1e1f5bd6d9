"""Randomness with a seed per sample, so that sample k is the same whatever batch, process or device it runs in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from flowreel.flow.types import Latents

_MASK = (1 << 64) - 1


def sample_seed(seed: int, n: int) -> int:
    """A 63-bit seed for sample ``n`` of a run seeded with ``seed``; neighbours are unrelated (splitmix64)."""
    z = (seed * 0x9E3779B97F4A7C15 + (n + 1) * 0xD1342543DE82EF95) & _MASK
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = ((z ^ (z >> shift)) * factor) & _MASK
    return (z ^ (z >> 31)) >> 1


class SampleNoise:
    """Standard normal latents, frame by frame, from one generator per sample and stream.

    Drawn on the CPU and then moved, so that devices agree. A stream draws the same frames whether it is asked for
    them together or one by one, and whether the other stream exists or not.

    Args:
        seeds: one per sample, see :func:`sample_seed`.
        shapes: stream -> (C, H, W) of one frame.
        device: where the noise goes.
    """

    def __init__(
        self, seeds: Sequence[int], shapes: Mapping[str, tuple[int, int, int]], device: torch.device | str = "cpu"
    ) -> None:
        self.shapes = dict(shapes)
        self.device = device
        self._generators = {
            stream: [torch.Generator().manual_seed(sample_seed(seed, i)) for seed in seeds]
            for i, stream in enumerate(("video", "audio"))
            if stream in shapes
        }

    def __call__(self, frames: int) -> Latents:
        """The next ``frames`` frames of every sample: ``{stream: (B, frames, C, H, W)}``."""
        return {
            stream: torch.stack(
                [
                    torch.stack([torch.randn(shape, generator=g) for _ in range(frames)])
                    for g in self._generators[stream]
                ]
            ).to(self.device)
            for stream, shape in self.shapes.items()
        }
