"""One endless generation in a thread of its own, a little ahead of its viewer.

Times are in seconds on the stream's timeline, which begins at 0 and continues through every restart.
"""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from flowreel.config import PipelineConfig, ResolvedSampling
from flowreel.errors import InputError
from flowreel.media import Clip
from flowreel.pipeline.conditioning import Conditioning
from flowreel.pipeline.pipeline import Pipeline, Stream
from flowreel.pipeline.resolve import resolve, sampling_config
from flowreel.serve.mp4 import Fragmenter
from flowreel.serve.spectrum import SpectrumStrip
from flowreel.utils.threads import Sharing

log = logging.getLogger("flowreel.serve")

WAITING = 16
"""Fragments that may wait to be fetched."""
HASTE, HEADSTART = 1.25, 3.0
"""A viewer is believed to have played so many times the time since it first said so, and so many seconds: who claims
more would have the machine to themselves."""
_POLL = 0.05
MEMORY = 10
"""Chunks that the real-time factor is a mean of."""


@dataclass(frozen=True)
class StreamRequest:
    """What to generate. None takes the pipeline's default, or a random class and seed. ``media`` is the conditioning,
    and ``role`` what it is used as (prefix, audio or video)."""

    label: str | None = None
    seed: int | None = None
    guidance: float | None = None
    steps: int | None = None
    window: int | None = None
    precision: Literal["float32", "bfloat16"] | None = None
    media: Clip | None = None
    role: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """Fields of :class:`flowreel.config.SamplingConfig`."""
        chosen = {"guidance": self.guidance, "steps": self.steps, "window": self.window}
        return chosen | {"precision": self.precision or "float32"}

    def resolved(self, config: PipelineConfig) -> ResolvedSampling:
        """All options of sampling without conditioning. :class:`InputError` where it can't be done."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # who asks for an untrained window is warned when it is generated
            return resolve(sampling_config(self.settings), config, Conditioning())


@dataclass(frozen=True)
class Fragment:
    """A part of the stream: MP4 boxes ``data`` from ``start`` to ``end``, the class that it begins with, the real-time
    factor with which it was made, the spectrum of its audio (see :class:`SpectrumStrip`), and how many generations the
    stream had begun before this one."""

    start: float
    end: float
    data: bytes
    label: str | None
    speed: float
    spectrum: bytes
    generation: int = 0


@dataclass(frozen=True)
class Problem:
    """A request could not be fulfilled; ``fatal``: the stream has ended."""

    message: str
    fatal: bool = False


class LiveStream:
    """Generates without end, while it is less than ``ahead`` seconds before the playhead that :meth:`played` sets.

    ``clocked``: the playhead is a clock, for a stream that is not watched by one person alone. What is made waits to be
    taken; ``notify`` is called from the stream's thread whenever there is something new. ``now`` gives the time in
    seconds; tests give their own.

    Attributes:
        init, mime: see :class:`Fragmenter`.
        wanted: the last request.
        made: end of the newest fragment.
        speed: real-time factor of the last chunks.
        frames: how many were made.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        wanted: StreamRequest,
        ahead: float = 0.6,
        clocked: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        config = pipeline.config
        timing, (height, width) = config.timing, config.frame_size
        self.wanted, self.ahead, self.clocked = replace(wanted, media=None), ahead, clocked
        self._first, self._begun = wanted, -1
        self.made = self.speed = 0.0
        self.frames = 0
        self.paused = False
        self.notify: Callable[[], object] = lambda: None
        self._pipeline, self._now = pipeline, now
        self._sharing = Sharing(torch.get_num_threads())  # of the thread that begins streams: a new one takes over any
        self._spectrum = SpectrumStrip(timing.sample_rate) if timing.has_audio else None
        self._fragmenter = Fragmenter(
            fps=timing.fps,
            height=height,
            width=width,
            sample_rate=timing.sample_rate if timing.has_audio else None,
        )
        self.init, self.mime = self._fragmenter.init, self._fragmenter.mime
        self._changed = threading.Condition()
        self._ready: deque[Fragment | Problem] = deque()
        self._asked: list[Callable[[], None]] = []
        self._stream: Stream | None = None
        self._claimed, self._closed = 0.0, False
        self._since: float | None = None  # when a viewer first said how much was played
        self._zero: float | None = None  # when the clock's playhead was at 0
        self._costs: deque[tuple[float, float]] = deque(maxlen=MEMORY)
        self._thread = threading.Thread(target=self._run, name="live stream", daemon=True)

    def start(self) -> LiveStream:
        self._thread.start()
        return self

    @property
    def lead(self) -> float:
        """Seconds that are made and not played yet."""
        with self._changed:
            return self.made - self._playhead()

    @property
    def is_behind(self) -> bool:
        """Whether it computes, because it is less ahead of its viewer than it should be."""
        with self._changed:
            return not self._closed and self._has_room()

    # --- called by those who watch -----------------------------------------------------------------------------

    def take(self) -> Fragment | Problem | None:
        """The next thing made, or None where nothing waits."""
        with self._changed:
            taken = self._ready.popleft() if self._ready else None
            self._changed.notify_all()
        return taken

    def played(self, seconds: float) -> None:
        """The playhead is at ``seconds``."""
        with self._changed:
            self._since = self._since or self._now()
            self._claimed = max(self._claimed, min(seconds, self.made))
            self._changed.notify_all()

    def steer(self, label: str | None = None, guidance: float | None = None) -> None:
        """Change the class or the guidance of the running stream."""

        self.wanted = replace(
            self.wanted,
            label=self.wanted.label if label is None else label,
            guidance=self.wanted.guidance if guidance is None else guidance,
        )

        def change() -> None:
            assert self._stream is not None
            self._stream.steer(label, guidance)

        self._ask(change)

    def restart(self, wanted: StreamRequest) -> None:
        """Begin another generation in place of the one before; the timeline continues."""
        self.wanted = replace(wanted, media=None)

        def change() -> None:
            self._stream = self._begin(wanted)

        with self._changed:
            self._asked.clear()
        self._ask(change)

    def pause(self, paused: bool) -> None:
        with self._changed:
            if paused == self.paused:
                return
            self.paused = paused
            self._zero = None
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread after the chunk that it is at."""
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()

    def join(self, seconds: float | None = None) -> bool:
        """Wait for the thread's end; whether it has ended."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def _ask(self, change: Callable[[], None]) -> None:
        with self._changed:
            self._asked.append(change)
            self._changed.notify_all()

    # --- the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._stream = self._begin(self._first)
            while self._wait():
                self._change()
                if self._has_room():
                    self._make()
        except InputError as error:
            self._put(Problem(str(error), fatal=True))
        except Exception:
            log.exception("a generation failed")
            self._put(Problem("the generation failed; the server's log says why", fatal=True))
        finally:
            self._stream = None
            self._fragmenter.close()

    def _wait(self) -> bool:
        """Until there is something to do; False where it is over."""
        with self._changed:
            while not (self._closed or self._asked or self._has_room()):
                timed = self.clocked or self._claimed > self._playhead()
                self._changed.wait(_POLL if timed and not self.paused else None)
            return not self._closed

    def _has_room(self) -> bool:
        if self.paused or len(self._ready) >= WAITING:
            return False
        return self.lead < self.ahead

    def _playhead(self) -> float:
        now = self._now()
        if not self.clocked:
            return min(self._claimed, HASTE * (now - (self._since or now)) + HEADSTART)
        # a clock that ran away from a slow or paused generation is set back to it
        if self._zero is None or now - self._zero > self.made:
            self._zero = now - self.made
        return now - self._zero

    def _change(self) -> None:
        with self._changed:
            asked, self._asked = self._asked, []
        for change in asked:
            if self._closed:
                return
            try:
                change()
            except InputError as error:
                self._put(Problem(str(error)))

    def _make(self) -> None:
        assert self._stream is not None
        begun = self._now()
        with self._sharing:
            clip = next(self._stream, None)
        if clip is None:  # the conditioning has ended, and this model can't continue by itself
            self._stream = self._begin(self.wanted)
            return
        data = self._fragmenter.push(clip)
        columns = self._spectrum.push(clip.audio) if self._spectrum is not None and clip.audio is not None else b""
        self._costs.append((clip.seconds, self._now() - begun))
        self.speed = sum(media for media, _ in self._costs) / max(1e-9, sum(cost for _, cost in self._costs))
        start, self.made = self.made, self._fragmenter.frames / clip.fps
        self.frames += len(clip.frames)
        self._put(Fragment(start, self.made, data, clip.label, self.speed, columns, self._begun))

    def _put(self, made: Fragment | Problem) -> None:
        with self._changed:
            if not self._closed:
                self._ready.append(made)
        self.notify()

    def _begin(self, wanted: StreamRequest) -> Stream:
        self._costs.clear()
        self._begun += 1
        media: dict[str, Any] = {wanted.role: wanted.media} if wanted.media is not None else {}
        return self._pipeline.stream(label=wanted.label, seed=wanted.seed or 0, **wanted.settings, **media)
