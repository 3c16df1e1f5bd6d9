"""Completes a prepared folder: statistics of the latents, labels of the classes, and the index.

The index is written last, once all latents are in shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path

from flowreel.codec import Codec
from flowreel.codec.registry import CODEC
from flowreel.config import CodecConfig, LatentShape
from flowreel.data.shards import INDEX, ClipRecord, Index, IndexEntry, read_index
from flowreel.data.statistics import Moments
from flowreel.utils.files import naming, replacing_files, sync, write_json
from flowreel.utils.reporting import Report


def finish(
    out: Path,
    codec: Codec,
    records: dict[str, list[ClipRecord]],
    labels: dict[str, str | None],
    skipped: Sequence[dict[str, str]],
    report: Report,
    mirrored: bool = False,
) -> Index:
    """Compute the statistics over train, write the codec with them and, last, the index, which is returned.

    ``records`` are those of the shards of each split, in the order of the index; train has at least one. ``labels``
    maps a clip's path to its class, or None; ``skipped`` has ``path`` and ``reason`` of each clip that could not be
    used. ``mirrored`` means that the shards also hold every clip mirrored. An existing index and codec are valid until
    the new ones replace them, file by file.
    """
    shape = records["train"][0].shape
    moments = {stream: reduce(add, (record.moments[stream] for record in records["train"])) for stream in shape}
    codec = _with_statistics(codec, moments)
    with naming(out / CODEC), replacing_files(out / CODEC) as aside:
        codec.save(aside)
    classes, entries = _labelled(records, labels, report)
    channels, height, width = shape["video"]
    _, bins, steps = shape.get("audio", (1, 0, 0))
    index = Index(
        classes,
        codec.timing,
        codec.config,
        LatentShape(channels, height, width, bins, steps, codec.timing.fps),
        {name: {"mean": m.mean.tolist(), "std": m.std.tolist()} for name, m in moments.items()},
        mirrored,
        list(skipped),
        entries,
    )
    with naming(out / INDEX):
        write_json(out / INDEX, index.to_dict())
        sync(out)
    return read_index(out)


def amount(index: Index) -> str:
    """The number of clips, frames and seconds in a prepared folder, in words."""
    frames = sum(entry.frames for entry in index.entries)
    clips = " + ".join(f"{len(entries)} {split}" for split, entries in index.splits.items() if entries)
    return f"{clips} clips, {frames} frames, {frames / index.timing.fps:.1f} s"


def _with_statistics(codec: Codec, moments: dict[str, Moments]) -> Codec:
    video, audio = codec.config.video, codec.config.audio
    video = replace(video, shift=tuple(moments["video"].mean.tolist()), scale=tuple(moments["video"].scale.tolist()))
    if audio is not None:
        audio = replace(audio, shift=float(moments["audio"].mean[0]), scale=float(moments["audio"].scale[0]))
    return codec.with_config(CodecConfig(video, audio))


def _labelled(
    records: dict[str, list[ClipRecord]], labels: dict[str, str | None], report: Report
) -> tuple[list[str], dict[str, list[IndexEntry]]]:
    """The classes of the training clips, and the index entries with their labels."""
    named = {split: [(record.entry, labels[record.entry.path]) for record in records[split]] for split in records}
    classes = sorted({label for _, label in named["train"] if label is not None})
    numbers: dict[str | None, int] = {label: number for number, label in enumerate(classes)}
    unknown = sorted({label or "none" for entries in named.values() for _, label in entries if label not in numbers})
    if unknown and classes:
        report(f"clips outside the class folders of train have no label (class {', '.join(unknown)})")
    entries = {
        split: [replace(entry, label=numbers.get(label, len(classes))) for entry, label in pairs]
        for split, pairs in named.items()
    }
    return classes, entries
