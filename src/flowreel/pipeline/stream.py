"""Generates B samples in step: an endless stream of chunks that can be steered.

Data flows one way: guidance, solver and schedule (``flow.sampling.stream``) -> latents of finished frames -> the
codec's stream decoder -> chunks of clips. After a prefix the decoder is a ``ContinuationDecoder``, which primes it with
the history and blends the join.
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
from flowreel.flow.guidance import Unconditional, classifier_free, gradient, renoise
from flowreel.flow.noise import SampleNoise, sample_seed
from flowreel.flow.sampling import stream
from flowreel.flow.schedule import blocks
from flowreel.flow.solver import Step
from flowreel.flow.types import Latents, Times, Velocity
from flowreel.media import Clip
from flowreel.models import CachedModulation, Network
from flowreel.pipeline.conditioning import Conditioning
from flowreel.pipeline.continuation import ContinuationDecoder
from flowreel.pipeline.resolve import SOLVERS, check_guidance, class_index

_KNOWN_NOISE = 0x4B4E4F57


class ClassTimeline:
    """Which class each frame of the timeline has, for B samples.

    Args:
        labels: (B,) class indices at its beginning, or None for a model without classes.
    """

    def __init__(self, labels: Tensor | None) -> None:
        self._changes = [(0, labels)] if labels is not None else []  # from which frame on

    def at(self, frame: int) -> Tensor | None:
        """The classes (B,) of a frame."""
        if not self._changes:
            return None
        return next((labels for place, labels in reversed(self._changes) if place <= frame), self._changes[0][1])

    def change(self, index: int, frame: int) -> None:
        """Change the class of all samples from ``frame`` on."""
        labels = torch.full_like(self._changes[0][1], index)
        self._changes = [change for change in self._changes if change[0] < frame] + [(frame, labels)]

    def forget(self, frame: int) -> None:
        """Forget the changes before ``frame``, which nobody asks for any more."""
        self._changes = self._changes[sum(place <= frame for place, _ in self._changes[1:]) :]

    def window(self, start: int, frames: int) -> Tensor | None:
        """The classes (B,) of a window, or (B, T) where they change within it."""
        if not self._changes:
            return None
        rows = [row for frame in range(start, start + frames) if (row := self.at(frame)) is not None]
        return rows[0] if all(row is rows[0] for row in rows) else torch.stack(rows, dim=1)


class GenerationStream(Iterator[list[Clip]]):
    """An endless generation of B samples in step: every ``next`` gives one chunk per sample.

    With ``method`` "gradient" it ends where the conditioning ends; a stream that is held is generated on.

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
        conditioning: Conditioning,
        labels: Tensor | None,
        seeds: Sequence[int],
    ) -> None:
        self._config, self._settings, self._conditioning = config, settings, conditioning
        self._classes = ClassTimeline(labels)
        self._guidance = settings.guidance
        self._model = CachedModulation(model, entries=settings.steps + 2)
        self._batch = len(seeds)
        self._turns = self._made = self._steps = 0
        self._watch: Callable[[], None] | None = None
        self._rest: Iterator[list[Clip]] | None = None
        device = next(model.parameters()).device
        self._known_noise = self._draw_known_noise(seeds, device)
        decoder = codec.decoder(len(seeds))
        self._decoder = ContinuationDecoder(decoder, conditioning) if conditioning.prefix else decoder
        self._latents = stream(
            self._guided if settings.method == "hold" else self._followed,
            SampleNoise(seeds, config.shape.streams, device),
            settings.window,
            settings.steps,
            settings.block,
            settings.context,
            self._counted(SOLVERS[settings.solver]),
            self._condition if conditioning.latents else None,
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
            cut = self._config.trained.cuts and self._turns > 0
            self._classes.change(index, self._start + self._kept if cut else 0)

    def __next__(self) -> list[Clip]:
        """One chunk per sample; video and audio of a chunk last equally long."""
        if self._settings.method == "gradient" and self._rest is None:
            self._rest = self.until(self._conditioning.length or 0)
        if self._rest is not None:
            return next(self._rest)
        chunks: list[Clip] = []
        while not chunks:
            chunks = self._decoder.push(self._block())
        return self._finished(chunks)

    def until(self, frames: int, watch: Callable[[float], None] | None = None) -> Iterator[list[Clip]]:
        """The chunks of exactly ``frames`` frames; used up afterwards. Nothing beyond them is sampled.

        ``watch`` is called with the share of the solver steps that are done, after each of them; the warm-up counts.
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
        """The chunks with the names of their classes, and with the known frames or audio in place of decoded ones."""
        names = self._names(self._made + self._conditioning.prefix)
        named = [replace(chunk, label=name) for chunk, name in zip(chunks, names, strict=True)]
        done = [self._conditioning.media_of(k).replace_in(chunk, self._made) for k, chunk in enumerate(named)]
        self._made += len(done[0].frames)
        self._classes.forget(min(self._made, self._start))
        return done

    def _names(self, frame: int) -> list[str | None]:
        """The classes of the samples at ``frame`` of the timeline."""
        labels, classes = self._classes.at(frame), self._config.classes
        if labels is None:
            return [None] * self._batch
        return [classes[i] if i < len(classes) else None for i in labels.tolist()]

    @property
    def _start(self) -> int:
        """Place of the window's first frame in the timeline: without a prefix, history grows before frames leave."""
        moved = self._turns * self._settings.block
        return moved if self._conditioning.prefix else max(0, moved - self._settings.context)

    @property
    def _kept(self) -> int:
        """Frames of the window that keep their class when it changes with a cut."""
        end, block = self._settings.window - self._settings.lookahead, self._settings.block
        return end - max(block, end // 3 // block * block)

    # --- conditioning -------------------------------------------------------------------------------------------------

    def _draw_known_noise(self, seeds: Sequence[int], device: torch.device) -> Latents:
        """The noise of the known streams for guidance by them, drawn once for the whole sample."""
        known = self._conditioning
        if not known.streams:
            return {}
        shapes = {k: v for k, v in self._config.shape.streams.items() if k in known.streams}
        frames = max(v.shape[1] for v in known.latents.values()) + self._settings.window
        return SampleNoise([sample_seed(seed, _KNOWN_NOISE) for seed in seeds], shapes, device)(frames)

    def _noise_of(self, start: int, frames: int) -> Latents:
        """The known streams' noise of frames ``start .. start + frames`` of the timeline."""
        return {k: v[:, start : start + frames] for k, v in self._known_noise.items()}

    def _condition(self, start: int, frames: int) -> tuple[Latents, dict[str, Tensor]]:
        """What is held clean: all that is known or, where it is followed by the gradient, the prefix alone."""
        latents, masks = self._conditioning.window(start, frames)
        for k in self._conditioning.streams if self._settings.method == "gradient" else ():
            places = torch.arange(start, start + frames, device=masks[k].device)
            masks[k] = masks[k] & (places < self._conditioning.prefix)
        expanded = {k: v.expand(self._batch, *v.shape[1:]) for k, v in latents.items()}
        return expanded, {k: mask.expand(self._batch, -1) for k, mask in masks.items()}

    # --- velocities ---------------------------------------------------------------------------------------------------

    def _guided(self, x: Latents, t: Times, t_next: Times) -> Latents:
        """The velocity with the label and the guidance of this moment."""
        half = self._settings.precision == "bfloat16"
        labels = self._classes.window(self._start, x["video"].shape[1])
        with torch.autocast(x["video"].device.type, torch.bfloat16, enabled=half):
            velocity = classifier_free(self._model, labels, self._guidance, self._unconditional())(x, t, t_next)
        return {k: v.float() for k, v in velocity.items()} if half else velocity

    def _unconditional(self) -> Unconditional | None:
        """The inputs of the unconditional pass that also guides by a held stream; None where nothing is held."""
        known = self._conditioning
        start, end = self._start, max((known.latents[k].shape[1] for k in known.streams), default=0)
        if self._settings.method != "hold" or start >= end or "joint" not in self._config.trained.roles:
            return None
        return lambda x, t: renoise(x, t, self._noise_of(start, x["video"].shape[1]))

    def _followed(self, x: Latents, t: Times, t_next: Times) -> Latents:
        """The velocity that follows the known streams by the gradient."""
        start, frames = self._start, x["video"].shape[1]
        window, _ = self._conditioning.window(start, frames)
        known = {k: window[k].to(x[k]).expand_as(x[k]) for k in self._known_noise}
        through = _as_model(self._guided)
        return gradient(through, None, known, self._noise_of(start, frames), self._settings.gradient_scale)(
            x, t, t_next
        )


def _as_model(velocity: Velocity) -> Callable[..., Latents]:
    """A velocity in the form of a model; its label is bound already."""

    def model(x: Latents, t: Times, label: Any = None) -> Latents:  # noqa: ARG001
        return velocity(x, t, t)

    return model
