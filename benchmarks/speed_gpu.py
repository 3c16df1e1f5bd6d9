"""The same networks on a GPU: bfloat16, compiled, and rolling by replay of a CUDA graph. Images a second and memory.

Training is as ``flowreel train --precision bfloat16 --compile true``; sampling has weights in bfloat16. An image is one
frame of one sample: of a training step its whole windows, of a turn the frames that it finishes.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flowreel.flow.types import Latents, Times
from flowreel.models import Network
from speed_networks import Case, flops, forward, product, training_step, turn
from speed_rows import Row, seconds

TRAIN_BATCH, ROLL_BATCH = 16, 1
STEPS = 4
"""Solver steps per turn: 40 for a frame on its way through a window of 10."""


class Replayed:
    """A network whose evaluation at one shape is captured once as a CUDA graph and then replayed."""

    def __init__(self, model: Network, x: Latents, t: Times, label: Tensor) -> None:
        self.num_classes = model.num_classes
        self._x, self._t, self._label = (
            {k: v.clone() for k, v in x.items()},
            {k: v.clone() for k, v in t.items()},
            label.clone(),
        )
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside), torch.no_grad():  # what is compiled or chosen at first use must not be captured
            for _ in range(3):
                model(self._x, self._t, self._label)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph), torch.no_grad():
            self._out = model(self._x, self._t, self._label)

    def __call__(self, x: Latents, t: Times, label: Tensor) -> Latents:
        for k, v in x.items():
            self._x[k].copy_(v)
            self._t[k].copy_(t[k])
        self._label.copy_(label)
        self._graph.replay()
        return {k: v.clone() for k, v in self._out.items()}


def measure(size: str, rounds: int, device: torch.device, quick: bool) -> list[Row]:
    """All rows of one network."""
    rows = _train(Case.flav(size, TRAIN_BATCH, quick), rounds, device)
    gc.collect()
    torch.cuda.empty_cache()
    return [*rows, *_sample(Case.flav(size, ROLL_BATCH, quick), rounds, device)]


def _train(case: Case, rounds: int, device: torch.device) -> list[Row]:
    model = case.build(device).train()
    model.gradient_checkpointing = case.config.patch == 1  # as published; the others fit without
    counted = flops(training_step(case, model, device))[0]
    model.compile()
    step = training_step(case, model, device)
    extra = {"batch": case.batch, "checkpointing": model.gradient_checkpointing}
    images = case.batch * case.frames
    return _rows(case, "training step, bf16, compiled", step, counted, images, rounds, device, extra)


def _sample(case: Case, rounds: int, device: torch.device) -> list[Row]:
    model = case.build(device).eval().bfloat16()

    def half(x: Latents, t: Times, label: Tensor) -> Latents:
        """The sampler keeps its window in float32."""
        return {k: v.float() for k, v in model({k: v.bfloat16() for k, v in x.items()}, t, label).items()}

    half.num_classes = model.num_classes  # type: ignore[attr-defined]
    counted = flops(forward(case, half, device))[0]  # type: ignore[arg-type]
    plain = turn(case, half, device, STEPS)
    rows = _rows(case, "rolling, bf16", plain, STEPS * counted, case.batch * case.block, rounds, device, {})
    model.compile()
    x = case.noise(device)(case.frames)
    t = {k: torch.full((case.batch, case.frames), 0.5, device=device) for k in x}
    replayed = Replayed(half, x, t, case.labels(device))  # type: ignore[arg-type]
    work: dict[str, tuple[Callable[[], Any], int, int]] = {
        "forward, bf16, compiled": (forward(case, half, device), counted, case.batch * case.frames),  # type: ignore[arg-type]
        "rolling, bf16, compiled, replayed": (
            turn(case, replayed, device, STEPS),
            STEPS * counted,
            case.batch * case.block,
        ),
    }
    for name, (do, arithmetic, images) in work.items():
        rows += _rows(case, name, do, arithmetic, images, rounds, device, {})
    return rows


def _rows(
    case: Case,
    name: str,
    work: Callable[[], Any],
    counted: int,
    images: int,
    rounds: int,
    device: torch.device,
    extra: dict[str, Any],
) -> list[Row]:
    """Images a second, the share of a matmul's rate, and the most memory that was allocated."""
    arithmetic, square = product(device, case.quick)
    for _ in range(3):  # compiles
        work()
        arithmetic()
    torch.cuda.reset_peak_memory_stats(device)
    times = [(seconds(arithmetic, device), seconds(work, device)) for _ in range(rounds)]
    memory = torch.cuda.max_memory_allocated(device) / 2**30
    ratios = [counted / own / (square / matmul) for matmul, own in times]
    return [
        Row(
            case.name,
            f"{name}: images a second",
            [images / own for _, own in times],
            None,
            {"batch": case.batch, **extra},
        ),
        Row(case.name, f"{name}: of a matmul's rate", ratios, None, {"gflop": counted / 1e9}),
        Row(case.name, f"{name}: GiB at most", [memory]),
    ]
