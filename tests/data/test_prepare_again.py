"""A preparation that is stopped, fails or runs again over a folder that has changed: nothing is lost, nothing twice."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from flowreel import cli
from flowreel.codec import Codec
from flowreel.codec.hifigan import HiFiGAN, VocoderConfig
from flowreel.codec.sinusoids import SinusoidalVocoder, SinusoidsConfig
from flowreel.config import AudioCodecConfig, CodecTrainConfig, DataConfig, PrepareConfig
from flowreel.data import encode, progress, shards, staging
from flowreel.data import prepare as prepare_module
from flowreel.data.dataset import WindowDataset
from flowreel.data.shards import ShardWriter, read_index
from flowreel.data.sources import digest_of_ends
from flowreel.errors import InputError
from flowreel.training import autoencoder as train_codec
from flowreel.training import checkpoint, logger
from flowreel.utils import reporting as report
from tests.data.test_prepare import clips, codec, config, run, stored, write_clip  # noqa: F401
from tests.kills import content, states


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the clips that are encoded, in order."""
    names: list[str] = []

    def iterate(path: Path, **settings: Any) -> Any:
        names.append(f"{path.parent.name}/{path.name}")
        yield from real(path, **settings)

    real = encode.iterate
    monkeypatch.setattr(encode, "iterate", iterate)
    return names


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard is full with two clips."""
    monkeypatch.setattr(prepare_module, "ShardWriter", lambda *a: ShardWriter(*a[:2], 100_000, a[3]))


# --- stopped and failed ---


@pytest.mark.usefixtures("small_shards")
def test_a_stopped_run_counts_as_unfinished_and_is_resumed(
    clips: Path,  # noqa: F811
    tmp_path: Path,
    config: PrepareConfig,  # noqa: F811
    encoded: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(clips, tmp_path / "whole", config)
    out = tmp_path / "out"
    encoded.clear()
    real = encode.Encoder.__call__

    def stopping(*arguments: Any) -> Any:
        if len(encoded) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(encode.Encoder, "__call__", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(clips, out, config)
    assert encoded == ["a/1.mkv", "a/2.mkv"]
    with pytest.raises(InputError, match="unfinished preparation"):
        WindowDataset(out)
    with pytest.raises(InputError, match=r"was being prepared with other settings[^$]*peak: was 0.0, now 0.5"):
        run(clips, out, replace(config, peak=0.5))
    encoded.clear()
    monkeypatch.setattr(encode.Encoder, "__call__", real)
    _, lines = run(clips, out, config)
    assert encoded == ["b/1.mkv", "b/9.mkv"]
    assert "2 of them encoded before" in lines[-1]
    assert content(out) == content(tmp_path / "whole")


class Failing:
    """Counts what writes to the disk, and lets the call with number ``at`` fail: as a full disk or as a crash does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]) -> None:
        self.calls, self.at, self.error = 0, -1, error
        for module, name in ((os, "fsync"), (os, "replace"), (os, "unlink"), (os, "mkdir"), (shards, "save_file")):
            monkeypatch.setattr(module, name, self._counted(getattr(module, name), name in ("fsync", "save_file")))

    def _counted(self, real: Any, nameless: bool) -> Any:
        def counted(*arguments: Any, **named: Any) -> Any:
            self.calls += 1
            if self.calls == self.at:
                raise self.error(errno.ENOSPC, "No space left on device", *([] if nameless else [str(arguments[0])]))
            return real(*arguments, **named)

        return counted


class CrashError(BaseException):
    """Like kill -9: no handler catches it."""


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("error", [OSError, CrashError])
def test_a_write_that_fails_at_any_step_loses_nothing(
    tmp_path: Path,
    config: PrepareConfig,  # noqa: F811
    encoded: list[str],
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
) -> None:
    folder = tmp_path / "clips"
    for name in ("train/1.mkv", "train/2.mkv", "train/3.mkv", "test/4.mkv"):
        write_clip(folder / name, seconds=0.4, seed=len(name))
    (folder / "train" / "0.mkv").write_bytes(b"no film")
    config = replace(config, audio="none")
    failing = Failing(monkeypatch, error)
    run(folder, tmp_path / "whole", config)
    whole, steps = content(tmp_path / "whole"), failing.calls
    assert steps > 30
    for step in range(1, steps + 1):
        out = tmp_path / f"out{step}"
        failing.calls, failing.at = 0, step
        encoded.clear()
        try:
            run(folder, out, config)  # clearing up at its end may fail without harm
            told = ""
        except OSError as caught:
            told = str(caught.filename)
        except CrashError:
            told = ""
        assert not told or str(out) in told
        failing.at = -1
        made = [record for _, _, records in shards.read_shards(out) for record in records]
        finished = {record.entry.path for record in (*made, *staging.StagingArea(out).clean_up())}
        if (out / "index.json").exists():
            assert content(out).items() >= whole.items()
        encoded.clear()
        run(folder, out, config)
        assert not {f"train/{Path(name).name}" for name in finished} & set(encoded)
        assert content(out) == whole, f"step {step}"
        shutil.rmtree(out)


def test_a_failing_disk_is_reported_with_the_file(
    clips: Path,  # noqa: F811
    tmp_path: Path,
    config: PrepareConfig,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from safetensors import SafetensorError

    def full(*_: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(shards, "save_file", full)
    with pytest.raises(OSError, match="No space left") as caught:
        run(clips, tmp_path / "out", config)
    assert caught.value.filename.startswith(str(tmp_path / "out" / ".parts" / "train"))
    assert caught.value.strerror == "can't be written: I/O error: No space left on device (os error 28)"


def stopped_before_packing(clips: Path, out: Path, config: PrepareConfig, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """A run of prepare that ends once all crops are staged, before they are in shards."""
    with monkeypatch.context() as patch:
        patch.setattr(staging.Packer, "finish", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(clips, out, config)


def test_a_damaged_staged_crop_is_encoded_again(
    clips: Path,  # noqa: F811
    tmp_path: Path,
    config: PrepareConfig,  # noqa: F811
    encoded: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    stopped_before_packing(clips, out, config, monkeypatch)
    first, second, *_ = sorted((out / ".parts" / "train").iterdir())
    first.write_bytes(first.read_bytes()[:100])
    second.with_name("1.safetensors.part").touch()
    encoded.clear()
    run(clips, out, config)
    assert len(encoded) == 1
    run(clips, tmp_path / "whole", config)
    assert content(out) == content(tmp_path / "whole")


def test_progress_has_rate_and_time_left(
    clips: Path,  # noqa: F811
    tmp_path: Path,
    config: PrepareConfig,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(report, "SECONDS", 0)
    monkeypatch.setattr(progress, "Clock", lambda: report.Clock(partial(next, count(step=0.5))))
    _, lines = run(clips, tmp_path / "out", replace(config, batch=4))
    assert lines[3].startswith("inspected 4 of 4 clips, ")
    told = [line for line in lines if line.endswith(" left")]
    assert len(told) == 2 + 3 + 3 + 3 + 4  # one for each chunk and each clip
    assert re.fullmatch(r"1 of 4 clips, \S+ clips/s, \d+ frames/s, \d+ s left", told[3])
    assert told[-1].startswith("4 of 4 clips")
    assert told[-1].endswith(", 0 s left")


# --- run again over a folder that has changed ---


def test_new_clips_get_new_shards(
    clips: Path,  # noqa: F811
    tmp_path: Path,
    config: PrepareConfig,  # noqa: F811
    encoded: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    run(clips, out, config)
    before, old = content(out), read_index(out).to_dict()
    write_clip(clips / "train" / "a" / "0.mkv", seconds=1.5, seed=9)
    write_clip(clips / "train" / "c" / "1.mkv", seed=10)
    write_clip(clips / "test" / "a" / "2.mkv", seed=11)
    encoded.clear()

    def stopped(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "finish", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(clips, out, config)
    assert encoded == ["a/0.mkv", "c/1.mkv", "a/2.mkv"]
    assert content(out).items() >= before.items()  # the folder of before is still whole
    assert len(WindowDataset(out, config=DataConfig(window=4))) == 3
    index, lines = run(clips, out, config)
    assert len(encoded) == 3
    assert "4 train" not in lines[-1]
    assert "5 train + 2 test clips" in lines[-1]
    assert index["classes"] == ["a", "b", "c"]
    assert [e["path"] for e in index["splits"]["train"][3:]] == ["train/a/0.mkv", "train/c/1.mkv"]
    assert {e["shard"] for e in index["splits"]["train"][3:]} == {"train-00001.safetensors"}
    for name in ("train-00000.safetensors", "test-00000.safetensors"):
        assert content(out)[name] == before[name]
    assert index["statistics"] != old["statistics"]
    fresh, _ = run(clips, tmp_path / "fresh", config)
    for stream, numbers in fresh["statistics"].items():
        assert index["statistics"][stream]["mean"] == pytest.approx(numbers["mean"], rel=1e-9)
        assert index["statistics"][stream]["std"] == pytest.approx(numbers["std"], rel=1e-9)
    by_path = {entry["path"]: entry for entry in fresh["splits"]["train"]}
    for entry in index["splits"]["train"]:
        mine, its = stored(out, entry), stored(tmp_path / "fresh", by_path[entry["path"]])
        assert all(torch.equal(mine[stream], its[stream]) for stream in its)
        assert entry["label"] == by_path[entry["path"]]["label"]
    assert "nothing to do" in run(clips, out, config)[1][-1]


def test_new_clips_that_are_finished_but_in_no_shard_are_not_forgotten(
    clips: Path,  # noqa: F811
    tmp_path: Path,
    config: PrepareConfig,  # noqa: F811
    encoded: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    run(clips, out, config)
    write_clip(clips / "train" / "a" / "3.mkv", seed=7)
    with monkeypatch.context() as patch:
        patch.setattr(staging.Packer, "finish", _crash)
        with pytest.raises(CrashError):
            run(clips, out, config)
    assert encoded.count("a/3.mkv") == 1
    index, lines = run(clips, out, config)
    assert not any("nothing to do" in line for line in lines)
    assert "train/a/3.mkv" in {entry["path"] for entry in index["splits"]["train"]}
    assert encoded.count("a/3.mkv") == 1
    _, lines = run(clips, out, config)
    assert "nothing to do" in lines[-1]


def _crash(*_: Any) -> None:
    raise CrashError


def test_a_repaired_clip_is_encoded_then(
    clips: Path,  # noqa: F811
    tmp_path: Path,
    config: PrepareConfig,  # noqa: F811
    encoded: list[str],
) -> None:
    out = tmp_path / "out"
    broken = write_clip(clips / "train" / "b" / "0.mp4", seconds=4)
    whole = broken.read_bytes()
    broken.write_bytes(b"")
    index, lines = run(clips, out, config)
    assert [entry["path"] for entry in index["skipped"]] == ["train/b/0.mp4"]
    assert any("skipped 1 of 5 clips: 1 is empty" in line for line in lines)
    encoded.clear()
    again, lines = run(clips, out, config)
    assert again == index
    assert "nothing to do" in lines[-1]
    broken.write_bytes(whole)
    index, _ = run(clips, out, config)
    assert encoded == ["b/0.mp4"]
    assert index["skipped"] == []
    assert index["splits"]["train"][-1]["path"] == "train/b/0.mp4"


def replaced(path: Path, place: int, later: int = 10**9) -> None:
    """Change one byte of a clip, and the time of its change."""
    content, status = bytearray(path.read_bytes()), path.stat()
    content[place] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + later))


@pytest.mark.parametrize("place", [50_000, -1])
def test_a_clip_of_the_same_size_that_was_replaced_is_refused(
    clips: Path,  # noqa: F811
    tmp_path: Path,
    config: PrepareConfig,  # noqa: F811
    place: int,
) -> None:
    out = tmp_path / "out"
    run(clips, out, config)
    before = content(out)
    replaced(clips / "train" / "a" / "2.mkv", place)
    with pytest.raises(InputError, match=r"1 clip\(s\) changed: train/a/2.mkv"):
        run(clips, out, config)
    assert content(out) == before


def test_a_copied_folder_is_resumed(
    clips: Path,  # noqa: F811
    tmp_path: Path,
    config: PrepareConfig,  # noqa: F811
    encoded: list[str],
) -> None:
    out, copy = tmp_path / "out", tmp_path / "copy"
    run(clips, out, config)
    shutil.copytree(clips, copy, copy_function=shutil.copyfile)
    for path in copy.rglob("*.mkv"):
        os.utime(path, ns=(10**18, 10**18))
    assert "nothing to do" in run(copy, out, config)[1][-1]
    write_clip(copy / "train" / "a" / "3.mkv", seed=8)
    encoded.clear()
    index, _ = run(copy, out, config)
    assert encoded == ["a/3.mkv"]
    assert len(index["splits"]["train"]) == 4
    (copy / "train" / "a" / "3.mkv").unlink()
    (copy / "train" / "a" / "3.mkv").symlink_to(tmp_path / "unmounted")
    with pytest.raises(InputError, match=r"1 clip\(s\) gone: train/a/3.mkv"):
        run(copy, out, config)


def test_a_staged_crop_of_a_replaced_clip_is_encoded_again(
    clips: Path,  # noqa: F811
    tmp_path: Path,
    config: PrepareConfig,  # noqa: F811
    encoded: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    stopped_before_packing(clips, out, config, monkeypatch)
    replaced(clips / "train" / "a" / "1.mkv", -1)
    os.utime(clips / "train" / "a" / "2.mkv", ns=(10**18, 10**18))  # touched, that is all
    encoded.clear()
    run(clips, out, config)
    assert encoded == ["a/1.mkv"]
    assert not (out / ".parts").exists()


def test_clips_of_older_folders_are_compared_by_their_size(
    clips: Path,  # noqa: F811
    tmp_path: Path,
    config: PrepareConfig,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, real = tmp_path / "out", encode.Encoder.__call__

    def older(*arguments: Any) -> Any:
        record, tensors = real(*arguments)
        return replace(record, modified=None, digest=None), tensors

    with monkeypatch.context() as patch:
        patch.setattr(encode.Encoder, "__call__", older)
        run(clips, out, config)
    replaced(clips / "train" / "a" / "2.mkv", -1)
    _, lines = run(clips, out, config)
    assert "4 clips were prepared by an older version: only their size can tell whether they have changed" in lines
    assert "nothing to do" in lines[-1]
    longer = clips / "train" / "a" / "2.mkv"
    longer.write_bytes(longer.read_bytes() + b"\0")
    with pytest.raises(InputError, match=r"1 clip\(s\) changed: train/a/2.mkv"):
        run(clips, out, config)


@pytest.mark.parametrize("size", [0, 1, 1000, 65_536, 100_000, 131_072, 300_000])
def test_a_digest_knows_the_ends_of_a_file(tmp_path: Path, size: int) -> None:
    path, end = tmp_path / "file", 65_536
    whole = np.random.default_rng(size).bytes(size)
    path.write_bytes(whole)
    digest = digest_of_ends(path)
    for place in {0, min(size, end) - 1, max(0, size - end), size - 1} if size else ():
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert digest_of_ends(path) != digest, place


def test_the_fitted_codec_is_kept_when_clips_are_added(
    clips: Path,  # noqa: F811
    tmp_path: Path,
    codec: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fits: list[Path] = []

    def fit(clips: Path, out: Path, config: Any, *_: Any) -> Path:
        fits.append(clips)
        shutil.copytree(codec, out)
        checkpoint.save(out, checkpoint.Checkpoint(config.steps, {}, {}, {}), 1)
        checkpoint.mark_exported(out, config.steps)
        return out

    monkeypatch.setattr(train_codec, "train_codec", fit)
    config = PrepareConfig(size=(16, 24), codec_steps=7)  # noqa: F811
    run(clips, tmp_path / "out", config)
    write_clip(clips / "train" / "a" / "3.mkv", seed=5)
    index, _ = run(clips, tmp_path / "out", config)
    assert len(fits) == 1
    assert len(index["splits"]["train"]) == 4
    weights = tmp_path / "out" / "codec-training" / "autoencoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    write_clip(clips / "train" / "a" / "4.mkv", seed=5)
    with pytest.raises(InputError, match="started with another codec"):
        run(clips, tmp_path / "out", config)


# --- killed or stopped while it fits a codec ---


@pytest.fixture
def two_steps(clips: Path, monkeypatch: pytest.MonkeyPatch) -> PrepareConfig:  # noqa: F811
    """Settings of a preparation that fits a codec in two steps, each of them saved, validated and previewed. No clock
    moves, since files hold seconds."""
    shutil.rmtree(clips / "train" / "b")
    small = partial(CodecTrainConfig, save=1, preview=1, validate=1, keep=1, width=8, channels=4, frames=4, batch=2)
    monkeypatch.setattr(train_codec, "CodecTrainConfig", small)
    monkeypatch.setattr(logger, "time", SimpleNamespace(monotonic=lambda: 0.0))
    return PrepareConfig(size=16, codec_steps=2, audio="none")


@pytest.mark.usefixtures("plain_curves")
def test_killed_while_it_fits_a_codec_ends_as_a_run_that_was_not(
    clips: Path,  # noqa: F811
    tmp_path: Path,
    two_steps: PrepareConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    fitted = RuntimeError("the codec is fitted")

    def fitting() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(prepare_module, "stamp_of", Mock(side_effect=fitted))
            with pytest.raises(RuntimeError, match="fitted"):
                run(clips, out, two_steps)

    found = states(out, tmp_path / "states", fitting)
    run(clips, out, two_steps)
    whole = content(out)
    names = {"loss.csv", "loss.png", "validation.csv", "previews/1/reconstruction.png", "previews/2/reconstruction.png"}
    assert {f"codec-training/{name}" for name in names} < whole.keys()
    assert len(found) > 60
    saved = [k for k, state in enumerate(found) if (state / "codec-training" / "training" / "2").exists()]
    for state in found[: saved[0] : 4] + found[saved[0] :]:  # all after the last checkpoint, the others now and then
        shutil.rmtree(out)
        if state.exists():
            state.rename(out)
        run(clips, out, two_steps)
        assert content(out) == whole, state


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_signal_during_the_fit_of_a_codec_saves_and_ends(
    clips: Path,  # noqa: F811
    tmp_path: Path,
    two_steps: PrepareConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
) -> None:
    def told(*arguments: Any) -> Any:
        os.kill(os.getpid(), number)
        return losses(*arguments)

    losses = train_codec.reconstruction_losses
    out = tmp_path / "out"
    command = ["prepare", str(clips), str(out), "--size", "16", "--codec_steps", "2", "--audio", "none"]
    with monkeypatch.context() as patch:
        patch.setattr(train_codec, "reconstruction_losses", told)
        assert cli.main(command) == 130
    said = capsys.readouterr()
    training = out / "codec-training"
    assert f"stopped after step 1 of 2, saved in {training}: the same command resumes from there" in said.out
    assert "Traceback" not in said.err
    assert checkpoint.steps(training) == [1]
    assert {path.name for path in out.iterdir()} == {"codec-training"}
    assert cli.main(command) == 0
    run(clips, tmp_path / "whole", two_steps)
    weights = Path("autoencoder", "model.safetensors")
    assert (training / weights).read_bytes() == (tmp_path / "whole" / "codec-training" / weights).read_bytes()


# --- vocoder, pipelines ---


def test_a_vocoder_is_kept_beside_the_latents(
    clips: Path,  # noqa: F811
    tmp_path: Path,
    config: PrepareConfig,  # noqa: F811
    encoded: list[str],
) -> None:
    def vocoder(mels: int, name: str) -> str:
        HiFiGAN(VocoderConfig(mels, 8, (8, 20), (16, 40), (3,), ((1,),))).save(tmp_path / name)
        return str(tmp_path / name)

    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"takes 80 mel bins with hop 160, but the log-mel has 256"):
        run(clips, out, replace(config, vocoder=vocoder(80, "narrow")))
    with pytest.raises(InputError, match="leave --vocoder out"):
        run(clips, out, replace(config, audio="none", vocoder=vocoder(256, "wide")))
    run(clips, out, config)
    encoded.clear()
    index, _ = run(clips, out, replace(config, vocoder=str(tmp_path / "wide")))  # it can come later
    assert encoded == []
    assert index["codec"]["audio"]["vocoder"] == "hifigan"
    assert isinstance(Codec.load(out / "codec").vocoder, HiFiGAN)
    other, _ = run(clips, tmp_path / "other", replace(config, codec=str(out)))  # with the codec of a prepared folder
    assert other["codec"]["audio"]["vocoder"] == "hifigan"
    assert other["statistics"] == index["statistics"]
    SinusoidalVocoder(SinusoidsConfig(width=8)).save(tmp_path / "waves")
    index, _ = run(clips, out, replace(config, vocoder=str(tmp_path / "waves")))  # and another instead
    assert index["codec"]["audio"]["vocoder"] == "sinusoids"
    assert isinstance(Codec.load(out / "codec").vocoder, SinusoidalVocoder)
    assert AudioCodecConfig().vocoder == ""


@pytest.fixture(autouse=True)
def _no_leftovers(tmp_path: Path) -> Iterator[None]:
    """A complete folder has no temporary files."""
    yield
    for index in tmp_path.glob("*/index.json"):
        assert not list(index.parent.rglob("*.part"))
        assert not list(index.parent.rglob(".tmp-*"))
