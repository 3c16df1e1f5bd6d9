"""Windows, order and errors of the dataset, on small synthetic shards."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from flowreel.config import (
    AudioCodecConfig,
    CodecConfig,
    DataConfig,
    LatentShape,
    Timing,
    VideoCodecConfig,
    to_dict,
)
from flowreel.data.dataset import GlobalOrder, WindowDataset
from flowreel.errors import InputError

C, H, W, M, F = 3, 2, 4, 8, 10
SHIFT, SCALE = (0.0, 1.0, -2.0), (1.0, 0.5, 2.0)


def write_prepared(folder: Path, lengths: list[int], sound: bool = True, per_shard: int = 3) -> Path:
    """A prepared folder whose every number encodes its origin: clip + frame/100 (+ column/1000) in the video."""
    folder.mkdir(parents=True, exist_ok=True)
    entries: list[dict] = []
    shards: dict[str, dict[str, torch.Tensor]] = {}
    for clip, frames in enumerate(lengths):
        shard = f"train-{clip // per_shard:05d}.safetensors"
        time = torch.arange(frames).view(frames, 1, 1, 1) / 100
        tensors = {f"{clip}.video": clip + time + torch.arange(W) / 1000 + torch.zeros(frames, C, H, W)}
        if sound:
            tensors[f"{clip}.audio"] = -5 + clip / 10 + time + torch.zeros(frames, 1, M, F)
        shards.setdefault(shard, {}).update(tensors)
        entries.append(
            {"shard": shard, "key": str(clip), "path": f"{clip}.mp4", "label": clip % 2, "frames": frames, "crop": 0}
        )
    for name, tensors in shards.items():
        save_file(tensors, folder / name)
    audio = AudioCodecConfig(shift=0.25, scale=2.0) if sound else None
    index = {
        "format_version": 1,
        "classes": ["even", "odd"],
        "timing": to_dict(Timing(10, 16000, 160) if sound else Timing(10, 0, 0)),
        "codec": to_dict(CodecConfig(VideoCodecConfig(channels=C, shift=SHIFT, scale=SCALE), audio)),
        "shape": to_dict(LatentShape(C, H, W, M if sound else 0, F if sound else 0, 10.0)),
        "splits": {"train": entries, "test": entries[:1]},
        "skipped": [],
    }
    (folder / "index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("prepared"), [12, 30, 4, 25, 6, 40, 20])


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("silent"), [12, 30, 9], sound=False)


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k] for k in a
    )


def stored_video(sample: dict) -> torch.Tensor:
    """The stored numbers behind the model latents of the first channel and row: (T, W)."""
    return (sample["video"] / torch.tensor(SCALE).view(C, 1, 1) + torch.tensor(SHIFT).view(C, 1, 1))[:, 0, 0]


def test_sample_is_a_window_of_its_clip_in_model_space(prepared: Path) -> None:
    dataset = WindowDataset(prepared, config=DataConfig(window=5))
    assert dataset.shape.streams == {"video": (C, H, W), "audio": (1, M, F)}
    assert dataset.classes == ("even", "odd")
    for n in range(50):
        sample = dataset.sample(n)
        assert sample["video"].shape == (5, C, H, W)
        assert sample["audio"].shape == (5, 1, M, F)
        assert sample["video"].dtype == sample["audio"].dtype == torch.float32
        frames = dataset.index.splits["train"][sample["clip"]].frames
        assert sample["label"] == sample["clip"] % 2
        times = (stored_video(sample)[:, 0] - sample["clip"]) * 100
        start = round(times[0].item())
        assert 0 <= start <= frames - 5
        torch.testing.assert_close(times, start + torch.arange(5.0), atol=2e-3, rtol=0)
        mel = AudioCodecConfig().mel
        low, high = torch.tensor([mel.floor, mel.ceiling]).log()
        unit = sample["audio"][:, 0, 0, 0] / 2 + 0.25
        log_mel = (unit + 1) / 2 * (high - low) + low
        expected = -5 + sample["clip"] / 10 + (start + torch.arange(5)) / 100
        torch.testing.assert_close(log_mel, expected, atol=1e-4, rtol=0)


def test_sample_is_a_pure_function_of_its_position(prepared: Path) -> None:
    config = DataConfig(window=5, flip=0.5)
    dataset = WindowDataset(prepared, config=config, seed=3)
    forward = [dataset.sample(n) for n in range(20)]
    other = WindowDataset(prepared, config=config, seed=3)
    for n in reversed(range(20)):
        assert equal(forward[n], other.sample(n))
        assert equal(forward[n], dataset[n])
    reseeded = WindowDataset(prepared, config=config, seed=4)
    assert not all(equal(forward[n], reseeded.sample(n)) for n in range(20))


def test_an_epoch_covers_every_usable_clip_once(prepared: Path) -> None:
    told: list[str] = []
    dataset = WindowDataset(prepared, config=DataConfig(window=5), report=told.append)
    assert len(dataset) == 6
    assert dataset.left_out == ["2.mp4"]
    assert told == ["left out 1 of 7 clips, shorter than 5 frames"]
    orders = [[dataset.sample(epoch * 6 + place)["clip"] for place in range(6)] for epoch in range(8)]
    assert all(sorted(order) == [0, 1, 3, 4, 5, 6] for order in orders)
    assert len(set(map(tuple, orders))) > 1


def test_every_window_start_is_drawn(tmp_path: Path) -> None:
    dataset = WindowDataset(write_prepared(tmp_path, [8]), config=DataConfig(window=5))
    starts = Counter(round(stored_video(dataset.sample(n))[0, 0].item() * 100) for n in range(400))
    assert set(starts) == {0, 1, 2, 3}
    assert min(starts.values()) > 60


def test_flip_mirrors_the_width_of_the_video_alone(tmp_path: Path) -> None:
    prepared = write_prepared(tmp_path, [12, 30, 4, 25, 6, 40, 20])
    index = json.loads((prepared / "index.json").read_text(encoding="utf-8"))
    index["codec"]["video"] |= {"kind": "AutoencoderKL", "source": "stabilityai/sd-vae-ft-ema"}
    (prepared / "index.json").write_text(json.dumps(index), encoding="utf-8")
    plain = WindowDataset(prepared, config=DataConfig(window=5))
    flipped = WindowDataset(prepared, config=DataConfig(window=5, flip=1.0))
    sometimes = WindowDataset(prepared, config=DataConfig(window=5, flip=0.5))
    mirrored = 0
    for n in range(100):
        sample, mirror = plain.sample(n), flipped.sample(n)
        assert torch.equal(mirror["video"], sample["video"].flip(-1))
        assert torch.equal(mirror["audio"], sample["audio"])
        mirrored += torch.equal(sometimes.sample(n)["video"], mirror["video"])
    assert 30 < mirrored < 70


def test_latents_that_do_not_mirror_are_not_flipped_and_that_is_reported(prepared: Path) -> None:
    said: list[str] = []
    plain = WindowDataset(prepared, config=DataConfig(window=5))
    flipped = WindowDataset(prepared, config=DataConfig(window=5, flip=0.5), report=said.append)
    assert all(equal(plain.sample(n), flipped.sample(n)) for n in range(20))
    assert [line for line in said if "WARNING" in line and "--flip" in line] == said[:1]


def test_a_cut_continues_with_another_clip_and_its_class(prepared: Path) -> None:
    plain, cut = (WindowDataset(prepared, config=DataConfig(window=5, cut=share)) for share in (0.0, 1.0))
    places = set()
    for n in range(60):
        whole, sample = plain.sample(n), cut.sample(n)
        kept = [torch.equal(sample["video"][frame], whole["video"][frame]) for frame in range(5)]
        place = kept.index(False) if False in kept else 5
        assert place >= 1
        assert torch.equal(sample["audio"][:place], whole["audio"][:place])
        assert set(sample["label"][:place].tolist()) == {whole["label"]}
        assert len(set(sample["label"][place:].tolist())) <= 1
        places.add(place)
    assert {1, 2, 3, 4} <= places
    some = WindowDataset(prepared, config=DataConfig(window=5, cut=0.5))
    uncut = sum(torch.equal(some.sample(n)["video"], plain.sample(n)["video"]) for n in range(60))
    assert 18 < uncut < 50
    assert all(some.sample(n)["label"].shape == (5,) for n in range(8))


def test_the_test_split_is_its_own_dataset(prepared: Path) -> None:
    dataset = WindowDataset(prepared, split="test", config=DataConfig(window=5))
    assert len(dataset) == 1
    assert dataset.sample(7)["clip"] == 0


def test_global_order_is_the_same_for_any_number_of_processes() -> None:
    whole = list(GlobalOrder(24, 0, 5))
    assert whole == [list(range(24 * s, 24 * (s + 1))) for s in range(5)]
    for world, accumulate in ((1, 4), (2, 1), (2, 3), (4, 2), (24, 1)):
        ranks = [GlobalOrder(24, 0, 5, rank, world, accumulate) for rank in range(world)]
        assert all(len(list(order)) == len(order) == 5 * accumulate for order in ranks)
        shares = [iter(order) for order in ranks]
        for step in whole:
            assert [n for share in shares for _ in range(accumulate) for n in next(share)] == step


def test_global_order_resumes_with_the_same_rest() -> None:
    whole = list(GlobalOrder(12, 0, 10, rank=1, world=2, accumulate=2))
    assert list(GlobalOrder(12, 4, 10, rank=1, world=2, accumulate=2)) == whole[8:]
    assert list(GlobalOrder(12, 10, 10)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_resumes_in_the_middle_of_an_epoch(prepared: Path, workers: int) -> None:
    dataset = WindowDataset(prepared, config=DataConfig(window=5, flip=0.5), seed=1)
    dataset.sample(0)  # an open shard must not reach the workers

    def batches(start: int) -> list[dict]:
        return list(DataLoader(dataset, batch_sampler=GlobalOrder(4, start, 6), num_workers=workers))

    whole, rest = batches(0), batches(2)
    assert whole[0]["video"].shape == (4, 5, C, H, W)
    assert whole[0]["label"].dtype == torch.int64
    assert len(rest) == 4
    assert all(equal(a, b) for a, b in zip(whole[2:], rest, strict=True))


def test_a_dataset_survives_pickling(prepared: Path) -> None:
    dataset = WindowDataset(prepared, config=DataConfig(window=5))
    expected = dataset.sample(5)
    assert equal(pickle.loads(pickle.dumps(dataset)).sample(5), expected)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"global_batch": 10, "world": 4}, "multiple of 4"),
        ({"global_batch": 8, "world": 2, "accumulate": 3}, "multiple of 6"),
        ({"global_batch": 0}, "multiple of 1"),
        ({"global_batch": 8, "world": 2, "rank": 2}, "rank"),
    ],
)
def test_uneven_shares_are_refused(arguments: dict, match: str) -> None:
    with pytest.raises(InputError, match=match):
        GlobalOrder(**{"start_step": 0, "steps": 1, **arguments})


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (DataConfig(window=41), "the longest has 40"),
    ],
)
def test_unusable_settings_are_refused(prepared: Path, config: DataConfig, match: str) -> None:
    with pytest.raises(InputError, match=match):
        WindowDataset(prepared, config=config)
    for changes in ({"window": 0}, {"flip": 1.5}, {"cut": -0.1}):
        with pytest.raises(InputError, match=r"data\.\w+ must be at least"):
            DataConfig(**changes)


def test_unusable_folders_are_refused(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a prepared folder"):
        WindowDataset(tmp_path)
    with pytest.raises(InputError, match="no clips in split 'valid'; it has: train, test"):
        WindowDataset(prepared, split="valid")
    with pytest.raises(InputError, match="seed"):
        WindowDataset(prepared, seed=-1)
    (tmp_path / "train-00000.safetensors").touch()
    with pytest.raises(InputError, match="unfinished preparation"):
        WindowDataset(tmp_path)


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    dataset = WindowDataset(write_prepared(tmp_path, [12]), config=DataConfig(window=5))
    shard = tmp_path / "train-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:200])
    with pytest.raises(InputError, match=r"train-00000.safetensors is missing or damaged"):
        dataset.sample(0)
    index = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps({**index, "format_version": 99}))
    with pytest.raises(InputError, match="format version 99"):
        WindowDataset(tmp_path)
