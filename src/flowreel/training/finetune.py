"""Fine-tuning: the checks of a pipeline to start from, and how its weights enter a network for other classes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from flowreel.codec import Codec
from flowreel.codec.registry import CODEC
from flowreel.config import AudioCodecConfig
from flowreel.config.classnames import find_class
from flowreel.data.shards import read_index
from flowreel.errors import InputError
from flowreel.pipeline.pipeline import Pipeline
from flowreel.utils.reporting import Report

_TIME_BIAS = "mlp.2.bias"


def check_codec(start: Pipeline, data: Path) -> None:
    """Raise :class:`InputError` unless the latents in the folder ``data`` are those of ``start``: from the same
    autoencoder, to the bit, and from audio with the same level, channel and log-mel."""
    read_index(data)
    theirs, ours = start.codec, Codec.load(data / CODEC)
    if theirs.has_audio != ours.has_audio:
        raise InputError(
            f"{data} has {'audio' if ours.has_audio else 'no audio'}, but the pipeline to start from was trained "
            f"{'with' if theirs.has_audio else 'without'}: prepare the clips with --audio "
            f"{'require' if theirs.has_audio else 'none'}, or train without --init"
        )
    wrong = []
    if not _same_autoencoder(theirs, ours):
        wrong.append("another autoencoder")
    if theirs.has_audio and theirs.config.audio.mel != ours.config.audio.mel:  # type: ignore[union-attr]
        wrong.append("another log-mel")
    if wrong:
        raise InputError(
            f"{data} was prepared with {' and '.join(wrong)} than the pipeline to start from: prepare the clips again "
            "with --codec PIPE, where PIPE is that pipeline's folder, and its --mel settings"
        )
    if theirs.has_audio:
        _check_levels(theirs.config.audio, ours.config.audio, data)  # type: ignore[arg-type]


def _check_levels(theirs: AudioCodecConfig, ours: AudioCodecConfig, data: Path) -> None:
    differing = [
        f"{name} {getattr(ours, name)} (the pipeline: {getattr(theirs, name)})"
        for name in ("peak", "channel")
        if getattr(theirs, name) != getattr(ours, name)
    ]
    if differing:
        raise InputError(
            f"the audio of {data} was prepared with {' and '.join(differing)}, so its levels are not those that the "
            "pipeline to start from was trained on: prepare the clips again with --codec PIPE, where PIPE is that "
            "pipeline's folder, and without --peak and --channel"
        )


def _same_autoencoder(first: Codec, second: Codec) -> bool:
    names = ("kind", "source", "revision", "channels", "factor")
    a, b = (codec.config.video for codec in (first, second))
    if any(getattr(a, name) != getattr(b, name) for name in names):
        return False
    if a.source:
        return True
    states = [codec.video.module.state_dict() for codec in (first, second)]
    return states[0].keys() == states[1].keys() and all(
        torch.equal(value.cpu(), states[1][name].cpu()) for name, value in states[0].items()
    )


def take_weights(module: nn.Module, start: Pipeline, classes: tuple[str, ...], report: Report) -> None:
    """Load the weights of ``start`` into ``module``, a network of the same architecture for ``classes``.

    A class of both keeps its embedding; a new one starts with that of the null class. Without classes the embedding of
    the null class is added to that of time, which changes no output.

    Raises:
        InputError: shapes differ (learned positions are for one window and size).
    """
    state = {name: value.clone() for name, value in start.model.state_dict().items()}
    known = start.config.classes
    own = module.state_dict()
    for name in [name for name in own.keys() | state.keys() if name.startswith("class_embed")]:
        if name not in own:
            bias = name.replace("class_embed", "time_embed").replace("weight", _TIME_BIAS)
            state[bias] = state[bias] + state.pop(name)[-1]
        elif name not in state:
            state[name] = torch.zeros_like(own[name])
        else:
            state[name] = _rows(state[name], known, classes)
    wrong = [
        f"{name} is {tuple(state[name].shape)} there and {tuple(own[name].shape)} here"
        for name in sorted(own)
        if state[name].shape != own[name].shape
    ]
    if wrong:
        raise InputError(
            f"the pipeline to start from does not fit these latents: {'; '.join(wrong[:3])}. Its window is "
            f"{start.config.trained.window} frames (data.window), its latents are {start.config.shape.streams}"
        )
    module.load_state_dict(state)
    new = [name for name in classes if find_class(name, known) is None]
    kept = [name for name in classes if name not in new]
    report(
        f"starting from step {start.config.trained.step} of a {start.config.model.kind} of "
        f"{sum(weight.numel() for weight in module.parameters()):,} parameters"
        + (f"; classes kept: {', '.join(kept) or 'none'}; new: {', '.join(new) or 'none'}" if classes else "")
    )


def _rows(table: Tensor, known: tuple[str, ...], classes: tuple[str, ...]) -> Tensor:
    """(known + 1, D) -> (classes + 1, D)."""
    rows = [find_class(name, known) for name in classes]
    return table[[len(known) if row is None else row for row in (*rows, None)]]
