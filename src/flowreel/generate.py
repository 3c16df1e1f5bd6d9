"""``flowreel generate``: what is made, under which names, and written while it is made.

Sample k of a seed is the same whatever ``batch`` it is in. Memory does not grow with the length of what is generated.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowreel.config import GenerateConfig
from flowreel.errors import InputError
from flowreel.flow.noise import sample_seed
from flowreel.generation import Settings
from flowreel.given import Given
from flowreel.loading import load
from flowreel.media import Clip, Writer
from flowreel.pipeline import Pipeline
from flowreel.report import Report

STREAMED = (".mp4", ".mkv", ".webp", ".gif", ".wav")
"""Files that are written as they are made."""
WHOLE = (".png",)
"""Pictures of a whole clip."""
PICTURES = (".mp4", ".mkv", ".mov", ".webm", ".avi")
SOUNDS = (".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus")


@dataclass(frozen=True)
class Job:
    """One output: sample ``k`` of the seed, what it is given, and the beginning of its name."""

    k: int
    given: dict[str, Path]
    stem: str
    from_folder: bool = False


def generate(pipe: str | Path | Pipeline, config: GenerateConfig, report: Report) -> list[Path]:
    """Make ``config.count`` outputs, of everything that was given if that is a folder. One report per file made.

    Returns:
        the files, in order.

    Raises:
        InputError: something that can't be done; nothing half-written is left.
    """
    jobs = _jobs(config)
    single = _single(Path(config.out), len(jobs))
    pipeline = pipe if isinstance(pipe, Pipeline) else _load(pipe, config)
    made: list[Path] = []
    read: tuple[dict[str, Path], Given] | None = None
    for batch in _batches(jobs, config.batch):
        if read is None or read[0] != batch[0].given:
            try:
                read = batch[0].given, pipeline.given(**batch[0].given, context=config.context, seconds=config.seconds)
            except InputError as error:
                if not batch[0].from_folder:
                    raise
                report(f"skipped {batch[0].stem}: {error}")
                continue
        given = read[1]
        seeds = [sample_seed(config.seed, job.k) for job in batch]
        names = [pipeline.class_name(config.label, seed) for seed in seeds]
        chunks = pipeline.clips(names, seeds, seconds=config.seconds, given=given, **_settings(config))
        paths = [
            single or Path(config.out) / f"{'-'.join([job.stem, *([n] if n else [])])}.mp4"
            for job, n in zip(batch, names, strict=True)
        ]
        made += _write(chunks, paths, [f"seed {config.seed} sample {job.k}" for job in batch], report)
    if not made:
        raise InputError("nothing was made: the reasons are in the lines above")
    return made


def _load(pipe: str | Path, config: GenerateConfig) -> Pipeline:
    pipeline = load(pipe, device=config.device, audio_scale=config.audio_scale, autoencoder=config.autoencoder)
    return pipeline if config.fps is None else pipeline.at(config.fps)


def _settings(config: GenerateConfig) -> dict[str, Any]:
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(Settings)}


def _single(out: Path, count: int) -> Path | None:
    """``out`` if it names a file, None if it is a folder."""
    if not out.suffix or out.is_dir():
        return None
    if out.suffix.lower() not in (*STREAMED, *WHOLE):
        raise InputError(f"--out {out} must end in one of {', '.join((*STREAMED, *WHOLE))}, or in nothing for a folder")
    if count > 1:
        raise InputError(f"{count} clips don't fit in the one file {out}: give a folder as --out")
    return out


def _jobs(config: GenerateConfig) -> list[Job]:
    """Every output: ``count`` samples for each combination of what was given."""
    files: dict[str, Path] = {}
    folder: tuple[str, list[Path]] | None = None
    for name in ("audio", "video", "prefix"):
        value = getattr(config, name)
        if value is None:
            continue
        path = Path(value).expanduser()
        if not path.is_dir():
            files[name] = path
        elif folder is not None:
            raise InputError(f"--{folder[0]} and --{name} are both folders: only one of them can be")
        else:
            folder = (name, _media_in(path, name))
    if folder is None:
        return [Job(k, files, f"{k:05d}") for k in range(config.count)]
    return [
        Job(
            i * config.count + k,
            {**files, folder[0]: path},
            f"{i:05d}-{path.stem}" + (f"-{k:03d}" if config.count > 1 else ""),
            from_folder=True,
        )
        for i, path in enumerate(folder[1])
        for k in range(config.count)
    ]


def _media_in(folder: Path, kind: str) -> list[Path]:
    suffixes = (*PICTURES, *SOUNDS) if kind == "audio" else PICTURES
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in suffixes and not p.name.startswith("."))
    if not found:
        raise InputError(f"--{kind} {folder} holds no files that end in {', '.join(suffixes)}")
    return found


def _batches(jobs: list[Job], size: int) -> Iterator[list[Job]]:
    """Neighbours that are given the same, at most ``size`` at a time."""
    batch: list[Job] = []
    for job in jobs:
        if batch and (len(batch) == size or job.given != batch[0].given):
            yield batch
            batch = []
        batch.append(job)
    if batch:
        yield batch


def _write(chunks: Iterator[list[Clip]], paths: list[Path], what: list[str], report: Report) -> list[Path]:
    """Write every sample's chunks to its path while they come."""
    frames = 0
    whole: list[list[Clip]] = [[] for _ in paths]
    last: list[Clip] = []
    with ExitStack() as stack:
        progress = stack.enter_context(_Progress(", ".join(p.name for p in paths[:2])))
        writers: list[Writer] = []
        for last in chunks:
            if not writers and paths[0].suffix.lower() in STREAMED:
                writers = [stack.enter_context(_writer(path, clip)) for path, clip in zip(paths, last, strict=True)]
            for writer, clip in zip(writers, last, strict=False):
                writer.write(clip)
            if not writers:
                for kept, clip in zip(whole, last, strict=True):
                    kept.append(clip)
            frames += len(last[0].frames)
            progress(frames, last[0].fps)
    for path, kept in zip(paths, whole, strict=True):
        if kept:
            Clip.join(kept).save(path)
    for path, clip, text in zip(paths, last, what, strict=True):
        height, width = clip.frames.shape[1:3]
        silent = clip.audio is None or path.suffix.lower() in (".gif", ".webp")
        sound = "silent" if silent else "with sound"
        label = f"class {clip.label}, " if clip.label else ""
        report(f"{path}  {frames / clip.fps:.1f} s, {width}x{height} at {clip.fps:g}/s, {sound}, {label}{text}")
    return paths


def _writer(path: Path, clip: Clip) -> Writer:
    height, width = clip.frames.shape[1:3]
    rate = clip.sample_rate if clip.audio is not None else None
    return Writer(path, fps=clip.fps, height=height, width=width, sample_rate=rate)


class _Progress:
    """Seconds made so far, on a terminal alone."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._status: Any = None

    def __enter__(self) -> _Progress:
        if sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True).status(f"{self.name}: warming up")
            self._status.start()
        return self

    def __call__(self, frames: int, fps: float) -> None:
        if self._status is not None:
            self._status.update(f"{self.name}: {frames / fps:.1f} s")

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()
