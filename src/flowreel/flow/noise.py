"""Noise with a seed per sample: sample k is the same in any batch, process or device."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from numbers import Integral

import torch
from torch import Tensor

from flowreel.flow.types import Latents

_WORD, _MASK = 0xFFFFFFFF, (1 << 64) - 1
_STREAMS = ("video", "audio")
_TWISTER_WORDS = 624

# The multipliers and key increments of Philox-4x32 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
_MULTIPLIERS, _INCREMENTS, _ROUNDS = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85), 10


def sample_seed(seed: Integral | int, n: Integral | int) -> int:
    """The 64-bit seed of sample ``n`` of a run seeded with ``seed``: a hash (BLAKE2b) of both, any whole numbers."""
    text = f"{int(seed)} {int(n)}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def seeded(seeds: Sequence[Integral | int]) -> list[torch.Generator]:
    """A generator on the CPU for each seed, whose numbers depend on all its 64 bits.

    ``torch.Generator.manual_seed`` uses the lower 32 of them there. This fills the whole state of the Mersenne Twister
    from the seed.
    """
    counter = (torch.arange(_TWISTER_WORDS // 4), 0, 0, len(_STREAMS))
    words = torch.stack(philox(counter, _keys(seeds).unsqueeze(-1).unbind(1)), dim=1)
    return [_twister(state) for state in words.flatten(1)]


def _twister(words: Tensor) -> torch.Generator:
    """A generator whose state is ``words`` (624,)."""
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    state.view(torch.int64)[3 : 3 + _TWISTER_WORDS] = words  # after the seed, two counters and the position
    generator.set_state(state)
    return generator


def philox(counter: Sequence[Tensor | int], key: Sequence[Tensor | int]) -> tuple[Tensor, ...]:
    """Four random words for each counter and key: Philox-4x32 with 10 rounds (Salmon et al. 2011).

    Args:
        counter: four words (0 to 2**32 - 1), whole numbers or int64 tensors that broadcast with each other.
        key: two words, likewise. At least one of the six is a tensor.

    Returns:
        four int64 tensors of words.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # the product modulo 2**64; what is shifted in from the sign is masked
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> 32) & _WORD ^ c1 ^ k0, p1 & _WORD, (p0 >> 32) & _WORD ^ c3 ^ k1, p0 & _WORD
        k0, k1 = (k0 + _INCREMENTS[0]) & _WORD, (k1 + _INCREMENTS[1]) & _WORD
    return tuple(torch.broadcast_tensors(*map(torch.as_tensor, (c0, c1, c2, c3))))


class SampleNoise:
    """Standard normal latents, frame by frame, of one seed per sample.

    Every number is a function of its seed, stream, frame and place (Philox and the Box-Muller transform), so that a
    stream draws the same frames whether it is asked for them together or one by one, in whatever batch, and whether the
    other stream exists or not. The random words are the same on every device. Their logarithms and cosines are taken in
    float64 and rounded to float32, so that devices differ in at most the last bit of a few numbers in 2**28.

    Args:
        seeds: one per sample, of 64 bits, see :func:`sample_seed`.
        shapes: stream -> (C, H, W) of one frame.
        device: where the noise is drawn.
    """

    def __init__(
        self, seeds: Sequence[int], shapes: Mapping[str, tuple[int, int, int]], device: torch.device | str = "cpu"
    ) -> None:
        self.shapes = dict(shapes)
        self.device = torch.device(device)
        self._keys = _keys(seeds)
        self._frame = 0

    def __call__(self, frames: int) -> Latents:
        """The next ``frames`` frames of every sample: ``{stream: (B, frames, C, H, W)}``."""
        first, self._frame = self._frame, self._frame + frames
        return {
            stream: self._normal(_STREAMS.index(stream), first, frames, math.prod(shape))
            .reshape(len(self._keys), frames, *shape)
            .to(self.device)
            for stream, shape in self.shapes.items()
        }

    def _normal(self, stream: int, first: int, frames: int, count: int) -> Tensor:
        """``count`` normal numbers for each sample and frame: (B, frames, count)."""
        device = torch.device("cpu") if self.device.type == "mps" else self.device  # which has no float64
        key = self._keys.to(device)[..., None, None].unbind(1)
        frame = torch.arange(first, first + frames, device=device)[:, None]
        blocks = torch.arange(-(-count // 4), device=device)
        a, b, c, d = philox((blocks, frame & _WORD, frame >> 32, stream), key)
        return torch.stack([*_box_muller(a, b), *_box_muller(c, d)], dim=-1).flatten(-2)[..., :count]


def _keys(seeds: Sequence[Integral | int]) -> Tensor:
    """The two words of each 64-bit seed: (B, 2) int64."""
    words = [(int(seed) & _WORD, (int(seed) & _MASK) >> 32) for seed in seeds]
    return torch.tensor(words, dtype=torch.int64).reshape(-1, 2)


def _box_muller(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent standard normal tensors (float32) of two tensors of random words (Box and Muller 1958)."""
    radius = torch.sqrt(-2 * torch.log((a.double() + 0.5) / 2**32))
    angle = (b.double() + 0.5) * (2 * math.pi / 2**32)
    return (radius * torch.cos(angle)).float(), (radius * torch.sin(angle)).float()
