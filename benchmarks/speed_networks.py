"""How much of the machine's arithmetic the networks reach: forward pass, training step, rolling.

A figure is an arithmetic rate over the rate of one large matrix product of the same type. Both are taken in turn, as
the machine's own rate may change from second to second. FLOPs are those that torch's counter counts. On the CPU it
does not know the attention kernel, whose arithmetic then counts nothing; ``with_attention`` adds it by the formulas
that the counter has for the same kernel on a GPU (a causal one counted as if it were full).
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from flowreel import models
from flowreel.config import LatentShape, ModelConfig, TrainConfig, presets
from flowreel.flow import objective
from flowreel.flow.guidance import classifier_free
from flowreel.flow.noise import SampleNoise
from flowreel.flow.sampling import stream
from flowreel.flow.types import Latents, Times
from flowreel.models import CachedModulation, Network
from flowreel.training.ema import EMA
from flowreel.training.optim import optimizers
from speed_rows import Row, seconds

CLASSES = 10
STEPS = 2
"""Solver steps per turn."""
TARGETS = {"forward": 0.6, "training step": 0.55}
_ATEN = torch.ops.aten


@dataclass(frozen=True)
class Case:
    """A published network with a window and a batch that suit the machine."""

    name: str
    config: ModelConfig
    shape: LatentShape
    train: TrainConfig
    frames: int
    block: int
    batch: int = 1
    quick: bool = False

    @classmethod
    def flav(cls, size: str, batch: int = 1, quick: bool = False) -> Case:
        """R-FLAV at 256 x 256 pixels, 10 frames a second: latents of 32 x 32, 256 mels, 10 mel steps per frame."""
        train = presets.preset("rflav-b1")
        config = replace(presets.model(size), causal=train.model.causal)
        case = cls(size, config, LatentShape(4, 32, 32, 256, 10, 10.0), train, train.data.window, 1, batch)
        return case.small() if quick else case

    @classmethod
    def flowfield(cls, size: str, frames: int, quick: bool = False) -> Case:
        """GenerativeFlow with latents of 32 x 32 instead of 40 x 40, and ``frames`` instead of 72; it makes clips."""
        train = presets.preset("generativeflow-s4")
        case = cls(size, presets.model(size), LatentShape(4, 32, 32, fps=24.0), train, frames, frames)
        return case.small() if quick else case

    def small(self) -> Case:
        """The same with latents of 4 x 4 and one block, for a quick look at whether it runs."""
        config = replace(self.config, depth=1)
        return replace(self, config=config, shape=replace(self.shape, height=4, width=4), quick=True)

    def build(self, device: torch.device) -> Network:
        """The network with weights that are nowhere zero: fresh ones would leave branches with nothing to do."""
        torch.manual_seed(0)
        model = models.build(self.config, self.shape, CLASSES, self.frames)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
        return model.to(device)

    def noise(self, device: torch.device, seed: int = 0) -> SampleNoise:
        return SampleNoise([seed + i for i in range(self.batch)], self.shape.streams, device)

    def labels(self, device: torch.device) -> Tensor:
        return torch.zeros(self.batch, dtype=torch.long, device=device)


def cpu_cases(quick: bool) -> list[Case]:
    """What is measured on the CPU."""
    flav = [Case.flav(size, quick=quick) for size in ("FLAV-S/2", "FLAV-B/2")]
    return [*flav, Case.flowfield("FlowField-S/4", frames=16, quick=quick)]


def forward(case: Case, model: Network, device: torch.device) -> Callable[[], Latents]:
    """One evaluation without gradients."""
    x = case.noise(device)(case.frames)
    t = {k: torch.full((case.batch, case.frames), 0.5, device=device) for k in x}
    label = case.labels(device)

    @torch.no_grad()
    def work() -> Latents:
        return model(x, t, label)

    return work


def training_step(case: Case, model: Network, device: torch.device) -> Callable[[], None]:
    """What ``flowreel.training.loop`` does in a step, with a batch that is there already."""
    data = case.noise(device, seed=100)(case.frames)
    t = {k: torch.rand(case.batch, case.frames, device=device) for k in data}
    label = case.labels(device)
    (optimizer,), ema = optimizers(model, case.train.optim), EMA(model, case.train.ema)
    count = itertools.count(1)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")

    def work() -> None:
        optimizer.zero_grad()
        noise = case.noise(device)(case.frames)
        with autocast:
            parts = objective.losses(model, data, noise, t, label, case.train.objective.weight)
        torch.stack(list(parts.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), case.train.optim.clip)
        optimizer.step()
        ema.update(model, next(count))

    return work


def turn(case: Case, model: Callable[..., Latents], device: torch.device, steps: int = STEPS) -> Callable[[], Latents]:
    """One turn of the one sampler: ``steps`` evaluations and a finished block. Its warm-up does without the network."""
    guided, warm = classifier_free(model, case.labels(device)), False

    def velocity(x: Latents, t: Times, t_next: Times) -> Latents:
        return guided(x, t, t_next) if warm else {k: torch.zeros_like(v) for k, v in x.items()}

    rolling = stream(velocity, case.noise(device), case.frames, steps, block=case.block)
    next(rolling)
    warm = True
    return lambda: next(rolling)


def flops(work: Callable[[], object]) -> tuple[int, int]:
    """What torch's counter counts in ``work``, and the same with the attention on the CPU."""

    def attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object) -> int:
        return sdpa_flop_count(query, key, value)

    def backward(
        slope: torch.Size, query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object
    ) -> int:
        return sdpa_backward_flop_count(slope, query, key, value)

    kernels = {
        _ATEN._scaled_dot_product_flash_attention_for_cpu: attention,
        _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    with FlopCounterMode(display=False, custom_mapping=kernels) as counter:
        work()
    counted = counter.get_flop_counts()["Global"]
    total = sum(counted.values())
    return total - sum(count for kernel, count in counted.items() if kernel in kernels), total


def product(device: torch.device, quick: bool) -> tuple[Callable[[], Tensor], int]:
    """A large matrix product (``quick``: a small one), in float32 on the CPU and bfloat16 on a GPU, and its FLOPs."""
    side, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (3072, torch.float32)
    side = 128 if quick else side
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return lambda: a @ b, 2 * side**3


def measure(case: Case, rounds: int, device: torch.device) -> list[Row]:
    """All rows of one network."""
    model = case.build(device)
    training = case.build(device)
    work: dict[str, Callable[[], object]] = {
        "forward": forward(case, model.eval(), device),
        "rolling": turn(case, CachedModulation(model, entries=STEPS + 2), device),
        "training step": training_step(case, training.train(), device),
    }
    arithmetic, square = product(device, case.quick)
    counted = {}
    for name, do in work.items():  # the first call of each is its warm-up
        do()
        counted[name] = flops(do)
    arithmetic()
    took: dict[str, list[float]] = {name: [] for name in work}
    rates: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        products = [seconds(arithmetic, device)]
        # rolling between two forward passes, so that a machine that gets slower or faster favours neither
        first, rolled, second = (seconds(work[name], device) for name in ("forward", "rolling", "forward"))
        products.append(seconds(arithmetic, device))
        stepped = seconds(work["training step"], device)
        products.append(seconds(arithmetic, device))
        around = [2 * square / (products[i] + products[i + 1]) for i in (0, 0, 1)]
        for name, own, rate in zip(work, ((first + second) / 2, rolled, stepped), around, strict=True):
            took[name].append(own)
            rates[name].append(rate)

    def ratios(name: str, kind: int = 0) -> list[float]:
        return [counted[name][kind] / s / rate for s, rate in zip(took[name], rates[name], strict=True)]

    rows = []
    for name in work:
        extra = {
            "seconds": statistics.median(took[name]),
            "gflop": counted[name][0] / 1e9,
            "matmul_gflops": statistics.median(rates[name]) / 1e9,
            "with_attention": statistics.median(ratios(name, 1)),
            "batch": case.batch,
            "frames": case.frames,
        }
        rows.append(Row(case.name, f"{name}, of a matmul's rate", ratios(name), TARGETS.get(name), extra))
    per_forward = [one * STEPS / rolled for one, rolled in zip(took["forward"], took["rolling"], strict=True)]
    rows.append(Row(case.name, "forward / rolling, time per evaluation", per_forward, 1.0))
    return rows
