"""Resolves the options of sampling: what was left open follows from what the model was trained with."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields
from numbers import Integral
from typing import Any, Literal

from flowreel.config import PipelineConfig, ResolvedSampling, SamplingConfig, check_scale
from flowreel.config.classnames import find_class
from flowreel.errors import InputError
from flowreel.flow.schedule import blocks
from flowreel.flow.solver import euler, heun
from flowreel.pipeline.conditioning import Conditioning
from flowreel.utils.spelling import closest

SOLVERS = {"euler": euler, "heun": heun}
LONGEST_CLIP = 4
"""Of models that make clips: the longest one, in trained windows."""


def sampling_config(options: Mapping[str, Any]) -> SamplingConfig:
    """The options of sampling by name.

    Raises:
        InputError: an unknown name (says the closest), or a value that is out of range.
    """
    names = [field.name for field in fields(SamplingConfig)]
    for name in options:
        if name not in names:
            meant = closest(name, [*names, "seconds", "label", "seed", "audio", "video", "prefix"])
            raise InputError(f"there is no setting {name!r}{meant}; there are {', '.join(names)}")
    return SamplingConfig(**options)


def makes_clips(config: PipelineConfig) -> bool:
    """Whether the model was trained on whole clips alone: every block is the window."""
    return all(block == config.trained.window for block in config.trained.blocks)


def resolve(
    settings: SamplingConfig, config: PipelineConfig, conditioning: Conditioning, frames: int | None = None
) -> ResolvedSampling:
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
    context = _first(settings.context, conditioning.prefix)
    if conditioning.prefix and context != conditioning.prefix:
        raise InputError(f"context {context} was asked for, but the prefix fills {conditioning.prefix} frames")
    method = _method(settings, config, conditioning)
    held = bool(conditioning.streams) and method == "hold"
    lookahead = _first(settings.lookahead, _usual_lookahead(window, block, context, config) if held else 0)
    try:
        blocks(window, block, context, lookahead)
    except ValueError as error:
        raise InputError(str(error)) from error
    usual = config.steps if clips else max(1, round(config.steps * block / min(trained.blocks)))
    steps = _first(settings.steps, usual)
    warmup_steps = _first(settings.warmup_steps, 2 * steps if conditioning.prefix else steps)
    guidance = _first(settings.guidance, config.guidance)
    check_guidance(guidance, config)
    _warn_untrained(window, block, context, config)
    if lookahead not in ((trained.lookaheads or (0,)) if held else (0,)):
        seen = _list(trained.lookaheads) if held else "none where no whole audio or video is held"
        warnings.warn(f"a lookahead of {lookahead} frames: the model was trained with {seen}", stacklevel=3)
    if conditioning.prefix and conditioning.streams:
        warnings.warn("a prefix beside audio or video: no role of training shows a model that", stacklevel=3)
    return ResolvedSampling(
        guidance=guidance,
        steps=steps,
        warmup_steps=warmup_steps,
        solver=settings.solver or config.solver,
        block=block,
        context=context,
        lookahead=lookahead,
        window=window,
        method=method,
        gradient_scale=settings.gradient_scale,
        precision=settings.precision,
    )


def _first(*options: Any) -> Any:
    """The first that was conditioning."""
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


def _method(
    settings: SamplingConfig, config: PipelineConfig, conditioning: Conditioning
) -> Literal["hold", "gradient"]:
    if not conditioning.streams:
        return "hold"
    role = f"{conditioning.streams[0]}_clean"
    seen = role in config.trained.roles
    if settings.method == "auto":
        return "hold" if seen else "gradient"
    if settings.method == "hold" and not seen:
        warnings.warn(
            f"the {conditioning.streams[0]} is held clean, which the model has not seen in training", stacklevel=4
        )
    return settings.method


def check_guidance(scale: float, config: PipelineConfig) -> None:
    """Raise :class:`InputError` where classifier-free guidance at ``scale`` can't work."""
    check_scale("guidance", scale)
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
    if isinstance(label, str) and (place := find_class(label, classes)) is not None:
        return place
    if isinstance(label, Integral) or (isinstance(label, str) and label.isdecimal()):
        index = int(label)
        if 0 <= index < len(classes):
            return index
    raise InputError(
        f"no class is called {label!r}: choose one of {', '.join(classes[:20])}, or an index from 0 to "
        f"{len(classes) - 1}"
    )
