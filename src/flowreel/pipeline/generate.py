"""``flowreel generate``: makes samples in batches, and writes them while they are made.

Sample k of a seed is the same whatever ``batch`` it is in and whichever process makes it. Memory does not grow with the
length of what is generated. Which files there are to make is known by ``outputs``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from flowreel.config import GenerateConfig
from flowreel.errors import InputError
from flowreel.media import Clip
from flowreel.pipeline.conditioning import Conditioning
from flowreel.pipeline.loading import load
from flowreel.pipeline.outputs import (
    STREAMED,
    Folder,
    Output,
    Share,
    all_jobs,
    all_outputs,
    clear_leftovers,
    single_file,
)
from flowreel.pipeline.pipeline import Pipeline
from flowreel.utils.distributed import device
from flowreel.utils.locking import held
from flowreel.utils.reporting import Progress, Report

if TYPE_CHECKING:
    from flowreel.media import Writer


def generate(pipe: str | Path | Pipeline, config: GenerateConfig, report: Report) -> list[Path]:
    """Make ``config.count`` outputs, one for each file of a folder of conditioning. One report per file made.

    Files that are in the folder ``config.out`` already are left alone, so that the same command resumes where it was
    stopped, and a higher count adds to them; a single file is made anew. Under ``torchrun`` each process makes its
    share on the device of its ``LOCAL_RANK``, and the first one reports.

    Returns:
        the files of this process's share, in order: all of them where it is the only one.

    Raises:
        InputError: something that can't be done, or a folder with files that were made from something else (see
            :mod:`flowreel.pipeline.outputs`); nothing half-written is left.
    """
    jobs, share = all_jobs(config), Share.of_this_process()
    single = single_file(Path(config.out), len(jobs))
    pipeline = pipe if isinstance(pipe, Pipeline) else _load(pipe, config, share)
    outputs = all_outputs(jobs, pipeline, config)
    folder = Folder(Path(config.out), outputs, pipeline, config) if single is None else None
    mine = outputs[share.rank :: share.world]
    with ExitStack() as stack:
        missing = mine
        if folder is not None:
            stack.enter_context(held(folder.path, report, folder.purpose))
            folder.check()  # again, as another process may have been there until now
            missing = [output for output in mine if not output.is_there]
            clear_leftovers(folder.path, missing)
        progress = stack.enter_context(Progress(config.out, share.lead))
        made = _make(missing, folder, pipeline, config, share, report, progress)
    if folder is not None and (made < len(mine) or share.world > 1):
        _summary(outputs, made, config, share, report)
    if not any(output.is_there for output in mine) and share.world == 1:
        raise InputError("nothing was made: the reasons are in the lines above")
    return [output.path for output in mine if output.is_there]


def _make(
    outputs: list[Output],
    folder: Folder | None,
    pipeline: Pipeline,
    config: GenerateConfig,
    share: Share,
    report: Report,
    progress: Progress,
) -> int:
    """Make the files of ``outputs``; how many could be made."""
    made = 0
    read: tuple[dict[str, Path], Conditioning] | None = None
    for batch in _batches(outputs, config.batch):
        job = batch[0].job
        if read is None or read[0] != job.conditioning:
            try:
                read = (
                    job.conditioning,
                    pipeline.condition(**job.conditioning, context=config.context, seconds=config.seconds),
                )
            except InputError as error:
                if not job.from_folder:
                    raise
                report(f"skipped {job.stem}: {error}")
                continue
        labels, seeds = [output.label for output in batch], [output.seed for output in batch]
        watched = _Watch(progress, batch, made, len(outputs))
        chunks = pipeline.clips(
            labels, seeds, seconds=config.seconds, conditioning=read[1], watch=watched.share, **vars(config.sampling)
        )
        if folder is not None and not made:
            folder.note()
        lines = _write(chunks, batch, config.seed, watched)
        made += len(batch)
        for line in lines if share.lead else ():
            report(line)
    return made


class _Watch:
    """Shows how far a batch is: the files that are done, how much of these is made, and how fast they roll."""

    def __init__(self, progress: Progress, batch: list[Output], made: int, files: int) -> None:
        self._progress, self._batch, self._made, self._files = progress, batch, made, files
        self._share, self._seconds = 0.0, 0.0
        self._first: tuple[float, float] | None = None  # when the first chunk was there, and how long it was
        self.share(0.0)

    def share(self, share: float) -> None:
        """Of the batch's solver steps that are done."""
        self._share = share
        work = (self._made + share * len(self._batch)) / self._files
        files = f"{self._made} of {self._files} files, " if self._files > 1 else ""
        name = f"{self._batch[0].path.name}: " if self._files > 1 else ""
        self._progress.update(work, f"{files}{name}{self._rolling()}")

    def chunk(self, seconds: float) -> None:
        """Every sample of the batch is ``seconds`` long by now."""
        self._seconds = seconds
        self._first = self._first or (self._progress.seconds, seconds)
        self.share(self._share)

    def _rolling(self) -> str:
        if self._first is None:
            return "warming up"
        since, before = self._first
        made, taken = (self._seconds - before) * len(self._batch), self._progress.seconds - since
        rate = f", rolling at {made / taken:.2g} times real time" if made and taken else ""
        return f"{self._seconds:.1f} s made{rate}"


def _summary(outputs: list[Output], made: int, config: GenerateConfig, share: Share, report: Report) -> None:
    there = sum(output.is_there for output in outputs)
    process = f" by process {share.rank} of {share.world}" if share.world > 1 else ""
    if there == len(outputs):
        report(f"{config.out} is complete: {there} files, {made or 'none'} of them made now{process}")
    elif share.lead:
        others = ", the other processes continue" if share.world > 1 else ""
        report(
            f"{there} of {len(outputs)} files are in {config.out}, {made or 'none'} of them made now{process}{others}"
        )


def _load(pipe: str | Path, config: GenerateConfig, share: Share) -> Pipeline:
    own = device() if share.world > 1 and config.device in (None, "cuda") else config.device
    pipeline = load(pipe, device=own, vocoder=config.vocoder)
    return pipeline if config.fps is None else pipeline.at(config.fps)


def _batches(outputs: list[Output], size: int) -> Iterator[list[Output]]:
    """Neighbours with the same conditioning, at most ``size`` at a time."""
    batch: list[Output] = []
    for output in outputs:
        if batch and (len(batch) == size or output.job.conditioning != batch[0].job.conditioning):
            yield batch
            batch = []
        batch.append(output)
    if batch:
        yield batch


def _write(chunks: Iterator[list[Clip]], outputs: list[Output], seed: int, watched: _Watch) -> list[str]:
    """Write every sample's chunks to its path while they come. Returns a line about each file."""
    frames = 0
    paths = [output.path for output in outputs]
    whole: list[list[Clip]] = [[] for _ in paths]
    last: list[Clip] = []
    with ExitStack() as stack:
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
            watched.chunk(frames / last[0].fps)
    for path, kept in zip(paths, whole, strict=True):
        if kept:
            Clip.join(kept).save(path)
    return [_line(output, clip, frames, seed) for output, clip in zip(outputs, last, strict=True)]


def _line(output: Output, clip: Clip, frames: int, seed: int) -> str:
    height, width = clip.frames.shape[1:3]
    silent = clip.audio is None or output.path.suffix.lower() in (".gif", ".webp")
    audio = "silent" if silent else "with audio"
    label = f"class {clip.label}, " if clip.label else ""
    return (
        f"{output.path}  {frames / clip.fps:.1f} s, {width}x{height} at {clip.fps:g}/s, {audio}, {label}"
        f"seed {seed} sample {output.job.k}"
    )


def _writer(path: Path, clip: Clip) -> Writer:
    from flowreel.media import Writer  # and FFmpeg, once there is something to write

    height, width = clip.frames.shape[1:3]
    rate = clip.sample_rate if clip.audio is not None else None
    return Writer(path, fps=clip.fps, height=height, width=width, sample_rate=rate)
