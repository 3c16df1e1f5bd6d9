"""Fixtures that every test may use."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from flowreel.pipeline.pipeline import Pipeline

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(autouse=True, scope="session")
def _threads() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for the disk, which takes most of the time of a test that writes many folders."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(autouse=True)
def _no_lines_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that takes long here, on a slow machine, says no more than work that is quick."""
    from flowreel.utils import reporting as report

    monkeypatch.setattr(report, "SECONDS", math.inf)


@pytest.fixture
def plain_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """``loss.png`` holds the numbers as text: drawing them takes most of the time of a small run."""

    from flowreel.training import logger
    from flowreel.utils import files

    def draw(curve: Path, folder: Path) -> None:
        numbers = [logger.read_curve(folder / name) for name in (curve.name, logger.VALIDATION)]
        with files.replacing_files(folder) as aside:
            (aside / logger.PLOT).write_text(repr(numbers))

    monkeypatch.setattr(logger, "draw", draw)


def close(got: torch.Tensor, want: torch.Tensor, relative: float = 1e-5) -> None:
    """Equal to ``relative`` of the wanted output's size."""
    assert got.shape == want.shape, (tuple(got.shape), tuple(want.shape))
    error = (got - want).abs().max() / want.abs().max()
    assert error <= relative, f"off by {float(error):.2e} of the largest value"


def tiny_pipeline(
    *,
    sound: bool = True,
    classes: tuple[str, ...] = ("low", "high"),
    window: int = 6,
    blocks: tuple[int, ...] = (1,),
    contexts: tuple[int, ...] = (0, 2),
    roles: tuple[str, ...] = ("joint", "audio_clean", "video_clean", "context"),
    lookaheads: tuple[int, ...] = (),
    **model: Any,
) -> Pipeline:
    """A pipeline with small random weights: 16 x 16 pixels, 10 frames a second, 16 mel bins, Griffin-Lim."""
    from flowreel.codec import Codec
    from flowreel.config import (
        AudioCodecConfig,
        CodecConfig,
        LatentShape,
        MelConfig,
        ModelConfig,
        PipelineConfig,
        Timing,
        Trained,
        VideoCodecConfig,
    )
    from flowreel.models import build
    from flowreel.pipeline.pipeline import Pipeline

    mel = MelConfig(n_fft=512, win_length=512, bins=16)
    timing = Timing(10, 16000, 160) if sound else Timing(10, 0, 0)
    shape = LatentShape(4, 2, 2, 16 if sound else 0, 10 if sound else 0, 10)
    codec = CodecConfig(
        VideoCodecConfig(channels=4, factor=8, width=8), AudioCodecConfig(mel=mel, scale=2.0) if sound else None
    )
    config = PipelineConfig(
        model=ModelConfig(**{"dim": 32, "depth": 2, "heads": 2, "patch": 1, **model}),
        shape=shape,
        timing=timing,
        codec=codec,
        classes=classes,
        trained=Trained(window, blocks, contexts, roles, lookaheads=lookaheads),
        steps=2,
    )
    torch.manual_seed(0)
    network = build(config.model, shape, len(classes), window).eval()
    for parameter in network.parameters():  # published initialisation gives velocity 0
        torch.nn.init.normal_(parameter, std=0.1)
    return Pipeline(network, Codec(codec, timing), config)
