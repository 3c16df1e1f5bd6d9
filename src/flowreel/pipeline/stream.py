"""One generation of B samples in step: the endless stream of chunks that can be steered.

Data flows one way: guidance + solver + schedule (``flow.sampling.stream``) -> latents of finished frames -> the codec's
stream decoder -> chunks of clips. Where it goes on from a clip, the decoder is a ``Seam``, which puts the history in
front and mends what follows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from flowreel.codec import Codec
from flowreel.config import PipelineConfig, ResolvedSampling
from flowreel.flow.guidance import Weaker, classifier_free, gradient, unheld
from flowreel.flow.noise import SampleNoise, sample_seed
from flowreel.flow.sampling import Condition, stream
from flowreel.flow.schedule import blocks
from flowreel.flow.solver import Step
from flowreel.flow.types import Latents, Times, Velocity
from flowreel.media import Clip
from flowreel.models import Network, Remembered
from flowreel.pipeline.conditioning import Given
from flowreel.pipeline.continuation import Seam
from flowreel.pipeline.resolve import SOLVERS, check_guidance, class_index

_KNOWN_NOISE = 0x4B4E4F57


class Generation(Iterator[list[Clip]]):
    """An endless generation of B samples in step: every ``next`` gives one chunk per sample.

    Args:
        labels: (B,) class indices, or None for a model without classes.
        seeds: one per sample.
    """

    def __init__(
        self,
        model: Network,
        codec: Codec,
        config: PipelineConfig,
        settings: ResolvedSampling,
        given: Given,
        labels: Tensor | None,
        seeds: Sequence[int],
    ) -> None:
        self._config, self._settings, self._given = config, settings, given
        self._labels = [(0, labels)] if labels is not None else []  # from which frame of the timeline on
        self._guidance = settings.guidance
        self._model = Remembered(model, entries=settings.steps + 2)
        self._turns = 0
        self._made = 0
        self._steps = 0
        self._watch: Callable[[], None] | None = None
        self._rest: Iterator[list[Clip]] | None = None
        device = next(model.parameters()).device
        shapes = config.shape.streams
        self._known_noise = self._store_noise(seeds, device) if given.streams else {}
        decoder = codec.decoder(len(seeds))
        self._decoder = Seam(decoder, given) if given.prefix else decoder
        self._latents = stream(
            self._bind(),
            SampleNoise(seeds, shapes, device),
            settings.window,
            settings.steps,
            settings.block,
            settings.context,
            self._counted(SOLVERS[settings.solver]),
            self._condition(len(seeds)) if given.latents else None,
            lookahead=settings.lookahead,
            warmup_steps=settings.warmup_steps,
        )

    def steer(self, label: str | int | None = None, guidance: float | None = None) -> None:
        """Change the class (by name or index, for all samples) or the guidance from the next solver step on.

        A model that was trained with cuts keeps the class of the frames that have taken shape, and begins another scene
        in the last third of its window; others are given the new class for the whole window.

        Raises:
            InputError: the model has no such class, or can't be guided.
        """
        index = None if label is None else class_index(label, self._config)
        if guidance is not None:
            check_guidance(guidance, self._config)
            self._guidance = guidance
        if index is not None:
            labels = torch.full_like(self._label_at(0), index)
            cut = self._config.trained.cuts and self._turns > 0
            place = self._start + self._fresh if cut else 0
            self._labels = [change for change in self._labels if change[0] < place] + [(place, labels)]

    @property
    def _fresh(self) -> int:
        """Frames of the window that are kept as they are when the class changes."""
        end, block = self._settings.window - self._settings.lookahead, self._settings.block
        return end - max(block, end // 3 // block * block)

    def _label_at(self, frame: int) -> Tensor:
        """The classes (B,) of a frame of the timeline."""
        return next((labels for place, labels in reversed(self._labels) if place <= frame), self._labels[0][1])

    def _window_labels(self, frames: int) -> Tensor | None:
        """The classes (B,) of the window, or (B, T) where they change within it."""
        if not self._labels:
            return None
        past = min(self._made, self._start)
        self._labels = self._labels[sum(place <= past for place, _ in self._labels[1:]) :]
        rows = [self._label_at(frame) for frame in range(self._start, self._start + frames)]
        return rows[0] if all(row is rows[0] for row in rows) else torch.stack(rows, dim=1)

    def __next__(self) -> list[Clip]:
        """One chunk per sample; picture and sound of a chunk last equally long.

        A stream that is followed by the gradient ends the generation where it ends; one that is held is generated on.
        """
        if self._settings.method == "gradient" and self._rest is None:
            self._rest = self.until(self._given.length or 0)
        if self._rest is not None:
            return next(self._rest)
        chunks: list[Clip] = []
        while not chunks:
            chunks = self._decoder.push(self._block())
        return self._finished(chunks)

    def until(self, frames: int, watch: Callable[[float], None] | None = None) -> Iterator[list[Clip]]:
        """The chunks of exactly ``frames`` frames; used up afterwards. Nothing beyond them is sampled.

        ``watch`` is told the share of the solver steps that are done, after each of them; the warm-up counts.
        """
        if watch is not None:
            steps = self._steps_for(frames)
            self._watch = lambda: watch(min(1.0, self._steps / steps))
        while frames > 0:
            block = self._block()
            frames, length = frames - self._settings.block, min(frames, self._settings.block)
            chunks = self._decoder.push({k: v[:, :length] for k, v in block.items()})
            if chunks:
                yield self._finished(chunks)
        self._latents.close()
        rest = self._decoder.finish()
        if rest:
            yield self._finished(rest)

    def _steps_for(self, frames: int) -> int:
        """Solver steps that the first ``frames`` frames take, the warm-up included."""
        settings = self._settings
        ramp = blocks(settings.window, settings.block, settings.context, settings.lookahead)
        turns = math.ceil(frames / settings.block) - 1
        return settings.warmup_steps * ramp + settings.steps * turns

    def _counted(self, step: Step) -> Step:
        """The solver's ``step``, counted."""

        def counted(velocity: Velocity, x: Latents, t: Times, t_next: Times) -> Latents:
            x = step(velocity, x, t, t_next)
            self._steps += 1
            if self._watch:
                self._watch()
            return x

        return counted

    def _block(self) -> Latents:
        block = next(self._latents)
        self._turns += 1
        return block

    def _finished(self, chunks: list[Clip]) -> list[Clip]:
        names = self._names(len(chunks), self._made + self._given.prefix)
        named = [replace(chunk, label=name) for chunk, name in zip(chunks, names, strict=True)]
        done = [self._given.put_back(chunk, self._made, sample) for sample, chunk in enumerate(named)]
        self._made += len(done[0].frames)
        return done

    def _names(self, count: int, frame: int) -> list[str | None]:
        """Of the classes that ``count`` chunks begin with, at ``frame`` of the timeline."""
        if not self._labels:
            return [None] * count
        classes = self._config.classes
        return [classes[i] if i < len(classes) else None for i in self._label_at(frame).tolist()]

    @property
    def _start(self) -> int:
        """Place of the window's first frame in the timeline: without a prefix, history grows before frames leave."""
        moved = self._turns * self._settings.block
        return moved if self._given.prefix else max(0, moved - self._settings.context)

    def _store_noise(self, seeds: Sequence[int], device: torch.device) -> Latents:
        """The one stored noise of the known streams, for guidance by them."""
        shapes = {k: v for k, v in self._config.shape.streams.items() if k in self._given.streams}
        frames = max(len(v) for v in self._given.latents.values()) + self._settings.window
        return SampleNoise([sample_seed(seed, _KNOWN_NOISE) for seed in seeds], shapes, device)(frames)

    def _noise_of(self, start: int, frames: int) -> Latents:
        """The known streams' noise of frames ``start .. start + frames`` of the timeline."""
        return {k: v[:, start : start + frames] for k, v in self._known_noise.items()}

    def _weaker(self) -> Weaker | None:
        """What guides by the given stream, beside the class: the same window as if that stream were generated too."""
        start, ends = self._start, max((len(self._given.latents[k]) for k in self._given.streams), default=0)
        if self._settings.method != "hold" or start >= ends or "joint" not in self._config.trained.roles:
            return None
        return lambda x, t: unheld(x, t, self._noise_of(start, x["video"].shape[1]))

    def _condition(self, batch: int) -> Condition:
        """What is held: all that was given, or with gradient guidance the prefix alone."""
        followed = self._given.streams if self._settings.method == "gradient" else ()

        def condition(start: int, frames: int) -> tuple[Latents, dict[str, Tensor]]:
            latents, masks = self._given.window(start, frames)
            for k in followed:  # their history alone is held
                masks[k] = masks[k] & (torch.arange(start, start + frames, device=masks[k].device) < self._given.prefix)
            expanded = {k: v.expand(batch, *v.shape[1:]) for k, v in latents.items()}
            return expanded, {k: mask.expand(batch, -1) for k, mask in masks.items()}

        return condition

    def _bind(self) -> Callable[[Latents, Times, Times], Latents]:
        half = self._settings.precision == "bfloat16"

        def guided(x: Latents, t: Times, t_next: Times) -> Latents:
            labels = self._window_labels(x["video"].shape[1])
            with torch.autocast(x["video"].device.type, torch.bfloat16, enabled=half):
                velocity = classifier_free(self._model, labels, self._guidance, self._weaker())(x, t, t_next)
            return {k: v.float() for k, v in velocity.items()} if half else velocity

        if self._settings.method == "hold":
            return guided

        def through(x: Latents, t: Times, label: Any = None) -> Latents:  # noqa: ARG001
            return guided(x, t, t)

        def followed(x: Latents, t: Times, t_next: Times) -> Latents:
            start, frames = self._start, x["video"].shape[1]
            window, _ = self._given.window(start, frames)
            known = {k: window[k].to(x[k]).expand_as(x[k]) for k in self._known_noise}
            noise = self._noise_of(start, frames)
            return gradient(through, None, known, noise, self._settings.gradient_scale)(x, t, t_next)

        return followed
