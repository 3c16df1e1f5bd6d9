"""``flowreel world``: clips of the procedural world as files, in the layout that ``prepare`` reads.

Beside each clip stands a sidecar with its events. A clip is written whole before its sidecar, so the same command goes
on where it was stopped, and a higher count adds clips.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from flowreel.config import WorldConfig, from_dict, to_dict
from flowreel.errors import InputError
from flowreel.media import Clip
from flowreel.utils.files import read_json, write_complete
from flowreel.utils.locking import contents, held
from flowreel.utils.reporting import Progress, Report
from flowreel.utils.resume import check_unchanged
from flowreel.world.render import CLASSES, Event, World, clip_seed

NOTE = "world.json"
"""In the folder: what its clips were made with."""


def write_world(out: Path | str, config: WorldConfig, report: Report) -> list[Path]:
    """Write ``config.count`` clips into the folder ``out``, those that are there already left alone.

    Every ``1 / config.test``-th clip of each class goes to ``out/test``, the others to ``out/train``.

    Returns:
        the paths of all clips, in order.

    Raises:
        InputError: an unknown class, or a folder of clips that were made with other settings.
    """
    out = Path(out)
    world = world_of(config)
    with held(out, report):
        return _write(out, world, config, report)


def _write(out: Path, world: World, config: WorldConfig, report: Report) -> list[Path]:
    _same_settings(out, config)
    paths = [_path(out, world, config, number) for number in range(len(world))]
    missing = [number for number, path in enumerate(paths) if not sidecar(path).is_file()]
    with Progress(str(out)) as progress:
        for made, number in enumerate(missing):
            progress.items(made, len(missing), "clips")
            clip, events = world[number]
            clip.save(paths[number])
            text = json.dumps(record(clip, clip_seed(config.seed, number), events), indent=1)
            write_complete(sidecar(paths[number]), text.encode())
    report(f"{out} has {len(paths)} clips, {len(missing) or 'none'} of them made now")
    return paths


def world_of(config: WorldConfig) -> World:
    """The clips of ``config``, without files."""
    unknown = [name for name in config.classes if name not in CLASSES]
    if unknown:
        raise InputError(f"the world has no class {unknown[0]!r}; it has {', '.join(CLASSES)}")
    return World(config.count, config.seconds, config.seed, config.size, config.fps, config.classes or CLASSES)


def record(clip: Clip, seed: int, events: list[Event]) -> dict[str, Any]:
    """What a sidecar holds."""
    return {
        "class": clip.label,
        "seed": seed,
        "fps": clip.fps,
        "events": [dataclasses.asdict(event) for event in events],
    }


def sidecar(path: Path) -> Path:
    """Of the clip at ``path``."""
    return path.with_suffix(".json")


def read_events(path: Path) -> list[Event]:
    """The events of the clip at ``path``, out of its sidecar.

    Raises:
        InputError: there is no sidecar, or it is not one.
    """
    values = read_json(sidecar(path))
    try:
        events = [Event(**event) for event in values["events"]]
        if not all(isinstance(value, int | float) for e in events for value in (e.time, e.note, e.x, e.y, e.strength)):
            raise TypeError("times, notes and places must be numbers")
    except (KeyError, TypeError) as error:
        raise InputError(f"{sidecar(path)} is no sidecar of a clip of the world: {error}") from error
    return events


def has_events(path: Path) -> bool:
    """Whether the clip at ``path`` has a sidecar, which a JSON file of something else is not."""
    try:
        return sidecar(path).is_file() and {"class", "events"} <= set(read_json(sidecar(path)))
    except InputError:
        return False


def _path(out: Path, world: World, config: WorldConfig, number: int) -> Path:
    turn = number // len(world.classes)
    held_out = int((turn + 1) * config.test) > int(turn * config.test)
    name = f"{number:06d}{'.mkv' if config.lossless else '.mp4'}"
    return out / ("test" if held_out else "train") / world.label(number) / name


def _same_settings(out: Path, config: WorldConfig) -> None:
    note = out / NOTE
    if not note.is_file():
        if out.exists() and (not out.is_dir() or contents(out)):
            raise InputError(f"{out} is there already and holds no clips of the world: choose another OUT")
        write_complete(note, json.dumps(to_dict(config), indent=1).encode())
        return
    before = from_dict(WorldConfig, read_json(note), str(note))
    check_unchanged(out, to_dict(before), to_dict(config), "was rendered", free={"count"})
