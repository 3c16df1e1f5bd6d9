"""What there is before anything is prepared: clips, latents of some of them, and the settings these were made under.

Knows: what is to be done, and when a folder can't be gone on with. Does not know: how it is done.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from flowreel.codec import Codec
from flowreel.codec.codec import VOCODER
from flowreel.codec.registry import TRAINING, codec_folder
from flowreel.config import PrepareConfig, to_dict
from flowreel.data.shards import INDEX, ClipRecord, Index, open_shard, read_index, read_shards
from flowreel.data.sources import Skipped, Source, digest_of_ends, find_clips
from flowreel.data.staging import StagingArea
from flowreel.errors import InputError
from flowreel.media.audio import is_surround
from flowreel.media.downmix import DOWNMIX
from flowreel.utils.files import read_json, write_json
from flowreel.utils.reporting import Report
from flowreel.utils.resume import check_unchanged

SETTINGS = "preparation.json"

_FREE = ("batch", "shard_mb", "workers", "vocoder", "audio")  # settings that change no clip's latents


@dataclass(frozen=True)
class Plan:
    """Clips in the folder, those of them that are ``known`` because latents of them
    are there already, the ``unknown`` others, the shards' ``records`` and ``stamps``, and the index, if there is one.
    ``begun``: there are latents, in shards or on their way; ``waiting``: some of them are in no shard yet."""

    sources: list[Source]
    known: list[Source]
    unknown: list[Source]
    records: list[ClipRecord]
    stamps: set[str]
    index: Index | None
    begun: bool
    waiting: bool

    @property
    def indexed(self) -> bool:
        """Whether the index has just what the shards have."""
        if self.index is None:
            return False
        return {entry.identity for entry in self.index.entries} == {record.entry.identity for record in self.records}

    @property
    def complete(self) -> bool:
        return self.indexed and not self.unknown and not self.waiting

    def is_up_to_date(self, readable: Sequence[Source], skipped: Skipped, config: PrepareConfig) -> bool:
        """Whether every readable clip is in the shards already, and the index says so."""
        packed = {record.entry.path for record in self.records}
        nothing_new = self.indexed and not config.vocoder and all(source.name in packed for source in readable)
        return nothing_new and self.index is not None and self.index.skipped == skipped.entries


def make_plan(clips: Path, out: Path, settings: dict[str, Any], report: Report) -> Plan:
    """Look at both folders. Raises :class:`InputError` where ``out`` can't be gone on with."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: give a folder to write to")
    sources = find_clips(clips, out, report)
    index = read_index(out) if (out / INDEX).exists() else None
    if index is not None:
        for shard in sorted({entry.shard for entry in index.entries if entry.shard}):
            open_shard(out / shard)
    shards = list(read_shards(out))
    records = [record for _, _, made in shards for record in made]
    waiting = StagingArea(out).tidy()
    begun = index is not None or bool(records or waiting)
    if begun:
        if not (out / SETTINGS).is_file():
            raise InputError(f"{out} holds latents but no {SETTINGS}: choose another folder, or delete it")
        check_settings(out, {**settings, "sound": read_json(out / SETTINGS).get("sound")})
    still = _still(sources)
    if begun:
        _check_clips(out, sources, records, still)
        _check_downmix(out, settings, sources, [*waiting, *records])
        _tell_unhashed((*waiting, *records), report)
    made = {record.entry.path: record for record in (*waiting, *records) if still(record)}
    known = [_known(source, made[source.name], settings["fps"]) for source in sources if source.name in made]
    unknown = [source for source in sources if source.name not in made]
    packed = {record.entry.identity for record in records}
    left = any(record.entry.identity not in packed for record in waiting)
    return Plan(sources, known, unknown, records, {stamp for _, stamp, _ in shards}, index, begun, left)


def check_settings(out: Path, now: dict[str, Any]) -> None:
    """Refuse a folder with latents that were made under other settings."""
    did = "was prepared" if (out / INDEX).exists() else "was being prepared"
    before = {"flip": False} | {name: value for name, value in now.items() if name == "downmix"}  # see _check_downmix
    check_unchanged(out, before | read_json(out / SETTINGS), now, did)


def _still(sources: Sequence[Source]) -> Callable[[ClipRecord], bool]:
    """Whether the clip that a record is of is in the folder, as it was then: of the same size and unchanged since, or
    with the same digest, as a copy has. Records of older versions have no digest."""
    there = {source.name: source for source in sources}
    digest = cache(digest_of_ends)

    def still(record: ClipRecord) -> bool:
        source = there.get(record.entry.path)
        if source is None or source.size != record.size:
            return False
        if not record.digest or source.modified == record.modified:
            return True
        try:
            return digest(source.path) == record.digest
        except OSError:
            return False

    return still


def _known(source: Source, record: ClipRecord, fps: float) -> Source:
    """The clip with what the record of its latents says."""
    return replace(
        source,
        modified=record.modified or 0,
        digest=record.digest or "",
        has_audio=bool(record.audio),
        seconds=record.entry.frames / fps,
        reason="",
    )


def _tell_unhashed(records: Iterable[ClipRecord], report: Report) -> None:
    count = len({record.entry.path for record in records if not record.digest})
    if count:
        report(f"{count} clips were prepared by an older version: whether they have changed is told by size alone")


def _check_downmix(
    out: Path, settings: dict[str, Any], sources: Sequence[Source], records: Sequence[ClipRecord]
) -> None:
    """Refuse a folder with latents of surround sound from before its standard downmix; note that there are none."""
    noted = read_json(out / SETTINGS)
    if "downmix" not in settings or "downmix" in noted:
        return
    heard = {record.entry.path for record in records if record.audio} if noted.get("sound", True) else set()
    for source in sources:
        if source.name in heard and is_surround(source.path):
            raise InputError(
                f"{out} has latents of surround sound, {source.name} for one, made from the mean of all channels; now "
                f"it becomes the standard downmix ({settings['downmix']}). Choose another folder, or delete it to "
                "prepare it again."
            )
    write_json(out / SETTINGS, {**noted, "downmix": settings["downmix"]})


def _check_clips(
    out: Path, sources: Sequence[Source], records: Sequence[ClipRecord], still: Callable[[ClipRecord], bool]
) -> None:
    """Refuse clips that are in shards but not in the folder any more, or not as they were."""
    there = {source.name for source in sources if source.size >= 0}
    lost = {record.entry.path for record in records if not still(record)}
    gone, changed = sorted(lost - there), sorted(lost & there)
    if gone or changed:
        lines = [
            f"{len(names)} clip(s) {what}: {', '.join(names[:3])}{', ...' * (len(names) > 3)}"
            for what, names in (("gone", gone), ("changed", changed))
            if names
        ]
        raise InputError(
            f"{out} has latents of clips that are not there as they were:\n  " + "\n  ".join(lines) + "\n"
            "Put them back, choose another folder, or delete it to prepare it again."
        )


# --- settings -----------------------------------------------------------------------------------------------------


def settings_of(config: PrepareConfig) -> dict[str, Any]:
    """All that a clip's latents depend on, without paths: settings, and the content of a local codec. Whether sound is
    kept joins them when it is known."""
    values = {name: value for name, value in to_dict(config).items() if name not in _FREE}
    values["size"] = list(config.height_width)
    if config.channel == "mean":
        values["downmix"] = DOWNMIX  # of surround sound
    folder = codec_folder(config.codec)
    if folder is not None:
        values["codec"] = f"a folder with weights {_digest(_weights(folder))[:16]}"
    return values


def stamp_of(settings: dict[str, Any], codec: Codec) -> str:
    """What shards are stamped with. The weights are part of it: a codec fitted anew makes other latents."""
    config = to_dict(codec.config)
    if config["audio"]:
        config["audio"]["vocoder"] = ""
    # what older versions did not know is left out where it changes nothing
    settings = {k: v for k, v in settings.items() if k != "downmix" and not (k == "flip" and not v)}
    return _digest([json.dumps([settings, config]).encode(), *_weights(codec.folder)])


def _weights(folder: Path | None) -> Iterator[bytes]:
    """A digest of each file that a codec is made of, not of its vocoder or of the state of its training."""
    if folder is None:
        return
    for path in sorted(folder.rglob("*")):
        made_of = path.suffix in (".safetensors", ".json", ".bin", ".pt") and path.is_file()
        if made_of and not {TRAINING, VOCODER} & set(path.relative_to(folder).parts):
            with path.open("rb") as file:
                yield hashlib.file_digest(file, "sha256").digest()


def _digest(contents: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(contents)).hexdigest()
