"""CachedModulation modulations change nothing but the time it takes."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from flowreel.flow.guidance import classifier_free, gradient
from flowreel.flow.noise import SampleNoise
from flowreel.flow.sampling import stream
from flowreel.flow.solver import euler, heun
from flowreel.flow.types import Latents
from flowreel.models import CachedModulation, Network

from .small import SHAPE, VIDEO, flav, flowfield, inputs, labels

NETWORKS = {
    "flav": (lambda: flav(), SHAPE),
    "flav-joint": (lambda: flav(fusion="joint", causal=True), SHAPE),
    "flav-video": (lambda: flav(VIDEO, positions="learned"), VIDEO),
    "flowfield": (lambda: flowfield(positions="learned"), VIDEO),
}


def counted(model: Network) -> list[int]:
    """Calls of ``model.compute_modulation`` from now on."""
    calls, compute = [0], model.compute_modulation

    def counting(*arguments: Any) -> Any:
        calls[0] += 1
        return compute(*arguments)

    model.compute_modulation = counting  # type: ignore[method-assign]
    return calls


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("scale", [1.0, 2.5, torch.tensor([1.0, 4.0])])
@pytest.mark.parametrize("step", [euler, heun])
@torch.no_grad()
def test_a_stream_is_the_same_to_the_bit(name: str, scale: Any, step: Any) -> None:
    make, shape = NETWORKS[name]
    model = make()

    def roll(sampler: Any) -> list[Latents]:
        velocity = classifier_free(sampler, labels(), scale)
        noise = SampleNoise([1, 2], shape.streams)
        return list(itertools.islice(stream(velocity, noise, 4, 2, step=step), 5))

    for a, b in zip(roll(model), roll(CachedModulation(model, entries=4)), strict=True):
        assert all(torch.equal(a[k], b[k]) for k in a)


@torch.no_grad()
def test_a_rolling_stream_computes_its_few_times_once() -> None:
    model = flav()
    calls = counted(model)
    velocity = classifier_free(CachedModulation(model, entries=3), labels(), 2.0)
    rolling = stream(velocity, SampleNoise([1, 2], SHAPE.streams), 4, 3)
    next(rolling), next(rolling)
    warm = calls[0]
    for _ in range(10):
        next(rolling)
    assert calls[0] == warm


@torch.no_grad()
def test_old_entries_are_forgotten_and_the_latest_used_kept() -> None:
    model, (x, _) = flav(), inputs()
    calls, remembered = counted(model), CachedModulation(model, entries=2)
    at = lambda value: remembered(x, {k: torch.full((2, 4), value) for k in x})  # noqa: E731
    for value, computed in ((0.1, 1), (0.2, 2), (0.1, 2), (0.3, 3), (0.1, 3), (0.2, 4)):
        at(value)
        assert calls[0] == computed
    assert len(remembered._cache) == 2


@torch.no_grad()
def test_times_and_labels_are_told_apart() -> None:
    model, (x, t) = flav(), inputs()
    remembered, one, other = CachedModulation(model, entries=20), labels(), labels() + 1
    swapped = {"audio": t["video"], "video": t["audio"]}
    times = (t, swapped, dict(reversed(swapped.items())), {k: v.flip(0) for k, v in t.items()})
    given = (None, one, other, {"video": one, "audio": other}, {"audio": one, "video": other})
    for _ in range(2):
        for times_now, label in itertools.product(times, given):
            plain, fast = model(x, times_now, label), remembered(x, times_now, label)
            assert all(torch.equal(plain[k], fast[k]) for k in x)


@torch.no_grad()
def test_times_that_share_memory_are_read_as_they_are() -> None:
    model, (x, _) = flav(), inputs()
    remembered, row = CachedModulation(model, entries=3), torch.tensor([0.9, 0.6, 0.3, 0.0])
    for _ in range(2):
        t = {k: row.expand(2, -1) for k in x}
        fast, plain = remembered(x, t), model(x, t)
        assert all(torch.equal(plain[k], fast[k]) for k in x)
        row += 0.05


def test_gradients_pass_through() -> None:
    model, (x, t) = flav(), inputs()
    known, noise = {"audio": x["audio"]}, {"audio": torch.randn_like(x["audio"])}
    guided = [gradient(m, labels(), known, noise, 2.0)(x, t, t) for m in (model, CachedModulation(model, entries=2))]
    assert all(torch.equal(guided[0][k], guided[1][k]) for k in x)
    assert CachedModulation(model, entries=2)(x, t, labels())["video"].requires_grad


def test_a_modulation_made_for_sampling_is_not_used_for_training() -> None:
    model, (x, t) = flav(), inputs()
    remembered = CachedModulation(model, entries=2)
    with torch.no_grad():
        remembered(x, t, labels())
    for _ in range(2):
        model.zero_grad()
        remembered(x, t, labels())["video"].sum().backward()
        assert all(p.grad is not None for p in model.time_embed.parameters())


def test_it_stands_in_for_the_network() -> None:
    model = flav()
    assert CachedModulation(model, entries=1).num_classes == model.num_classes
