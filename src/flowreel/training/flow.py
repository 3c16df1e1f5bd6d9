"""Training a flow model on the windows of a prepared folder.

Everything random about sample ``n`` (noise, role, times, dropped labels) comes from generators seeded by the run's
seed and ``n``: it depends neither on the batch nor on the process.
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
from flowreel.config import CodecConfig, ObjectiveConfig, PipelineConfig, TrainConfig, Trained, to_dict
from flowreel.data.dataset import GlobalOrder, WindowDataset
from flowreel.data.shards import INDEX
from flowreel.errors import InputError
from flowreel.flow import degradation, objective, roles
from flowreel.flow.guidance import renoise
from flowreel.flow.noise import SampleNoise, seeded
from flowreel.flow.types import Latents, Times
from flowreel.models.network import Label
from flowreel.pipeline.loading import load
from flowreel.pipeline.pipeline import Pipeline
from flowreel.training import finetune
from flowreel.training.loop import fit
from flowreel.training.task import NOISE, ROLE, WEIGHTS, Batch, purpose_seed
from flowreel.utils.files import read_json
from flowreel.utils.reporting import Report

VALIDATION_SEED = 0x56414C
"""Seed of the noise, roles and times of validation losses, the same for every run."""
STEPS_PER_FRAME = 40
"""Default of the exported pipeline: solver steps that a frame gets while it passes through the window (fewer with a
lookahead)."""


def train(data: Path | str, run: Path | str, config: TrainConfig, report: Report = print) -> Path:
    """Train a flow on the prepared folder ``data``; ``run`` becomes a checkpoint folder for :func:`flowreel.load`.

    Running the same command again resumes from the last checkpoint; see :func:`flowreel.training.loop.fit`.
    """
    start = load(config.init, device="cpu") if config.init else None
    if start is not None:
        config = dataclasses.replace(config, model=start.config.model, init=str(Path(config.init)))
    return fit(FlowTask(Path(data), config, report, start), Path(run), config, report)


class FlowTask:
    """Training a velocity network on the windows of a prepared folder.

    Args:
        config: with ``start``, its architecture has to be that one's.
        start: the pipeline whose weights and latent scales training starts from; None for random weights.
    """

    kind = "flow"
    networks: tuple[str, ...] = ()

    def __init__(self, data: Path, config: TrainConfig, report: Report, start: Pipeline | None = None) -> None:
        self.config, self.folder = config, data
        self.codec = start.codec if start is not None else None
        if start is not None:
            finetune.check_codec(start, data)
        scales = start.config.codec if start is not None else None
        self.dataset = WindowDataset(data, "train", config.data, config.seed, report, scales)
        self.shapes = self.dataset.shape.streams
        self.loss_names = tuple(self.shapes)
        self.roles = {role: share for role, share in dataclasses.asdict(config.objective.roles).items() if share > 0}
        if "audio" not in self.shapes:
            self.roles = self._video_roles(report)
        self._check_guidance(start, report)
        torch.manual_seed(purpose_seed(config.seed, WEIGHTS, 0))
        self.module = models.build(config.model, self.dataset.shape, len(self.dataset.classes), config.data.window)
        self.module.gradient_checkpointing = config.checkpointing
        if start is not None:
            finetune.take_weights(self.module, start, self.dataset.classes, report)
        self.averaged: nn.Module = self.module
        self.micro_batch = config.batch // config.optim.accumulate
        """Samples that go through the network together."""
        self.held_out = self._held_out(scales, report)
        index = read_json(self.folder / INDEX)
        facts = {name: index[name] for name in ("classes", "timing", "codec", "shape", "splits")}
        if start is not None:
            facts["scales"] = to_dict(start.config.codec)
        self.data = {"index": hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]}

    def _video_roles(self, report: Report) -> dict[str, float]:
        """The roles of a model without audio; the others are left out with a message."""
        kept = {role: share for role, share in self.roles.items() if role in ("joint", "context")}
        left_out = sorted(set(self.roles) - set(kept))
        if not kept:
            raise InputError(
                f"{self.folder} has no audio, which objective.roles {', '.join(left_out)} need: "
                "give joint or context a share above 0"
            )
        if left_out:
            report(f"{self.folder} has no audio: the roles {', '.join(left_out)} are left out")
        return kept

    def _check_guidance(self, start: Pipeline | None, report: Report) -> None:
        """Check the guidance settings, and report where they differ from those that ``start`` was trained with."""
        config, classes = self.config, self.dataset.classes
        scale, conditioned = scales = _guidance_scales(config.objective)
        name, highest = "guidance", scale
        if conditioned > scale and self._has_clean_stream:
            name, highest = "conditioned_guidance", conditioned
        if highest > 1 and classes and config.model.class_dropout == 0:
            raise InputError(f"objective.{name} {highest:g} needs a null class: set model.class_dropout above 0")
        if highest > 1 and not classes and not ("joint" in self.roles and self._has_clean_stream):
            raise InputError(
                f"objective.{name} {highest:g} needs classes or conditioning: set it to 1, or train joint as well as "
                "audio_clean or video_clean"
            )
        if start is not None:
            names, learnt = ("guidance", "conditioned guidance"), _guidance_scales(start.config.trained)
            for what, before, to in zip(names, learnt, scales, strict=True):
                if to != before > 1:
                    report(f"the pipeline to start from was trained with {what} {before:g}, this run with {to:g}")

    @property
    def _has_clean_stream(self) -> bool:
        """Whether some samples have a whole clean stream as conditioning."""
        return bool(roles.WHOLE & set(self.roles))

    def batches(self, start: int, rank: int, world: int) -> Iterator[Batch]:
        config = self.config
        order = GlobalOrder(config.batch, start, config.steps, rank, world, config.optim.accumulate)
        self.micro_batch = order.micro_batch
        loader = DataLoader(
            self.dataset,
            batch_sampler=order,
            num_workers=config.data.workers,
            worker_init_fn=_ignore_signals,
            pin_memory=torch.cuda.is_available(),
        )
        for positions, batch in zip(order, loader, strict=True):
            yield {**batch, "position": torch.tensor(positions)}

    def _held_out(self, scales: CodecConfig | None, report: Report) -> WindowDataset | None:
        """The windows of the validation loss; None without a clip in test/ that is long enough."""
        config = self.config
        if not (config.validate and config.data.validation and self.dataset.index.splits.get("test")):
            return None
        settings = dataclasses.replace(config.data, flip=0.0, cut=0.0)
        try:
            return WindowDataset(self.folder, "test", settings, config.seed, None, scales)
        except InputError as error:
            report(f"no validation loss: {error}")
            return None

    def losses(self, module: nn.Module, batch: Batch, network: str = "") -> dict[str, Tensor]:  # noqa: ARG002
        return self._losses(module, batch, self.config.seed, augment=True)

    def _losses(self, module: nn.Module, batch: Batch, seed: int, augment: bool) -> dict[str, Tensor]:
        """The losses of the samples at ``batch["position"]`` of the runs with ``seed``."""
        settings, positions = self.config.objective, batch["position"].tolist()
        data = {stream: batch[stream] for stream in self.shapes}
        device, frames = data["video"].device, data["video"].shape[1]
        noise = SampleNoise([purpose_seed(seed, NOISE, n) for n in positions], self.shapes, device)(frames)
        generators = seeded([purpose_seed(seed, ROLE, n) for n in positions])
        draw = partial(
            roles.draw_times,
            frames=frames,
            streams=list(self.shapes),
            shares=self.roles,
            warmup=settings.warmup,
            blocks=settings.blocks,
            contexts=settings.contexts,
            lookaheads=settings.lookaheads,
        )
        drawn = [draw(generator) for generator in generators]
        t = {stream: torch.stack([times[stream] for times in drawn]).to(device) for stream in self.shapes}
        if augment and settings.degrade:
            data = self._degraded(data, t, generators)
        label = batch["label"] if self.module.num_classes else None
        if label is not None and augment:
            label = self.module.drop_label(label, generators)
        guidance = self._guidance(label, t)
        unconditional = partial(renoise, noise=noise) if "joint" in self.roles else None
        counted = {stream: times > 0 for stream, times in t.items()}  # sampling does not use the lookahead's velocity
        return objective.losses(module, data, noise, t, label, settings.weight, guidance, unconditional, counted)

    def _guidance(self, label: Label, t: Times) -> Tensor | None:
        """``objective.guidance`` or, with a clean stream, ``objective.conditioned_guidance`` for the samples (B,) of
        which no class was dropped, 1 for the others; None where it is 1 for all."""
        scale, conditioned = _guidance_scales(self.config.objective)
        if scale == 1 and (conditioned == 1 or not self._has_clean_stream):
            return None
        clean = torch.stack([(times == 1).all(1) for times in t.values()]).any(0)
        labels = label.values() if isinstance(label, dict) else [] if label is None else [label]
        known = torch.ones_like(clean)
        for rows in labels:
            known &= (rows != self.module.num_classes).reshape(len(known), -1).all(1)
        return torch.where(known, torch.where(clean, conditioned, scale), 1.0)

    def _degraded(self, data: Latents, t: Times, generators: list[torch.Generator]) -> Latents:
        """The share ``objective.degrade`` of the samples with degraded frames."""
        samples = [{k: v[i] for k, v in data.items()} for i in range(len(generators))]
        for i, generator in enumerate(generators):
            if float(torch.rand(1, generator=generator)) < self.config.objective.degrade:
                samples[i] = degradation.degrade(samples[i], {k: v[i] for k, v in t.items()}, generator)
        return {k: torch.stack([sample[k] for sample in samples]) for k in data}

    def validate(self, module: nn.Module) -> dict[str, float]:
        """The loss and its parts on windows of the test clips: always the same windows, noise, roles and times, with
        their labels.

        Times and noise have the distribution of training, so the losses are comparable to the training losses. With
        ``objective.guidance`` the target is the model's own guided velocity, as in training.
        """
        if self.held_out is None:
            return {}
        device = next(module.parameters()).device
        sums: dict[str, float] = {}
        count = self.config.data.validation
        for positions in torch.arange(count).split(self.micro_batch):
            samples = [self.held_out.sample(n) for n in positions.tolist()]
            batch = {name: torch.stack([torch.as_tensor(sample[name]) for sample in samples]) for name in samples[0]}
            batch = {name: tensor.to(device) for name, tensor in {**batch, "position": positions}.items()}
            for stream, loss in self._losses(module, batch, VALIDATION_SEED, augment=False).items():
                sums[stream] = sums.get(stream, 0.0) + loss.item() * len(positions) / count
        return {"loss": sum(sums.values()), **sums}

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
            trained=Trained(
                window,
                settings.blocks,
                tuple(contexts),
                tuple(self.roles),
                step,
                cuts=self.config.data.cut > 0,
                guidance=settings.guidance,
                conditioned_guidance=settings.conditioned_guidance if self._has_clean_stream else None,
                lookaheads=settings.lookaheads if self._has_clean_stream else (),
            ),
            steps=max(4, math.ceil(STEPS_PER_FRAME * min(settings.blocks) / window)),
        )
        device = next(module.parameters()).device
        timing = self.dataset.timing
        codec = self.codec.at(timing) if self.codec is not None else Codec.load(self.folder / "codec", timing)
        return Pipeline(module, codec.to(device), config)


def _guidance_scales(settings: ObjectiveConfig | Trained) -> tuple[float, float]:
    """The scales of samples without and with a whole clean stream."""
    scale = settings.guidance
    return scale, scale if settings.conditioned_guidance is None else settings.conditioned_guidance


def _ignore_signals(worker: int) -> None:  # noqa: ARG001
    """Signals reach the whole process group; the trainer handles them, and ends its workers when it has saved."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
