"""Solvers on fields whose paths are known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from flowreel.flow.schedule import ramp, roll
from flowreel.flow.solver import Step, euler, heun, integrate, spread
from flowreel.flow.types import Latents, Times, per_frame

BOTH = pytest.mark.parametrize("step", [euler, heun])


def noise(frames: int, batch: int = 2) -> Latents:
    return {"video": torch.randn(batch, frames, 3, 2, 4), "audio": torch.randn(batch, frames, 1, 5, 2)}


class Recorded:
    """A velocity that keeps the times of its calls."""

    def __init__(self, field: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.field = field
        self.calls: list[tuple[Times, Times]] = []

    def __call__(self, x: Latents, t: Times, t_next: Times) -> Latents:
        self.calls.append((t, t_next))
        return {k: self.field(v, per_frame(t[k], v)) for k, v in x.items()}


@BOTH
def test_exact_on_constant_fields(step: Step) -> None:
    x = {"video": torch.arange(12.0).reshape(1, 3, 1, 2, 2)}
    grid = torch.tensor([[0, 0.25, 0.5], [0.125, 0.25, 0.75], [1, 0.5, 1]])
    end = integrate(lambda x, _, __: {k: torch.full_like(v, 8) for k, v in x.items()}, x, grid, step)
    moved = per_frame(torch.tensor([[8, 2, 4]]), x["video"])
    assert torch.equal(end["video"], x["video"] + moved)


@pytest.mark.parametrize(("step", "order"), [(euler, 1), (heun, 2)])
@pytest.mark.parametrize("last", [0.5, 1.0])
def test_order_of_convergence(step: Step, order: int, last: float) -> None:
    # dx/dt = (1 - 2t) x + cos(t) exp(t - t^2) has the solution (x0 + sin t) exp(t - t^2)
    def field(x: Tensor, t: Tensor) -> Tensor:
        return (1 - 2 * t) * x + torch.cos(t) * torch.exp(t - t * t)

    x0 = torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)
    exact = (1 + math.sin(last)) * math.exp(last - last**2)
    errors = []
    for steps in (16, 32, 64):
        grid = torch.linspace(0, last, steps + 1)[:, None]
        errors.append(abs(float(integrate(Recorded(field), {"video": x0}, grid, step)["video"]) - exact))
    rates = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(abs(rate - order) < 0.25 for rate in rates), rates


@BOTH
def test_every_frame_has_its_own_time(step: Step) -> None:
    # the field depends on each frame's own time alone: dx/dt = 2t, x = x0 + t^2, which Heun integrates exactly
    grid = torch.tensor([[0, 0.2, 0.9], [0.3, 0.2, 0.95]])
    x = noise(3)
    end = integrate(Recorded(lambda v, t: 2 * t.expand_as(v)), x, grid, step)
    gain = grid[1] ** 2 - grid[0] ** 2 if step is heun else 2 * grid[0] * (grid[1] - grid[0])
    for k in x:
        torch.testing.assert_close(end[k], x[k] + per_frame(gain[None], x[k]))


@BOTH
def test_frames_whose_time_stays_do_not_move(step: Step) -> None:
    x = noise(4)
    grid = torch.tensor([[0, 0.5, 1, 0.3], [0, 0.7, 1, 0.3]])
    end = integrate(Recorded(lambda v, _: torch.randn_like(v)), x, grid, step)
    for k in x:
        assert torch.equal(end[k][:, [0, 2, 3]], x[k][:, [0, 2, 3]])
        assert not torch.equal(end[k][:, 1], x[k][:, 1])


@BOTH
def test_streams_may_have_different_times(step: Step) -> None:
    x = noise(2)
    t = {"video": torch.zeros(2, 2), "audio": torch.ones(2, 2)}
    t_next = {"video": torch.full((2, 2), 0.5), "audio": torch.ones(2, 2)}
    end = step(lambda x, _, __: {k: torch.ones_like(v) for k, v in x.items()}, x, t, t_next)
    assert torch.equal(end["audio"], x["audio"])
    torch.testing.assert_close(end["video"], x["video"] + 0.5)


def test_heun_evaluates_twice_where_a_frame_ends_before_data() -> None:
    velocity = Recorded(lambda v, _: v)
    x, t = noise(2), spread(torch.tensor([0.5, 0.75]), noise(2))
    t_next = spread(torch.tensor([0.75, 1.0]), x)
    end = heun(velocity, x, t, t_next)
    assert len(velocity.calls) == 2
    assert velocity.calls[0] == (t, t_next)
    assert velocity.calls[1] == (t_next, t_next)
    for k in x:
        torch.testing.assert_close(end[k][:, 0], x[k][:, 0] * (1 + 0.25 * (1 + 1.25) / 2))  # the mean of both slopes
        torch.testing.assert_close(end[k][:, 1], x[k][:, 1] * 1.25)  # arrives at 1: the Euler step


def test_heun_evaluates_once_where_all_frames_arrive() -> None:
    velocity = Recorded(lambda v, _: v)
    x = noise(2)
    t, t_next = spread(torch.tensor([0.5, 0.75]), x), spread(torch.ones(2), x)
    end, wanted = heun(velocity, x, t, t_next), euler(Recorded(lambda v, _: v), x, t, t_next)
    assert len(velocity.calls) == 1
    assert all(torch.equal(end[k], wanted[k]) for k in x)


@pytest.mark.parametrize(("step", "calls"), [(euler, 5), (heun, 9)])
def test_calls_of_a_clip(step: Step, calls: int) -> None:
    velocity = Recorded(lambda v, _: v)
    integrate(velocity, noise(3), ramp(torch.linspace(0, 1, 6), 3, 3), step)
    assert len(velocity.calls) == calls


@BOTH
@pytest.mark.parametrize("schedule", [ramp, roll])
def test_a_true_velocity_returns_the_data(step: Step, schedule: Callable[..., Tensor]) -> None:
    data, start = noise(6), noise(6)
    grid = schedule(torch.linspace(0, 1, 8), 6, 2)
    first = {k: grid[0][:, None, None, None] * data[k] + (1 - grid[0][:, None, None, None]) * start[k] for k in data}
    end = integrate(lambda *_: {k: data[k] - start[k] for k in data}, first, grid, step)
    done = grid[-1] == 1
    assert done.any()
    for k in data:
        torch.testing.assert_close(end[k][:, done], data[k][:, done])


@BOTH
def test_a_field_that_points_at_the_data_returns_it(step: Step) -> None:
    data = noise(3)
    velocity = lambda x, t, _: {k: (data[k] - v) / (1 - per_frame(t[k], v)) for k, v in x.items()}  # noqa: E731
    end = integrate(velocity, noise(3), torch.linspace(0, 1, 6)[:, None].expand(-1, 3), step)
    for k in data:
        torch.testing.assert_close(end[k], data[k], atol=1e-5, rtol=1e-5)


def test_spread_gives_every_stream_and_sample_the_times() -> None:
    times = spread(torch.tensor([0.25, 0.5], dtype=torch.float64), noise(2, batch=3))
    assert {k: (tuple(v.shape), v.dtype) for k, v in times.items()} == dict.fromkeys(
        ("video", "audio"), ((3, 2), torch.float32)
    )
    assert times["audio"].tolist() == [[0.25, 0.5]] * 3
