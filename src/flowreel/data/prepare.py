"""Prepares a folder of clips for training: encodes them to shards of latents, with an index and the codec.

This module has the order of the steps and the division of work among processes. The steps themselves are in ``plan``
(what exists already), ``sources`` (which clips can be used), ``encode``, ``staging`` (how latents get into shards) and
``index``.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from flowreel.codec import Codec
from flowreel.config import PrepareConfig, Timing
from flowreel.config.clocks import timing_with_sound
from flowreel.data.encode import FitCodec, choose_codec, encode_clips, with_audio_settings
from flowreel.data.index import amount, finish
from flowreel.data.plan import SETTINGS, Plan, check_settings, make_plan, settings_of, stamp_of
from flowreel.data.progress import Progress
from flowreel.data.shards import INDEX, SPLITS, ShardWriter, read_index
from flowreel.data.sources import Skipped, Source, find_clips, inspect_clips, usable
from flowreel.data.staging import Packer, StagingArea
from flowreel.data.workers import Pool, WorkerFailure
from flowreel.errors import InputError
from flowreel.utils.distributed import Processes, together
from flowreel.utils.files import naming, read_json, write_json
from flowreel.utils.locking import held
from flowreel.utils.reporting import Clock, Report, silent

__all__ = ["find_clips", "prepare"]

CODEC_TRAINING = "codec-training"

# Starting workers takes seconds: for less work than this, none are started unless their number is set.
_MANY_FILES, _FEW_CLIPS, _SHORT_SECONDS = 64, 4, 60.0


def prepare(
    clips: Path | str, out: Path | str, config: PrepareConfig, report: Report, fit_codec: FitCodec | None = None
) -> dict[str, Any]:
    """Encode the folder ``clips`` (see :func:`find_clips`) to the folder ``out``, and return its ``index.json``.

    Frames are read in chunks of ``config.batch``; clips are divided among ``config.workers`` processes and, under
    torchrun, all those that it started, with the same shards as a result. ``index.json`` is written last, so that an
    interrupted run counts as unfinished. The same command resumes it, and encodes no finished clip again. It also adds
    new clips of the folder, in new shards; until it is done, the old index remains valid. Clips that can't be used are
    skipped: they are reported with the reason, listed in ``index["skipped"]``, and tried again by the next run. A clip
    outside class folders, or of a class that only test has, gets the null class ``len(index["classes"])``. A latent
    store of a published system is imported (see :mod:`flowreel.data.latent_import`). If ``config.codec`` names no
    codec, ``fit_codec`` makes one.

    Model latents are ``(stored - shift) * scale``, with the mean and the inverse standard deviation over train: per
    channel for video latents, over all numbers for the log-mel (mapped to [-1, 1]).

    Raises :class:`InputError` where no clip is usable, ``config.audio`` does not suit the clips, the rates don't fit
    (see :class:`Timing`), the size does not suit the codec, ``out`` was prepared with other settings, or clips in it
    were deleted or changed; :class:`OSError`, with the file's name, where it can't be written. Files that exist already
    are kept.
    """
    from flowreel.data.latent_import import import_latents, is_store

    clips, out = Path(clips), Path(out)
    with together() as processes:
        Timing(config.fps, 0, 0)  # which checks the rate
        report = report if processes.lead else silent
        with held(out, report) if processes.lead else nullcontext():
            if is_store(clips):
                if processes.lead:
                    import_latents(clips, out, config, report)
                processes.wait()
            else:
                config = with_audio_settings(config)
                with Pool(config.workers) as pool:
                    _Preparation(clips, out, config, report, processes, pool, fit_codec).run()
            return read_json(out / INDEX)


class _StoppedError(Exception):
    """Another process has failed, so this one stops."""


class _Preparation:
    """The share of one process in the work. The lead process also packs the shards and writes the index."""

    def __init__(
        self,
        clips: Path,
        out: Path,
        config: PrepareConfig,
        report: Report,
        processes: Processes,
        pool: Pool,
        fit_codec: FitCodec | None,
    ) -> None:
        self.clips, self.out, self.config, self.report = clips, out, config, report
        self.processes, self.pool, self.fit_codec = processes, pool, fit_codec
        self.settings = settings_of(config)
        self.skipped = Skipped(report)

    def run(self) -> None:
        plan = make_plan(self.clips, self.out, self.settings, self.report) if self.processes.lead else None
        if self.processes.from_lead(plan is not None and plan.complete and not self.config.vocoder):
            self._complete()
            return
        known, unknown = self.processes.from_lead((plan.known, plan.unknown) if plan else ([], []))
        sources = sorted([*known, *self._inspect(unknown)], key=lambda s: (SPLITS.index(s.split), s.name))
        readable, has_audio = usable(sources, self.config.audio, self.skipped)
        if self.processes.from_lead(plan is not None and plan.is_up_to_date(readable, self.skipped, self.config)):
            self._complete()
            return
        self.settings["sound"] = has_audio
        if plan is not None and plan.begun:
            check_settings(self.out, self.settings)
        codec = self._choose_codec(has_audio, keep=self.processes.from_lead(plan is not None and plan.begun))
        stamp = stamp_of(self.settings, codec)
        packer = self._packer(plan, readable, stamp) if plan else None
        missing = self.processes.from_lead(packer.missing() if packer else [])
        progress = self._encode(missing, codec, StagingArea(self.out, stamp), packer)
        if plan and packer:
            self._finish(plan, packer, codec)
            index = read_index(self.out)
            before = len({entry.path for entry in index.entries} - {source.name for source in missing})
            earlier = f", {before} of them encoded before" if before else ""
            skipped = f", {len(self.skipped.entries)} skipped" if self.skipped.entries else ""
            self.report(f"prepared {amount(index)}{earlier}{skipped}, {progress.rate()}: {self.out}")
        self.processes.wait()

    def _complete(self) -> None:
        index = read_index(self.out)
        if self.processes.lead:
            StagingArea(self.out).remove()  # a run may have been stopped right after it wrote the index
        self.report(f"{self.out} is complete: {amount(index)}; nothing to do")

    def _share(self, items: list[Source]) -> list[Source]:
        return items[self.processes.rank :: self.processes.world]

    def _inspect(self, unknown: list[Source]) -> list[Source]:
        """The clips, completed from their files by all processes."""
        mine = self._share(unknown)
        here = self.config.workers == 0 and len(mine) < _MANY_FILES
        done, clock = [], Clock()
        for source, result in self.pool.run(inspect_clips, (), mine, lambda _: None, here):
            done.append(replace(source, reason=result.reason) if isinstance(result, WorkerFailure) else result)
            if clock.due():
                self.report(f"inspected {len(done)} of {len(mine)} clips, {len(done) / clock.seconds:.0f} clips/s")
        return [source for share in self.processes.gather(done) for source in share]

    def _choose_codec(self, has_audio: bool, keep: bool) -> Codec:
        timing = timing_with_sound(self.config.fps, self.config.mel) if has_audio else Timing(self.config.fps, 0, 0)
        self.config = replace(self.config, fps=timing.fps)
        training = self.out / CODEC_TRAINING
        codec = choose_codec(
            self.clips,
            training,
            self.config,
            timing,
            self.report,
            keep=keep,
            processes=self.processes,
            fit_codec=self.fit_codec,
        )
        codec.video.load()  # reports what is wrong with it, and downloads it before the workers need it
        return codec

    def _packer(self, plan: Plan, readable: list[Source], stamp: str) -> Packer:
        """Make ``out`` ready for shards with this stamp."""
        if plan.stamps - {stamp}:
            raise InputError(
                f"{self.out} was started with another codec: give that codec, choose another folder, or delete it"
            )
        self.out.mkdir(parents=True, exist_ok=True)
        with naming(self.out / SETTINGS):
            write_json(self.out / SETTINGS, self.settings)
        staging = StagingArea(self.out, stamp)
        staging.keep_only(readable)
        limit = self.config.shard_mb * 2**20
        writers = {split: ShardWriter(self.out, split, limit, stamp) for split in SPLITS}
        return Packer(writers, readable, self.config.crops, staging, self.skipped)

    def _encode(self, missing: list[Source], codec: Codec, staging: StagingArea, packer: Packer | None) -> Progress:
        """Encode this process's share of the missing clips; the lead packs whatever is complete in the meantime."""
        mine = self._share(missing)
        here = self.config.workers == 0 and (
            len(mine) < _FEW_CLIPS or sum(source.seconds or _SHORT_SECONDS for source in mine) < _SHORT_SECONDS
        )
        with Progress(self.report, mine, self.config, self.processes) as progress:
            self._encode_share(mine, codec, staging, packer, progress, here)
        self.processes.wait()
        return progress

    def _encode_share(
        self,
        mine: list[Source],
        codec: Codec,
        staging: StagingArea,
        packer: Packer | None,
        progress: Progress,
        here: bool,
    ) -> None:
        def beat(frames: int) -> None:
            if staging.has_failed:
                raise _StoppedError
            progress.beat(frames)

        arguments = ((codec.config, codec.timing, codec.folder), self.config, staging)
        try:
            for source, result in self.pool.run(encode_clips, arguments, mine, beat, here):
                if isinstance(result, WorkerFailure):
                    staging.mark_unusable(source.split, source.name, result.reason)
                if packer is not None:
                    packer.advance()
                progress.clip(source, 0 if isinstance(result, WorkerFailure) else result)
        except _StoppedError:
            pass  # the next exchange with the other processes raises the error
        except (InputError, OSError):
            staging.mark_failed()
            raise

    def _finish(self, plan: Plan, packer: Packer, codec: Codec) -> None:
        records = packer.finish()
        if not records["train"]:
            raise InputError(f"no clip for training in {self.clips} could be used: the reasons are in the lines above")
        labels = {source.name: source.label for source in plan.sources}
        self.skipped.sort(plan.sources)
        finish(self.out, codec, records, labels, self.skipped.entries, self.report, self.config.flip)
        StagingArea(self.out).remove()
        if self.skipped.entries:
            self.report(f"skipped {len(self.skipped.entries)} of {len(plan.sources)} clips: {self.skipped.summary()}")
