"""How fast windows are read from warm shards, and how near preparing clips comes to merely decoding them."""

from __future__ import annotations

import itertools
import multiprocessing
import tempfile
import time
from pathlib import Path

import av
import numpy as np
import torch
from torch.utils.data import DataLoader

from flowreel.cli import prepare
from flowreel.codec import Codec
from flowreel.config import (
    FORMAT_VERSION,
    AudioCodecConfig,
    CodecConfig,
    DataConfig,
    LatentShape,
    PrepareConfig,
    Timing,
    VideoCodecConfig,
    to_dict,
)
from flowreel.data.dataset import GlobalOrder, WindowDataset
from flowreel.data.shards import ClipRecord, IndexEntry, ShardWriter
from flowreel.data.sources import find_clips
from flowreel.media import Clip
from flowreel.utils.files import write_json
from speed_rows import Row, seconds

CPU = torch.device("cpu")
TARGET_WINDOWS, TARGET_PREPARE = 2000.0, 0.8
TIMING = Timing(10, 16000, 160)
BATCH = 16
SHAPE = LatentShape(4, 32, 32, 256, 10, TIMING.fps)


def loader(rounds: int, windows: int, clips: int) -> Row:
    """Windows a second of R-FLAV's shape, in batches as training takes them, by one process with one thread."""
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        dataset = WindowDataset(_prepared(Path(folder), clips), config=DataConfig(window=10))
        order = GlobalOrder(BATCH, 0, windows // BATCH)

        def read() -> None:
            for _ in DataLoader(dataset, batch_sampler=order):
                pass

        torch.set_num_threads(1)
        try:
            read()
            busy = time.thread_time()
            values = [windows / seconds(read, CPU) for _ in range(rounds)]
            busy = time.thread_time() - busy
        finally:
            torch.set_num_threads(threads)
    extra = {"windows": windows, "batch": BATCH, "windows_per_cpu_second": rounds * windows / busy}
    return Row("loader", "windows a second, one core", values, TARGET_WINDOWS, extra)


def _prepared(folder: Path, clips: int, frames: int = 60) -> Path:
    """A prepared folder of noise, as ``flowreel prepare`` lays it out."""
    generator = torch.Generator().manual_seed(0)
    config = CodecConfig(VideoCodecConfig(channels=SHAPE.channels), AudioCodecConfig())
    writer = ShardWriter(folder, "train", 64 * 2**20, "speed")
    for clip in range(clips):
        tensors = {k: torch.randn(frames, *size, generator=generator).half() for k, size in SHAPE.streams.items()}
        writer.add(ClipRecord(IndexEntry(f"{clip}.mp4", frames, 0, label=0)), tensors)
    writer.flush()
    Codec(config, TIMING).save(folder / "codec")
    index = {
        "format_version": FORMAT_VERSION,
        "classes": ["noise"],
        "timing": to_dict(TIMING),
        "codec": to_dict(config),
        "shape": to_dict(SHAPE),
        "splits": {"train": [record.entry.to_dict() for record in writer.records], "test": []},
        "skipped": [],
    }
    write_json(folder / "index.json", index)
    return folder


def preparation(rounds: int, clips: Path | None, workers: int, length: float) -> Row:
    """The time that decoding every frame and sound of the clips takes over that of preparing them (random small
    autoencoder, 64 x 64 at 10 frames a second), both by ``workers`` processes and with their start. Without ``clips``
    some of ``length`` seconds are made."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        codec = made / "codec"
        torch.manual_seed(0)
        Codec(CodecConfig(VideoCodecConfig()), Timing(TIMING.fps, 0, 0)).save(codec)
        source = clips or _film(made / "clips", length)
        paths = [str(clip.path) for clip in find_clips(source)]
        config = PrepareConfig(codec=str(codec), audio="auto", workers=workers)
        number = itertools.count()

        def encode() -> None:
            prepare(source, made / f"data-{next(number)}", config, lambda _: None)

        def read() -> None:
            if workers == 1:
                decoded[:] = [_decode(path, threads=0) for path in paths]
                return
            with multiprocessing.get_context("spawn").Pool(workers) as pool:
                decoded[:] = pool.map(_decode, paths, chunksize=1)

        decoded: list[int] = []
        read()  # and the files are in memory
        times = [(seconds(read, CPU), seconds(encode, CPU)) for _ in range(rounds)]
    extra = {
        "workers": workers,
        "clips": len(paths),
        "frames": sum(decoded),
        "decoding_seconds": sorted(decode for decode, _ in times)[rounds // 2],
        "preparing_seconds": sorted(whole for _, whole in times)[rounds // 2],
        "generated": clips is None,
    }
    ratios = [decode / whole for decode, whole in times]
    return Row("prepare", f"speed over decoding, {workers} worker(s)", ratios, TARGET_PREPARE, extra)


def _decode(path: str, threads: int = 1) -> int:
    """Decode all pictures and sound of a file, as plainly as PyAV can; the number of pictures. ``threads`` 0 leaves it
    to FFmpeg, as prepare does without workers."""
    frames = 0
    with av.open(path) as container:
        streams = [*container.streams.video[:1], *container.streams.audio[:1]]
        for stream in streams:
            stream.codec_context.thread_type, stream.codec_context.thread_count = "AUTO", threads
        for packet in container.demux(streams):
            frames += sum(isinstance(frame, av.VideoFrame) for frame in packet.decode())
    return frames


def _film(folder: Path, length: float, clips: int = 12, fps: int = 25) -> Path:
    """Clips of 640 x 360 in H.264 with sound: a texture that drifts, and a little grain."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for clip in range(clips):
        texture = rng.integers(0, 255, (45 + 1, 80 + 50, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        count = round(length * fps)
        frames = np.stack([texture[i % 8 : i % 8 + 360, 2 * i % 400 : 2 * i % 400 + 640] for i in range(count)])
        frames += rng.integers(0, 8, (1, 360, 640, 1), dtype=np.uint8)
        sound = 0.2 * np.sin(np.arange(round(length * 16000)) * (0.05 + 0.01 * clip))
        Clip(frames, sound.astype(np.float32), fps=fps, sample_rate=16000).save(folder / f"{clip}.mp4")
    return folder
