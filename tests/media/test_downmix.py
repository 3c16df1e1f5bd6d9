"""Surround sound becomes one channel as the standard says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from flowreel.cli import prepare
from flowreel.config import PrepareConfig
from flowreel.errors import InputError
from flowreel.media import read_audio
from flowreel.media.downmix import downmix
from flowreel.pipeline.loading import SHIPPED

RATE, SECONDS = 16000, 1


def write(path: Path, layout: str, pictures: bool = False) -> list[str]:
    """A file whose channels have a tone each, of 200 Hz, 300 Hz and so on with amplitude 0.1; their names."""
    with av.open(str(path), "w") as file:
        video = file.add_stream("ffv1", rate=10) if pictures else None
        if video is not None:
            video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        stream = file.add_stream("pcm_s16le", rate=RATE, layout=layout)
        names = [channel.name for channel in stream.codec_context.layout.channels]
        if video is not None:
            for n in range(10 * SECONDS):
                picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * n, np.uint8))
                picture.pts = n
                file.mux(video.encode(picture))
            file.mux(video.encode())
        time = np.arange(RATE * SECONDS) / RATE
        tones = [0.1 * np.sin(2 * np.pi * (200 + 100 * n) * time) for n in range(len(names))]
        packed = np.round(np.stack(tones, 1) * 32767).astype(np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, format="s16", layout=layout)
        frame.sample_rate = RATE
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return names


def levels(path: Path, count: int) -> list[float]:
    """How loud each channel's tone is in the mix, beside its own amplitude."""
    spectrum = np.abs(np.fft.rfft(read_audio(path, RATE))) / (RATE * SECONDS / 2)
    return [float(spectrum[(200 + 100 * n) * SECONDS] / 0.1) for n in range(count)]


@pytest.mark.parametrize("layout", ["5.1(side)", "5.1", "7.1", "quad", "5.0", "3.0"])
def test_channels_have_the_weights_of_the_standard(tmp_path: Path, layout: str) -> None:
    names = write(tmp_path / "a.mov", layout)
    third = 0.5**0.5
    wanted = {"FL": 0.5, "FR": 0.5, "FC": third, "LFE": 0.0} | dict.fromkeys(("SL", "SR", "BL", "BR"), 0.5 * third)
    for name, level in zip(names, levels(tmp_path / "a.mov", len(names)), strict=True):
        assert level == pytest.approx(wanted[name], abs=2e-3), name


@pytest.mark.parametrize("layout", ["5.1", "7.1"])
def test_channels_without_names_are_taken_as_ffmpeg_does(tmp_path: Path, layout: str) -> None:
    for name in ("a.mkv", "a.mov"):  # PCM in Matroska has no names
        names = write(tmp_path / name, layout)
    heard = [levels(tmp_path / name, len(names)) for name in ("a.mkv", "a.mov")]
    assert heard[0] == pytest.approx(heard[1], abs=2e-3)


@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_mono_and_stereo_stay_the_mean(tmp_path: Path, layout: str) -> None:
    names = write(tmp_path / "a.mkv", layout)
    assert levels(tmp_path / "a.mkv", len(names)) == pytest.approx([1 / len(names)] * len(names), abs=2e-3)


def test_unknown_channels_are_averaged() -> None:
    assert downmix(["FL", "FR", "NONE"]) is None
    assert downmix(["LFE"]) is None


@pytest.mark.parametrize(("layout", "refused"), [("5.1", True), ("stereo", False)])
def test_a_folder_from_before_the_downmix(tmp_path: Path, layout: str, refused: bool) -> None:
    (tmp_path / "clips").mkdir()
    write(tmp_path / "clips" / "0.mkv", layout, pictures=True)
    config, out = PrepareConfig(codec=str(SHIPPED / "world" / "codec"), size=32, workers=1), tmp_path / "out"
    prepare(tmp_path / "clips", out, config, str)
    note = out / "preparation.json"
    noted = json.loads(note.read_text(encoding="utf-8"))
    note.write_text(json.dumps({k: v for k, v in noted.items() if k not in ("downmix", "flip")}), encoding="utf-8")
    write(tmp_path / "clips" / "1.mkv", "stereo", pictures=True)
    if refused:
        with pytest.raises(InputError, match=r"surround audio, for example of 0.mkv, .* BS.775"):
            prepare(tmp_path / "clips", out, config, str)
        return
    index = prepare(tmp_path / "clips", out, replace(config), str)
    assert len(index["splits"]["train"]) == 2
    assert json.loads(note.read_text(encoding="utf-8"))["downmix"] == noted["downmix"]
