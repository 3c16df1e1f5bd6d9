"""The stream: what it calls and when, what it yields, what it holds, and what it does not keep."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from flowreel.flow.noise import SampleNoise
from flowreel.flow.sampling import Condition, stream
from flowreel.flow.schedule import blocks, ramp
from flowreel.flow.solver import euler, heun, integrate
from flowreel.flow.types import Latents, Times, Velocity, per_frame

SHAPES = {"video": (2, 2, 3), "audio": (1, 4, 2)}
SEEDS = (1, 2)
CUTS = ((4, 1, 0), (6, 2, 0), (5, 5, 0), (5, 1, 2), (8, 2, 4), (4, 2, 2))
"""(frames, block, context)"""


class Noise:
    """Sample noise that counts what it was asked for and can be looked at as a whole."""

    def __init__(self, shapes: dict[str, tuple[int, int, int]] | None = None) -> None:
        self.asked: list[int] = []
        self.shapes = shapes or SHAPES
        self.source = SampleNoise(SEEDS, self.shapes)

    def __call__(self, frames: int) -> Latents:
        self.asked.append(frames)
        return self.source(frames)

    @staticmethod
    def whole(frames: int) -> Latents:
        return SampleNoise(SEEDS, SHAPES)(frames)


class Tripling:
    """The velocity from noise n to data 3n + 1, read off the latents themselves; keeps its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Latents, Times, Times]] = []

    def __call__(self, x: Latents, t: Times, t_next: Times) -> Latents:
        self.calls.append((x, t, t_next))
        # x = n + t (2n + 1), so n = (x - t) / (1 + 2t)
        return {k: 2 * (v - per_frame(t[k], v)) / (1 + 2 * per_frame(t[k], v)) + 1 for k, v in x.items()}


def take(n: int, velocity: Velocity, noise: Any, *arguments: Any, **options: Any) -> Latents:
    """The first ``n`` blocks, joined."""
    parts = list(itertools.islice(stream(velocity, noise, *arguments, **options), n))
    return {k: torch.cat([part[k] for part in parts], dim=1) for k in parts[0]}


def known(latents: Latents, upto: dict[str, int], seen: list[tuple[int, int]] | None = None) -> Condition:
    """The first ``upto`` frames of each stream of ``latents`` are known."""

    def condition(start: int, frames: int) -> tuple[Latents, dict[str, Tensor]]:
        if seen is not None:
            seen.append((start, frames))
        places = torch.arange(start, start + frames)
        mask = {k: (places < limit).expand(len(SEEDS), -1) for k, limit in upto.items()}
        return {k: latents[k][:, places.clamp(max=latents[k].shape[1] - 1)] for k in upto}, mask

    return condition


def data(frames: int) -> Latents:
    g = torch.Generator().manual_seed(9)
    return {k: torch.randn(len(SEEDS), frames, *shape, generator=g) for k, shape in SHAPES.items()}


# --- calls ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(("steps", "warmup_steps"), [(1, None), (3, None), (2, 5)])
def test_what_is_called_and_when(cut: tuple[int, int, int], steps: int, warmup_steps: int | None) -> None:
    frames, block, _ = cut
    velocity, noise = Tripling(), Noise()
    rolling = stream(velocity, noise, frames, steps, *cut[1:], warmup_steps=warmup_steps)
    assert (noise.asked, velocity.calls) == ([], [])
    warm_up = (warmup_steps or steps) * blocks(*cut)
    for turn in range(6):
        got = next(rolling)
        assert {k: v.shape for k, v in got.items()} == {k: (2, block, *shape) for k, shape in SHAPES.items()}
        assert noise.asked == [frames] + [block] * turn
        assert len(velocity.calls) == warm_up + steps * turn


@pytest.mark.parametrize("bad", [(4, 0), (4, -1), (4, 1, 3), (4, 1, 1, 4), (4, 1, 2, 3)])
def test_bad_cuts_and_steps_are_refused_at_the_call(bad: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"steps must be|can't be cut"):
        stream(Tripling(), Noise(), *bad)
    with pytest.raises(ValueError, match="steps must be at least 1, not 0"):
        stream(Tripling(), Noise(), 4, 1, warmup_steps=0)


def test_the_window_without_a_prefix_grows_into_its_context() -> None:
    velocity = Tripling()
    take(7, velocity, Noise(), 8, 1, 2, 4)
    lengths = [t["video"].shape[1] for _, t, _ in velocity.calls]
    assert lengths == [4, 4, 6, 8, 8, 8, 8, 8]
    context = [int((t["video"][0] == 1).sum()) for _, t, _ in velocity.calls]
    assert context == [0, 0, 2, 4, 4, 4, 4, 4]


# --- what comes out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("step", [euler, heun])
@pytest.mark.parametrize("steps", [1, 4])
def test_a_true_velocity_returns_the_data(cut: tuple[int, int, int], step: Any, steps: int) -> None:
    frames, block, context = cut
    got = take(9, Tripling(), Noise(), frames, steps, block, context, step)
    noise = Noise.whole(frames + 9 * block)
    for k, v in got.items():
        torch.testing.assert_close(v, 3 * noise[k][:, context : context + 9 * block] + 1, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("cut", [cut for cut in CUTS if cut[2]])
@pytest.mark.parametrize("step", [euler, heun])
def test_a_known_prefix_is_seen_and_not_yielded(cut: tuple[int, int, int], step: Any) -> None:
    frames, block, context = cut
    prefix, velocity, starts = data(context), Tripling(), list[tuple[int, int]]()
    condition = known(prefix, dict.fromkeys(SHAPES, context), starts)
    got = take(8, velocity, Noise(), frames, 2, block, context, step, condition)
    fresh = Noise.whole(frames + 8 * block)
    for k, v in got.items():
        torch.testing.assert_close(v, 3 * fresh[k][:, context : context + 8 * block] + 1, atol=2e-5, rtol=1e-5)
    x, t, _ = velocity.calls[0]
    assert all(torch.equal(x[k][:, :context], prefix[k]) for k in x)
    assert all((t[k][:, :context] == 1).all() for k in t)
    # the condition is asked for the window and then for every new block of the same timeline
    assert starts[-8:] == [(0, frames)] + [(frames + i * block, block) for i in range(7)]
    assert all(t["video"].shape[1] == frames for _, t, _ in velocity.calls)


@pytest.mark.parametrize("cut", CUTS)
def test_context_is_what_was_finished(cut: tuple[int, int, int]) -> None:
    frames, block, context = cut
    velocity, done = Tripling(), list[Latents]()
    for got in itertools.islice(stream(velocity, Noise(), frames, 1, block, context), 8):
        done.append(got)
        x, t, _ = velocity.calls[-1]
        history = min(context, (len(done) - 1) * block)
        assert all((v[:, :history] == 1).all() for v in t.values())
        for k, v in x.items():
            finished = torch.cat([d[k] for d in done[:-1]] or [v[:, :0]], dim=1)
            assert torch.equal(v[:, :history], finished[:, finished.shape[1] - history :])


def test_block_equal_to_frames_is_a_clip_after_the_other() -> None:
    got = take(3, lambda x, t, _: {k: v.sin() * per_frame(t[k], v) for k, v in x.items()}, Noise(), 5, 4, 5)
    noise = Noise.whole(15)
    for i in range(3):
        rows = slice(5 * i, 5 * i + 5)
        clip = integrate(
            lambda x, t, _: {k: v.sin() * per_frame(t[k], v) for k, v in x.items()},
            {k: v[:, rows] for k, v in noise.items()},
            ramp(torch.linspace(0, 1, 5), 5, 5),
        )
        assert all(torch.equal(got[k][:, rows], clip[k]) for k in clip)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    whole = take(5, Tripling(), Noise(), 4, 2)
    alone = take(5, Tripling(), SampleNoise(SEEDS[1:], SHAPES), 4, 2)
    assert all(torch.equal(alone[k][0], whole[k][1]) for k in whole)


def test_one_stream_is_enough() -> None:
    got = take(4, Tripling(), Noise({"video": SHAPES["video"]}), 4, 2)
    assert torch.equal(got["video"], take(4, Tripling(), Noise(), 4, 2)["video"])


# --- what is held -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("held", ["audio", "video"])
@pytest.mark.parametrize("step", [euler, heun])
def test_a_given_stream_is_at_one_in_every_call_and_comes_out_as_it_was(
    cut: tuple[int, int, int], held: str, step: Any
) -> None:
    frames, block, context = cut
    given, velocity = data(40), Tripling()
    got = take(6, velocity, Noise(), frames, 2, block, context, step, known({held: given[held]}, {held: 40}))
    assert torch.equal(got[held], given[held][:, : 6 * block])
    for x, t, t_next in velocity.calls:
        assert (t[held] == 1).all()
        assert (t_next[held] == 1).all()
        first = x[held][0, 0]
        assert any(torch.equal(first, frame) for frame in given[held][0])
    free = "video" if held == "audio" else "audio"
    wanted = take(6, Tripling(), Noise(), frames, 2, block, context, step)[free]
    assert torch.equal(got[free], wanted)


@pytest.mark.parametrize(("cut", "lookahead"), [((7, 1, 0), 3), ((9, 2, 2), 3), ((8, 2, 0), 4)])
def test_the_lookahead_is_noise_beside_what_is_given(cut: tuple[int, int, int], lookahead: int) -> None:
    frames, block, context = cut
    given, velocity, turns = data(40), Tripling(), 6
    source = Noise()
    got = take(
        turns, velocity, source, frames, 2, block, context, condition=known({"audio": given["audio"]}, {"audio": 40}),
        lookahead=lookahead,
    )  # fmt: skip
    noise = Noise.whole(40)["video"][:, context:]  # without a prefix the window begins without history
    m = blocks(*cut, lookahead)
    assert len(velocity.calls) == 2 * m + 2 * (turns - 1)
    seen = set()
    for x, t, t_next in velocity.calls:
        assert (t["audio"] == 1).all()
        ahead = x["video"][:, -lookahead:]
        assert (t["video"][:, -lookahead:] == 0).all()
        assert (t_next["video"][:, -lookahead:] == 0).all()
        place = next(n for n in range(30) if torch.equal(noise[:, n : n + lookahead], ahead))
        assert torch.equal(x["audio"][:, -lookahead:], given["audio"][:, place : place + lookahead])
        seen.add(place)
    assert len(seen) == turns  # a block further each turn
    assert torch.equal(got["audio"], given["audio"][:, : turns * block])
    torch.testing.assert_close(got["video"], 3 * noise[:, : turns * block] + 1, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [0, 3, 10])
def test_the_lookahead_takes_shape_where_what_is_given_ends(length: int) -> None:
    given, velocity, turns = data(40), Tripling(), 14
    condition = known({"audio": given["audio"]}, {"audio": length})
    got = take(turns, velocity, Noise(), 8, 2, 1, 0, condition=condition, lookahead=3)
    noise = Noise.whole(40)
    lengths = []
    for start, (_, t, t_next) in enumerate(velocity.calls[2 * 5 :: 2], 1):  # the first step of each turn after the ramp
        assert (t_next["video"] >= t["video"]).all()
        lengths.append(int((t_next["video"][0] == 0).sum()))
        assert (lengths[-1] == 3) == (start + 8 <= length)
    assert lengths[-4:] == [0] * 4
    assert all(0 <= a - b <= 1 for a, b in itertools.pairwise(lengths))
    torch.testing.assert_close(got["video"], 3 * noise["video"][:, :turns] + 1, atol=2e-5, rtol=1e-5)
    assert torch.equal(got["audio"][:, :length], given["audio"][:, :length])
    torch.testing.assert_close(got["audio"][:, length:], 3 * noise["audio"][:, length:turns] + 1, atol=2e-5, rtol=1e-5)


def test_a_given_stream_with_a_prefix() -> None:
    given, velocity = data(40), Tripling()
    got = take(6, velocity, Noise(), 6, 2, 1, 2, euler, known(given, {"audio": 40, "video": 2}))
    assert torch.equal(got["audio"], given["audio"][:, 2:8])
    assert all((t["audio"] == 1).all() for _, t, _ in velocity.calls)
    assert all((t["video"][:, :2] == 1).all() and (t["video"][:, 2:] < 1).all() for _, t, _ in velocity.calls)


def test_what_is_given_may_end_and_may_differ_by_sample() -> None:
    given = data(5)["audio"]

    def condition(start: int, frames: int) -> tuple[Latents, dict[str, Tensor]] | None:
        if start >= 5:
            return None
        places = torch.arange(start, start + frames)
        mask = torch.stack([places < 5, places < 0])
        return {"audio": given[:, places.clamp(max=4)]}, {"audio": mask}

    got, free = (take(8, Tripling(), Noise(), 4, 2, condition=c)["audio"] for c in (condition, None))
    assert torch.equal(got[0, :5], given[0])
    assert torch.equal(got[0, 5:], free[0, 5:])
    assert torch.equal(got[1], free[1])


@pytest.mark.parametrize("cut", CUTS)
def test_nothing_known_in_three_ways(cut: tuple[int, int, int]) -> None:
    frames, block, context = cut
    plain, by_none, by_masks = (
        take(6, Tripling(), Noise(), frames, 2, block, context, condition=condition)
        for condition in (None, lambda *_: None, known(data(3), dict.fromkeys(SHAPES, 0)))
    )
    for k in plain:
        assert torch.equal(by_none[k], plain[k])
        assert torch.equal(by_masks[k], plain[k])


def test_a_mask_of_one_row_is_for_all_samples() -> None:
    given = data(40)["audio"][:1]
    condition = lambda start, k: ({"audio": given[:, start : start + k]}, {"audio": torch.ones(1, k, dtype=torch.bool)})  # noqa: E731
    got = take(5, Tripling(), Noise(), 4, 2, condition=condition)
    assert torch.equal(got["audio"], given[:, :5].expand(2, -1, -1, -1, -1))


def test_a_condition_on_a_stream_that_is_not_there_is_refused() -> None:
    condition = known(data(40), {"audio": 40})
    with pytest.raises(ValueError, match="knows audio"):
        next(stream(Tripling(), Noise({"video": SHAPES["video"]}), 4, 1, condition=condition))


# --- while it runs ----------------------------------------------------------------------------------------------------


def test_the_velocity_may_change_while_it_rolls() -> None:
    field: dict[str, Callable[..., Latents]] = {"now": Tripling()}
    rolling = stream(lambda *a: field["now"](*a), Noise(), 4, 2)
    first = [next(rolling) for _ in range(3)]
    field["now"] = lambda x, *_: {k: torch.zeros_like(v) for k, v in x.items()}
    later = [next(rolling) for _ in range(5)]
    plain = take(8, Tripling(), Noise(), 4, 2)
    noise = Noise.whole(12)
    for k in SHAPES:
        assert torch.equal(torch.cat([f[k] for f in first], dim=1), plain[k][:, :3])
        assert not torch.isclose(later[0][k], plain[k][:, 3:4]).all()
        # frames that were pure noise at the change are never moved
        assert torch.equal(later[4][k][:, 0], noise[k][:, 7])


def test_no_gradients_inside_and_the_callers_mode_outside() -> None:
    weight = torch.nn.Parameter(torch.tensor(0.5))
    modes = []

    def velocity(x: Latents, *_: Times) -> Latents:
        modes.append(torch.is_grad_enabled())
        return {k: v * weight for k, v in x.items()}

    for got in itertools.islice(stream(velocity, Noise(), 4, 1), 3):
        assert torch.is_grad_enabled()
        assert not got["video"].requires_grad
    assert not any(modes)


def test_what_is_yielded_is_the_receivers_own() -> None:
    plain, spoiled = take(6, Tripling(), Noise(), 6, 2, 1, 2), []
    for got in itertools.islice(stream(Tripling(), Noise(), 6, 2, 1, 2), 6):
        spoiled.append({k: v.clone() for k, v in got.items()})
        for v in got.values():
            assert v.untyped_storage().nbytes() == v.numel() * v.element_size()
            v.fill_(torch.nan)
    assert all(torch.equal(torch.cat([s[k] for s in spoiled], dim=1), plain[k]) for k in plain)


@pytest.mark.parametrize("cut", [(4, 1, 0), (6, 1, 2), (4, 4, 0)])
def test_memory_does_not_grow(cut: tuple[int, int, int]) -> None:
    frames, block, context = cut
    given = data(8)["audio"]
    condition = lambda start, k: ({"audio": given[:, :k]}, {"audio": torch.full((2, k), start % 2 == 0)})  # noqa: E731
    velocity = lambda x, *_: {k: -v for k, v in x.items()}  # noqa: E731
    rolling = stream(velocity, Noise(), frames, 1, block, context, condition=condition)

    def has_storage(tensor: Tensor) -> bool:  # what other tests left behind may be meta or wrapped tensors
        try:
            return tensor.device.type == "cpu" and tensor.data_ptr() >= 0
        except RuntimeError:
            return False

    def alive() -> tuple[int, int]:
        gc.collect()
        tensors = [o for o in gc.get_objects() if type(o) is Tensor and has_storage(o)]
        return len(tensors), sum({t.data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())

    for _ in range(20):
        next(rolling)
    early = alive()
    for _ in range(300):
        next(rolling)
    assert alive() == early
