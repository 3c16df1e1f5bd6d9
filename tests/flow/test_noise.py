"""Sample k has the same noise whatever is drawn beside it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from flowreel.flow.noise import SampleNoise, philox, sample_seed, seeded

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
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert len(set(seeds)) == len(seeds)
    assert [sample_seed(0, n) for n in range(3)] == [sample_seed(0, n) for n in range(3)]
    bits = torch.tensor([[(seed >> i) & 1 for i in range(64)] for seed in seeds[:2000]], dtype=torch.float64)
    assert ((bits.mean(0) - 0.5).abs() < 0.06).all()


@pytest.mark.parametrize("kind", [np.int8, np.int32, np.uint32, np.int64, np.uint64])
def test_seeds_are_any_whole_numbers(kind: type) -> None:
    assert sample_seed(kind(7), kind(3)) == sample_seed(7, 3)
    assert torch.equal(SampleNoise([kind(7)], SHAPES)(2)["video"], SampleNoise([7], SHAPES)(2)["video"])
    assert sample_seed(2**80, 0) != sample_seed(2**80 + 1, 0)


@pytest.mark.parametrize("bit", range(64))
def test_every_bit_of_a_seed_changes_the_noise(bit: int) -> None:
    one, other = (SampleNoise([seed], SHAPES)(2) for seed in (12345, 12345 ^ 1 << bit))
    for stream in SHAPES:
        assert (one[stream] != other[stream]).float().mean() > 0.99
    draws = [torch.rand(16, generator=generator) for generator in seeded([12345, 12345 ^ 1 << bit])]
    assert (draws[0] != draws[1]).all()


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # the known answers that Random123 comes with
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_its_published_words(counter: tuple[int, ...], key: tuple[int, ...], words: str) -> None:
    assert " ".join(f"{int(word):08x}" for word in philox([torch.tensor(c) for c in counter], key)) == words


def test_frames_after_2_to_the_32_go_on() -> None:
    noise = SampleNoise([1], SHAPES)
    noise._frame = 2**32 - 1
    last, first = noise(2)["video"][0]
    assert not torch.equal(first, SampleNoise([1], SHAPES)(1)["video"][0, 0])
    assert not torch.equal(first, last)


def test_the_noise_has_the_normal_distribution() -> None:
    drawn = SampleNoise(range(4), {"video": (4, 64, 64)})(8)["video"].double()
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3), (6, 15)):
        assert abs(float((drawn**power).mean()) - moment) < 0.02 * math.factorial(power) ** 0.5
    assert float((drawn.abs() < 1).double().mean()) == pytest.approx(0.6827, abs=0.003)
    flat = drawn.flatten(0, 1).flatten(1)  # samples and frames
    correlation = torch.corrcoef(flat) - torch.eye(len(flat))
    assert float(correlation.abs().max()) < 5 / flat.shape[1] ** 0.5


def test_a_generator_with_64_bits_is_uniform_and_repeats() -> None:
    (one,), (_, same) = seeded([2**63 + 5]), seeded([1, 2**63 + 5])
    drawn = torch.rand(20000, generator=one, dtype=torch.float64)
    assert torch.equal(drawn, torch.rand(20000, generator=same, dtype=torch.float64))
    assert abs(float(drawn.mean()) - 0.5) < 0.01
    assert abs(float(drawn.var()) - 1 / 12) < 0.003


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_noise_is_the_same_on_a_gpu() -> None:
    here, there = (SampleNoise([1, 2], SHAPES, device)(3) for device in ("cpu", "cuda"))
    for stream in SHAPES:
        torch.testing.assert_close(here[stream], there[stream].cpu(), rtol=2e-7, atol=0)
