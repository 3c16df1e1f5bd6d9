"""The identities of the schedules, over all ways to cut a window."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowreel.flow.schedule import blocks, ramp, roll

ONE, ZERO = torch.ones(1), torch.zeros(1)


@st.composite
def cuts(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """(frames, block, context, lookahead)"""
    block = draw(st.integers(1, 5))
    context = block * draw(st.integers(0, 4))
    lookahead = draw(st.integers(0, 9))
    return context + block * draw(st.integers(1, 40)) + lookahead, block, context, lookahead


whole = st.integers(0, 2**24)  # over 2^24: every such fraction is a float32, and none is denormal
progress = st.lists(whole, min_size=1, max_size=5).map(lambda values: torch.tensor(values) / 2**24)
fast = settings(max_examples=60, deadline=None)


@fast
@given(cuts())
def test_ramp_ends_where_roll_ends(cut: tuple[int, int, int, int]) -> None:
    assert torch.equal(ramp(ONE, *cut), roll(ONE, *cut))


@fast
@given(cuts())
def test_a_turn_ends_where_the_next_begins(cut: tuple[int, int, int, int]) -> None:
    _, block, _, _ = cut
    end, fresh = roll(ONE, *cut), torch.zeros(1, block)
    # without context the finished block leaves; with context it joins it, and the oldest leaves: the same shift
    assert torch.equal(torch.cat([end[:, block:], fresh], dim=1), roll(ZERO, *cut))


@fast
@given(cuts())
def test_history_grows_by_the_finished_block(cut: tuple[int, int, int, int]) -> None:
    frames, block, context, lookahead = cut
    longer = torch.cat([roll(ONE, *cut), torch.zeros(1, block)], dim=1)
    assert torch.equal(longer, roll(ZERO, frames + block, block, context + block, lookahead))


@fast
@given(cuts())
def test_context_and_the_finished_block_are_exactly_data(cut: tuple[int, int, int, int]) -> None:
    _, block, context, _ = cut
    assert torch.equal(roll(ONE, *cut)[:, : context + block], torch.ones(1, context + block))
    assert torch.equal(ramp(ZERO, *cut)[:, context:], torch.zeros(1, cut[0] - context))


@fast
@given(progress, cuts())
def test_formulas(u: torch.Tensor, cut: tuple[int, int, int, int]) -> None:
    frames, block, context, lookahead = cut
    m, end = blocks(*cut), frames - lookahead
    assert m * block + context == end
    b = torch.arange(end - context, dtype=torch.float64) // block
    wanted = {ramp: (u.double()[:, None] - b / m).clamp(0, 1), roll: (m - 1 - b + u.double()[:, None]) / m}
    for schedule, after in wanted.items():
        times = schedule(u, *cut)
        assert times.shape == (len(u), frames)
        assert times.dtype == u.dtype
        assert torch.equal(times[:, :context], torch.ones(len(u), context))
        torch.testing.assert_close(times[:, context:end].double(), after, atol=1e-6, rtol=0)
        assert torch.equal(times[:, end:], torch.zeros(len(u), lookahead))
        assert times.min() >= 0
        assert times.max() <= 1


@fast
@given(progress, cuts())
def test_monotone_in_progress_and_along_the_window(u: torch.Tensor, cut: tuple[int, int, int, int]) -> None:
    for schedule in (ramp, roll):
        times = schedule(u.sort().values, *cut)
        assert (times.diff(dim=0) >= 0).all()
        assert (times.diff(dim=1) <= 0).all()


@fast
@given(progress, st.integers(1, 100))
def test_one_block_is_a_clip(u: torch.Tensor, frames: int) -> None:
    for schedule in (ramp, roll):
        assert torch.equal(schedule(u, frames, frames), u[:, None].expand(-1, frames))


def test_rolling_flow_matching_is_the_default() -> None:
    assert roll(torch.tensor([0, 0.5]), 4).tolist() == [[0.75, 0.5, 0.25, 0], [0.875, 0.625, 0.375, 0.125]]
    assert ramp(torch.tensor([0.5]), 4).tolist() == [[0.5, 0.25, 0, 0]]


@pytest.mark.parametrize(
    ("frames", "block", "context"),
    [
        (10, 3, 0),
        (10, 2, 3),
        (11, 2, 3),
        (10, 0, 0),
        (10, -1, 0),
        (10, 1, 10),
        (10, 1, 11),
        (10, 1, -1),
        (10, 20, 0),
        (0, 1, 0),
    ],
)
def test_bad_cuts_are_refused(frames: int, block: int, context: int) -> None:
    for function in (ramp, roll):
        with pytest.raises(ValueError, match=f"window of {frames} frames"):
            function(ONE, frames, block, context)


@pytest.mark.parametrize("lookahead", [-1, 1, 8, 9])
def test_bad_lookaheads_are_refused(lookahead: int) -> None:
    for function in (ramp, roll):
        with pytest.raises(ValueError, match=f"lookahead {lookahead}"):
            function(ONE, 10, 2, 2, lookahead)


def test_progress_has_one_axis() -> None:
    for schedule in (ramp, roll):
        with pytest.raises(ValueError, match="one axis"):
            schedule(torch.tensor(0.5), 4)
