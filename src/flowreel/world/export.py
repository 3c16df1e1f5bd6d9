"""Writes clips of the procedural world as files (``flowreel world``), in the layout that ``prepare`` reads.

Each clip has a sidecar file with its events. A sidecar is written after its clip is complete, so the same command
resumes where it was stopped, and a higher count adds clips.
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
"""File in the folder with the settings of its clips."""


def write_world(out: Path | str, config: WorldConfig, report: Report) -> list[Path]:
    """Write ``config.count`` clips to the folder ``out``; clips that exist already are kept.

    A fraction ``config.test`` of each class goes to ``out/test``, the others to ``out/train``.

    Returns:
        the paths of all clips, in order.

    Raises:
        InputError: an unknown class, or a folder whose clips have other settings.
    """
    out = Path(out)
    world = world_of(config)
    with held(out, report):
        return _write(out, world, config, report)


def _write(out: Path, world: World, config: WorldConfig, report: Report) -> list[Path]:
    _check_settings(out, config)
    paths = [_path(out, world, config, number) for number in range(len(world))]
    missing = [number for number, path in enumerate(paths) if not sidecar(path).is_file()]
    with Progress(str(out)) as progress:
        for made, number in enumerate(missing):
            progress.items(made, len(missing), "clips")
            clip, events = world[number]
            clip.save(paths[number])
            text = json.dumps(record(clip, clip_seed(config.seed, number), events), indent=1)
            write_complete(sidecar(paths[number]), text.encode())
    report(f"{out} has {len(paths)} clips, {len(missing)} of them new")
    return paths


def world_of(config: WorldConfig) -> World:
    """The clips that ``config`` describes, without files."""
    unknown = [name for name in config.classes if name not in CLASSES]
    if unknown:
        raise InputError(f"the world has no class {unknown[0]!r}; it has {', '.join(CLASSES)}")
    return World(config.count, config.seconds, config.seed, config.size, config.fps, config.classes or CLASSES)


def record(clip: Clip, seed: int, events: list[Event]) -> dict[str, Any]:
    """The content of a sidecar."""
    return {
        "class": clip.label,
        "seed": seed,
        "fps": clip.fps,
        "events": [dataclasses.asdict(event) for event in events],
    }


def sidecar(path: Path) -> Path:
    """The path of the sidecar of the clip at ``path``."""
    return path.with_suffix(".json")


def read_events(path: Path) -> list[Event]:
    """Read the events of the clip at ``path`` from its sidecar.

    Raises:
        InputError: the sidecar is missing or not valid.
    """
    values = read_json(sidecar(path))
    try:
        events = [Event(**event) for event in values["events"]]
        if not all(isinstance(value, int | float) for e in events for value in (e.time, e.note, e.x, e.y, e.strength)):
            raise TypeError("times, notes and places must be numbers")
    except (KeyError, TypeError) as error:
        raise InputError(f"{sidecar(path)} is not the sidecar of a clip of the world: {error}") from error
    return events


def has_events(path: Path) -> bool:
    """Whether the clip at ``path`` has a sidecar; another JSON file does not count."""
    try:
        return sidecar(path).is_file() and {"class", "events"} <= set(read_json(sidecar(path)))
    except InputError:
        return False


def _path(out: Path, world: World, config: WorldConfig, number: int) -> Path:
    turn = number // len(world.classes)
    held_out = int((turn + 1) * config.test) > int(turn * config.test)
    name = f"{number:06d}{'.mkv' if config.lossless else '.mp4'}"
    return out / ("test" if held_out else "train") / world.label(number) / name


def _check_settings(out: Path, config: WorldConfig) -> None:
    note = out / NOTE
    if not note.is_file():
        if out.exists() and (not out.is_dir() or contents(out)):
            raise InputError(f"{out} exists already and holds no clips of the world: choose another OUT")
        write_complete(note, json.dumps(to_dict(config), indent=1).encode())
        return
    before = from_dict(WorldConfig, read_json(note), str(note))
    check_unchanged(out, to_dict(before), to_dict(config), "was rendered", free={"count"})
