"""A model trained with all roles follows what it is given: on a toy where the truth is known.

Each clip has a hidden square wave, three frames high and three low, of any phase. A picture is a fixed pattern times
the wave, a sound another one: so what belongs to a given sound, picture or beginning is known frame by frame.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import flowreel
from flowreel.codec import Codec
from flowreel.config import (
    AudioCodecConfig,
    CodecConfig,
    DataConfig,
    LatentShape,
    MelConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    Timing,
    TrainConfig,
    VideoCodecConfig,
    to_dict,
)
from flowreel.config.presets import ALL_ROLES
from flowreel.data.shards import ClipRecord, IndexEntry, ShardWriter
from flowreel.flow.guidance import classifier_free
from flowreel.flow.noise import SampleNoise
from flowreel.flow.sampling import stream
from flowreel.flow.types import Latents
from flowreel.training.flow import train
from flowreel.utils import files

C, SIDE, M, F = 2, 2, 4, 2
HALF, WINDOW, CONTEXT, CLIPS, FRAMES = 3, 10, 4, 60, 24
PATTERNS = {
    "video": torch.tensor([1.0, -1, 1, 1, -1, -1, 1, -1]),
    "audio": torch.tensor([1.0, 1, -1, 1, -1, 1, -1, -1]),
}
SHAPES = {"video": (C, SIDE, SIDE), "audio": (1, M, F)}


def wave(phase: int, frames: int) -> Tensor:
    """(frames,) of 1 and -1."""
    return torch.tensor([1.0 if (k + phase) // HALF % 2 == 0 else -1.0 for k in range(frames)])


def latents(waves: Tensor, generator: torch.Generator) -> Latents:
    """Waves (B, T) as pictures and sound with a little noise."""
    clean = {name: (waves[..., None] * PATTERNS[name]).unflatten(-1, SHAPES[name]) for name in PATTERNS}
    return {name: value + 0.1 * torch.randn(value.shape, generator=generator) for name, value in clean.items()}


def read(x: Latents, stream: str) -> Tensor:
    """The wave that is in a stream: (B, T) of 1 and -1."""
    return (x[stream].flatten(2) @ PATTERNS[stream]).sign()


def prepared(folder: Path) -> Path:
    folder.mkdir()
    generator = torch.Generator().manual_seed(1)
    mel = MelConfig(n_fft=1024, win_length=1024, hop=800, bins=M, floor=0.1, ceiling=10)
    timing = Timing(10, 16000, 800)
    config = CodecConfig(VideoCodecConfig(channels=C, width=8), AudioCodecConfig(mel=mel))
    writer = ShardWriter(folder, "train", 2**20, "toy")
    for clip in range(CLIPS):
        x = latents(wave(clip % (2 * HALF), FRAMES)[None], generator)
        # sound is stored as log-mel, from log 0.1 to log 10: model latents of -1 to 1
        tensors = {"video": x["video"][0], "audio": x["audio"][0] * torch.tensor(10.0).log()}
        writer.add(ClipRecord(IndexEntry(f"{clip}.mp4", FRAMES, 0, label=0)), tensors)
    writer.flush()
    Codec(config, timing).save(folder / "codec")
    index = {
        "format_version": 1,
        "classes": [],
        "timing": to_dict(timing),
        "codec": to_dict(config),
        "shape": to_dict(LatentShape(C, SIDE, SIDE, M, F, 10.0)),
        "splits": {"train": [record.entry.to_dict() for record in writer.records], "test": []},
        "skipped": [],
    }
    files.write_json(folder / "index.json", index)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    """Trained with all roles for about a minute."""
    folder = tmp_path_factory.mktemp("toy")
    config = TrainConfig(
        steps=1200,
        batch=32,
        log=200,
        save=1200,
        preview=0,
        validate=0,
        model=ModelConfig(dim=64, depth=3, heads=2, patch=1, class_dropout=0.0),
        objective=ObjectiveConfig(roles=ALL_ROLES, contexts=(CONTEXT,)),
        data=DataConfig(window=WINDOW),
        optim=OptimConfig(lr=2e-3, warmup=50, schedule="cosine"),
    )
    return flowreel.load(train(prepared(folder / "data"), folder / "run", config)).model


def roll(model: torch.nn.Module, given: Callable[[int, int], tuple[Latents, dict[str, Tensor]] | None], context: int):
    """36 samples of 12 rolled frames."""
    noise = SampleNoise(range(36), SHAPES)
    blocks = stream(classifier_free(model, None, 1.0), noise, WINDOW, steps=4, context=context, condition=given)
    parts = [next(blocks) for _ in range(12)]
    return {name: torch.cat([part[name] for part in parts], dim=1) for name in SHAPES}


def agreement(got: Tensor, truth: Tensor) -> float:
    return (got == truth).float().mean().item()


PHASES = torch.arange(36) % (2 * HALF)
TRUTH = torch.stack([wave(int(phase), 60) for phase in PHASES])
WRONG = torch.stack([wave(int(phase) + 1 + i // 6 % 5, 60) for i, phase in enumerate(PHASES)])  # of another phase


@pytest.mark.slow
@pytest.mark.parametrize(("given", "made"), [("audio", "video"), ("video", "audio")])
def test_one_stream_follows_the_other(model: torch.nn.Module, given: str, made: str):
    found = {}
    for name, waves in (("right", TRUTH), ("wrong", WRONG)):
        known = latents(waves, torch.Generator().manual_seed(2))[given]

        def condition(start: int, k: int, known: Tensor = known) -> tuple[Latents, dict[str, Tensor]]:
            return {given: known[:, start : start + k]}, {given: torch.ones(len(known), k, dtype=torch.bool)}

        found[name] = agreement(read(roll(model, condition, 0), made), TRUTH[:, :12])
    print(f"{given} -> {made} agrees in {found['right']:.3f} of frames; given another: {found['wrong']:.3f}")  # noqa: T201
    assert found["right"] > 0.95
    assert found["wrong"] < 0.6


@pytest.mark.slow
def test_continuation_goes_on_from_what_is_given(model: torch.nn.Module):
    found = {}
    for name, waves in (("right", TRUTH), ("wrong", WRONG)):
        known = latents(waves[:, :CONTEXT], torch.Generator().manual_seed(2))

        def condition(start: int, k: int, known: Latents = known) -> tuple[Latents, dict[str, Tensor]] | None:
            if start >= CONTEXT:
                return None
            whole = {name: torch.nn.functional.pad(v, (0,) * 6 + (0, start + k - CONTEXT)) for name, v in known.items()}
            mask = (torch.arange(start, start + k) < CONTEXT).expand(36, -1)
            return {name: v[:, start : start + k] for name, v in whole.items()}, dict.fromkeys(known, mask)

        x = roll(model, condition, CONTEXT)
        found[name] = [agreement(read(x, stream), TRUTH[:, CONTEXT : CONTEXT + 12]) for stream in SHAPES]
    print(f"continuation agrees in (video, audio) {found['right']} of frames; of another clip: {found['wrong']}")  # noqa: T201
    assert min(found["right"]) > 0.9
    assert max(found["wrong"]) < 0.6


@pytest.mark.slow
def test_joint_streams_agree_with_each_other(model: torch.nn.Module):
    x = roll(model, lambda start, k: None, 0)  # noqa: ARG005
    found = agreement(read(x, "video"), read(x, "audio"))
    print(f"joint: picture and sound agree in {found:.3f} of frames")  # noqa: T201
    assert found > 0.95
