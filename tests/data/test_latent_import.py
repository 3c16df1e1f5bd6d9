"""The two published systems' latent stores: what their values become, what is refused, how an import is resumed."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from flowreel.codec import Codec, mel
from flowreel.codec.hifigan import HiFiGAN, VocoderConfig
from flowreel.config import DataConfig, MelConfig, PrepareConfig
from flowreel.data import latent_import
from flowreel.data.dataset import WindowDataset
from flowreel.data.latent_import import import_latents, is_store
from flowreel.errors import InputError, MissingExtraError
from flowreel.utils.tensors import load_pickle_bytes
from tests.conftest import GOLDEN, close

STORES = GOLDEN / "legacy_latents"
SCALE = 0.18215
EXACT = PrepareConfig(dtype="float32")

lmdb = pytest.importorskip("lmdb")


def imported(store: Path, out: Path, config: PrepareConfig, report: Callable[[str], object]) -> dict[str, Any]:
    """Import a store, and read the index."""
    import_latents(store, out, config, report)
    return json.loads((out / "index.json").read_text(encoding="utf-8"))


def packed(payload: Any) -> bytes:
    data = io.BytesIO()
    torch.save(payload, data)
    return data.getvalue()


def clip(value: float = 0.0, frames: int = 4, **values: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(int(value))
    return {"z": torch.randn(frames, 4, 2, 2, generator=generator).half() + value, "label_id": 0, **values}


def make_lmdb(folder: Path, values: Iterable[bytes], about: dict[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=2**26) as environment, environment.begin(write=True) as transaction:
        for number, value in enumerate(values):
            transaction.put(f"{number:09d}".encode(), value)
        transaction.put(b"__len__", b"1")
        if about is not None:
            transaction.put(b"__metadata__", json.dumps(about).encode())
    return folder


def make_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))
    return path


def make_pt(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def stored(out: Path) -> dict[str, Tensor]:
    return {k: v for path in sorted(out.glob("*.safetensors")) for k, v in load_file(path).items()}


def paths(index: dict[str, Any], split: str = "train") -> list[str]:
    return [entry["path"] for entry in index["splits"][split]]


# --- what the numbers become ---


def test_lmdb_of_generativeflow(tmp_path: Path) -> None:
    index = imported(STORES / "train.lmdb", tmp_path / "out", EXACT, str)
    assert index["classes"] == ["droid", "tools"]
    assert paths(index) == ["droid/0.mp4", "tools/1.mp4", "droid/2.mp4"]
    assert [entry["label"] for entry in index["splits"]["train"]] == [0, 1, 0]
    assert index["timing"] == {"fps": 10.0, "sample_rate": 0, "hop": 0}
    assert index["codec"]["video"]["source"] == "stabilityai/sd-vae-ft-ema"
    assert index["codec"]["audio"] is None
    assert index["skipped"] == []
    with lmdb.open(str(STORES / "train.lmdb"), readonly=True, lock=False) as environment, environment.begin() as read:
        z = torch.stack([load_pickle_bytes(read.get(f"{n:09d}".encode()), "z")["z"].float() for n in range(3)])
    check_video(tmp_path / "out", z)


def test_tar_shards_of_generativeflow(tmp_path: Path) -> None:
    index = imported(STORES / "shards", tmp_path / "out", EXACT, str)
    assert paths(index) == ["c0", "c1"]
    assert index["classes"] == ["droid", "tools"]
    with tarfile.open(STORES / "shards" / "000000.tar") as tar:
        z = torch.stack([load_pickle_bytes(tar.extractfile(m).read(), "z")["z"].float() for m in tar])  # type: ignore[union-attr]
    check_video(tmp_path / "out", z)


def test_folder_of_rflav(tmp_path: Path) -> None:
    said: list[str] = []
    index = imported(STORES / "rflav_latents", tmp_path / "out", EXACT, said.append)
    assert said[0] == "the store's audio has 32 mel bins, not 256: mel.bins 32 is used"
    assert len(said) == 2
    assert paths(index) == ["train/0.pt", "train/1.pt"]
    assert index["classes"] == ["0", "1"]
    assert index["timing"] == {"fps": 10.0, "sample_rate": 16000, "hop": 160}
    assert index["codec"]["video"]["fit"] == "letterbox"
    assert index["codec"]["audio"]["peak"] == 0.95
    assert index["codec"]["audio"]["channel"] == "first"
    given = [torch.load(STORES / "rflav_latents" / "train" / f"{n}.pt", weights_only=True) for n in range(2)]
    check_video(tmp_path / "out", torch.stack([clip["video"] for clip in given]))
    audio = torch.stack([clip["audio"] for clip in given])  # (B, 1, M, T * F)
    settings = MelConfig(bins=32)
    frame = stored(tmp_path / "out")["1.audio"][2]  # (1, M, F)
    close(frame, mel.from_unit(audio[1, :, :, 20:30], settings))
    data = WindowDataset(tmp_path / "out", config=DataConfig(window=4))
    for sample in (data[0], data[1]):
        want = (audio[sample["clip"], 0] - audio.mean()) / audio.std(correction=0)
        close(sample["audio"], want.unflatten(1, (4, 10)).permute(1, 0, 2)[:, None], 1e-4)
    codec = Codec.load(tmp_path / "out" / "codec")
    assert codec.config.audio is not None
    assert codec.config.audio.mel.bins == 32


def check_video(out: Path, z: Tensor) -> None:
    """z (B, T, C, h, w) as it was in the store: divided by its scale there, and of unit variance in the dataset."""
    tensors = stored(out)
    for number, one in enumerate(z):
        close(tensors[f"{number}.video"], one / SCALE)
    data = WindowDataset(out, config=DataConfig(window=z.shape[1]))
    mean, std = (f(z.movedim(2, 0).flatten(1), 1)[:, None, None] for f in (torch.mean, lambda x, d: x.std(d, False)))
    for position in range(len(data)):
        sample = data[position]
        close(sample["video"], (z[sample["clip"]] - mean) / std, 1e-4)


def test_default_is_half_precision(tmp_path: Path) -> None:
    imported(STORES / "shards", tmp_path / "out", PrepareConfig(), str)
    assert {tensor.dtype for tensor in stored(tmp_path / "out").values()} == {torch.float16}


def test_audio_can_be_left_out(tmp_path: Path) -> None:
    index = imported(STORES / "rflav_latents", tmp_path / "out", PrepareConfig(audio="none"), str)
    assert index["codec"]["audio"] is None
    assert all(name.endswith(".video") for name in stored(tmp_path / "out"))


def test_frame_rate_and_autoencoder_that_the_lmdb_names(tmp_path: Path) -> None:
    about = {"fps": 24, "vae": "stabilityai/sd-vae-ft-mse", "classes": ["cat", "dog"]}
    store = make_lmdb(tmp_path / "a.lmdb", [packed(clip(n, label_id=n)) for n in (0, 1)], about)
    index = imported(store, tmp_path / "out", PrepareConfig(fps=12), str)
    assert index["timing"]["fps"] == 24
    assert index["codec"]["video"]["source"] == "stabilityai/sd-vae-ft-mse"
    assert index["classes"] == ["cat", "dog"]
    assert imported(STORES / "shards", tmp_path / "other", PrepareConfig(fps=12), str)["timing"]["fps"] == 12


def test_thirty_two_channels_are_those_of_the_deep_autoencoder(tmp_path: Path) -> None:
    make_pt(tmp_path / "in" / "a.pt", packed({"video": torch.randn(2, 32, 2, 2), "y": torch.tensor(3)}))
    index = imported(tmp_path / "in", tmp_path / "out", EXACT, str)
    assert index["codec"]["video"]["kind"] == "AutoencoderDC"
    assert index["classes"] == ["3"]


@pytest.mark.parametrize(
    ("values", "classes", "label"),
    [
        ({"label_id": 1, "label": "b"}, ["b"], 0),
        ({"label_id": 7}, ["7"], 0),
        ({"y": -1}, [], 0),
        ({"y": torch.tensor([2])}, ["2"], 0),
        ({}, [], 0),
    ],
)
def test_classes(tmp_path: Path, values: dict[str, Any], classes: list[str], label: int) -> None:
    payload = {"z": clip()["z"], **values}
    make_tar(tmp_path / "in" / "0.tar", [("x.pt", packed(payload))])
    index = imported(tmp_path / "in", tmp_path / "out", EXACT, str)
    assert index["classes"] == classes
    assert index["splits"]["train"][0]["label"] == label


@pytest.mark.parametrize("second", ["test", "val"])
@pytest.mark.parametrize("suffix", ["", ".lmdb"])
def test_both_splits_of_an_lmdb(tmp_path: Path, second: str, suffix: str) -> None:
    for name, value in (("train", 1), (second, 2)):
        make_lmdb(tmp_path / "in" / f"{name}{suffix}", [packed(clip(value, clip_relpath="a/0.mp4", label="a"))])
    assert is_store(tmp_path / "in")
    index = imported(tmp_path / "in", tmp_path / "out", EXACT, str)
    assert paths(index) == ["train/a/0.mp4"]
    assert paths(index, "test") == ["test/a/0.mp4"]
    assert [index["splits"][split][0]["label"] for split in ("train", "test")] == [0, 0]


def test_both_splits_of_shards_and_of_rflav(tmp_path: Path) -> None:
    for split, value in (("train", 1), ("test", 2)):
        make_tar(tmp_path / "tars" / split / "0.tar", [("x.pt", packed(clip(value)))])
        make_pt(tmp_path / "files" / split / "deep" / "x.pt", packed(clip(value)))
    for kind, name in (("tars", "x.pt"), ("files", "deep/x.pt")):
        assert is_store(tmp_path / kind)
        index = imported(tmp_path / kind, tmp_path / f"{kind}-out", EXACT, str)
        assert (paths(index), paths(index, "test")) == ([f"train/{name}"], [f"test/{name}"])


def test_entries_of_one_clip_become_numbered_crops(tmp_path: Path) -> None:
    members = [("a.pt", packed(clip(n, clip_relpath="a/0.mp4", label="a"))) for n in range(3)]
    members.insert(1, ("b.pt", packed(clip(9, clip_relpath="a/1.mp4", label="a"))))
    make_tar(tmp_path / "in" / "0.tar", members)
    entries = imported(tmp_path / "in", tmp_path / "out", EXACT, str)["splits"]["train"]
    assert [(entry["path"], entry["crop"]) for entry in entries] == [
        ("a/0.mp4", 0),
        ("a/1.mp4", 0),
        ("a/0.mp4", 1),
        ("a/0.mp4", 2),
    ]


# --- what is refused ---


class Malicious:
    """What runs a command when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("kind", ["lmdb", "tar", "pt"])
@pytest.mark.parametrize("hidden", [False, True])
def test_pickles_are_not_executed(tmp_path: Path, kind: str, hidden: bool) -> None:
    target = tmp_path / "executed"
    bad = packed(clip(1, extra=Malicious(target)) if hidden else Malicious(target))
    good, store = packed(clip()), tmp_path / "in"
    if kind == "lmdb":
        make_lmdb(store, [good, bad])
    elif kind == "tar":
        make_tar(store / "0.tar", [("good.pt", good), ("bad.pt", bad)])
    else:
        make_pt(store / "a.pt", good)
        make_pt(store / "b.pt", bad)
    said: list[str] = []
    index = imported(store, tmp_path / "out", EXACT, said.append)
    assert not target.exists()
    assert len(index["splits"]["train"]) == 1
    (skipped,) = index["skipped"]
    assert "holds more than plain values and was not read" in skipped["reason"]
    assert any(line.startswith(f"skipped {skipped['path']}: ") for line in said)


def test_members_that_escape_are_harmless(tmp_path: Path) -> None:
    shard = make_tar(
        tmp_path / "in" / "0.tar",
        [("../../escaped.pt", packed(clip(0))), ("/tmp/escaped-flowreel.pt", packed(clip(1))), ("note.txt", b"no")],
    )
    with tarfile.open(shard, "a") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            about = tarfile.TarInfo(f"odd{kind.decode()}.pt")
            about.type, about.linkname = kind, "/etc/passwd"
            tar.addfile(about)
    index = imported(tmp_path / "in", tmp_path / "out", EXACT, str)
    assert len(index["splits"]["train"]) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}
    assert not Path("/tmp/escaped-flowreel.pt").exists()


def damaged() -> dict[str, tuple[bytes, str]]:
    whole = packed(clip())
    flipped = bytearray(whole)
    flipped[len(whole) // 4] ^= 255
    sound = {"video": torch.zeros(4, 4, 2, 2), "audio": torch.zeros(1, 32, 41), "y": 0}
    huge = clip() | {"z": torch.zeros(1, dtype=torch.float16).expand(10**9, 4, 200, 200)}
    return {
        "cut": (whole[:-100], "not a readable torch checkpoint"),
        "empty": (b"", "not a readable torch checkpoint"),
        "text": (b"no latents", "not a readable torch checkpoint|more than plain values"),
        "list": (packed([1]), "it holds a list"),
        "none": (packed({"label_id": 0}), "it has no tensor 'video'"),
        "integers": (packed(clip() | {"z": torch.zeros(4, 4, 2, 2, dtype=torch.int64)}), "no tensor 'z' of floating"),
        "flat": (packed(clip() | {"z": torch.zeros(4, 4)}), r"the shape \(4, 4\), not \(T, C, h, w\)"),
        "no frames": (packed(clip() | {"z": torch.zeros(0, 4, 2, 2)}), "not \\(T, C, h, w\\)"),
        "infinite": (packed(clip() | {"z": torch.full((4, 4, 2, 2), torch.inf)}), "not finite in float32"),
        "other size": (packed(clip() | {"z": torch.zeros(4, 4, 3, 3)}), "those of the first entry"),
        "sound": (packed(sound), r"\(1, 32, 41\), not \(1, M, T\*F\) with 4 frames"),
        "huge": (packed(huge), "is incomplete"),
        "class": (packed(clip() | {"label_id": 0.5}), "its class is 0.5"),
        "clash": (packed(clip(clip_id="good", label="b")), "its class b is not that of an entry of the same clip, a"),
    }


@pytest.mark.parametrize("what", damaged())
def test_damaged_entries_are_skipped_with_their_reason(tmp_path: Path, what: str) -> None:
    data, reason = damaged()[what]
    good = packed(clip(3, clip_id="good", label="a"))
    make_tar(tmp_path / "in" / "0.tar", [("good.pt", good), ("bad.pt", data)])
    index = imported(tmp_path / "in", tmp_path / "out", EXACT, str)
    assert paths(index) == ["good"]
    (skipped,) = index["skipped"]
    assert skipped["path"] == "0.tar:bad.pt"
    assert re.search(reason, skipped["reason"]), skipped["reason"]


def test_a_flipped_byte_never_ends_the_import(tmp_path: Path) -> None:
    whole = packed(clip(1))
    values = [packed(clip())]
    for place in range(0, len(whole), len(whole) // 60):
        data = bytearray(whole)
        data[place] ^= 0x5A
        values.append(bytes(data))
    index = imported(make_lmdb(tmp_path / "in", values), tmp_path / "out", EXACT, str)
    assert len(index["splits"]["train"]) + len(index["skipped"]) == len(values)


@pytest.mark.parametrize("damage", ["cut", "header", "garbage"])
def test_damaged_shards_are_read_as_far_as_they_go(tmp_path: Path, damage: str) -> None:
    shard = make_tar(tmp_path / "in" / "0.tar", [(f"{n}.pt", packed(clip(n))) for n in range(3)])
    make_tar(tmp_path / "in" / "1.tar", [("9.pt", packed(clip(9)))])
    data = bytearray(shard.read_bytes())
    with tarfile.open(shard) as tar:
        third = tar.getmembers()[2]
    if damage == "cut":
        del data[third.offset_data + 100 :]
    else:
        data[third.offset : third.offset + 512] = b"x" * 512 if damage == "garbage" else bytes(100) + b"y" * 412
    shard.write_bytes(data)
    index = imported(tmp_path / "in", tmp_path / "out", EXACT, str)
    assert paths(index) == ["0.pt", "1.pt", "9.pt"]
    assert index["skipped"][-1]["path"] == "0.tar"
    assert "the rest can't be read" in index["skipped"][-1]["reason"]


def test_lmdb_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    store = make_lmdb(tmp_path / "in", [packed(clip(n)) for n in range(20)])
    data = (store / "data.mdb").read_bytes()
    (store / "data.mdb").write_bytes(data[: 3 * 4096])
    with pytest.raises(InputError, match=r"was cut short: it has \d+ of \d+ bytes"):
        imported(store, tmp_path / "out", EXACT, str)
    (store / "data.mdb").write_bytes(b"no lmdb" * 2000)
    with pytest.raises(InputError, match="is not a readable LMDB"):
        imported(store, tmp_path / "out2", EXACT, str)


@pytest.mark.parametrize(
    ("store", "config", "message"),
    [
        ("rflav_latents", PrepareConfig(fps=20), "10 frames a second, not 20: give --fps 10"),
        ("rflav_latents", PrepareConfig(mel=MelConfig(hop=80)), "give --fps 20"),
        ("shards", PrepareConfig(codec="mit-han-lab/dc-ae-f32c32-sana-1.0-diffusers"), "4 channels, those of .* 32"),
    ],
)
def test_settings_that_do_not_fit_the_store(tmp_path: Path, store: str, config: PrepareConfig, message: str) -> None:
    with pytest.raises(InputError, match=message):
        imported(STORES / store, tmp_path / "out", config, str)
    assert not (tmp_path / "out" / "index.json").exists()


def test_autoencoder_that_nobody_named(tmp_path: Path) -> None:
    make_pt(tmp_path / "in" / "a.pt", packed({"video": torch.randn(2, 5, 2, 2), "y": 0}))
    with pytest.raises(InputError, match=r"no published autoencoder has 5 channels: .* --codec"):
        imported(tmp_path / "in", tmp_path / "out", EXACT, str)


def test_nothing_usable_and_only_test(tmp_path: Path) -> None:
    make_pt(tmp_path / "in" / "train" / "a.pt", b"")
    with pytest.raises(InputError, match=r"no latents for training .* could be used"):
        imported(tmp_path / "in", tmp_path / "out", EXACT, str)
    (tmp_path / "in" / "train").rename(tmp_path / "in" / "test")
    with pytest.raises(InputError, match="has no latents for training"):
        imported(tmp_path / "in", tmp_path / "out", EXACT, str)


def test_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    assert is_store(STORES / "train.lmdb")
    with pytest.raises(MissingExtraError, match=r"flowreel\[legacy\]"):
        imported(STORES / "train.lmdb", tmp_path / "out", EXACT, str)


# --- which folder is a store ---


def test_what_is_a_store(tmp_path: Path) -> None:
    for name in ("train.lmdb", "shards", "rflav_latents"):
        assert is_store(STORES / name)
    (tmp_path / "empty").mkdir()
    make_pt(tmp_path / "clips" / "a" / "0.mp4", b"")
    make_pt(tmp_path / "clips" / "weights.pt", b"")
    make_pt(tmp_path / "archive" / "clips.tar", b"")
    make_pt(tmp_path / "archive" / "train" / "0.MP4", b"")
    make_pt(tmp_path / "deep" / "some" / "where" / "0.pt", b"")
    for name in ("empty", "clips", "archive", "deep", "nowhere"):
        assert not is_store(tmp_path / name), name
    assert not is_store(STORES / "train.lmdb" / "data.mdb")


# --- resuming ---


def big_store(folder: Path, count: int = 5) -> Path:
    """Each clip is half of a shard of 1 MiB."""
    members = []
    for n in range(count):
        z = torch.randn(64, 4, 32, 32, generator=torch.Generator().manual_seed(n)).half()
        members.append(("same.pt", packed({"z": z, "label_id": n % 2, "clip_id": "same" if n % 2 == 0 else f"c{n}"})))
    members.insert(1, ("bad.pt", b""))
    make_tar(folder / "0.tar", members[:3])
    make_tar(folder / "1.tar", members[3:])
    return folder


def test_an_interrupted_import_resumes_to_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, config = big_store(tmp_path / "in"), PrepareConfig(shard_mb=1)
    whole = imported(store, tmp_path / "whole", config, str)
    read: list[str] = []
    load = load_pickle_bytes

    def stopping(data: bytes, name: str) -> Any:
        read.append(name)
        if len(read) == 5:
            raise KeyboardInterrupt
        return load(data, name)

    monkeypatch.setattr(latent_import, "load_pickle_bytes", stopping)
    with pytest.raises(KeyboardInterrupt):
        imported(store, tmp_path / "out", config, str)
    assert not (tmp_path / "out" / "index.json").exists()
    with pytest.raises(InputError, match="unfinished"):
        WindowDataset(tmp_path / "out")
    finished = len(list((tmp_path / "out").glob("train-*.safetensors")))
    assert finished >= 1
    before = len(read)
    assert imported(store, tmp_path / "out", config, str) == whole
    assert len(read) - before < 6
    for path in sorted((tmp_path / "whole").rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "out" / path.relative_to(tmp_path / "whole")).read_bytes(), path
    assert len(whole["splits"]["train"]) == 5
    assert len(whole["skipped"]) == 1


def test_complete_folder_is_left_alone_and_other_settings_are_refused(tmp_path: Path) -> None:
    store, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(STORES / "shards", store)
    imported(store, out, EXACT, str)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    said: list[str] = []
    imported(store, out, EXACT, said.append)
    assert said == [f"{out} is complete: 2 train clips, 12 frames, 1.2 s; nothing to do"]
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(InputError, match=r"was prepared with other settings:\n  settings\.fps: was 10\.0, now 5"):
        imported(store, out, PrepareConfig(dtype="float32", fps=5), str)
    make_tar(store / "1.tar", [("x.pt", packed(clip()))])
    with pytest.raises(InputError, match=r"clips\.1\.tar: was not there"):
        imported(store, out, EXACT, str)
    (out / "preparation.json").unlink()
    with pytest.raises(InputError, match=r"no preparation\.json"):
        imported(store, out, EXACT, str)


def small_vocoder(bins: int) -> HiFiGAN:
    return HiFiGAN(VocoderConfig(bins, 8, (8, 20), (16, 40), (3,), ((1,),)))


def test_a_vocoder_can_be_added_to_existing_latents(tmp_path: Path) -> None:
    sound = torch.rand(1, 16, 40) * 2 - 1
    make_pt(tmp_path / "in" / "a.pt", packed({"video": torch.randn(4, 4, 2, 2), "audio": sound, "y": 0}))
    config = PrepareConfig(mel=MelConfig(bins=16))
    first = imported(tmp_path / "in", tmp_path / "out", config, str)
    assert first["codec"]["audio"]["vocoder"] == ""
    folder = tmp_path / "vocoder"
    small_vocoder(16).save(folder)
    second = imported(tmp_path / "in", tmp_path / "out", replace(config, vocoder=str(folder)), str)
    assert second["splits"] == first["splits"]
    codec = Codec.load(tmp_path / "out" / "codec")
    assert codec.vocoder.config.num_mels == 16
    small_vocoder(8).save(folder)
    with pytest.raises(InputError, match="takes 8 mel bins with hop 160, but the log-mel has 16"):
        imported(tmp_path / "in", tmp_path / "out", replace(config, vocoder=str(folder)), str)
