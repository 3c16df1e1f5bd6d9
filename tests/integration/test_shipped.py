"""The pipeline that comes with the package: what it is, that it makes what it made, and that it needs nothing else."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import flowreel
from flowreel.errors import InputError
from flowreel.media import Clip, probe
from flowreel.pipeline.loading import SHIPPED, shipped
from flowreel.pipeline.pipeline import Pipeline
from flowreel.world.render import CLASSES, World
from tests.conftest import GOLDEN

WORLD = SHIPPED / "world"


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return flowreel.load("world", device="cpu")


def test_it_is_small_and_what_it_was() -> None:
    assert facts() == json.loads((GOLDEN / "world.json").read_text(encoding="utf-8"))
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*.safetensors")) < 24e6
    assert "world" in shipped()


def test_it_plays_all_roles_at_64_pixels_with_sound(pipe: Pipeline) -> None:
    assert set(pipe.classes) == set(CLASSES)
    assert set(pipe.config.trained.roles) >= {"joint", "audio_clean", "video_clean", "context"}
    assert pipe.config.model.positions == "rope"
    assert pipe.config.timing.fps >= 10
    assert pipe.config.timing.sample_rate == 16000
    assert pipe.config.codec.audio is not None
    assert pipe.config.codec.audio.vocoder == "sinusoids"


def facts() -> dict[str, str]:
    """The hashes of its files."""
    files = sorted(path for path in WORLD.rglob("*") if path.is_file() and path.name != "README.md")
    return {str(path.relative_to(WORLD)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def golden_clip(pipe: Pipeline) -> Clip:
    return pipe.generate(label="bounce", seconds=0.8, seed=3)


def test_a_short_clip_is_what_it_was(pipe: Pipeline) -> None:
    """Within what the order of floating-point additions changes."""
    golden, clip = load_file(GOLDEN / "world.safetensors"), reduced(golden_clip(pipe))
    assert clip["frames"].shape == (8, 32, 32, 3)
    assert np.abs(clip["frames"].astype(float) - golden["frames"]).mean() < 1
    np.testing.assert_allclose(clip["envelope"], golden["envelope"], atol=0.02)


def reduced(clip: Clip) -> dict[str, np.ndarray]:
    """What is kept of a golden clip: every second pixel, and the loudest sample of each 10 ms."""
    assert clip.audio is not None
    frames = np.ascontiguousarray(clip.frames[:, ::2, ::2])
    return {"frames": frames, "envelope": np.abs(clip.audio).reshape(-1, 160).max(1)}


def test_the_other_stream_is_made_for_what_is_given(pipe: Pipeline) -> None:
    clip = golden_clip(pipe)
    sounded, seen = pipe.generate(label="bounce", video=clip), pipe.generate(label="bounce", audio=clip)
    assert np.array_equal(sounded.frames, clip.frames)
    assert seen.audio is not None
    assert np.array_equal(seen.audio, clip.audio)
    assert not np.array_equal(seen.frames, clip.frames)
    more = pipe.generate(label="bounce", prefix=clip, seconds=0.4)
    assert len(more.frames) == 4


BARRED = """
import socket, sys
def barred(*args, **kwargs):
    raise AssertionError("the network was asked for")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = barred
from flowreel.cli import main
code = main(["generate", "--label", "rain", "--seconds", "0.4", "--out", sys.argv[1]])
assert code == 0, code
loaded = {"diffusers", "transformers", "huggingface_hub", "torchvision", "torchaudio"} & set(sys.modules)
assert not loaded, loaded
"""


def test_generate_without_a_model_uses_it_and_needs_neither_network_nor_diffusers(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", BARRED, tmp_path / "rain.mp4"], check=True, cwd=tmp_path, timeout=200)
    info = probe(tmp_path / "rain.mp4")
    assert info.has_audio
    assert info.seconds == pytest.approx(0.4, abs=0.15)


def test_a_folder_of_its_name_is_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(WORLD, tmp_path / "world")
    with pytest.raises(InputError, match=r"say \./world"):
        flowreel.load("world")
    assert flowreel.load("./world", device="cpu").classes == flowreel.load(tmp_path / "world", device="cpu").classes


def test_a_change_of_class_is_a_cut_without_a_click(pipe: Pipeline) -> None:
    stream = pipe.stream(label="pendulum", seed=1)
    chunks = [next(stream)]
    while sum(len(chunk.frames) for chunk in chunks) < 20:
        chunks.append(next(stream))
    stream.steer(label="rain")
    while sum(len(chunk.frames) for chunk in chunks) < 50:
        chunks.append(next(stream))
    whole = Clip.join([Clip(chunk.frames, chunk.audio, chunk.fps, chunk.sample_rate) for chunk in chunks])
    names = [chunk.label for chunk in chunks for _ in chunk.frames]
    cut = names.index("rain")
    assert 20 <= cut <= 45
    assert set(names[cut:]) == {"rain"}
    assert whole.audio is not None
    assert steepest(whole.audio[(cut - 1) * 1600 : (cut + 1) * 1600]) <= max(
        steepest(clip.audio) for clip, _ in World(8, 4)
    )
    grey = [rod(frame) for frame in whole.frames]
    assert np.mean(grey[: cut - 1]) > 5 * np.mean(grey[cut + 2 :]) + 5


def steepest(audio: np.ndarray) -> float:
    """The largest step from a sample to the next: what a click is."""
    return float(np.abs(np.diff(audio)).max())


def rod(frame: np.ndarray) -> int:
    """Pixels of the pendulum's grey rod in the upper half."""
    pixels = frame[:28].astype(int)
    return int(((np.ptp(pixels, axis=-1) < 25) & (pixels.mean(-1) > 60)).sum())


if __name__ == "__main__":  # after the weights have changed: python -m tests.integration.test_shipped
    from safetensors.numpy import save_file

    (GOLDEN / "world.json").write_text(json.dumps(facts(), indent=1) + "\n", encoding="utf-8")
    save_file(reduced(golden_clip(flowreel.load("world", device="cpu"))), GOLDEN / "world.safetensors")
