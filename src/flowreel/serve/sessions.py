"""Who watches what: places for viewers, one roll for each or one for all, and what is counted.

Knows: rolls, places, seats. Does not know: HTTP, sockets, what a message looks like. All of it runs in the event loop;
only rolls have threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace

import torch

from flowreel.pipeline.pipeline import Pipeline
from flowreel.serve.errors import Refused
from flowreel.serve.live_stream import Fragment, Problem, Roll, Wish
from flowreel.serve.messages import SEED_LIMIT
from flowreel.serve.turns import Turns
from flowreel.serve.uploads import Upload

KEPT = 8
"""Fragments that wait for a viewer of a broadcast; a slower one loses the oldest."""
SETTLED = 10.0
"""Seconds after a viewer came that another roll is begun to wait for the next one."""
KEPT_CLIPS = 8
CLIP_LIFE = 600.0
"""Seconds that an uploaded clip is kept."""


class Full(Refused):
    """All places are taken."""

    def __init__(self) -> None:
        super().__init__(503, "all places are taken: try again in a few seconds")


@dataclass
class Counts:
    """What ``/metrics`` tells, since the server began."""

    frames: int = 0
    fragments: int = 0
    sent_bytes: int = 0
    dropped_fragments: int = 0
    refused: int = 0
    clips: int = 0
    uploads: int = 0
    speed: float = 0.0
    first_fragment_seconds: float = 0.0


@dataclass(eq=False)
class Seat:
    """One viewer's: what is to be sent next comes out of :meth:`parts`."""

    roll: Roll
    waiting: deque[Fragment | Problem] = field(default_factory=deque)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    came: float = 0.0
    taken: int = 0
    ended: bool = False

    def end(self) -> None:
        self.ended = True
        self.changed.set()


class Studio:
    """The pipeline's one house.

    Args:
        places: viewers (or clips being made) at a time; of a broadcast, viewers.
        ahead: seconds that a generation is before its viewer.
        wish: what a viewer sees who asks for nothing.
        now: gives the time in seconds; tests give their own.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        places: int,
        broadcast: bool,
        ahead: float,
        wish: Wish,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = now
        self.pipeline, self.places, self.broadcast, self.ahead, self.wish = pipeline, places, broadcast, ahead, wish
        self.counts = Counts()
        self.seats: set[Seat] = set()
        self.working = 0
        self.threads = torch.get_num_threads()
        self.turns = Turns(lambda: any(seat.roll.is_behind for seat in tuple(self.seats)))
        self._spare: Roll | None = None
        self._shared: Roll | None = None
        self._pump: asyncio.Task[None] | None = None
        self._newest: Fragment | None = None  # of the shared one
        self._rolls: set[Roll] = set()  # all whose threads may still run
        self.closed = False
        self._clips: OrderedDict[str, tuple[float, Upload]] = OrderedDict()

    # --- places ------------------------------------------------------------------------------------------------

    @property
    def free(self) -> int:
        return self.places - len(self.seats) - (0 if self.broadcast else self.working)

    @contextlib.asynccontextmanager
    async def seat(self, wish: Wish, clocked: bool = False) -> AsyncIterator[Seat]:
        """A place for as long as the context lasts; its roll ends with it.

        Raises:
            Full: there is none.
        """
        ending = len(self._alive()) - len(self.seats) - (self._spare is not None)
        if self.closed or self.free < 1 or (not self.broadcast and ending > self.places):
            self.counts.refused += 1
            raise Full
        seat = self._shared_seat() if self.broadcast else self._own_seat(wish, clocked)
        self.seats.add(seat)
        asyncio.get_running_loop().call_later(SETTLED, self.keep_spare)
        try:
            yield seat
        finally:
            self.seats.discard(seat)
            seat.end()
            if not self.broadcast:
                seat.roll.close()
                self.keep_spare()
            elif not self.seats and self._shared is not None:
                self._shared.pause(True)

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        """A place for a clip that is made, beside those of viewers; in a broadcast there is one for clips.

        Raises:
            Full: there is none.
        """
        if self.closed or (self.working > 0 if self.broadcast else self.free < 1):
            self.counts.refused += 1
            raise Full
        self.working += 1
        try:
            yield
        finally:
            self.working -= 1

    def whole(self, wish: Wish) -> Wish:
        """``wish`` with a class and a seed by chance where it has none."""
        seed = random.randrange(SEED_LIMIT) if wish.seed is None else wish.seed
        return replace(wish, seed=seed, label=self.pipeline.class_name(wish.label, seed))

    # --- one roll a viewer -------------------------------------------------------------------------------------

    def keep_spare(self) -> None:
        """Have a roll that has begun, so that the next viewer need not wait for its first chunks."""
        if self._spare is None and not self.broadcast and not self.closed and self.free > 0:
            self._spare = self._begin(self.wish)

    def _own_seat(self, wish: Wish, clocked: bool) -> Seat:
        roll, self._spare = self._spare, None
        if roll is not None and (clocked or not _fits(roll.wish, wish)):
            roll.close()
            roll = None
        if roll is None:
            roll = self._begin(wish, clocked)
        seat = Seat(roll, came=self._now())
        roll.notify = _waking(seat.changed)
        seat.changed.set()
        return seat

    def _begin(self, wish: Wish, clocked: bool = False, notify: Callable[[], object] | None = None) -> Roll:
        roll = Roll(self.pipeline, self.whole(wish), self.ahead, clocked, self._now)
        roll.notify = notify or roll.notify
        self._rolls = {*self._alive(), roll.start()}
        return roll

    def _alive(self) -> set[Roll]:
        """Rolls whose threads have not ended; what the others made is counted."""
        ended = {roll for roll in self._rolls if roll.join(0)}
        self.counts.frames += sum(roll.frames for roll in ended)
        self._rolls -= ended
        return self._rolls

    # --- one roll for all --------------------------------------------------------------------------------------

    def _shared_seat(self) -> Seat:
        if self._shared is None:
            changed, self._newest = asyncio.Event(), None
            self._shared = self._begin(self.wish, clocked=True, notify=_waking(changed))
            self._pump = asyncio.create_task(self._share(self._shared, changed))
        self._shared.pause(False)
        return Seat(self._shared, deque([self._newest] if self._newest else []), came=self._now())

    async def _share(self, roll: Roll, changed: asyncio.Event) -> None:
        """Hand every fragment of ``roll`` to every seat; whoever is too slow loses the oldest."""
        while True:
            await changed.wait()
            changed.clear()
            while (made := roll.take()) is not None:
                if isinstance(made, Fragment):
                    self.note(roll)
                    self._newest = made
                for seat in self.seats:
                    if len(seat.waiting) >= KEPT:
                        seat.waiting.popleft()
                        self.counts.dropped_fragments += 1
                    seat.waiting.append(made)
                    seat.changed.set()
                if isinstance(made, Problem) and made.fatal:
                    self._shared = None
                    return

    async def parts(self, seat: Seat) -> AsyncIterator[Fragment | Problem]:
        """What is made, as it is; ends when the seat does."""
        while not seat.ended:
            made = (seat.waiting.popleft() if seat.waiting else None) if self.broadcast else seat.roll.take()
            if made is None:
                await seat.changed.wait()
                seat.changed.clear()
                continue
            if isinstance(made, Fragment):
                if not seat.taken:
                    self.counts.first_fragment_seconds = self._now() - seat.came
                seat.taken += 1
                if not self.broadcast:
                    self.note(seat.roll)
            yield made

    def note(self, roll: Roll) -> None:
        self.counts.fragments += 1
        self.counts.speed = roll.speed

    @property
    def frames(self) -> int:
        """Made since the server began."""
        alive = self._alive()
        return self.counts.frames + sum(roll.frames for roll in alive)

    # --- what viewers brought ----------------------------------------------------------------------------------

    def keep(self, upload: Upload) -> str:
        """Keep an upload for a while; the name that it is asked for by."""
        now = self._now()
        for name in [name for name, (until, _) in self._clips.items() if until < now]:
            del self._clips[name]
        while len(self._clips) >= KEPT_CLIPS:
            self._clips.popitem(last=False)
        name = secrets.token_urlsafe(12)
        self._clips[name] = (now + CLIP_LIFE, upload)
        self.counts.uploads += 1
        return name

    def upload(self, name: str) -> Upload | None:
        until, upload = self._clips.get(name, (0.0, None))
        return upload if until > self._now() else None

    # --- the end -----------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """End every roll and wait for their threads."""
        self.leave()
        rolls = list(self._alive())
        for roll in rolls:
            roll.close()
        if self._pump is not None:
            self._pump.cancel()
        await asyncio.to_thread(lambda: [roll.join(10) for roll in rolls])

    def leave(self) -> None:
        """Take nobody in any more, and end all seats."""
        self.closed = True
        for seat in list(self.seats):
            seat.end()


def _waking(event: asyncio.Event) -> Callable[[], object]:
    """Sets ``event`` of this loop, from any thread."""
    loop = asyncio.get_running_loop()

    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(event.set)

    return wake


def _fits(spare: Wish, wish: Wish) -> bool:
    """Whether a roll that was begun for anyone is one that ``wish`` asked for: chance is as good as chance."""
    asked = (wish.guidance, wish.steps, wish.window, wish.given) == (spare.guidance, spare.steps, spare.window, None)
    return asked and wish.label in (None, spare.label) and wish.seed in (None, spare.seed)
