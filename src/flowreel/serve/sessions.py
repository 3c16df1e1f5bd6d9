"""Viewer sessions: places, a live stream for each viewer or one for all, and what is counted.

All of it runs in the event loop; only live streams have threads.
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
from flowreel.serve.errors import RequestError
from flowreel.serve.live_stream import Fragment, LiveStream, Problem, StreamRequest
from flowreel.serve.messages import SEED_LIMIT
from flowreel.serve.turns import Turns
from flowreel.serve.uploads import Upload

KEPT = 8
"""Fragments that wait for a viewer of a broadcast; a slower one loses the oldest."""
SETTLED = 10.0
"""Seconds after a viewer came that another stream is begun for the next one."""
KEPT_CLIPS = 8
CLIP_LIFE = 600.0
"""Seconds that an uploaded clip is kept."""


class FullError(RequestError):
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
class Viewer:
    """One viewer's: what is to be sent next comes out of :meth:`parts`."""

    live: LiveStream
    waiting: deque[Fragment | Problem] = field(default_factory=deque)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    came: float = 0.0
    taken: int = 0
    ended: bool = False

    def end(self) -> None:
        self.ended = True
        self.changed.set()


class SessionManager:
    """The viewers of one pipeline and their live streams.

    Args:
        places: viewers (or clips being made) at a time; of a broadcast, viewers.
        ahead: seconds that a generation is before its viewer.
        wanted: the default request.
        now: gives the time in seconds; tests give their own.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        places: int,
        broadcast: bool,
        ahead: float,
        wanted: StreamRequest,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = now
        self.pipeline, self.places, self.broadcast, self.ahead, self.wanted = pipeline, places, broadcast, ahead, wanted
        self.counts = Counts()
        self.viewers: set[Viewer] = set()
        self.working = 0
        self.threads = torch.get_num_threads()
        self.turns = Turns(lambda: any(viewer.live.is_behind for viewer in tuple(self.viewers)))
        self._spare: LiveStream | None = None
        self._shared: LiveStream | None = None
        self._pump: asyncio.Task[None] | None = None
        self._newest: Fragment | None = None  # of the shared one
        self._live_streams: set[LiveStream] = set()  # all whose threads may still run
        self.closed = False
        self._clips: OrderedDict[str, tuple[float, Upload]] = OrderedDict()

    # --- places ------------------------------------------------------------------------------------------------

    @property
    def free(self) -> int:
        return self.places - len(self.viewers) - (0 if self.broadcast else self.working)

    @contextlib.asynccontextmanager
    async def viewer(self, wanted: StreamRequest, clocked: bool = False) -> AsyncIterator[Viewer]:
        """A place for as long as the context lasts; its stream ends with it.

        Raises:
            FullError: there is none.
        """
        ending = len(self._alive()) - len(self.viewers) - (self._spare is not None)
        if self.closed or self.free < 1 or (not self.broadcast and ending > self.places):
            self.counts.refused += 1
            raise FullError
        viewer = self._shared_viewer() if self.broadcast else self._own_viewer(wanted, clocked)
        self.viewers.add(viewer)
        asyncio.get_running_loop().call_later(SETTLED, self.keep_spare)
        try:
            yield viewer
        finally:
            self.viewers.discard(viewer)
            viewer.end()
            if not self.broadcast:
                viewer.live.close()
                self.keep_spare()
            elif not self.viewers and self._shared is not None:
                self._shared.pause(True)

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        """A place for a clip that is made, beside those of viewers; in a broadcast there is one for clips.

        Raises:
            FullError: there is none.
        """
        if self.closed or (self.working > 0 if self.broadcast else self.free < 1):
            self.counts.refused += 1
            raise FullError
        self.working += 1
        try:
            yield
        finally:
            self.working -= 1

    def whole(self, wanted: StreamRequest) -> StreamRequest:
        """The request with a random class and seed where it has none."""
        seed = random.randrange(SEED_LIMIT) if wanted.seed is None else wanted.seed
        return replace(wanted, seed=seed, label=self.pipeline.class_name(wanted.label, seed))

    # --- one stream a viewer -------------------------------------------------------------------------------------

    def keep_spare(self) -> None:
        """Keep a stream that has begun, so that the next viewer need not wait for its first chunks."""
        if self._spare is None and not self.broadcast and not self.closed and self.free > 0:
            self._spare = self._begin(self.wanted)

    def _own_viewer(self, wanted: StreamRequest, clocked: bool) -> Viewer:
        live, self._spare = self._spare, None
        if live is not None and (clocked or not _fits(live.wanted, wanted)):
            live.close()
            live = None
        if live is None:
            live = self._begin(wanted, clocked)
        viewer = Viewer(live, came=self._now())
        live.notify = _waking(viewer.changed)
        viewer.changed.set()
        return viewer

    def _begin(
        self, wanted: StreamRequest, clocked: bool = False, notify: Callable[[], object] | None = None
    ) -> LiveStream:
        live = LiveStream(self.pipeline, self.whole(wanted), self.ahead, clocked, self._now)
        live.notify = notify or live.notify
        self._live_streams = {*self._alive(), live.start()}
        return live

    def _alive(self) -> set[LiveStream]:
        """Streams whose threads have not ended; the frames of the others are counted."""
        ended = {live for live in self._live_streams if live.join(0)}
        self.counts.frames += sum(live.frames for live in ended)
        self._live_streams -= ended
        return self._live_streams

    # --- one stream for all --------------------------------------------------------------------------------------

    def _shared_viewer(self) -> Viewer:
        if self._shared is None:
            changed, self._newest = asyncio.Event(), None
            self._shared = self._begin(self.wanted, clocked=True, notify=_waking(changed))
            self._pump = asyncio.create_task(self._share(self._shared, changed))
        self._shared.pause(False)
        return Viewer(self._shared, deque([self._newest] if self._newest else []), came=self._now())

    async def _share(self, live: LiveStream, changed: asyncio.Event) -> None:
        """Give every fragment of ``live`` to every viewer; a viewer that is too slow loses the oldest."""
        while True:
            await changed.wait()
            changed.clear()
            while (made := live.take()) is not None:
                if isinstance(made, Fragment):
                    self.note(live)
                    self._newest = made
                for viewer in self.viewers:
                    if len(viewer.waiting) >= KEPT:
                        viewer.waiting.popleft()
                        self.counts.dropped_fragments += 1
                    viewer.waiting.append(made)
                    viewer.changed.set()
                if isinstance(made, Problem) and made.fatal:
                    self._shared = None
                    return

    async def parts(self, viewer: Viewer) -> AsyncIterator[Fragment | Problem]:
        """The fragments as they are made; ends when the viewer leaves."""
        while not viewer.ended:
            made = (viewer.waiting.popleft() if viewer.waiting else None) if self.broadcast else viewer.live.take()
            if made is None:
                await viewer.changed.wait()
                viewer.changed.clear()
                continue
            if isinstance(made, Fragment):
                if not viewer.taken:
                    self.counts.first_fragment_seconds = self._now() - viewer.came
                viewer.taken += 1
                if not self.broadcast:
                    self.note(viewer.live)
            yield made

    def note(self, live: LiveStream) -> None:
        self.counts.fragments += 1
        self.counts.speed = live.speed

    @property
    def frames(self) -> int:
        """Made since the server began."""
        alive = self._alive()
        return self.counts.frames + sum(live.frames for live in alive)

    # --- uploads ----------------------------------------------------------------------------------------------

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
        """End every stream and wait for their threads."""
        self.leave()
        live_streams = list(self._alive())
        for live in live_streams:
            live.close()
        if self._pump is not None:
            self._pump.cancel()
        await asyncio.to_thread(lambda: [live.join(10) for live in live_streams])

    def leave(self) -> None:
        """Take nobody in any more, and end all sessions."""
        self.closed = True
        for viewer in list(self.viewers):
            viewer.end()


def _waking(event: asyncio.Event) -> Callable[[], object]:
    """Sets ``event`` of this loop, from any thread."""
    loop = asyncio.get_running_loop()

    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(event.set)

    return wake


def _fits(spare: StreamRequest, wanted: StreamRequest) -> bool:
    """Whether a stream that was begun for anybody fulfils this request: a random choice is as good as another."""
    asked = (wanted.guidance, wanted.steps, wanted.window, wanted.media) == (
        spare.guidance,
        spare.steps,
        spare.window,
        None,
    )
    return asked and wanted.label in (None, spare.label) and wanted.seed in (None, spare.seed)
