"""Plans a preparation: compares the clips with the latents that exist already, and checks that it can be resumed."""

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

_FREE = ("batch", "shard_mb", "workers", "vocoder", "audio")  # settings that don't change the latents of a clip


@dataclass(frozen=True)
class Plan:
    """The clips (``sources``) and the state of the prepared folder.

    ``known`` are the clips that have latents already, ``unknown`` the others; ``records`` and ``stamps`` are those of
    the shards; ``index`` is None if there is none. ``begun``: there are latents, in shards or staged; ``waiting``: some
    are not in a shard yet.
    """

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
        """Whether index and shards have the same content."""
        if self.index is None:
            return False
        return {entry.identity for entry in self.index.entries} == {record.entry.identity for record in self.records}

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return self.indexed and not self.unknown and not self.waiting

    def is_up_to_date(self, readable: Sequence[Source], skipped: Skipped, config: PrepareConfig) -> bool:
        """Whether every readable clip is already packed and indexed."""
        packed = {record.entry.path for record in self.records}
        nothing_new = self.indexed and not config.vocoder and all(source.name in packed for source in readable)
        return nothing_new and self.index is not None and self.index.skipped == skipped.entries


def make_plan(clips: Path, out: Path, settings: dict[str, Any], report: Report) -> Plan:
    """Compare both folders. Raises :class:`InputError` if the preparation in ``out`` can't be resumed."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: give a folder to write to")
    sources = find_clips(clips, out, report)
    index = read_index(out) if (out / INDEX).exists() else None
    if index is not None:
        for shard in sorted({entry.shard for entry in index.entries if entry.shard}):
            open_shard(out / shard)
    shards = list(read_shards(out))
    records = [record for _, _, made in shards for record in made]
    waiting = StagingArea(out).clean_up()
    begun = index is not None or bool(records or waiting)
    if begun:
        if not (out / SETTINGS).is_file():
            raise InputError(f"{out} holds latents but no {SETTINGS}: choose another folder, or delete it")
        check_settings(out, {**settings, "sound": read_json(out / SETTINGS).get("sound")})
    is_unchanged = _unchanged_test(sources)
    if begun:
        _check_clips(out, sources, records, is_unchanged)
        _check_downmix(out, settings, sources, [*waiting, *records])
        _report_missing_digests((*waiting, *records), report)
    made = {record.entry.path: record for record in (*waiting, *records) if is_unchanged(record)}
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


def _unchanged_test(sources: Sequence[Source]) -> Callable[[ClipRecord], bool]:
    """A function that tells whether the clip of a record is still in the folder and unchanged.

    It must have the same size, and the same time of its last change or, as a copy has, the same digest. Records of
    older versions have no digest.
    """
    by_name = {source.name: source for source in sources}
    digest = cache(digest_of_ends)

    def is_unchanged(record: ClipRecord) -> bool:
        source = by_name.get(record.entry.path)
        if source is None or source.size != record.size:
            return False
        if not record.digest or source.modified == record.modified:
            return True
        try:
            return digest(source.path) == record.digest
        except OSError:
            return False

    return is_unchanged


def _known(source: Source, record: ClipRecord, fps: float) -> Source:
    """The clip, described by the record of its latents."""
    return replace(
        source,
        modified=record.modified or 0,
        digest=record.digest or "",
        has_audio=bool(record.audio),
        seconds=record.entry.frames / fps,
        reason="",
    )


def _report_missing_digests(records: Iterable[ClipRecord], report: Report) -> None:
    count = len({record.entry.path for record in records if not record.digest})
    if count:
        report(f"{count} clips were prepared by an older version: only their size can tell whether they have changed")


def _check_downmix(
    out: Path, settings: dict[str, Any], sources: Sequence[Source], records: Sequence[ClipRecord]
) -> None:
    """Refuse a folder with surround audio that an older version mixed down differently; else store today's downmix."""
    stored = read_json(out / SETTINGS)
    if "downmix" not in settings or "downmix" in stored:
        return
    with_audio = {record.entry.path for record in records if record.audio} if stored.get("sound", True) else set()
    for source in sources:
        if source.name in with_audio and is_surround(source.path):
            raise InputError(
                f"{out} has latents of surround audio, for example of {source.name}, made from the mean of all "
                f"channels; now the standard downmix is used ({settings['downmix']}). Choose another folder, or delete "
                "it to prepare it again."
            )
    write_json(out / SETTINGS, {**stored, "downmix": settings["downmix"]})


def _check_clips(
    out: Path, sources: Sequence[Source], records: Sequence[ClipRecord], is_unchanged: Callable[[ClipRecord], bool]
) -> None:
    """Refuse a folder whose shards have clips that were deleted or changed."""
    present = {source.name for source in sources if source.size >= 0}
    different = {record.entry.path for record in records if not is_unchanged(record)}
    gone, changed = sorted(different - present), sorted(different & present)
    if gone or changed:
        lines = [
            f"{len(names)} clip(s) {what}: {', '.join([*names[:3], '...'] if len(names) > 3 else names)}"
            for what, names in (("gone", gone), ("changed", changed))
            if names
        ]
        raise InputError(
            f"{out} has latents of clips that were deleted or changed:\n  " + "\n  ".join(lines) + "\n"
            "Put them back, choose another folder, or delete it to prepare it again."
        )


# --- settings -----------------------------------------------------------------------------------------------------


def settings_of(config: PrepareConfig) -> dict[str, Any]:
    """Everything that the latents of a clip depend on, without paths: settings, and the content of a local codec.

    Whether audio is kept ("sound") is added once it is known.
    """
    values = {name: value for name, value in to_dict(config).items() if name not in _FREE}
    values["size"] = list(config.height_width)
    if config.channel == "mean":
        values["downmix"] = DOWNMIX  # of surround audio
    folder = codec_folder(config.codec)
    if folder is not None:
        values["codec"] = f"a folder with weights {_digest(_weights(folder))[:16]}"
    return values


def stamp_of(settings: dict[str, Any], codec: Codec) -> str:
    """The stamp of shards. It covers the codec's weights: a codec that is fitted again makes other latents."""
    config = to_dict(codec.config)
    if config["audio"]:
        config["audio"]["vocoder"] = ""
    # settings that older versions did not have are left out where they change nothing
    settings = {k: v for k, v in settings.items() if k != "downmix" and not (k == "flip" and not v)}
    return _digest([json.dumps([settings, config]).encode(), *_weights(codec.folder)])


def _weights(folder: Path | None) -> Iterator[bytes]:
    """A digest of each file of a codec, except its vocoder and the state of its training."""
    if folder is None:
        return
    for path in sorted(folder.rglob("*")):
        is_weights = path.suffix in (".safetensors", ".json", ".bin", ".pt") and path.is_file()
        if is_weights and not {TRAINING, VOCODER} & set(path.relative_to(folder).parts):
            with path.open("rb") as file:
                yield hashlib.file_digest(file, "sha256").digest()


def _digest(contents: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(contents)).hexdigest()
