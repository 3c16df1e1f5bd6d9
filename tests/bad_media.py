"""A folder of files such as people have: broken, misnamed, of extreme sizes. What may be asked of them is known.

``make`` gives one file of each kind with the reason for which it can't be used, ``flipped`` gives good files with
random bytes flipped: these can either be read or not, but never do worse than an InputError.
"""

from __future__ import annotations

import io
import os
import wave
from pathlib import Path

import av
import numpy as np
from PIL import Image

from tests import filming
from tests.filming import RATE, click, even_times, grey

CUT = "damaged or cut off"
NOT_MEDIA = "can't be read as media"


def make(folder: Path) -> dict[str, str | None]:
    """Put one file of each kind into ``folder``; file name -> pattern of the reason why it can't be used, or None.

    A file that can't be opened is only there where the user has no right to read it (root has).
    """
    folder.mkdir(parents=True, exist_ok=True)
    return {**_unreadable(folder), **_misnamed(folder), **_truncated(folder), **_extreme(folder)}


def flipped(folder: Path, count: int, seed: int = 0) -> list[str]:
    """``count`` files of a second in five formats, each with up to 1 % of its bytes flipped; their names."""
    folder.mkdir(parents=True, exist_ok=True)
    good = [_moving(folder / f"whole{suffix}") for suffix in (".mp4", ".mkv", ".webm", ".avi", ".mov")]
    names = []
    for number in range(count):
        generator = np.random.default_rng((seed, number))
        source = good[number % len(good)]
        data = np.frombuffer(source.read_bytes(), np.uint8).copy()
        share = 10 ** generator.uniform(-4, -2)
        # Half of the files are hurt in their first or last kilobyte, where headers and indices are.
        spans = [slice(0, None), slice(0, 1000), slice(0, None), slice(-1000, None)]
        span = data[spans[number // len(good) % len(spans)]]
        where = generator.choice(len(span), max(1, round(share * len(span))), replace=False)
        span[where] ^= generator.integers(1, 256, len(where), dtype=np.uint8)
        names.append(f"flipped{number:03d}{source.suffix}")
        (folder / names[-1]).write_bytes(data.tobytes())
    for path in good:
        path.unlink()
    return names


def _unreadable(folder: Path) -> dict[str, str | None]:
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("this is not a video\n" * 50)
    (folder / "noise.mkv").write_bytes(np.random.default_rng(0).bytes(20_000))
    locked = _moving(folder / "locked.mp4")
    locked.chmod(0)
    reasons: dict[str, str | None] = {
        "empty.mp4": r"empty \(0 bytes\)",
        "text.mp4": NOT_MEDIA,
        "noise.mkv": NOT_MEDIA,
        "locked.mp4": None if os.access(locked, os.R_OK) else "(?i)permission denied",
        "no frames.mp4": "no picture",
        "no frames.mkv": f"{NOT_MEDIA}: End of file",
    }
    for name in ("no frames.mp4", "no frames.mkv"):
        _without_frames(folder / name)
    return reasons


def _misnamed(folder: Path) -> dict[str, str | None]:
    picture = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(picture, "PNG")
    (folder / "a png.mp4").write_bytes(picture.getvalue())
    with wave.open(str(folder / "a wav.mp4"), "wb") as sound:
        sound.setparams((1, 2, RATE, 0, "NONE", ""))
        sound.writeframes((click(1, 0.5) * 20_000).astype(np.int16).tobytes())
    _moving(folder / "an mkv.mkv").rename(folder / "an mkv.mp4")
    return {"a png.mp4": "still picture", "a wav.mp4": "no video stream", "an mkv.mp4": None}


def _truncated(folder: Path) -> dict[str, str | None]:
    """Files of which the last 40 % are missing."""
    reasons: dict[str, str | None] = {}
    for suffix in (".mp4", ".mov", ".mkv", ".webm", ".avi"):
        path = _moving(folder / f"truncated{suffix}", seconds=2)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
        reasons[path.name] = NOT_MEDIA if suffix in (".mp4", ".mov") else CUT  # their index is at the end
    return reasons


def _extreme(folder: Path) -> dict[str, str | None]:
    filming.make(folder / "one frame.mp4", grey([200]), even_times(1, 10))
    filming.make(folder / "blip.mp4", grey([20] * 10), even_times(10, 10), click(0.01, 0))
    portrait = np.zeros((7680, 4320, 3), np.uint8)
    portrait[:3840] = 235
    filming.make(folder / "8k portrait.mp4", (portrait for _ in range(2)), even_times(2, 10))
    filming.make(folder / "240 fps.mp4", grey(list(range(240))), even_times(240, 240), click(1, 0.5))
    around = np.repeat(click(1, 0.5), 8, axis=0)
    filming.make(folder / "7.1.mkv", grey([20] * 10), even_times(10, 10), around)
    filming.make(folder / "7.1.mp4", grey([20] * 10), even_times(10, 10), around)
    names = ("one frame.mp4", "blip.mp4", "8k portrait.mp4", "240 fps.mp4", "7.1.mkv", "7.1.mp4")
    return dict.fromkeys(names)


def _moving(path: Path, seconds: int = 1) -> Path:
    """Noisy pictures that move, and a click."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize((64, 48))
    pictures = np.stack([np.roll(np.asarray(coarse), 3 * shift, axis=1) for shift in range(10 * seconds)])
    sound = generator.uniform(-0.1, 0.1, (1, seconds * RATE)).astype(np.float32) + click(seconds, 0.5)
    rate = 48000 if path.suffix == ".webm" else RATE
    sound = np.repeat(sound, rate // RATE, axis=1)
    return filming.make(path, pictures, even_times(len(pictures), 10), sound, sound_rate=rate, gop=5)


def _without_frames(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        container.start_encoding()
    return path
