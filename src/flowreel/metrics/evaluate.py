"""``flowreel synchrony``: measures files by class.

Long files are read and measured in windows of a minute. Where a sidecar of the world lies beside a clip, the detectors
themselves are measured against it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowreel.config import SynchronyConfig
from flowreel.errors import InputError
from flowreel.media import iterate, probe
from flowreel.metrics.classifier import classify
from flowreel.metrics.drift import windows
from flowreel.metrics.events import Found
from flowreel.metrics.synchrony import TOLERANCE, Events, Synchrony, compare, events_of, floor, pooled
from flowreel.metrics.tracking import small
from flowreel.utils.files import write_complete
from flowreel.utils.reporting import Progress, Report
from flowreel.world.export import has_events, read_events
from flowreel.world.scenes import CLASSES, Event

_WINDOW = 60.0
_SHORTEST = 1.0  # seconds: what is left of a long file and shorter is not measured


@dataclass
class Group:
    """What was measured of the clips of one class. ``asked``: windows whose class was known, not guessed; ``agreeing``
    those of them that seem to be of it."""

    clips: int = 0
    events: list[Events] = field(default_factory=list)
    picture_truth: list[Synchrony] = field(default_factory=list)
    sound_truth: list[Synchrony] = field(default_factory=list)
    asked: int = 0
    agreeing: int = 0

    def add(self, other: Group) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def figures(self) -> dict[str, Any]:
        """By name, for a table and for JSON."""
        chance = floor(self.events)
        return {
            **pooled(map(compare, self.events)).figures(),
            "clips": self.clips,
            "floor_f1": chance.f1 if chance.clips else None,
            "class_agreement": self.agreeing / self.asked if self.asked else None,
            "truth": self._truth() if self.picture_truth else None,
        }

    def _truth(self) -> dict[str, float | int | None]:
        picture, sound = pooled(self.picture_truth), pooled(self.sound_truth)
        found = {"picture": picture.figures(), "sound": sound.figures()}
        names = ("f1", "note_agreement", "offset_ms")
        return {
            "events": picture.shown,
            **{f"{what}_{name}": figures[name] for what, figures in found.items() for name in names},
        }


def measure(clips: Path | str, config: SynchronyConfig, report: Report) -> dict[str, Any]:
    """Report a table of the clips in a file or folder, by class, and return its figures.

    Returns:
        ``{"tolerance_seconds", "classes": {name: figures}, "left_out": [{"path", "reason"}]}``, as ``config.json`` gets
        it. Events match within ``tolerance_seconds``.

    Raises:
        InputError: no clips, none that can be read, or a label that is no class of the world.
    """
    if config.label and config.label not in CLASSES:
        raise InputError(f"the world has no class {config.label!r}; it has {', '.join(CLASSES)}")
    found = list(_files(Path(clips)))
    groups: dict[str, Group] = {}
    left_out, guessed = [], 0
    with Progress(f"measuring {clips}") as progress:
        watch = _Watch(progress, len(found))
        for path, folder, wrong in found:
            known = config.label or (folder if folder in CLASSES else "")
            try:
                if wrong:
                    raise InputError(wrong)
                name, group = _measured(path, known, watch)
            except (InputError, OSError) as error:
                reason = error.reason if isinstance(error, InputError) else str(error)
                left_out.append({"path": str(path), "reason": reason})
                report(f"left out {path}: {reason}")
            else:
                guessed += not known
                groups.setdefault(name, Group()).add(group)
            watch.clip()
    if not groups:
        raise InputError("none of the clips can be read: the reasons are in the lines above")
    if guessed:
        report(f"the class of {guessed} clips was guessed: no folder has the name of one (or give --label)")
    figures = {name: groups[name].figures() for name in sorted(groups, key=[*CLASSES, *groups].index)}
    for line in _table(figures):
        report(line)
    result = {"tolerance_seconds": TOLERANCE, "classes": figures, "left_out": left_out}
    if config.json:
        write_complete(Path(config.json), json.dumps(result, indent=1).encode())
    return result


class _Watch:
    """Shows how many clips are measured, how much of the next one is, and the rate against real time."""

    def __init__(self, progress: Progress, clips: int) -> None:
        self._progress, self._clips, self._done, self._seconds = progress, clips, 0, 0.0
        self._show(0.0)

    def window(self, seconds: float, share: float) -> None:
        """Another ``seconds`` of the clip are measured, in all a ``share`` (0 to 1) of it."""
        self._seconds += seconds
        self._show(share)

    def clip(self) -> None:
        """One more clip is done."""
        self._done += 1
        self._show(0.0)

    def _show(self, share: float) -> None:
        pace = f", {self._seconds / self._progress.seconds:.2g} times real time" if self._seconds else ""
        self._progress.update((self._done + share) / self._clips, f"{self._done} of {self._clips} clips{pace}")


def _files(clips: Path) -> Iterator[tuple[Path, str, str]]:
    """Clips, the names of the folders that say their class, and why a clip can't be read, where that is known."""
    from flowreel.data.sources import find_clips

    if clips.is_file():
        yield clips, clips.parent.name, ""
        return
    if not clips.exists():
        raise InputError(f"there is nothing at {clips}")
    if (clips / "test").is_dir() and not (clips / "train").is_dir():
        clips = clips / "test"
    for source in find_clips(clips):
        yield source.path, source.label or clips.resolve().name, source.reason


def _measured(path: Path, known: str, watch: _Watch) -> tuple[str, Group]:
    """The class of one file, ``known`` or guessed from its first minute, and its figures."""
    group, name, start, stated = Group(clips=1), known, 0.0, probe(path).seconds
    happened = read_events(path) if has_events(path) else None
    for clip in windows(map(small, iterate(path)), _WINDOW):
        if group.events and clip.seconds < _SHORTEST:
            break
        seen = classify(clip)
        name = name or seen
        if known:
            group.asked, group.agreeing = group.asked + 1, group.agreeing + (seen == known)
        events = events_of(clip, name)
        group.events.append(events)
        if happened is not None:
            truth = _truth(happened, start, clip.seconds)
            for list_, some in ((group.picture_truth, events.picture), (group.sound_truth, events.sound)):
                if truth or some:  # what has no events and shows none is right
                    list_.append(compare(Events(name, events.seconds, events.fps, truth, some)))
        start += clip.seconds
        watch.window(clip.seconds, start / max(start, stated))
    return name, group


def _truth(happened: Sequence[Event], start: float, seconds: float) -> tuple[Found, ...]:
    """What of it was from ``start`` on."""
    return tuple(
        Found(event.time - start, event.note, event.strength, event.x, event.y)
        for event in happened
        if start <= event.time < start + seconds
    )


_COLUMNS = {
    "clips": ("clips", 1, 0),
    "picture/s": ("picture_rate", 1, 2),
    "sound/s": ("sound_rate", 1, 2),
    f"F1 in {TOLERANCE:g} s": ("f1", 1, 3),
    "floor": ("floor_f1", 1, 3),
    "offset ms": ("offset_ms", 1, 1),
    "notes %": ("note_agreement", 100, 1),
    "class %": ("class_agreement", 100, 1),
}
_TRUTH_COLUMNS = {
    "events": ("events", 1, 0),
    "picture F1": ("picture_f1", 1, 3),
    "picture notes %": ("picture_note_agreement", 100, 1),
    "sound F1": ("sound_f1", 1, 3),
    "sound notes %": ("sound_note_agreement", 100, 1),
}


def _table(figures: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The figures in lines, then those of the detectors against the sidecars."""
    yield from _rows("class", figures, _COLUMNS)
    truths = {name: values["truth"] for name, values in figures.items() if values["truth"]}
    if truths:
        yield ""
        yield from _rows("against sidecars", truths, _TRUTH_COLUMNS)


def _rows(title: str, rows: dict[str, dict[str, Any]], columns: dict[str, tuple[str, int, int]]) -> Iterator[str]:
    width = max(len(title), *(len(name) for name in rows))
    yield "  ".join([f"{title:{width}}", *columns])
    for name, values in rows.items():
        cells = [f"{_cell(values[key], scale, digits):>{len(head)}}" for head, (key, scale, digits) in columns.items()]
        yield "  ".join([f"{name:{width}}", *cells])


def _cell(value: float | None, scale: int, digits: int) -> str:
    return "-" if value is None or math.isnan(value) else f"{value * scale:.{digits}f}"
