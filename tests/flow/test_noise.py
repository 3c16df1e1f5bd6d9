"""Sample k has the same noise whatever is drawn beside it."""

from __future__ import annotations

import itertools

import pytest
import torch

from flowreel.flow.noise import SampleNoise, sample_seed

SHAPES = {"video": (4, 3, 5), "audio": (1, 8, 2)}


def test_a_sample_does_not_depend_on_its_batch() -> None:
    together = SampleNoise([7, 8, 9], SHAPES)(5)
    for k, shape in SHAPES.items():
        assert together[k].shape == (3, 5, *shape)
        for i, seed in enumerate([7, 8, 9]):
            assert torch.equal(SampleNoise([seed], SHAPES)(5)[k][0], together[k][i])
            assert torch.equal(SampleNoise([100, seed], SHAPES)(5)[k][1], together[k][i])


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 3), (4, 3, 5), (8, 16, 16)])
def test_frame_by_frame_equals_together(shape: tuple[int, int, int]) -> None:
    shapes = {"video": shape, "audio": (1, 8, 2)}
    together, single = SampleNoise([1, 2], shapes)(6), SampleNoise([1, 2], shapes)
    parts = [single(k) for k in (1, 2, 1, 2)]
    for k in shapes:
        assert torch.equal(torch.cat([part[k] for part in parts], dim=1), together[k])


def test_a_stream_does_not_depend_on_the_other() -> None:
    both = SampleNoise([3], SHAPES)(4)
    for k in SHAPES:
        assert torch.equal(SampleNoise([3], {k: SHAPES[k]})(4)[k], both[k])
    swapped = SampleNoise([3], dict(reversed(SHAPES.items())))(4)
    assert all(torch.equal(swapped[k], both[k]) for k in SHAPES)


def test_streams_samples_and_frames_differ() -> None:
    drawn = SampleNoise([0, 1], {"video": (2, 4, 4), "audio": (2, 4, 4)})(3)
    frames = [*drawn["video"].flatten(0, 1), *drawn["audio"].flatten(0, 1)]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(frames, 2))


def test_standard_normal_and_apart_from_the_global_generator() -> None:
    state = torch.get_rng_state()
    drawn = SampleNoise(range(8), {"video": (8, 16, 16)})(4)["video"]
    assert torch.equal(torch.get_rng_state(), state)
    assert abs(float(drawn.mean())) < 0.02
    assert abs(float(drawn.std()) - 1) < 0.02


def test_sample_seeds_are_apart() -> None:
    seeds = [sample_seed(seed, n) for seed in (-1, 0, 1, 2, 2**40) for n in range(2000)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    # torch's generator on the CPU takes the lower 32 bits
    assert len({seed & 0xFFFFFFFF for seed in seeds}) >= len(seeds) - 1
    assert [sample_seed(0, n) for n in range(3)] == [sample_seed(0, n) for n in range(3)]
    bits = torch.tensor([[(seed >> i) & 1 for i in range(63)] for seed in seeds[:2000]], dtype=torch.float64)
    assert ((bits.mean(0) - 0.5).abs() < 0.06).all()
