"""Many samples into a folder: the same whoever makes them in whatever batches, and made once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flowreel.config import GenerateConfig
from flowreel.errors import InputError
from flowreel.flow.noise import SampleNoise
from flowreel.flow.types import Latents
from flowreel.media import Clip
from flowreel.pipeline.generate import generate
from flowreel.pipeline.outputs import NOTE, all_jobs
from flowreel.pipeline.pipeline import Pipeline
from flowreel.pipeline.stream import GenerationStream
from tests.conftest import tiny_pipeline

COUNT = 7


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return tiny_pipeline(sound=False, depth=1, window=4)


@pytest.fixture(scope="module")
def sounding() -> Pipeline:
    return tiny_pipeline(depth=1, window=4)


def many(out: Path, **changes: Any) -> GenerateConfig:
    return replace(GenerateConfig(out=str(out), count=COUNT, seconds=0.4, seed=4), **changes)


@pytest.fixture
def as_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    def become(rank: int, world: int) -> None:
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(world))
        monkeypatch.setenv("LOCAL_RANK", str(rank))

    return become


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def same_clips(one: Path, other: Path) -> None:
    assert names(one) == names(other)
    for name in names(one):
        if name.endswith(".mp4"):
            a, b = Clip.read(one / name), Clip.read(other / name)
            assert a.frames.shape == b.frames.shape
            assert np.abs(a.frames.astype(int) - b.frames).max() <= 6, name  # a rounding step, through H.264
            assert (a.audio is None) == (b.audio is None)
            if a.audio is not None and b.audio is not None:  # Griffin-Lim's phases make rounding larger
                assert np.corrcoef(spectrum(a.audio), spectrum(b.audio))[0, 1] > 0.95, name


def spectrum(audio: np.ndarray) -> np.ndarray:
    """Loudness of each frequency every 256 samples, one after another."""
    pieces = np.lib.stride_tricks.sliding_window_view(audio, 512)[::256]
    return np.abs(np.fft.rfft(pieces * np.hanning(512))).ravel()


class Recorder:
    """Keeps the noise and the latents of every sample that is made, by its seed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.noise: dict[int, list[torch.Tensor]] = {}
        self.latents: dict[int, list[torch.Tensor]] = {}
        recorder, block = self, GenerationStream._block

        class Noise(SampleNoise):
            def __init__(self, seeds: Sequence[int], *arguments: Any) -> None:
                super().__init__(seeds, *arguments)
                self.seeds = recorder.seeds = seeds

            def __call__(self, frames: int) -> Latents:
                drawn = super().__call__(frames)
                recorder.keep(recorder.noise, drawn)
                return drawn

        def kept(generation: GenerationStream) -> Latents:
            made = block(generation)
            recorder.keep(recorder.latents, made)
            return made

        monkeypatch.setattr("flowreel.pipeline.stream.SampleNoise", Noise)
        monkeypatch.setattr(GenerationStream, "_block", kept)

    def keep(self, where: dict[int, list[torch.Tensor]], values: Latents) -> None:
        for n, seed in enumerate(self.seeds):
            where.setdefault(seed, []).extend(value[n].clone() for value in values.values())


# --- sample k is sample k ---


def test_any_number_of_processes_and_any_batch(
    tmp_path: Path, sounding: Pipeline, as_process: Callable[[int, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        one = Recorder(patched)
        alone = generate(sounding, many(tmp_path / "one"), str)
    with monkeypatch.context() as patched:
        two, shares = Recorder(patched), []
        for rank in range(2):
            as_process(rank, 2)
            shares.append(generate(sounding, many(tmp_path / "two", batch=3), str))
    assert [len(share) for share in shares] == [4, 3]
    assert [path.name for path in alone] == sorted(path.name for share in shares for path in share)
    assert len({path.stem.split("-")[1] for path in alone}) == 2  # both classes were drawn
    same_clips(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "one" / NOTE).read_text() == (tmp_path / "two" / NOTE).read_text()
    assert len(one.noise) == COUNT
    assert one.noise.keys() == two.noise.keys()
    for seed in one.noise:
        assert all(map(torch.equal, one.noise[seed], two.noise[seed]))
        for a, b in zip(one.latents[seed], two.latents[seed], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_under_torchrun(tmp_path: Path, sounding: Pipeline) -> None:
    sounding.save(tmp_path / "pipe")
    options = ["--out", str(tmp_path / "two"), "--count", "5", "--batch", "2", "--seconds", "0.4", "--seed", "4"]
    command = [sys.executable, "-m", "flowreel", "generate", str(tmp_path / "pipe"), *options]
    run = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *command[1:]],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert f"{tmp_path / 'two'} is complete: 5 files" in run.stdout
    assert run.stdout.count(" sample ") == 3  # the first process's
    generate(sounding, many(tmp_path / "one", count=5), str)
    same_clips(tmp_path / "one", tmp_path / "two")


def test_processes_with_nothing_to_do(tmp_path: Path, pipe: Pipeline, as_process: Callable[[int, int], None]) -> None:
    said: list[str] = []
    as_process(2, 3)
    assert generate(pipe, many(tmp_path / "out", count=2), said.append) == []
    assert said == []
    assert generate(pipe, many(tmp_path / "one.mp4", count=1), said.append) == []
    as_process(0, 3)
    assert len(generate(pipe, many(tmp_path / "out", count=2), said.append)) == 1
    assert said[-1].startswith("1 of 2 files are in ")
    assert said[-1].endswith("1 of them made now by process 0 of 3, the other processes continue")
    as_process(1, 3)
    said.clear()
    generate(pipe, many(tmp_path / "out", count=2), said.append)
    assert said == [f"{tmp_path / 'out'} is complete: 2 files, 1 of them made now by process 1 of 3"]


# --- going on ---


def test_what_is_missing_is_made_and_nothing_else(
    tmp_path: Path, pipe: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = generate(pipe, many(tmp_path), str)
    before = {path: path.stat().st_mtime_ns for path in made}
    whole = made[5].read_bytes()
    made[2].write_bytes(b"")
    made[5].unlink()
    (tmp_path / f".{made[5].name}.0123abcd.part").write_bytes(b"half")
    (tmp_path / ".other.mp4.0123abcd.part").write_bytes(b"somebody else's")
    recorder, said = Recorder(monkeypatch), []
    assert generate(pipe, many(tmp_path, batch=4), said.append) == made
    assert len(recorder.noise) == 2
    assert said[-1] == f"{tmp_path} is complete: 7 files, 2 of them made now"
    assert len(made[5].read_bytes()) == pytest.approx(len(whole), rel=0.05)
    for path in made:
        assert (path.stat().st_mtime_ns == before[path]) == (path not in (made[2], made[5]))
    assert {name for name in names(tmp_path) if name.endswith(".part")} == {".other.mp4.0123abcd.part"}


def test_nothing_left_to_do(tmp_path: Path, pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    made = generate(pipe, many(tmp_path), str)
    recorder, said = Recorder(monkeypatch), []
    assert generate(pipe, many(tmp_path), said.append) == made
    assert said == [f"{tmp_path} is complete: 7 files, none of them made now"]
    assert not recorder.noise


def test_stopped_run_goes_on(tmp_path: Path, pipe: Pipeline) -> None:
    lines: list[str] = []

    def stop(line: str) -> None:
        lines.append(line)
        if len(lines) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(pipe, many(tmp_path / "out"), stop)
    assert len(names(tmp_path / "out")) == 4  # three files and the note
    generate(pipe, many(tmp_path / "out", batch=2), str)
    generate(pipe, many(tmp_path / "whole"), str)
    same_clips(tmp_path / "out", tmp_path / "whole")


def test_higher_count_adds(tmp_path: Path, pipe: Pipeline) -> None:
    first = generate(pipe, many(tmp_path, count=3), str)
    before = [path.stat().st_mtime_ns for path in first]
    more = generate(pipe, many(tmp_path, count=5), str)
    assert more[:3] == first
    assert [path.stat().st_mtime_ns for path in first] == before
    assert generate(pipe, many(tmp_path, count=2), str) == first[:2]


def test_higher_count_adds_for_a_folder_of_given_clips(tmp_path: Path, sounding: Pipeline) -> None:
    for name in ("a", "b"):
        sounding.generate(seconds=0.4).save(tmp_path / "given" / f"{name}.mp4")
    config = many(tmp_path / "out", audio=str(tmp_path / "given"), count=1)
    assert [job.k for job in all_jobs(config)] == [0, 1]
    first = generate(sounding, config, str)
    before = [path.read_bytes() for path in first]
    more = generate(sounding, replace(config, count=2), str)
    assert len(more) == 4
    assert set(first) <= set(more)
    assert [path.read_bytes() for path in first] == before
    assert len({job.k for job in all_jobs(replace(config, count=2))}) == 4


# --- what is refused ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 5}, r"settings\.seed: was 4, now 5"),
        ({"seconds": 0.5}, r"settings\.seconds: was 0\.4, now 0\.5"),
        ({"label": "high"}, r"settings\.label: was not there, now high"),
        ({"steps": 1}, r"settings\.steps: was not there, now 1"),
        ({"audio": "song.wav"}, r"given\.audio\.song\.wav: was not there, now"),
    ],
)
def test_other_settings_are_not_mixed_in(
    tmp_path: Path, pipe: Pipeline, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("song.wav").write_bytes(b"sound")
    generate(pipe, many(tmp_path / "out", count=1), str)
    before = names(tmp_path / "out")
    with pytest.raises(InputError, match=rf"was generated with other settings:\n(.*\n)*  {message}") as refused:
        generate(pipe, many(tmp_path / "out", count=1, **changes), str)
    assert "choose another folder, or delete it" in str(refused.value)
    assert names(tmp_path / "out") == before


def test_a_folder_of_a_version_that_knew_less_of_pipelines_is_gone_on_with(tmp_path: Path, pipe: Pipeline) -> None:
    generate(pipe, many(tmp_path, count=1), str)
    note = json.loads((tmp_path / NOTE).read_text())
    for name in ("guidance", "lookaheads"):
        del note["pipeline"]["config"]["trained"][name]
    (tmp_path / NOTE).write_text(json.dumps(note))
    assert len(generate(pipe, many(tmp_path, count=2), str)) == 2


def test_another_pipeline_is_not_mixed_in(tmp_path: Path, pipe: Pipeline) -> None:
    generate(pipe, many(tmp_path, count=1), str)
    other = tiny_pipeline(sound=False, depth=1, window=4)
    with torch.no_grad():
        next(other.model.parameters()).add_(1e-3)
    with pytest.raises(InputError, match=r"with other settings:\n  pipeline\.weights: was \w{16}, now \w{16}\n"):
        generate(other, many(tmp_path, count=1), str)
    other = tiny_pipeline(sound=False, depth=1, window=4)
    with torch.no_grad():
        next(other.codec.video.module.parameters()).add_(1e-3)
    with pytest.raises(InputError, match=r"with other settings:\n  pipeline\.codec: was"):
        generate(other, many(tmp_path, count=1), str)


def test_label_by_name_and_by_number_are_the_same(tmp_path: Path, pipe: Pipeline) -> None:
    made = generate(pipe, many(tmp_path, count=1, label="high"), str)
    assert generate(pipe, many(tmp_path, count=1, label="1"), str) == made


def test_given_file_that_changed(tmp_path: Path, sounding: Pipeline) -> None:
    clip = sounding.generate(seconds=0.4)
    clip.save(tmp_path / "song.wav")
    config = many(tmp_path / "out", count=1, audio=str(tmp_path / "song.wav"))
    generate(sounding, config, str)
    Clip.join([clip, clip]).save(tmp_path / "song.wav")
    with pytest.raises(InputError, match=r"given\.audio\.song\.wav: was \d+, now \d+"):
        generate(sounding, config, str)
    (tmp_path / "song.wav").unlink()
    with pytest.raises(InputError, match=r"song\.wav can't be read"):
        generate(sounding, config, str)


def test_files_that_nobody_noted(tmp_path: Path, pipe: Pipeline) -> None:
    (made,) = generate(pipe, many(tmp_path, count=1), str)
    (tmp_path / NOTE).unlink()
    with pytest.raises(InputError, match=r"no generation\.json that says what they were made from"):
        generate(pipe, many(tmp_path, count=1), str)
    made.unlink()
    (tmp_path / "holiday.mp4").write_bytes(b"mine")
    assert generate(pipe, many(tmp_path, count=1), str) == [made]


def test_command_that_failed_leaves_no_note(tmp_path: Path) -> None:
    classless = tiny_pipeline(classes=(), sound=False, depth=1, window=4)
    with pytest.raises(InputError, match="guid"):
        generate(classless, many(tmp_path / "out", guidance=2.0), str)
    assert not (tmp_path / "out").exists()
    assert len(generate(classless, many(tmp_path / "out", count=2), str)) == 2


def test_single_file_is_made_anew(tmp_path: Path, pipe: Pipeline) -> None:
    out = tmp_path / "clip.mkv"
    generate(pipe, many(out, count=1), str)
    first = out.read_bytes()
    said: list[str] = []
    generate(pipe, many(out, count=1, seed=5), said.append)
    assert out.read_bytes() != first
    assert len(said) == 1
    assert names(tmp_path) == ["clip.mkv"]


def test_class_names_stay_in_the_folder(tmp_path: Path) -> None:
    pipe = tiny_pipeline(classes=("../../up", "a/b"), sound=False, depth=1, window=4)
    made = generate(pipe, many(tmp_path / "out", count=4), str)
    assert {path.parent for path in made} == {tmp_path / "out"}
    assert generate(pipe, many(tmp_path / "out", count=4), str) == made


def test_vocoder_and_device_reach_the_loader(
    tmp_path: Path, pipe: Pipeline, monkeypatch: pytest.MonkeyPatch, as_process: Callable[[int, int], None]
) -> None:
    asked: list[dict[str, Any]] = []

    def load(where: str, **options: Any) -> Pipeline:
        assert where == "p"
        asked.append(options)
        return pipe

    monkeypatch.setattr("flowreel.pipeline.generate.load", load)
    monkeypatch.setattr("flowreel.pipeline.generate.device", lambda: torch.device("cuda", 1))
    generate("p", many(tmp_path / "a", count=1), str)
    generate("p", many(tmp_path / "b", count=1, vocoder="v", device="cpu"), str)
    as_process(0, 2)
    generate("p", many(tmp_path / "c", count=1), str)
    generate("p", many(tmp_path / "d", count=1, device="cpu"), str)
    assert [options["device"] for options in asked] == [None, "cpu", torch.device("cuda", 1), "cpu"]
    assert [options.get("vocoder") for options in asked] == [None, "v", None, None]


@pytest.mark.parametrize("settings", [{}, {"solver": "heun", "block": 2, "warmup_steps": 3}])
def test_the_share_of_the_work_that_is_done_grows_evenly_to_one(settings: dict[str, Any]) -> None:
    pipe = tiny_pipeline(sound=False, depth=1, window=4, blocks=(1, 2))
    shares: list[float] = []
    list(pipe.clips([0], [1], seconds=0.9, watch=shares.append, **settings))
    assert shares == pytest.approx([(k + 1) / len(shares) for k in range(len(shares))])
    assert len(shares) > 9
