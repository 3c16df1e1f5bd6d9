"""Training a flow: what :mod:`flowreel.loop` needs to know about latents, roles and pipelines.

Everything random about sample ``n`` (noise, role, times, dropped labels) comes from generators seeded by the run's
seed and ``n``: it depends neither on the batch nor on the process that the sample is in.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from flowreel import models
from flowreel.codec import Codec
from flowreel.config import PipelineConfig, TrainConfig, Trained
from flowreel.dataset import GlobalOrder, WindowDataset
from flowreel.errors import InputError
from flowreel.flow import objective
from flowreel.flow.noise import SampleNoise
from flowreel.loop import NOISE, ROLE, WEIGHTS, Batch, Report, fit, purpose_seed
from flowreel.pipeline import Pipeline

STEPS_PER_FRAME = 40
"""Solver steps that a frame gets on its way through the window, as the exported folder's default."""


def train(data: Path | str, run: Path | str, config: TrainConfig, report: Report = print) -> Path:
    """Train a flow on the prepared folder ``data``; ``run`` becomes a checkpoint folder for :func:`flowreel.load`.

    Running the same command again goes on from the last checkpoint; see :func:`flowreel.loop.fit`.
    """
    return fit(FlowTask(Path(data), config, report), Path(run), config, report)


class FlowTask:
    """Training a velocity network on the windows of a prepared folder."""

    def __init__(self, data: Path, config: TrainConfig, report: Report) -> None:
        self.config, self.folder = config, data
        self.dataset = WindowDataset(data, "train", config.data, config.seed, report)
        self.shapes = self.dataset.shape.streams
        self.roles = {role: share for role, share in dataclasses.asdict(config.objective.roles).items() if share > 0}
        if "audio" not in self.shapes:
            self.roles = self._without_sound(report)
        torch.manual_seed(purpose_seed(config.seed, WEIGHTS, 0))
        self.module = models.build(config.model, self.dataset.shape, len(self.dataset.classes), config.data.window)
        self.module.gradient_checkpointing = config.checkpointing
        facts = {name: self.dataset.index[name] for name in ("classes", "timing", "codec", "shape", "splits")}
        self.data = {"index": hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]}

    def _without_sound(self, report: Report) -> dict[str, float]:
        """The roles that a model of video alone can play; the others are left out, which is said."""
        kept = {role: share for role, share in self.roles.items() if role in ("joint", "context")}
        left_out = sorted(set(self.roles) - set(kept))
        if not kept:
            raise InputError(
                f"{self.folder} has no sound, which objective.roles {', '.join(left_out)} need: "
                "give joint or context a share above 0"
            )
        if left_out:
            report(f"{self.folder} has no sound: the roles {', '.join(left_out)} are left out")
        return kept

    def batches(self, start: int, rank: int, world: int) -> Iterator[Batch]:
        config = self.config
        order = GlobalOrder(config.batch, start, config.steps, rank, world, config.optim.accumulate)
        loader = DataLoader(
            self.dataset,
            batch_sampler=order,
            num_workers=config.data.workers,
            worker_init_fn=_leave_interrupts_to_the_trainer,
            pin_memory=torch.cuda.is_available(),
        )
        for positions, batch in zip(order, loader, strict=True):
            yield {**batch, "position": torch.tensor(positions)}

    def losses(self, module: nn.Module, batch: Batch) -> dict[str, Tensor]:
        settings, positions = self.config.objective, batch["position"].tolist()
        data = {stream: batch[stream] for stream in self.shapes}
        device, frames = data["video"].device, data["video"].shape[1]
        noise = SampleNoise([purpose_seed(self.config.seed, NOISE, n) for n in positions], self.shapes, device)(frames)
        generators = [torch.Generator().manual_seed(purpose_seed(self.config.seed, ROLE, n)) for n in positions]
        draw = partial(
            objective.draw_times,
            frames=frames,
            streams=list(self.shapes),
            shares=self.roles,
            warmup=settings.warmup,
            blocks=settings.blocks,
            contexts=settings.contexts,
            progress=settings.progress,
        )
        drawn = [draw(generator) for generator in generators]
        t = {stream: torch.stack([times[stream] for times in drawn]).to(device) for stream in self.shapes}
        label = self.module.drop_label(batch["label"], generators) if self.module.num_classes else None
        return objective.losses(module, data, noise, t, label, settings.weight)

    def preview(self, module: nn.Module, folder: Path, step: int) -> None:
        pipeline = self._pipeline(module, step)
        seconds = self.dataset.timing.seconds(self.config.data.window)
        for number, label in enumerate(self.dataset.classes[:4] or (None, None)):
            clip = pipeline.generate(label=label, seconds=seconds, seed=number)
            name = f"{number}-{re.sub(r'[^A-Za-z0-9]+', '-', label)}" if label else str(number)
            clip.save(folder / f"{name}.mp4")
            clip.save(folder / f"{name}.png")

    def export(self, module: nn.Module, folder: Path, step: int) -> None:
        self._pipeline(module, step).save(folder, whole=False)

    def _pipeline(self, module: nn.Module, step: int) -> Pipeline:
        settings, window = self.config.objective, self.config.data.window
        without = (0,) if set(self.roles) - {"context"} else ()
        contexts = dict.fromkeys((*without, *(settings.contexts if "context" in self.roles else ())))
        config = PipelineConfig(
            model=self.config.model,
            shape=self.dataset.shape,
            timing=self.dataset.timing,
            codec=self.dataset.codec_config,
            classes=self.dataset.classes,
            trained=Trained(window, settings.blocks, tuple(contexts), tuple(self.roles), step),
            steps=max(4, math.ceil(STEPS_PER_FRAME * min(settings.blocks) / window)),
        )
        device = next(module.parameters()).device
        return Pipeline(module, Codec.load(self.folder / "codec", self.dataset.timing).to(device), config)


def _leave_interrupts_to_the_trainer(worker: int) -> None:  # noqa: ARG001
    signal.signal(signal.SIGINT, signal.SIG_IGN)
