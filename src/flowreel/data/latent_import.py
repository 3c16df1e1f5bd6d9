"""Imports the latent stores of the two published systems as a prepared folder, without executing code from them.

In all stores, video latents are already multiplied by the autoencoder's scaling factor, so they are divided by it to
give our stored latents. R-FLAV's audio is a log-mel mapped to [-1, 1].

Shapes: T frames, C channels, h w rows and columns of latents, M mel bins, F mel steps per video frame.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowreel.codec import Codec, mel
from flowreel.codec.registry import autoencoder_for, named_codec
from flowreel.codec.vocoder import load_for
from flowreel.config import AudioCodecConfig, CodecConfig, PrepareConfig, Timing, VideoCodecConfig, to_dict
from flowreel.config.classnames import class_name
from flowreel.data.index import amount, finish
from flowreel.data.latent_stores import LMDB_FILE, StoreFile, UnusableError, entries, find_parts, is_store, metadata
from flowreel.data.plan import SETTINGS
from flowreel.data.shards import INDEX, SPLITS, ClipRecord, IndexEntry, ShardWriter, read_index, shard_files
from flowreel.data.statistics import Moments
from flowreel.errors import InputError
from flowreel.utils.files import read_json, write_json
from flowreel.utils.reporting import Clock, Report
from flowreel.utils.resume import check_unchanged
from flowreel.utils.tensors import load_pickle_bytes

__all__ = ["import_latents", "is_store"]


def import_latents(store: Path | str, out: Path | str, config: PrepareConfig, report: Report) -> None:
    """Write the latents of ``store`` as the prepared folder ``out``.

    ``config.codec`` names the autoencoder that made them: by default the one that the LMDB names, else R-FLAV's for 32
    channels and otherwise SD's ``ft-ema``. ``config.fps`` is the frame rate if the LMDB does not state it;
    ``config.mel`` the settings of the log-mel (except the number of bins, which is the store's); ``config.dtype`` and
    ``config.vocoder`` are as in prepare. Entries that can't be used are skipped: they are reported with the reason and
    listed in the index. Several entries of one clip have crops 0, 1, ... An interrupted import resumes after its
    finished shards.

    Raises :class:`InputError` where no entry is usable, the rates or channels don't fit the settings, the package lmdb
    is missing, or ``out`` was made from another store.
    """
    store, out = Path(store), Path(out)
    parts = find_parts(store)
    if not any(part.split == "train" for part in parts):
        raise InputError(
            f"{store} has no latents for training: looked for {LMDB_FILE}, *.tar and *.pt in it and train/"
        )
    settings = _settings(parts, config)
    if (out / SETTINGS).is_file() and ((out / INDEX).exists() or shard_files(out)):
        check_unchanged(out, read_json(out / SETTINGS), settings, "was prepared")
    elif shard_files(out):
        raise InputError(f"{out} holds shards but no {SETTINGS}: choose another folder, or delete it")
    if (out / INDEX).exists() and not config.vocoder:  # a vocoder may be added to existing latents
        report(f"{out} is complete: {amount(read_index(out))}; nothing to do")
        return
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / SETTINGS, settings)
    reader = _Reader(config, metadata(parts), report)
    stamp = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    records = {
        split: _import_split(
            [part for part in parts if part.split == split],
            ShardWriter(out, split, config.shard_mb * 2**20, stamp),
            reader,
            report,
        )
        for split in SPLITS
    }
    if not records["train"]:
        raise InputError(f"no latents for training in {store} could be used: the reasons are in the lines above")
    labels = {record.entry.path: record.label for split in SPLITS for record in records[split]}
    index = finish(out, reader.codec(), records, labels, reader.skipped, report)
    skipped = f", {len(reader.skipped)} skipped" if reader.skipped else ""
    report(f"imported {amount(index)}{skipped}: {out}")


def _settings(parts: list[StoreFile], config: PrepareConfig) -> dict[str, Any]:
    """Everything that imported latents depend on, without paths: settings, names and sizes of the store's files."""
    values = to_dict(config)
    kept = {name: values[name] for name in ("codec", "fps", "audio", "dtype", "posterior", "mel")}
    if config.codec:
        kept["autoencoder"] = to_dict(named_codec(config.codec)[0].video)
    settings = {"settings": kept, "clips": {part.name: part.path.stat().st_size for part in parts}}
    return json.loads(json.dumps(settings))


def _import_split(parts: list[StoreFile], writer: ShardWriter, reader: _Reader, report: Report) -> list[ClipRecord]:
    """Import the entries that are not in finished shards yet; returns the records of all shards."""
    clock = Clock()
    for record in writer.records:
        reader.remember(record)
    done = {record.source for record in writer.records}
    seen: Counter[str] = Counter()
    for part in parts:
        try:
            for key, read in entries(part):
                source = f"{part.name}:{key}" if key else part.name
                seen[source] += 1
                if seen[source] > 1:  # a tar shard may hold one name several times
                    source += f" ({seen[source]})"
                if source not in done and (made := reader(part, key, source, read)) is not None:
                    writer.add(*made)
                if clock.due():
                    count = seen.total()
                    report(f"{count} entries, now {part.name}, {count / clock.seconds:.0f} entries/s")
        except UnusableError as error:
            reader.skip(part.name, str(error))
    writer.flush()
    return writer.records


class _Reader:
    """Converts the bytes of an entry to tensors for a shard and a record, and lists the skipped entries.

    The first entry sets the streams and shapes that all others must have.
    """

    def __init__(self, config: PrepareConfig, metadata: dict[str, Any], report: Report) -> None:
        self.config, self.metadata = config, metadata
        self.skipped: list[dict[str, str]] = []
        self._report = report
        self._layout: _Layout | None = None
        self._crops: Counter[str] = Counter()
        self._labels: dict[str, str | None] = {}
        self._dtype = getattr(torch, config.dtype)

    def skip(self, source: str, reason: str) -> None:
        self.skipped.append({"path": source, "reason": reason})
        self._report(f"skipped {source}: {reason}")

    def remember(self, record: ClipRecord) -> None:
        """Take an entry into account that was imported already."""
        if self._layout is None:
            self._layout = _Layout.of(record.shape, self.config, self.metadata, self._report)
        self._crops[record.entry.path] += 1
        self._labels[record.entry.path] = record.label

    def __call__(
        self, part: StoreFile, key: str, source: str, read: Callable[[], bytes]
    ) -> tuple[ClipRecord, dict[str, Tensor]] | None:
        """The record and the stored latents of an entry; None where it was skipped."""
        try:
            payload = _payload(read, source)
            found = _streams(payload, with_audio=self.config.audio != "none")
            shape = {stream: list(tensor.shape[1:]) for stream, tensor in found.items()}
            layout = self._layout or _Layout.of(shape, self.config, self.metadata, self._report)
            if shape != layout.shape:
                raise UnusableError(f"its latents are {shape}, those of the first entry {layout.shape}")
            stored = layout.stored(found)
            tensors = {stream: tensor.to(self._dtype) for stream, tensor in stored.items()}
            if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
                raise UnusableError(f"its latents are not finite in {self.config.dtype}")
            name, label = part.prefix + _name(payload, key or part.name), _label(payload, self.metadata)
            if self._labels.get(name, label) != label:
                raise UnusableError(f"its class {label} is not that of an entry of the same clip, {self._labels[name]}")
        except UnusableError as error:
            self.skip(source, str(error))
            return None
        entry = IndexEntry(name, len(tensors["video"]), self._crops[name])
        record = ClipRecord(entry, shape, layout.moments(stored), source=source, label=label)
        self._layout = layout
        self.remember(record)
        return record, tensors

    def codec(self) -> Codec:
        """The codec of what was imported, its scales not measured yet."""
        assert self._layout is not None
        return self._layout.codec()


def _payload(read: Callable[[], bytes], source: str) -> dict[str, Any]:
    try:
        payload = load_pickle_bytes(read(), source)
    except InputError as error:
        raise UnusableError(error.reason) from error
    except (OSError, tarfile.TarError) as error:
        raise UnusableError(str(error)) from error
    if not isinstance(payload, dict):
        raise UnusableError(f"it holds a {type(payload).__name__}, not the values of a clip")
    return payload


def _streams(payload: dict[str, Any], with_audio: bool) -> dict[str, Tensor]:
    """The tensors of an entry, float32: ``{"video": (T, C, h, w), "audio": (T, 1, M, F)}``."""
    video = _tensor(payload, "z" if "z" in payload else "video")
    if video.dim() != 4 or not video.numel():
        raise UnusableError(f"its video latents have the shape {tuple(video.shape)}, not (T, C, h, w)")
    if "audio" not in payload or not with_audio:
        return {"video": video}
    audio, frames = _tensor(payload, "audio"), len(video)
    if audio.dim() != 3 or audio.shape[0] != 1 or not audio.numel() or audio.shape[2] % frames:
        raise UnusableError(f"its audio has the shape {tuple(audio.shape)}, not (1, M, T*F) with {frames} frames")
    return {"video": video, "audio": audio.unflatten(2, (frames, -1)).permute(2, 0, 1, 3)}


def _tensor(payload: dict[str, Any], name: str) -> Tensor:
    tensor = payload.get(name)
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.layout != torch.strided:
        raise UnusableError(f"it has no tensor {name!r} of floating-point numbers")
    if tensor.untyped_storage().nbytes() < tensor.nbytes:  # a tensor that states a larger size than its file has
        raise UnusableError(f"its {name!r} of the shape {tuple(tensor.shape)} is incomplete")
    return tensor.float()


def _name(payload: dict[str, Any], key: str) -> str:
    named = (payload.get(name) for name in ("clip_relpath", "clip_id"))
    return next((str(name) for name in named if isinstance(name, str | int) and name != ""), key)


def _label(payload: dict[str, Any], metadata: dict[str, Any]) -> str | None:
    """The class name, or the number as text where the LMDB has no name for it. None for R-FLAV's -1."""
    if isinstance(payload.get("label"), str):
        return class_name(payload["label"])
    number = payload.get("label_id", payload.get("y"))
    if isinstance(number, Tensor) and number.numel() == 1:
        number = number.item()
    if number is None or (isinstance(number, int) and number < 0):
        return None
    if not isinstance(number, int):
        raise UnusableError(f"its class is {number!r}, not a number or a name")
    names = metadata.get("classes")
    return class_name(str(names[number])) if isinstance(names, list) and number < len(names) else str(number)


# --- layout of a store --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    """Shapes, codec settings and rates that all entries of a store share."""

    shape: dict[str, list[int]]
    video: VideoCodecConfig
    audio: AudioCodecConfig | None
    timing: Timing
    vocoder: Any = None

    @classmethod
    def of(
        cls, shape: dict[str, list[int]], config: PrepareConfig, metadata: dict[str, Any], report: Report
    ) -> _Layout:
        video = replace(_autoencoder(shape["video"][0], config, metadata), posterior=config.posterior)
        fps = metadata.get("fps") if isinstance(metadata.get("fps"), int | float) else config.fps
        assert fps is not None
        if "audio" not in shape:
            return cls(shape, video, None, Timing(fps, 0, 0))
        _, bins, steps = shape["audio"]
        settings = replace(config.mel, bins=bins)
        if bins != config.mel.bins:
            report(f"the store's audio has {bins} mel bins, not {config.mel.bins}: mel.bins {bins} is used")
        right = settings.sample_rate / (settings.hop * steps)
        if abs(right - fps) > 1e-6 * right:
            raise InputError(
                f"the store has {steps} mel steps a frame, which at {settings.sample_rate} Hz with hop {settings.hop} "
                f"is {right:g} frames a second, not {fps:g}: give --fps {right:g}, or the store's --mel settings"
            )
        vocoder = load_for(config.vocoder, settings) if config.vocoder else None
        # how R-FLAV normalised the level of the audio, chose a channel, and resized frames
        audio = AudioCodecConfig(settings, peak=0.95, channel="first", vocoder=vocoder.kind if vocoder else "")
        return cls(
            shape, replace(video, fit="letterbox"), audio, Timing(fps, settings.sample_rate, settings.hop), vocoder
        )

    def stored(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """The store's tensors as our stored latents, float32."""
        stored = {"video": found["video"] / self.video.scale[0]}
        if self.audio is not None:
            stored["audio"] = mel.from_unit(found["audio"], self.audio.mel)
        return stored

    def moments(self, stored: dict[str, Tensor]) -> dict[str, Moments]:
        moments = {"video": Moments.of(stored["video"].movedim(1, -1).flatten(0, -2))}
        if self.audio is not None:
            moments["audio"] = Moments.of(mel.unit(stored["audio"], self.audio.mel).reshape(-1, 1))
        return moments

    def codec(self) -> Codec:
        return Codec(CodecConfig(self.video, self.audio), self.timing, vocoder=self.vocoder)


def _autoencoder(channels: int, config: PrepareConfig, metadata: dict[str, Any]) -> VideoCodecConfig:
    """The autoencoder that made latents with this number of ``channels``, with its scaling factor."""
    name = config.codec or str(metadata.get("vae") or "")
    video = named_codec(name)[0].video if name else autoencoder_for(channels)
    if not video.source:
        known = (
            f"{name} is one of our small autoencoders" if name else f"no published autoencoder has {channels} channels"
        )
        raise InputError(f"{known}: name the diffusers autoencoder that made the latents with --codec")
    if video.channels != channels:
        raise InputError(
            f"the store's latents have {channels} channels, those of {name} {video.channels}: "
            "name the autoencoder that made them with --codec"
        )
    return video
