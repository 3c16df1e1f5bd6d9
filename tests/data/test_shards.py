"""The disk format of a prepared folder: what is written is read back, and so is what older versions wrote."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from flowreel.config import AudioCodecConfig, CodecConfig, LatentShape, Timing, VideoCodecConfig
from flowreel.data.shards import ClipRecord, Index, IndexEntry
from flowreel.data.statistics import Moments

ENTRY: dict[str, Any] = {"path": "a/1.mkv", "frames": 8, "crop": 0, "shard": "train-00000.safetensors", "key": "0"}
MOMENTS = {"video": {"count": 8, "mean": [0.1, -0.3], "deviation": [1.25, 3.0]}}
PREPARED = {
    "entry": ENTRY,
    "shape": {"video": [2, 4, 4]},
    "moments": MOMENTS,
    "size": 1234,
    "modified": 10**18 + 1,
    "digest": "ab",
    "sound": False,
}
IMPORTED = {"entry": ENTRY, "shape": {"video": [2, 4, 4]}, "moments": MOMENTS, "label": None, "source": "0.tar:x.pt"}
OLD = {name: value for name, value in PREPARED.items() if name not in ("modified", "digest")}
STAGED = {**PREPARED, "entry": {name: ENTRY[name] for name in ("path", "frames", "crop")}}


@pytest.mark.parametrize("values", [PREPARED, IMPORTED, OLD, STAGED])
def test_a_record_is_written_as_it_was_read(values: dict[str, Any]) -> None:
    assert json.dumps(ClipRecord.from_dict(values).to_dict()) == json.dumps(values)


def test_a_record_of_an_older_version_lacks_what_that_did_not_store() -> None:
    record = ClipRecord.from_dict(OLD)
    assert (record.size, record.audio, record.modified, record.digest) == (1234, False, None, None)


def test_moments_are_those_of_the_latents() -> None:
    latents = torch.randn(8, 2)
    record = ClipRecord(IndexEntry("a/1.mkv", 8, 0), moments={"video": Moments.of(latents)})
    read = ClipRecord.from_dict(json.loads(json.dumps(record.to_dict()))).moments["video"]
    assert read.to_dict() == Moments.of(latents).to_dict()


def test_an_index_is_written_as_it_was_read_in_a_fixed_order() -> None:
    entry = replace(IndexEntry(**ENTRY), label=1)
    index = Index(
        ["a", "b"],
        Timing(10, 16000, 160),
        CodecConfig(VideoCodecConfig(), AudioCodecConfig()),
        LatentShape(8, 4, 4, 256, 10, 10.0),
        {"video": {"mean": [0.0], "std": [1.0]}},
        True,
        [{"path": "b/2.mkv", "reason": "it has no audio"}],
        {"train": [entry], "test": []},
    )
    values = json.loads(json.dumps(index.to_dict()))
    assert list(values) == [
        *("format_version", "classes", "timing", "codec", "shape", "statistics", "mirrored", "skipped", "splits")
    ]
    assert values["splits"]["train"] == [{**ENTRY, "label": 1}]
    assert Index.from_dict(values) == index
    assert index.entries == [entry]
    assert entry.identity == ("a/1.mkv", 0)
    older = {name: value for name, value in values.items() if name != "mirrored"}
    assert not Index.from_dict(older).mirrored
