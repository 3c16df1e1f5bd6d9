"""A folder of clips becomes a folder of latents: shards, an index and the codec that made them.

Knows: in which order clips are encoded, what goes into the index, when a folder is complete, and the statistics that
give model latents about unit variance. Does not know: which clips can be used (``sources``), how they are decoded
(``media``), encoded (``codec``) or stored (``shards``).

Shapes: T frames, C channels, H W rows and columns of latents, M mel bins, F mel steps per video frame.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from flowreel.checkpoint import FOLDER as TRAINING
from flowreel.checkpoint import write_json
from flowreel.codec import Codec
from flowreel.config import (
    FORMAT_VERSION,
    CodecConfig,
    LatentShape,
    PrepareConfig,
    Timing,
    read_json,
    to_dict,
)
from flowreel.encoding import Encoder, UnreadableError, choose_codec
from flowreel.errors import InputError
from flowreel.moments import Moments
from flowreel.shards import CODEC, INDEX, SPLITS, Record, ShardWriter, open_shard, read_index, shard_files
from flowreel.sources import Report, Skipped, Source, find_clips, usable

__all__ = ["find_clips", "prepare"]

SETTINGS = "preparation.json"
CODEC_TRAINING = "codec-training"

_PROGRESS_SECONDS = 10.0
_FREE = ("batch", "shard_mb")  # settings that change no number


def prepare(clips: Path | str, out: Path | str, config: PrepareConfig, report: Report) -> dict[str, Any]:
    """Encode the folder ``clips`` (see :func:`find_clips`) into the folder ``out``, and return its index.

    Frames stream through in chunks of ``config.batch``. ``index.json`` is written last, so that a run that was stopped
    reads as unfinished; the same command goes on from its finished shards. Where ``out`` is complete nothing is done.
    Clips that can't be used are skipped, each told to ``report`` with the reason and listed in ``index["skipped"]``. A
    clip outside class folders, or of a class that only test has, gets the null class ``len(index["classes"])``.

    Model latents are ``(stored - shift) * scale`` with the mean and inverse standard deviation over train: per channel
    of the video latents, and of all numbers of the log-mel (mapped to [-1, 1]).

    Raises :class:`InputError` where nothing is usable, ``config.audio`` does not suit the clips, the rates don't fit
    (see :class:`Timing`), the size does not suit the codec, or ``out`` was prepared from other clips or settings.
    """
    clips, out = Path(clips), Path(out)
    _check(config)
    sources = find_clips(clips, out, report)
    settings = _settings(config, sources)
    _check_same(out, settings)
    if (out / INDEX).exists():
        return _complete(out, report)
    skipped = Skipped(report)
    readable, sound = usable(sources, config.audio, skipped)
    timing = Timing(config.fps, config.mel.sample_rate, config.mel.hop) if sound else Timing(config.fps, 0, 0)
    encoder = Encoder(choose_codec(clips, out / CODEC_TRAINING, config, timing, report), config)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / SETTINGS, settings)
    # The weights are part of it: a codec fitted anew makes other latents.
    stamp = _digest([json.dumps([settings, to_dict(encoder.codec.config)]).encode(), *_weights(encoder.codec.folder)])
    progress = _Progress(report, len(readable))
    records = {
        split: _encode(
            encoder,
            ShardWriter(out, split, config.shard_mb * 2**20, stamp),
            [source for source in readable if source.split == split],
            skipped,
            progress,
        )
        for split in SPLITS
    }
    if not records["train"]:
        raise InputError(f"no clip for training in {clips} could be used: the reasons are in the lines above")
    _finish(out, encoder.codec, records, sources, skipped, report)
    index = read_index(out)
    progress.summary(index, out)
    return index


# --- settings -----------------------------------------------------------------------------------------------------


def _check(config: PrepareConfig) -> None:
    choices = {
        "fit": ("crop", "letterbox", "stretch", "random"),
        "audio": ("auto", "require", "silence", "none"),
        "channel": ("mean", "first"),
        "posterior": ("mean", "sample"),
        "dtype": ("float16", "float32"),
    }
    for name, known in choices.items():
        if getattr(config, name) not in known:
            raise InputError(f"{name} must be one of {', '.join(known)}, not {getattr(config, name)!r}")
    least = {"crops": 1, "shard_mb": 1, "batch": 1, "codec_steps": 1, "seed": 0}
    for name, bound in least.items():
        if getattr(config, name) < bound:
            raise InputError(f"{name} must be at least {bound}, not {getattr(config, name)}")
    if min(config.height_width) < 1:
        raise InputError(f"size must be pixels from 1, not {config.size}")
    if config.crops > 1 and config.fit != "random":
        raise InputError(f"crops is {config.crops}, but fit {config.fit!r} always cuts the same: choose --fit random")
    if not 0 <= config.peak <= 1:
        raise InputError(f"peak must be in [0, 1] (0 leaves the loudness), not {config.peak}")
    Timing(config.fps, 0, 0)


def _settings(config: PrepareConfig, sources: Sequence[Source]) -> dict[str, Any]:
    """All that the latents depend on, without paths: settings, a local codec's content, names and sizes of clips."""
    values = {name: value for name, value in to_dict(config).items() if name not in _FREE}
    values["size"] = list(config.height_width)
    if Path(config.codec).is_dir() and config.codec:
        values["codec"] = f"a folder with weights {_digest(_weights(Path(config.codec)))[:16]}"
    return {"settings": values, "clips": {source.name: source.size for source in sources}}


def _weights(folder: Path | None) -> Iterator[bytes]:
    """A digest of each file that a codec is made of, not of the state of its training."""
    if folder is None:
        return
    for path in sorted(folder.rglob("*")):
        made_of = path.suffix in (".safetensors", ".json", ".bin", ".pt") and path.is_file()
        if made_of and TRAINING not in path.relative_to(folder).parts:
            with path.open("rb") as file:
                yield hashlib.file_digest(file, "sha256").digest()


def _digest(contents: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(contents)).hexdigest()


def _check_same(out: Path, now: dict[str, Any]) -> None:
    """Refuse a folder with shards that were made from something else."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: give a folder to write to")
    if not (out / INDEX).exists() and not shard_files(out):
        return
    if not (out / SETTINGS).is_file():
        raise InputError(f"{out} holds shards but no {SETTINGS}: choose another folder, or delete it")
    saved = read_json(out / SETTINGS)
    now = json.loads(json.dumps(now))
    differing = list(_differences(saved["settings"], now["settings"]))
    before, after = saved["clips"], now["clips"]
    for what, names in (
        ("new", after.keys() - before.keys()),
        ("gone", before.keys() - after.keys()),
        ("changed", {name for name in before.keys() & after.keys() if before[name] != after[name]}),
    ):
        if names:
            differing.append(f"{len(names)} clip(s) {what}: {', '.join(sorted(names)[:3])}{', ...' * (len(names) > 3)}")
    if differing:
        state = "was prepared" if (out / INDEX).exists() else "was being prepared"
        raise InputError(
            f"{out} {state} differently:\n  " + "\n  ".join(differing) + "\n"
            "Choose another folder, or delete it to prepare it again."
        )


def _differences(saved: dict[str, Any], now: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name in sorted(saved.keys() | now.keys()):
        old, new = saved.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            yield f"{prefix}{name}: was {old}, now {new}"


def _complete(out: Path, report: Report) -> dict[str, Any]:
    index = read_index(out)
    for shard in sorted({entry["shard"] for entries in index["splits"].values() for entry in entries}):
        open_shard(out / shard)
    report(f"{out} is complete: {_amount(index)}; nothing to do")
    return index


def _amount(index: dict[str, Any]) -> str:
    splits = index["splits"]
    frames = sum(entry["frames"] for entries in splits.values() for entry in entries)
    clips = " + ".join(f"{len(entries)} {split}" for split, entries in splits.items() if entries)
    return f"{clips} clips, {frames} frames, {frames / index['timing']['fps']:.1f} s"


# --- encoding -----------------------------------------------------------------------------------------------------


def _encode(
    encoder: Encoder, writer: ShardWriter, sources: Sequence[Source], skipped: Skipped, progress: _Progress
) -> list[Record]:
    """Encode what the finished shards of an earlier run don't hold yet; the records of all shards."""
    done = {(record["entry"]["path"], record["entry"]["crop"]) for record in writer.records}
    for source in sources:
        missing = [crop for crop in range(encoder.config.crops) if (source.name, crop) not in done]
        try:
            for crop in missing:
                record, tensors = encoder(source, crop)
                writer.add(record, tensors)
                progress.frames += record["entry"]["frames"]
        except UnreadableError as error:
            skipped.add(source, str(error))
        progress.clip(known=not missing)
    writer.flush()
    return writer.records


class _Progress:
    """Tells how far it is, at most every few seconds, and how fast it went."""

    def __init__(self, report: Report, clips: int) -> None:
        self.frames = 0
        self._report, self._clips, self._done, self._known = report, clips, 0, 0
        self._begun = self._told = time.monotonic()

    def clip(self, known: bool) -> None:
        self._done += 1
        self._known += known
        now = time.monotonic()
        if now - self._told >= _PROGRESS_SECONDS:
            self._told = now
            self._report(f"{self._done} of {self._clips} clips, {self._rate()}")

    def summary(self, index: dict[str, Any], out: Path) -> None:
        known = f", {self._known} of them from an interrupted run" if self._known else ""
        skipped = f", {len(index['skipped'])} skipped" if index["skipped"] else ""
        self._report(f"prepared {_amount(index)}{known}{skipped}, {self._rate()}: {out}")

    def _rate(self) -> str:
        return f"{self.frames / max(1e-9, time.monotonic() - self._begun):.0f} frames/s"


# --- the index ----------------------------------------------------------------------------------------------------


def _finish(
    out: Path,
    codec: Codec,
    records: dict[str, list[Record]],
    sources: Sequence[Source],
    skipped: Skipped,
    report: Report,
) -> None:
    """Measure the statistics, and write the codec that has them and, last, the index."""
    shape = records["train"][0]["shape"]
    moments = {
        stream: reduce(add, (Moments.from_dict(record["moments"][stream]) for record in records["train"]))
        for stream in shape
    }
    codec = _with_statistics(codec, moments)
    codec.save(out / CODEC)
    classes, entries = _labelled(records, {source.name: source.label for source in sources}, report)
    channels, height, width = shape["video"]
    _, bins, steps = shape.get("audio", (1, 0, 0))
    index = {
        "format_version": FORMAT_VERSION,
        "classes": classes,
        "timing": to_dict(codec.timing),
        "codec": to_dict(codec.config),
        "shape": to_dict(LatentShape(channels, height, width, bins, steps, codec.timing.fps)),
        "statistics": {name: {"mean": m.mean.tolist(), "std": m.std.tolist()} for name, m in moments.items()},
        "skipped": skipped.entries,
        "splits": entries,
    }
    write_json(out / INDEX, index)


def _with_statistics(codec: Codec, moments: dict[str, Moments]) -> Codec:
    video, audio = codec.config.video, codec.config.audio
    video = replace(video, shift=tuple(moments["video"].mean.tolist()), scale=tuple(moments["video"].scale.tolist()))
    if audio is not None:
        audio = replace(audio, shift=float(moments["audio"].mean[0]), scale=float(moments["audio"].scale[0]))
    return codec.with_config(CodecConfig(video, audio))


def _labelled(
    records: dict[str, list[Record]], labels: dict[str, str | None], report: Report
) -> tuple[list[str], dict[str, list[dict[str, Any]]]]:
    """The classes of the training clips, and the index entries with their numbers."""
    named = {
        split: [(record["entry"], labels[record["entry"]["path"]]) for record in records[split]] for split in records
    }
    classes = sorted({label for _, label in named["train"] if label is not None})
    number: dict[str | None, int] = {label: place for place, label in enumerate(classes)}
    unknown = sorted({label or "none" for entries in named.values() for _, label in entries if label not in number})
    if unknown and classes:
        report(f"no class for clips outside the class folders of train (class {', '.join(unknown)})")
    entries = {
        split: [{**entry, "label": number.get(label, len(classes))} for entry, label in pairs]
        for split, pairs in named.items()
    }
    return classes, entries
