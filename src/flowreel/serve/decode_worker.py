"""What the process that reads one upload does, with the arguments FILE and TASK: see ``uploads.py``.

Writes an .npz to its output and ends with 0, or a sentence and ends with 2. Imports no torch.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

KINDS = {
    "mp4": lambda head: head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"),
    "matroska or WebM": lambda head: head.startswith(b"\x1aE\xdf\xa3"),
    "wav": lambda head: head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE",
    "avi": lambda head: head[:4] == b"RIFF" and head[8:11] == b"AVI",
    "aiff": lambda head: head[:4] == b"FORM" and head[8:11] == b"AIF",
    "ogg": lambda head: head.startswith(b"OggS"),
    "flac": lambda head: head.startswith(b"fLaC"),
    "mp3 or aac": lambda head: (
        head.startswith(b"ID3") or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0)
    ),
    "mpeg": lambda head: head.startswith(b"\0\0\1\xba") or (len(head) > 188 and head[0] == head[188] == 0x47),
    "flv": lambda head: head.startswith(b"FLV"),
    "wmv": lambda head: head.startswith(b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
    "gif": lambda head: head.startswith(b"GIF8"),
    "webp": lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP",
}
"""Containers that hold all their media themselves, and how they begin."""


def decode(path: Path, form: dict[str, Any], limits: dict[str, Any]) -> dict[str, np.ndarray]:
    """The frames (T, H, W, 3) uint8 and the audio (S,) float32, if any, of a file; whether it had video. One
    without has black frames.

    Raises:
        InputError: it can't be read, or goes beyond the limits.
    """
    from flowreel.errors import InputError
    from flowreel.media import Clip, probe, read_audio, samples_for

    with path.open("rb") as file:
        head = file.read(192)
    if not any(begins(head) for begins in KINDS.values()):
        raise InputError(f"not a kind of file that is taken here; take one of {', '.join(KINDS)}")
    fps, rate = form["fps"], form["sample_rate"]
    try:
        info = probe(path)
    except InputError as unseen:
        if not rate:
            raise InputError("the file has no video, and this model makes no audio") from None
        try:
            audio = read_audio(path, rate, form["channel"])
        except InputError:
            raise unseen from None
        frames = int(len(audio) / rate * fps)
        if not 1 <= frames <= limits["media_seconds"] * fps:
            raise InputError(f"the audio must last from {1 / fps:g} s to {limits['media_seconds']:g} s") from None
        black = np.zeros((frames, form["height"], form["width"], 3), np.uint8)
        return {"video": np.array(False), "frames": black, "audio": audio[: samples_for(frames, fps, rate)]}
    if info.height * info.width > limits["pixels"]:
        raise InputError(f"frames of {info.width}x{info.height} are larger than is taken here")
    if info.seconds > limits["media_seconds"] + 1:
        raise InputError(f"the clip lasts {info.seconds:.0f} s: at most {limits['media_seconds']:g} s are taken")
    size = (form["height"], form["width"])
    clip = Clip.read(
        path,
        fps=fps,
        sample_rate=rate or 16000,
        size=size,
        fit=form["fit"],
        seconds=limits["media_seconds"],
        channel=form["channel"],
        audio=bool(rate),
    )
    audio_there = {} if clip.audio is None else {"audio": clip.audio}
    return {"video": np.array(True), "frames": clip.frames, **audio_there}


def bound(limits: dict[str, Any]) -> None:
    """Let the system end this process where it takes too much, where there are such limits."""
    from flowreel.media import demux

    demux.threads = 1
    with contextlib.suppress(ImportError):
        import resource

        memory = limits["memory_mb"] * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu_seconds"], limits["cpu_seconds"]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def main() -> int:
    from flowreel.errors import InputError

    path, task = Path(sys.argv[1]), json.loads(sys.argv[2])
    bound(task["limits"])
    warnings.simplefilter("ignore")
    output = io.BytesIO()
    try:
        np.savez(output, allow_pickle=False, **decode(path, task["form"], task["limits"]))
    except InputError as error:
        # the message must not contain the path on the server
        reason = error.reason if error.path is None else f"the file {error.reason}"
        sys.stdout.buffer.write(reason.encode("utf-8", "backslashreplace"))
        return 2
    sys.stdout.buffer.write(output.getvalue())
    return 0
