"""Live viewers come first: who computes when, with a clock and streams of the test's own."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest

from flowreel.serve.live_stream import MEMORY, StreamRequest
from flowreel.serve.pace import Faster, Pace, faster
from flowreel.serve.turns import PATIENCE, Gone, Turns
from tests.conftest import tiny_pipeline
from tests.serve.serving import Clock


def test_a_clip_waits_until_no_stream_is_behind() -> None:
    clock, behind = Clock(), [True, True, True, False]
    turns = Turns(lambda: behind.pop(0), now=clock, sleep=clock.on)
    with turns.clip(threading.Event()) as next_step:
        assert not behind, "it waited before it began"
        behind += [True, False]
        next_step(0.1)
        assert not behind
        behind += [False]
        begun = clock()
        next_step(0.2)
        assert clock() == begun


def test_a_clip_is_finished_where_streams_are_always_behind() -> None:
    clock = Clock()
    turns = Turns(lambda: True, now=clock, sleep=clock.on)
    begun = clock()
    with turns.clip(threading.Event()) as next_step:
        for step in range(5):
            next_step(step / 5)
    assert clock() - begun == pytest.approx(6 * PATIENCE, rel=0.05)


def test_nothing_more_is_computed_for_who_is_gone() -> None:
    clock, gone = Clock(), threading.Event()
    begun = clock()
    turns = Turns(lambda: gone.is_set(), now=clock, sleep=clock.on)
    with contextlib.ExitStack() as stack:
        next_step = stack.enter_context(turns.clip(gone))
        gone.set()
        with pytest.raises(Gone):
            next_step(0.5)
    with pytest.raises(Gone):
        turns.clip(gone).__enter__()
    assert clock() == begun


def test_who_is_gone_gives_up_the_place_in_the_queue() -> None:
    turns, gone, ended = Turns(lambda: False), threading.Event(), threading.Event()

    def wait() -> None:
        with contextlib.suppress(Gone), turns.clip(gone):
            pass
        ended.set()

    with turns.clip(threading.Event()):
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not ended.wait(0.1)
        gone.set()
        assert ended.wait(20)
    waiting.join()


def test_one_clip_computes_at_a_time() -> None:
    turns, computing, most = Turns(lambda: False), [0], [0]

    def compute() -> None:
        with turns.clip(threading.Event()) as next_step:
            computing[0] += 1
            for step in range(5):
                most[0] = max(most[0], computing[0])
                time.sleep(0.002)
                next_step(step / 5)
            computing[0] -= 1

    clips = [threading.Thread(target=compute) for _ in range(4)]
    for clip in clips:
        clip.start()
    for clip in clips:
        clip.join()
    assert most[0] == 1


def test_a_warm_up_is_not_taken_for_a_slow_machine() -> None:
    pace = Pace()
    assert not any(pace.note(0.3) for _ in range(MEMORY))
    assert not any(pace.note(1.5) for _ in range(50))
    assert not pace.slow


def test_a_change_of_pace_is_told_once() -> None:
    pace = Pace()
    told = [pace.note(0.8) for _ in range(50)]
    assert told.index(True) == MEMORY
    assert sum(told) == 1
    assert pace.slow
    assert sum(pace.note(1.2) for _ in range(50)) == 1
    assert not pace.slow


@pytest.mark.parametrize(
    ("speed", "steps", "expected"),
    [(0.6, 8, Faster(4, 3)), (0.9, 8, Faster(6, 5)), (0.1, 8, Faster(1, 3)), (0.9, 1, Faster(None, 5))],
)
def test_what_makes_it_faster(speed: float, steps: int, expected: Faster) -> None:
    assert faster(speed, StreamRequest(steps=steps), tiny_pipeline(window=6).config) == expected


def test_learned_positions_keep_their_window() -> None:
    config = tiny_pipeline(window=6, positions="learned").config
    assert faster(0.5, StreamRequest(steps=1), config) == Faster(None, None)
