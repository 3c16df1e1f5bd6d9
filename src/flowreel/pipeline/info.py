"""``flowreel info``: a checkpoint's architecture, shapes and cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from flowreel.config import PipelineConfig
from flowreel.models import build
from flowreel.pipeline.loading import load
from flowreel.pipeline.pipeline import Pipeline
from flowreel.pipeline.resolve import makes_clips
from flowreel.utils.reporting import Report


def info(pipe: str | Path | Pipeline, report: Report) -> dict[str, Any]:
    """Report sizes, clocks, classes and arithmetic, a line each, and return them."""
    pipeline = pipe if isinstance(pipe, Pipeline) else load(pipe, device="cpu")
    c, m = pipeline.config, pipeline.config.model
    shape, trained = c.shape, c.trained
    factor, forward = c.codec.video.factor, forward_flops(c)
    latents = " and ".join(f"{k} {'x'.join(map(str, v))}" for k, v in shape.streams.items())
    audio = f"{c.timing.sample_rate} Hz, {shape.mel_bins} mel bins, {shape.mel_steps} steps a frame"
    seen = f"blocks {_list(trained.blocks)}; contexts {_list(trained.contexts)}; roles {_list(trained.roles)}"
    seen += f"; lookaheads {_list(trained.lookaheads)}" if trained.lookaheads else ""
    seen += f"; guidance {trained.guidance:g} learnt" if trained.guidance != 1 else ""
    if trained.conditioned_guidance is not None:
        seen += f"; guidance {trained.conditioned_guidance:g} with conditioning"
    facts: dict[str, Any] = {
        "model": f"{m.kind}, {m.dim} wide, {m.depth} blocks, {m.heads} heads, patch {m.patch}",
        "parameters": sum(p.numel() for p in pipeline.model.parameters()),
        "positions": m.positions,
        "latents": f"{latents} a frame",
        "frames": f"{shape.width * factor}x{shape.height * factor} pixels, {c.timing.fps:g} a second",
        "audio": audio if c.timing.has_audio else "none",
        "window": f"{trained.window} frames ({c.timing.seconds(trained.window):g} s)",
        "makes": "clips" if makes_clips(c) else "endless rolls",
        "trained": f"{seen}; step {trained.step}",
        "classes": f"{len(c.classes)}: {', '.join(c.classes)}" if c.classes else "none",
        "sampling": f"{c.steps} {c.solver} steps, guidance {c.guidance:g}",
        "codec": f"{c.codec.video.kind} {c.codec.video.source or '(own weights)'}" + _vocoder(c),
        "flops_forward": forward,
        "flops_per_second": forward * forwards_per_second(c),
    }
    for name, value in facts.items():
        shown = f"{value:,}" if name == "parameters" else f"{value:.3g}" if name.startswith("flops") else value
        report(f"{name.replace('_', ' '):17} {shown}")
    return facts


def forward_flops(config: PipelineConfig) -> int:
    """Floating-point operations of one forward pass of one window (multiply and add count as two)."""
    with torch.device("meta"):
        model = build(config.model, config.shape, config.num_classes, config.trained.window).eval()
        x = {k: torch.empty(1, config.trained.window, *shape) for k, shape in config.shape.streams.items()}
        t = {k: torch.empty(1, config.trained.window) for k in x}
        label = torch.zeros(1, dtype=torch.long) if config.classes else None
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x, t, label)
    return counter.get_total_flops()


def forwards_per_second(config: PipelineConfig) -> float:
    """Forward passes (guided ones count twice) for one generated second in the steady state."""
    block = config.trained.window if makes_clips(config) else min(config.trained.blocks)
    passes = config.steps * (2 if config.guidance != 1 else 1)
    if config.solver == "heun":
        passes = passes * 2 - (2 if config.guidance != 1 else 1) if makes_clips(config) else passes * 2
    return passes * config.timing.fps / block


def _list(values: tuple[Any, ...]) -> str:
    return ", ".join(map(str, values)) or "none"


def _vocoder(config: PipelineConfig) -> str:
    if config.codec.audio is None:
        return ""
    return ", log-mel, " + (config.codec.audio.vocoder or "Griffin-Lim (no vocoder)")
