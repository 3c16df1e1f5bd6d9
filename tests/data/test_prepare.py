"""From a folder of clips to latents: layouts, audio, skipping, resuming, statistics."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flowreel.cli import prepare
from flowreel.codec import Codec, mel
from flowreel.config import AudioCodecConfig, CodecConfig, DataConfig, PrepareConfig, Timing, VideoCodecConfig
from flowreel.data.dataset import WindowDataset
from flowreel.data.shards import ClipRecord, IndexEntry, ShardWriter, open_shard
from flowreel.data.sources import find_clips
from flowreel.data.statistics import Moments
from flowreel.errors import InputError
from flowreel.media import Clip
from flowreel.pipeline.loading import SHIPPED
from flowreel.world.render import World

CLIPS = Path(__file__).resolve().parents[3] / "shared" / "clips"
needs_clips = pytest.mark.skipif(not CLIPS.is_dir(), reason="the folder of real clips is not there")


def write_clip(path: Path, seconds: float = 0.8, seed: int = 0, sound: bool = True) -> Path:
    """A lossless clip of moving colour and noise."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 255, (round(seconds * 10), 3, 4, 3), dtype=np.uint8)
    frames = frames.repeat(8, axis=1).repeat(8, axis=2)
    audio = (0.3 * rng.standard_normal(round(len(frames) * 1600))).astype(np.float32).clip(-1, 1) if sound else None
    path.parent.mkdir(parents=True, exist_ok=True)
    return Clip(frames, audio).save(path)


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small autoencoder with random weights."""
    folder = tmp_path_factory.mktemp("codec")
    torch.manual_seed(0)
    config = CodecConfig(VideoCodecConfig(channels=4, width=8, factor=8))
    Codec(config, Timing(10, 0, 0)).save(folder)
    return str(folder)


@pytest.fixture
def config(codec: str) -> PrepareConfig:
    return PrepareConfig(codec=codec, size=(16, 24))


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Three clips of two classes for training, one for testing."""
    folder = tmp_path / "clips"
    for seed, name in enumerate(("train/a/1.mkv", "train/a/2.mkv", "train/b/1.mkv", "test/b/9.mkv")):
        write_clip(folder / name, seconds=0.8 + seed / 10, seed=seed)
    return folder


def run(clips: Path, out: Path, config: PrepareConfig) -> tuple[dict[str, Any], list[str]]:
    lines: list[str] = []
    return prepare(clips, out, config, lines.append), lines


def stored(out: Path, entry: dict[str, Any]) -> dict[str, torch.Tensor]:
    shard = open_shard(out / entry["shard"])
    return {key.split(".")[1]: shard.get_tensor(key) for key in shard.keys() if key.split(".")[0] == entry["key"]}  # noqa: SIM118


# --- finding clips ---


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train/b/2.mp4", "train/a/1.AVI", "test/a/3.webm"], [("train", "a"), ("train", "b"), ("test", "a")]),
        (["train/1.mov", "test/2.mkv"], [("train", None), ("test", None)]),
        (["b/1.mp4", "a/2.mp4"], [("train", "a"), ("train", "b")]),
        (["2.mp4", "1.mp4"], [("train", None), ("train", None)]),
        (["train/a/deep/1.mp4"], [("train", "a")]),
        (["train/a/1.mp4", "extra/2.mp4"], [("train", "a")]),
        (["a/1.mp4", "a/1.json", "a/.2.mp4", ".hidden/3.mp4", "readme.txt"], [("train", "a")]),
    ],
)
def test_published_layouts_are_found(tmp_path: Path, names: list[str], expected: list) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_clips(tmp_path)
    assert [(source.split, source.label) for source in found] == expected
    assert all(source.path == tmp_path / source.name for source in found)


def test_clips_outside_of_train_and_test_are_reported(tmp_path: Path) -> None:
    for name in ("train", "valid"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.mp4").touch()
    lines: list[str] = []
    assert len(find_clips(tmp_path, report=lines.append)) == 1
    assert len(lines) == 1
    assert "left out 1 clips" in lines[0]
    assert "valid/1.mp4" in lines[0]


def test_file_names_that_are_not_utf8_are_reported(tmp_path: Path) -> None:
    (tmp_path / "ä 1.mp4").touch()
    odd = os.fsencode(tmp_path) + b"/\xff.mp4"
    try:
        Path(os.fsdecode(odd)).touch()
    except OSError:
        pytest.skip("this file system takes text alone")
    lines: list[str] = []
    assert [source.name for source in find_clips(tmp_path, report=lines.append)] == ["ä 1.mp4"]
    assert lines == [r"left out 1 clips whose names are not UTF-8: rename b'\xff.mp4', ..."]


def test_a_link_to_a_folder_is_followed_once(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "1.mp4").touch()
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "round").symlink_to(tmp_path / "clips")
    assert [source.name for source in find_clips(tmp_path / "clips")] == ["a/1.mp4"]


def test_folders_without_clips_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a folder"):
        find_clips(tmp_path / "absent")
    with pytest.raises(InputError, match="no clips: it holds no file"):
        find_clips(tmp_path)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "1.mp4").touch()
    with pytest.raises(InputError, match="none in train"):
        find_clips(tmp_path)


# --- what is written ---


def test_the_index_says_what_is_in_the_shards(clips: Path, tmp_path: Path, config: PrepareConfig) -> None:
    out = tmp_path / "out"
    index, lines = run(clips, out, config)
    assert index == json.loads((out / "index.json").read_text())
    assert index["classes"] == ["a", "b"]
    assert [entry["label"] for entry in index["splits"]["train"]] == [0, 0, 1]
    assert [entry["path"] for entry in index["splits"]["test"]] == ["test/b/9.mkv"]
    assert [entry["frames"] for entry in index["splits"]["train"]] == [8, 9, 10]
    assert index["shape"] == {"channels": 4, "height": 2, "width": 3, "mel_bins": 256, "mel_steps": 10, "fps": 10.0}
    assert index["skipped"] == []
    for split, entries in index["splits"].items():
        for entry in entries:
            tensors = stored(out, entry)
            assert entry["shard"] == f"{split}-00000.safetensors"
            assert tensors["video"].shape == (entry["frames"], 4, 2, 3)
            assert tensors["audio"].shape == (entry["frames"], 1, 256, 10)
            assert tensors["video"].dtype == tensors["audio"].dtype == torch.float16
    assert len(lines) == 1
    assert "3 train + 1 test clips, 38 frames, 3.8 s" in lines[0]
    assert sorted(path.name for path in out.iterdir()) == [
        "codec",
        "index.json",
        "preparation.json",
        "test-00000.safetensors",
        "train-00000.safetensors",
    ]


def test_latents_are_those_of_the_codec(clips: Path, tmp_path: Path, config: PrepareConfig) -> None:
    config = replace(config, dtype="float32", batch=3, peak=0.95, channel="first")
    index, _ = run(clips, tmp_path / "out", config)
    codec = Codec.load(tmp_path / "out" / "codec", Timing(10))
    for entry in index["splits"]["train"]:
        clip = Clip.read(clips / entry["path"], fps=10, size=(16, 24))
        whole = codec.encode(clip)
        tensors = stored(tmp_path / "out", entry)
        torch.testing.assert_close(tensors["video"], whole["video"], atol=1e-5, rtol=1e-4)
        assert clip.audio is not None
        sound = mel.peak_normalise(torch.from_numpy(clip.audio)[None], 0.95)
        log_mel = mel.log_mel(sound)[0].unflatten(1, (-1, 10)).transpose(0, 1)[:, None]
        torch.testing.assert_close(tensors["audio"], log_mel)
        torch.testing.assert_close(whole["audio"], log_mel)


def test_model_latents_have_zero_mean_and_unit_variance(clips: Path, tmp_path: Path, config: PrepareConfig) -> None:
    run(clips, tmp_path / "out", replace(config, dtype="float32"))
    dataset = WindowDataset(tmp_path / "out", config=DataConfig(window=8))
    codec = Codec.load(tmp_path / "out" / "codec", dataset.timing)
    latents = [codec.to_model(stored(tmp_path / "out", entry.to_dict())) for entry in dataset.entries]
    video = torch.cat([x["video"] for x in latents]).double()
    audio = torch.cat([x["audio"] for x in latents]).double()
    torch.testing.assert_close(video.mean((0, 2, 3)), torch.zeros(4).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(video.std((0, 2, 3), correction=0), torch.ones(4).double(), atol=1e-4, rtol=0)
    assert abs(audio.mean().item()) < 1e-4
    assert audio.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    mine = dataset.sample(1)
    again = codec.to_model({k: v[:8] for k, v in stored(tmp_path / "out", dataset.entries[0].to_dict()).items()})
    assert mine["video"].shape == again["video"].shape


def test_shards_are_cut_at_their_size(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, "train", 1000, "stamp")
    for number, size in enumerate((100, 100, 200, 10, 10)):
        writer.add(ClipRecord(IndexEntry(str(number), size, 0)), {"video": torch.full((size,), number)})  # 8 bytes each
    writer.flush()
    assert [record.entry.shard[6:11] for record in writer.records] == [
        "00000",
        "00001",
        "00002",
        "00003",
        "00003",
    ]
    assert [record.entry.key for record in writer.records] == list("01234")
    for record in writer.records:
        key = record.entry.key
        assert (open_shard(tmp_path / record.entry.shard).get_tensor(f"{key}.video") == int(key)).all()


def test_random_crops_are_entries_of_their_own(clips: Path, tmp_path: Path, config: PrepareConfig) -> None:
    config = replace(config, fit="random", crops=3, size=8)
    index, _ = run(clips, tmp_path / "one", config)
    entries = index["splits"]["train"]
    assert [(entry["path"], entry["crop"]) for entry in entries[:3]] == [("train/a/1.mkv", crop) for crop in range(3)]
    assert len(entries) == 9
    first = [stored(tmp_path / "one", entry)["video"] for entry in entries[:3]]
    assert not torch.equal(first[0], first[1])
    again, _ = run(clips, tmp_path / "two", config)
    assert all(
        torch.equal(stored(tmp_path / "one", a)["video"], stored(tmp_path / "two", b)["video"])
        for a, b in zip(entries, again["splits"]["train"], strict=True)
    )
    run(clips, tmp_path / "three", replace(config, seed=1))
    assert not torch.equal(first[0], stored(tmp_path / "three", entries[0])["video"])


def test_clips_outside_the_classes_of_train_get_the_null_class(
    clips: Path, tmp_path: Path, config: PrepareConfig
) -> None:
    write_clip(clips / "train" / "loose.mkv", seed=7)
    write_clip(clips / "test" / "c" / "1.mkv", seed=8)
    index, lines = run(clips, tmp_path / "out", config)
    labels = {entry["path"]: entry["label"] for entries in index["splits"].values() for entry in entries}
    assert index["classes"] == ["a", "b"]
    assert labels["train/loose.mkv"] == labels["test/c/1.mkv"] == 2
    assert any("c, none" in line for line in lines)


def test_a_folder_without_classes_has_none(tmp_path: Path, config: PrepareConfig) -> None:
    write_clip(tmp_path / "clips" / "1.mkv")
    index, _ = run(tmp_path / "clips", tmp_path / "out", config)
    assert index["classes"] == []
    assert index["splits"]["test"] == []
    assert WindowDataset(tmp_path / "out", config=DataConfig(window=4)).sample(0)["label"] == 0


# --- sound ---


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    for number in range(3):
        write_clip(tmp_path / "mixed" / f"{number}.mkv", seed=number, sound=number != 1)
    return tmp_path / "mixed"


def test_clips_with_and_without_audio_need_a_choice(mixed: Path, tmp_path: Path, config: PrepareConfig) -> None:
    with pytest.raises(InputError, match=r"1 of 3 clips have no audio.*require.*silence.*none"):
        run(mixed, tmp_path / "out", config)
    index, lines = run(mixed, tmp_path / "require", replace(config, audio="require"))
    assert [entry["path"] for entry in index["splits"]["train"]] == ["0.mkv", "2.mkv"]
    assert index["skipped"] == [{"path": "1.mkv", "reason": "it has no audio"}]
    assert "skipped 1.mkv: it has no audio" in lines
    index, _ = run(mixed, tmp_path / "silence", replace(config, audio="silence"))
    floor = AudioCodecConfig().mel.floor
    silent = stored(tmp_path / "silence", index["splits"]["train"][1])["audio"]
    assert silent.shape == (8, 1, 256, 10)
    assert silent.float().max() < np.log(floor) + 1
    index, _ = run(mixed, tmp_path / "none", replace(config, audio="none"))
    assert len(index["splits"]["train"]) == 3
    assert index["timing"] == {"fps": 10.0, "sample_rate": 0, "hop": 0}
    assert set(stored(tmp_path / "none", index["splits"]["train"][0])) == {"video"}


def test_video_alone_takes_any_frame_rate_and_audio_only_those_that_fit(
    clips: Path, tmp_path: Path, config: PrepareConfig
) -> None:
    write_clip(tmp_path / "silent" / "1.mkv", sound=False)
    index, _ = run(tmp_path / "silent", tmp_path / "out", replace(config, fps=24))
    assert index["timing"] == {"fps": 24, "sample_rate": 0, "hop": 0}
    assert index["splits"]["train"][0]["frames"] == 19
    with pytest.raises(InputError, match=r"choose one of 1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 16, 20, 24, 25, 30, .*48"):
        run(clips, tmp_path / "sound", replace(config, fps=17))
    for audio in ("require", "silence"):
        with pytest.raises(InputError, match="none of the clips"):
            run(tmp_path / "silent", tmp_path / "sound", replace(config, audio=audio))


@pytest.mark.parametrize(
    ("fps", "rate", "sample_rate", "steps"),
    [(24, 24, 48000, 5), (29.97, 30, 48000, 4), (48, 48, 48000, 2), (50, 50, 16000, 2)],
)
def test_audio_at_the_frame_rates_of_cinema_and_phones(
    tmp_path: Path, config: PrepareConfig, fps: float, rate: int, sample_rate: int, steps: int
) -> None:
    write_clip(tmp_path / "clips" / "1.mkv", seconds=1.2)
    index, _ = run(tmp_path / "clips", tmp_path / "out", replace(config, fps=fps))
    assert (index["timing"]["fps"], index["timing"]["sample_rate"]) == (rate, sample_rate)
    frames = index["splits"]["train"][0]["frames"]
    assert frames == round(1.2 * rate)
    latents = stored(tmp_path / "out", index["splits"]["train"][0])
    assert latents["audio"].shape == (frames, 1, 256, steps)


def test_audio_levels_are_taken_from_the_codec(clips: Path, tmp_path: Path, config: PrepareConfig) -> None:
    run(clips, tmp_path / "first", replace(config, peak=0.5, channel="first"))
    for given, want in (({}, (0.5, "first")), ({"peak": 0.0, "channel": "mean"}, (0.0, "mean"))):
        out = tmp_path / f"again{len(given)}"
        index, _ = run(clips, out, replace(config, codec=str(tmp_path / "first"), **given))
        audio = index["codec"]["audio"]
        assert (audio["peak"], audio["channel"]) == want
        noted = json.loads((out / "preparation.json").read_text(encoding="utf-8"))
        assert (noted["peak"], noted["channel"]) == want


def test_mirrored_clips_are_encoded_as_a_view_of_their_own(tmp_path: Path) -> None:
    """The decoded second view resembles the mirrored frames about as well as the first resembles the frames."""
    codec = SHIPPED / "world" / "codec"
    for n, name in enumerate(("pendulum", "rain")):
        World(count=1, seconds=2, seed=n, classes=(name,))[0][0].save(tmp_path / "clips" / f"{n}.mkv")
    config = PrepareConfig(codec=str(codec), size=64, flip=True, workers=1, dtype="float32")
    index, _ = run(tmp_path / "clips", tmp_path / "out", config)
    plain, _ = run(tmp_path / "clips", tmp_path / "plain", replace(config, flip=False))
    autoencoder = Codec.load(codec).video
    for entry, unflipped in zip(index["splits"]["train"], plain["splits"]["train"], strict=True):
        latents = stored(tmp_path / "out", entry)
        assert torch.equal(latents["video"], stored(tmp_path / "plain", unflipped)["video"])
        picture = Clip.read(tmp_path / "clips" / entry["path"], fps=10, size=64).frames
        quality = [
            10 * np.log10(255**2 / np.square(autoencoder.decode(latents[view]).numpy() - target.astype(float)).mean())
            for view, target in (("video", picture), ("mirrored", picture[:, :, ::-1]))
        ]
        assert abs(quality[0] - quality[1]) < 2
        assert quality[1] > 28
    train = WindowDataset(tmp_path / "out", config=DataConfig(window=4, flip=0.5), seed=3)
    never = WindowDataset(tmp_path / "out", config=DataConfig(window=4), seed=3)
    pairs = [(train.sample(n), never.sample(n)) for n in range(40)]
    same = sum(torch.equal(a["video"], b["video"]) for a, b in pairs)
    assert 8 < same < 32
    assert all(torch.equal(a["audio"], b["audio"]) for a, b in pairs)
    with pytest.raises(InputError, match="flip: was True, now False"):
        run(tmp_path / "clips", tmp_path / "out", replace(config, flip=False))


# --- skipping, resuming, repeating ---


def test_unreadable_clips_are_skipped_with_the_reason(clips: Path, tmp_path: Path, config: PrepareConfig) -> None:
    (clips / "train" / "a" / "0.mp4").touch()
    (clips / "train" / "b" / "0.mp4").write_bytes(b"not a film" * 100)
    index, lines = run(clips, tmp_path / "out", config)
    assert [entry["path"] for entry in index["skipped"]] == ["train/a/0.mp4", "train/b/0.mp4"]
    assert "empty" in index["skipped"][0]["reason"]
    assert str(tmp_path) not in json.dumps(index["skipped"])
    assert [line.split(":")[0] for line in lines[:2]] == ["skipped train/a/0.mp4", "skipped train/b/0.mp4"]
    assert len(index["splits"]["train"]) == 3
    assert "2 skipped" in lines[-1]


def test_a_clip_that_breaks_off_is_skipped(clips: Path, tmp_path: Path, config: PrepareConfig) -> None:
    whole = write_clip(clips / "train" / "a" / "0.mp4", seconds=4)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    index, lines = run(clips, tmp_path / "out", config)
    assert [entry["path"] for entry in index["skipped"]] == ["train/a/0.mp4"]
    assert "damaged or cut off" in lines[0]
    assert index["splits"]["train"][0]["path"] == "train/a/1.mkv"


def test_a_folder_inside_the_clips_is_not_read_again(clips: Path, config: PrepareConfig) -> None:
    out = clips / "train" / "out"
    out.mkdir()
    write_clip(out / "preview.mkv")
    index, _ = run(clips, out, config)
    assert index["classes"] == ["a", "b"]
    assert run(clips, out, config)[0] == index
    with pytest.raises(InputError, match="is a file"):
        run(clips, clips / "train" / "a" / "1.mkv", config)


def test_a_folder_of_unreadable_clips_is_refused(tmp_path: Path, config: PrepareConfig) -> None:
    (tmp_path / "1.mp4").touch()
    with pytest.raises(InputError, match="none of the clips can be read"):
        run(tmp_path, tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


def test_the_same_command_again_does_nothing(clips: Path, tmp_path: Path, config: PrepareConfig) -> None:
    out = tmp_path / "out"
    index, _ = run(clips, out, config)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again, lines = run(clips, out, replace(config, batch=5))
    assert again == index
    assert len(lines) == 1
    assert "is complete: 3 train + 1 test clips" in lines[0]
    assert times == {path: path.stat().st_mtime_ns for path in out.rglob("*")}


def test_other_settings_or_clips_are_refused(clips: Path, tmp_path: Path, config: PrepareConfig) -> None:
    out = tmp_path / "out"
    run(clips, out, config)
    with pytest.raises(InputError, match=r"peak: was 0.0, now 0.5[^$]*size: was \[16, 24\], now \[16, 16\]"):
        run(clips, out, replace(config, size=16, peak=0.5))
    (clips / "train" / "a" / "3.mkv").touch()
    with pytest.raises(InputError, match="sound: was True, now False"):
        run(clips, out, replace(config, audio="none"))
    (clips / "train" / "b" / "1.mkv").unlink()
    write_clip(clips / "train" / "a" / "1.mkv", seconds=2)
    with pytest.raises(InputError, match=r"1 clip\(s\) gone: train/b/1.mkv\n  1 clip\(s\) changed: train/a/1.mkv\nPut"):
        run(clips, out, config)


def test_shards_with_another_stamp_are_replaced(tmp_path: Path) -> None:
    def write(stamp: str, count: int) -> None:
        writer = ShardWriter(tmp_path, "train", 1, stamp)
        for number in range(len(writer.records), count):
            writer.add(ClipRecord(IndexEntry(str(number), 8, 0)), {"video": torch.full((8,), number)})
        writer.flush()

    write("old", 3)
    (tmp_path / "train-00009.safetensors.part").touch()
    writer = ShardWriter(tmp_path, "train", 1, "old")
    assert len(writer.records) == 3
    assert len(list(tmp_path.iterdir())) == 3
    assert ShardWriter(tmp_path, "train", 1, "new").records == []
    assert list(tmp_path.iterdir()) == []


def test_a_missing_shard_of_a_complete_folder_is_noticed(clips: Path, tmp_path: Path, config: PrepareConfig) -> None:
    run(clips, tmp_path / "out", config)
    (tmp_path / "out" / "test-00000.safetensors").unlink()
    with pytest.raises(InputError, match=r"test-00000.safetensors is missing or damaged"):
        run(clips, tmp_path / "out", config)


# --- settings ---


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"size": 20}, "size 20x20 is not a multiple of the codec's factor 8: choose for example 16x16"),
        ({"crops": 2}, "--fit random"),
        ({"fit": "squash"}, "fit must be one of crop, letterbox"),
        ({"peak": 2.0}, "peak must be at least 0 and at most 1"),
        ({"shard_mb": 0}, "shard_mb must be at least 1"),
        ({"fps": 0.0}, "fps must be above 0"),
    ],
)
def test_impossible_settings_are_refused(
    clips: Path, tmp_path: Path, config: PrepareConfig, changes: dict, match: str
) -> None:
    with pytest.raises(InputError, match=match):
        run(clips, tmp_path / "out", replace(config, **changes))


def test_without_a_codec_one_is_fitted_first(
    clips: Path, tmp_path: Path, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import flowreel.training.autoencoder

    seen: list = []

    def train_codec(clips: Path, out: Path, config: Any, report: Any) -> Path:
        seen.append((clips, out, config))
        shutil.copytree(codec, out)
        report("step 7/7")
        return out

    monkeypatch.setattr(flowreel.training.autoencoder, "train_codec", train_codec)
    out = tmp_path / "out"
    index, lines = run(clips, out, PrepareConfig(size=(16, 24), codec_steps=7))
    assert index["shape"]["channels"] == 4
    assert "fitting the small autoencoder" in lines[0]
    (given, folder, settings), *_ = seen
    assert (given, folder) == (clips, out / "codec-training")
    assert (settings.steps, settings.size, settings.fps, settings.fit) == (7, 16, 10.0, "crop")


def test_a_codec_that_is_not_there_is_named(
    clips: Path, tmp_path: Path, config: PrepareConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def download(*_: Any) -> str:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(InputError, match="'some/where' is neither a folder nor an autoencoder that the hub gives"):
        run(clips, tmp_path / "out", replace(config, codec="some/where"))
    with pytest.raises(InputError, match="not a codec"):
        run(clips, tmp_path / "out", replace(config, codec=str(clips)))
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(InputError, match="class UNet2DModel, which is no codec here: known are AutoencoderKL"):
        run(clips, tmp_path / "out", replace(config, codec=str(tmp_path / "unet")))
    assert not (tmp_path / "out").exists()


def test_a_diffusers_autoencoder_from_a_folder(clips: Path, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    vae = diffusers.AutoencoderKL(block_out_channels=[8, 8], norm_num_groups=4, latent_channels=3, **blocks)
    vae.save_pretrained(tmp_path / "vae")
    config = PrepareConfig(codec=str(tmp_path / "vae"), size=8, audio="none", posterior="sample", dtype="float32")
    index, _ = run(clips, tmp_path / "one", config)
    assert index["codec"]["video"]["kind"] == "AutoencoderKL"
    assert index["codec"]["video"]["factor"] == 2
    assert index["shape"] == {"channels": 3, "height": 4, "width": 4, "mel_bins": 0, "mel_steps": 0, "fps": 10.0}
    again, _ = run(clips, tmp_path / "two", config)
    assert again["statistics"] == index["statistics"]
    mean, _ = run(clips, tmp_path / "mean", replace(config, posterior="mean"))
    assert mean["statistics"] != index["statistics"]


# --- moments ---


def test_added_moments_are_those_of_all_values() -> None:
    values = torch.randn(1000, 3, dtype=torch.float64) * torch.tensor([1.0, 5.0, 1e-6]) + torch.tensor([1e4, -3.0, 2.0])
    parts = [Moments.of(part) for part in values.split([1, 9, 490, 500])]
    total = parts[0] + parts[1] + (parts[2] + parts[3])
    assert total.count == 1000
    np.testing.assert_allclose(total.mean, values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(total.std, values.std(0, correction=0), rtol=1e-9)
    np.testing.assert_allclose(total.scale, [1 / total.std[0], 1 / total.std[1], 1.0])
    again = Moments.from_dict(json.loads(json.dumps(total.to_dict())))
    assert np.array_equal(again.std, total.std)


# --- real clips ---


@needs_clips
def test_real_clips_with_audio(tmp_path: Path, config: PrepareConfig) -> None:
    config = replace(config, size=(32, 32), fit="letterbox", peak=0.95, channel="first")
    index, lines = run(CLIPS / "sound", tmp_path / "out", config)
    assert index["classes"] == ["dance", "landscape", "sea"]
    assert len(index["splits"]["train"]) == 4
    assert len(index["splits"]["test"]) == 1
    dataset = WindowDataset(tmp_path / "out", config=DataConfig(window=10))
    samples = [dataset.sample(n) for n in range(16)]
    video, audio = (torch.stack([sample[stream] for sample in samples]) for stream in ("video", "audio"))
    assert video.shape == (16, 10, 4, 4, 4)
    assert audio.shape == (16, 10, 1, 256, 10)
    assert 0.5 < video.std() < 2
    assert 0.5 < audio.std() < 2
    assert "4 train + 1 test clips" in lines[-1]


@needs_clips
def test_real_silent_clips(tmp_path: Path, config: PrepareConfig) -> None:
    index, lines = run(CLIPS / "silent", tmp_path / "out", replace(config, size=32, fps=6))
    assert len(index["classes"]) == 6
    assert index["timing"]["sample_rate"] == 0
    assert any("class boat" in line for line in lines)
    assert set(WindowDataset(tmp_path / "out", config=DataConfig(window=4)).sample(0)) == {
        "video",
        "label",
        "clip",
    }
