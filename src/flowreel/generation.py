"""One generation of B samples in step: settings made whole, and the endless stream of chunks that can be steered.

Data flows one way: guidance + solver + schedule (``flow.sampling.stream``) -> latents of finished frames -> the codec's
stream decoder -> chunks of clips.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral
from typing import Any, Literal

import torch
from torch import Tensor

from flowreel.codec import Codec
from flowreel.config import PipelineConfig
from flowreel.errors import InputError
from flowreel.flow.guidance import Weaker, classifier_free, gradient, unheld
from flowreel.flow.noise import SampleNoise, sample_seed
from flowreel.flow.sampling import Condition, stream
from flowreel.flow.schedule import blocks
from flowreel.flow.solver import euler, heun
from flowreel.flow.types import Latents, Times
from flowreel.given import Given
from flowreel.media import Clip
from flowreel.models import Network, Remembered

SOLVERS = {"euler": euler, "heun": heun}
LONGEST_CLIP = 4
"""Of models that make clips: the longest one, in trained windows."""
GRADIENT_SCALE = 25.0
"""R-FLAV's published scale, 100 with a mean that runs over its batch of 4, per sample."""
_KNOWN_NOISE = 0x4B4E4F57


@dataclass(frozen=True)
class Settings:
    """How to sample; None takes what the pipeline was trained or saved with.

    Attributes:
        guidance: classifier-free scale, 1 is none.
        steps: solver steps per turn (of a clip: in all).
        block: frames that are finished together; the window's length makes clips.
        context: finished frames that the window keeps in sight.
        lookahead: frames at the window's end that stay noise, so that what is given there is seen before anything takes
            shape; the most that training has shown where a whole sound or picture is held, otherwise 0.
        window: frames in the window; other than the trained length needs positions that are not learned.
        method: how a given sound or picture is followed: "hold" at t = 1 (for models that have seen that in training),
            by the "gradient" through the network (R-FLAV's way for models trained jointly alone), or "auto".
        gradient_scale: strength of "gradient".
        precision: of the network's arithmetic; "bfloat16" (autocast) is faster on GPUs and on CPUs that know it.
    """

    guidance: float | None = None
    steps: int | None = None
    solver: Literal["euler", "heun"] | None = None
    block: int | None = None
    context: int | None = None
    lookahead: int | None = None
    window: int | None = None
    method: Literal["auto", "hold", "gradient"] = "auto"
    gradient_scale: float = GRADIENT_SCALE
    precision: Literal["float32", "bfloat16"] = "float32"

    @classmethod
    def of(cls, options: dict[str, Any]) -> Settings:
        """Settings by name; an unknown one is an :class:`InputError` that names the closest."""
        names = [f.name for f in fields(cls)]
        for name in options:
            if name not in names:
                close = difflib.get_close_matches(
                    name, [*names, "seconds", "label", "seed", "audio", "video", "prefix"], 1
                )
                meant = f", did you mean {close[0]}?" if close else ""
                raise InputError(f"there is no setting {name!r}{meant}; there are {', '.join(names)}")
        return cls(**options)


@dataclass(frozen=True)
class Resolved:
    """:class:`Settings` with nothing left open."""

    guidance: float
    steps: int
    solver: Literal["euler", "heun"]
    block: int
    context: int
    lookahead: int
    window: int
    method: Literal["hold", "gradient"]
    gradient_scale: float
    precision: Literal["float32", "bfloat16"]


def makes_clips(config: PipelineConfig) -> bool:
    """Whether the model was trained on whole clips alone: every block is the window."""
    return all(block == config.trained.window for block in config.trained.blocks)


def resolve(settings: Settings, config: PipelineConfig, given: Given, frames: int | None = None) -> Resolved:
    """Fill in what was left open and check it against what the model was trained with.

    Args:
        frames: length of the clip that is wanted, for models of whole clips.

    Raises:
        InputError: a combination that can't work. Values that training has not seen are warned about.
    """
    trained = config.trained
    clips = makes_clips(config)
    whole = frames if clips and settings.block is None else None
    if whole is not None and whole > LONGEST_CLIP * trained.window:
        raise InputError(
            f"a clip of {whole} frames was asked for, but this model makes clips of {trained.window} and can't roll: "
            f"ask for at most {LONGEST_CLIP * trained.window / config.timing.fps:g} s"
        )
    window = _first(settings.window, whole, trained.window)
    block = _first(settings.block, window if clips else min(trained.blocks))
    context = _first(settings.context, given.prefix)
    if given.prefix and context != given.prefix:
        raise InputError(f"context {context} was asked for, but the clip to go on from fills {given.prefix} frames")
    method = _method(settings, config, given)
    held = bool(given.streams) and method == "hold"
    lookahead = _first(settings.lookahead, _usual_lookahead(window, block, context, config) if held else 0)
    try:
        blocks(window, block, context, lookahead)
    except ValueError as error:
        raise InputError(str(error)) from error
    usual = config.steps if clips else max(1, round(config.steps * block / min(trained.blocks)))
    steps = _first(settings.steps, usual)
    if steps < 1:
        raise InputError(f"steps must be at least 1, not {steps}")
    guidance = _first(settings.guidance, config.guidance)
    check_guidance(guidance, config)
    solver = settings.solver or config.solver
    if solver not in SOLVERS:
        raise InputError(f"no solver is called {solver!r}: choose {' or '.join(SOLVERS)}")
    _warn_untrained(window, block, context, config)
    if lookahead not in ((trained.lookaheads or (0,)) if held else (0,)):
        seen = _list(trained.lookaheads) if held else "none where no whole sound or picture is held"
        warnings.warn(f"a lookahead of {lookahead} frames: the model was trained with {seen}", stacklevel=3)
    if given.prefix and given.streams:
        warnings.warn("history and a stream are given together: no role of training shows a model that", stacklevel=3)
    if settings.precision not in ("float32", "bfloat16"):
        raise InputError(f"no precision is called {settings.precision!r}: choose float32 or bfloat16")
    return Resolved(
        guidance,
        steps,
        solver,
        block,
        context,
        lookahead,
        window,
        method,
        settings.gradient_scale,
        settings.precision,
    )


def _first(*options: Any) -> Any:
    """The first that was given."""
    return next(option for option in options if option is not None)


def _usual_lookahead(window: int, block: int, context: int, config: PipelineConfig) -> int:
    """The longest lookahead of training that fits such a window; 0 where none does."""
    trained = config.trained
    inner = [(window - context - lookahead, lookahead) for lookahead in trained.lookaheads if window >= trained.window]
    return max((lookahead for left, lookahead in inner if left > 0 and left % block == 0), default=0)


def _warn_untrained(window: int, block: int, context: int, config: PipelineConfig) -> None:
    trained, clips = config.trained, makes_clips(config)
    if window != trained.window:
        warnings.warn(f"a window of {window} frames: the model was trained with {trained.window}", stacklevel=4)
    if block not in trained.blocks and not (clips and block == window):
        warnings.warn(f"blocks of {block} frames: the model was trained with {_list(trained.blocks)}", stacklevel=4)
    if context not in trained.contexts:
        warnings.warn(
            f"a context of {context} frames: the model was trained with {_list(trained.contexts)}", stacklevel=4
        )


def _list(values: Sequence[int]) -> str:
    return ", ".join(map(str, values)) or "none"


def _method(settings: Settings, config: PipelineConfig, given: Given) -> Literal["hold", "gradient"]:
    if not given.streams:
        return "hold"
    role = f"{given.streams[0]}_clean"
    seen = role in config.trained.roles
    if settings.method == "auto":
        return "hold" if seen else "gradient"
    if settings.method == "hold" and not seen:
        warnings.warn(
            f"the given {given.streams[0]} is held clean, which the model has not seen in training", stacklevel=4
        )
    return settings.method


def check_guidance(scale: float, config: PipelineConfig) -> None:
    """Raise :class:`InputError` where classifier-free guidance at ``scale`` can't work."""
    if scale == 1:
        return
    if not config.classes:
        raise InputError(f"guidance {scale:g} needs classes, and this model has none: use guidance 1")
    if config.model.class_dropout == 0:
        raise InputError(f"guidance {scale:g} needs a model that was trained with class dropout: use guidance 1")


def class_index(label: str | int, config: PipelineConfig) -> int:
    """The index of a class given by name or index.

    Raises:
        InputError: no such class; names those there are.
    """
    classes = config.classes
    if not classes:
        raise InputError(f"label {label!r} was given, but this model has no classes: leave it out")
    if isinstance(label, str) and label in classes:
        return classes.index(label)
    if isinstance(label, Integral) or (isinstance(label, str) and label.isdecimal()):
        index = int(label)
        if 0 <= index < len(classes):
            return index
    raise InputError(
        f"no class is called {label!r}: choose one of {', '.join(classes[:20])}, or an index from 0 to "
        f"{len(classes) - 1}"
    )


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
        settings: Resolved,
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
        self._rest: Iterator[list[Clip]] | None = None
        device = next(model.parameters()).device
        shapes = config.shape.streams
        self._known_noise = self._store_noise(seeds, device) if given.streams else {}
        self._decoder = codec.decoder(len(seeds))
        self._latents = stream(
            self._bind(),
            SampleNoise(seeds, shapes, device),
            settings.window,
            settings.steps,
            settings.block,
            settings.context,
            SOLVERS[settings.solver],
            self._condition(len(seeds)) if given.latents else None,
            settings.lookahead,
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

    def until(self, frames: int) -> Iterator[list[Clip]]:
        """The chunks of exactly ``frames`` frames; used up afterwards. Nothing beyond them is sampled."""
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
