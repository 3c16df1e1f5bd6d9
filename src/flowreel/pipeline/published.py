"""Reads checkpoints of the two published systems into our configs and key names.

R-FLAV (arXiv 2503.08307): a folder of ``config.json`` + ``model.safetensors`` (``vocoder/`` beside them), and its
trainer's ``final.pt`` and ``ema.pth``. GenerativeFlow-Videos: ``content.pt``. The architecture is read from the tensors
and the stored arguments; no pickle is executed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from flowreel.codec.registry import autoencoder_for
from flowreel.codec.vocoder import kind_of
from flowreel.config import (
    AudioCodecConfig,
    CodecConfig,
    LatentShape,
    ModelConfig,
    PipelineConfig,
    Timing,
    Trained,
)
from flowreel.config.presets import RFLAV_AUDIO_SCALES, SIZES
from flowreel.errors import InputError
from flowreel.models.positions import sincos_2d
from flowreel.utils.files import read_json
from flowreel.utils.tensors import (
    DAMAGED,
    described,
    first_line,
    load_pickle,
    mapping,
    number,
    numbers,
    plain_name,
    require,
)

State = dict[str, Tensor]


@dataclass(frozen=True)
class Published:
    """A published checkpoint in our terms."""

    config: PipelineConfig
    state: State
    vocoder: Path | None = None


RFLAV_KEYS = (
    (r"(video|audio)_spatial_pos_embed", r"space.\1"),
    (r"(video|audio)_temporal_pos_embed", r"time.\1"),
    (r"v_embedder\.", "video_embed."),
    (r"a_embedder\.", "audio_embed."),
    (r"(video|audio)_t_embedder\.", r"time_embed.\1."),
    (r"(video|audio)_y_embedder\.embedding_table\.", r"class_embed.\1."),
    (r"(blocks\.\d+)\.(video|audio)_spatial_attn\.", r"\1.streams.\2.attention.0."),
    (r"(blocks\.\d+)\.video_temporal_attn\.", r"\1.streams.video.attention.1."),
    (r"(blocks\.\d+)\.(video|audio)_mlp\.", r"\1.streams.\2.mlp."),
    (r"(blocks\.\d+)\.(video|audio)_adaLN_modulation\.1\.", r"\1.streams.\2.modulation."),
    (r"(blocks\.\d+)\.(video|audio)_scale\.1\.", r"\1.fusion.modulation.\2."),
    (r"(blocks\.\d+)\.v_avg_proj\.0\.", r"\1.fusion.pool.video."),
    (r"(blocks\.\d+)\.a_avg_proj\.0\.", r"\1.fusion.pool.audio."),
    (r"(video|audio)_final_layer\.adaLN_modulation\.1\.", r"final.\1.modulation."),
    (r"(video|audio)_final_layer\.linear\.", r"final.\1.linear."),
)

FLOWFIELD_KEYS = (
    (r"pos_embed", "space"),
    (r"x_embedder\.", "video_embed."),
    (r"t_embedder\.", "time_embed."),
    (r"class_embedder\.table\.", "class_embed."),
    (r"(blocks\.\d+)\.spatial_att\.", r"\1.branches.space."),
    (r"(blocks\.\d+)\.temporal_att\.", r"\1.branches.time."),
    (r"(blocks\.\d+)\.mlp\.", r"\1.branches.mlp."),
    (r"(blocks\.\d+)\.norm_s\.", r"\1.norms.space."),
    (r"(blocks\.\d+)\.norm_t\.", r"\1.norms.time."),
    (r"(blocks\.\d+)\.norm_mlp\.", r"\1.norms.mlp."),
    (r"(blocks\.\d+)\.adaLN_modulation\.1\.", r"\1.modulation."),
    (r"final_layer\.adaLN_modulation\.1\.", "final.modulation."),
    (r"final_layer\.linear\.", "final.linear."),
)


RFLAV_MEASURED = {
    "v_embedder.proj.weight": 4,
    "a_embedder.weight": 2,
    "video_spatial_pos_embed": 4,
    "video_temporal_pos_embed": 4,
    "audio_spatial_pos_embed": 4,
    "blocks.0.video_mlp.fc1.weight": 2,
}
FLOWFIELD_MEASURED = {
    "x_embedder.proj.weight": 4,
    "pos_embed": 4,
    "class_embedder.table.weight": 2,
    "blocks.0.mlp.fc2.weight": 2,
}
"""The tensors whose shapes say what the architecture is, and how many dimensions they have."""


def rename(state: Mapping[str, Tensor], rules: tuple[tuple[str, str], ...]) -> State:
    """Apply the first rule that matches the beginning of each key.

    Raises:
        InputError: a key that no rule knows.
    """
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in rules:
            new, hits = re.subn(rf"^{pattern}", replacement, key)
            if hits:
                renamed[new] = value
                break
        else:
            raise InputError(
                f"this checkpoint has a tensor {key!r} of a shape {tuple(value.shape)} that no known network has"
            )
    return renamed


def plain(state: Any, where: str = "this checkpoint") -> State:
    """Without the prefixes that ``torch.compile`` and data-parallel wrappers leave, in float32.

    Raises:
        InputError: ``state`` is no dictionary of named tensors of real numbers.
    """
    if not isinstance(state, Mapping):
        raise InputError(f"{where} should hold named tensors, it is {described(state)}")
    return {plain_name(str(key)): numbers(value, f"{where}, named tensors: {key}") for key, value in state.items()}


def _measured(where: str | Path, state: State, dimensions: Mapping[str, int]) -> None:
    """Check that the tensors whose shapes are looked at are there, and have shapes to look at."""
    require(where, state, dimensions)
    for name, count in dimensions.items():
        if state[name].dim() != count or state[name].numel() == 0:
            raise InputError(
                f"{where}: {name} should have {count} dimensions, none of them empty; it is {described(state[name])}"
            )


# --- R-FLAV -------------------------------------------------------------------------------------------------------


def read_rflav_folder(folder: Path, source: str = "") -> Published:
    """A published R-FLAV folder: ``config.json``, ``model.safetensors`` and, for audio, ``vocoder/``."""
    weights, settings = folder / "model.safetensors", folder / "config.json"
    if not weights.is_file() or not settings.is_file():
        raise InputError(f"{folder} is no R-FLAV checkpoint: that has config.json and model.safetensors")
    try:
        state = load_file(weights)
    except DAMAGED as error:
        raise InputError(f"{weights} is not a readable safetensors file: {first_line(error)}") from error
    config = read_json(settings)
    require(settings, config, ["num_heads"])
    return _rflav(state, config, source or str(folder), folder / "vocoder")


def read_rflav_save(path: Path, saved: Any) -> Published:
    """R-FLAV's trainer's save at ``path``, already read: ``final.pt`` (its EMA weights are taken) or ``ema.pth``."""
    if "shadow_params" in saved:
        average, arguments = saved, _trainer_arguments(path)
        names = None
    else:
        average, arguments = mapping(saved["ema"], f"{path}: ema"), mapping(saved["args"], f"{path}: args")
        names = [plain_name(key) for key in mapping(saved["model"], f"{path}: model")]
    require(path, average, ["shadow_params"])
    shadow = average["shadow_params"]
    if not isinstance(shadow, (list, tuple)):
        raise InputError(f"{path}: shadow_params should be a list of tensors, it is {described(shadow)}")
    names = list(_rflav_parameter_names(len(shadow))) if names is None else names
    if len(names) != len(shadow):
        raise InputError(f"{path} averages {len(shadow)} tensors, but an R-FLAV network of that kind has {len(names)}")
    state = {name: numbers(value, f"{path}: {name}") for name, value in zip(names, shadow, strict=True)}
    _measured(path, state, RFLAV_MEASURED)
    dim = state["v_embedder.proj.weight"].shape[0]
    heads = {size.dim: size.heads for name, size in SIZES.items() if name.startswith("FLAV")}
    if dim not in heads:
        raise InputError(f"{path}: no published R-FLAV size is {dim} wide, so the number of heads is not known")
    config = {
        "num_heads": heads[dim],
        "causal_attn": bool(arguments.get("causal_attn", False)),
        "num_classes": arguments.get("num_classes", 0),
        "audio_scale": arguments.get("audio_scale", 0.0),
    }
    vocoder = next(
        (p / "vocoder" for p in path.parents[:4] if (p / "vocoder" / "vocoder.pt").is_file()), path.parent / "vocoder"
    )
    return _rflav(state, config, str(path), vocoder)


def _rflav(state: Mapping[str, Tensor], config: Mapping[str, Any], source: str, vocoder: Path) -> Published:
    state = plain(state, source)
    _measured(source, state, RFLAV_MEASURED)
    embed, fc1 = state["v_embedder.proj.weight"], state["blocks.0.video_mlp.fc1.weight"]
    dim, channels, patch = embed.shape[:3]
    space = state["video_spatial_pos_embed"].shape[2]
    size = patch * math.isqrt(space)
    mel_steps = state["audio_spatial_pos_embed"].shape[2]
    table = state.get("video_y_embedder.embedding_table.weight")
    num_classes = int(number(config, "num_classes", 0, source)) if table is not None else 0
    if table is not None and table.shape[0] == num_classes:  # trained without class dropout: there is no null class
        for stream in ("video", "audio"):
            key = f"{stream}_y_embedder.embedding_table.weight"
            state[key] = torch.cat([state[key], torch.zeros(1, dim)])
    elif table is not None:
        num_classes = table.shape[0] - 1
    timing = Timing(fps=16000 / (160 * mel_steps))
    window = state["video_temporal_pos_embed"].shape[1]
    mel = AudioCodecConfig().mel
    scale = RFLAV_AUDIO_SCALES.get(source, number(config, "audio_scale", 0.0, source))
    pipeline = PipelineConfig(
        model=ModelConfig(
            kind="flav",
            dim=dim,
            depth=_count_blocks(source, state),
            heads=int(number(config, "num_heads", 0, source)),
            patch=patch,
            mlp_ratio=fc1.shape[0] / dim,
            positions="learned",
            fusion="mean_time",
            causal=bool(config.get("causal_attn", False)),
            class_dropout=0.0 if table is not None and table.shape[0] == num_classes else 0.1,
        ),
        shape=LatentShape(channels, size, size, state["a_embedder.weight"].shape[1], mel_steps, timing.fps),
        timing=timing,
        codec=CodecConfig(
            video=replace(autoencoder_for(channels), fit="letterbox"),
            audio=AudioCodecConfig(
                mel=type(mel)(bins=state["a_embedder.weight"].shape[1]),
                scale=scale,
                peak=0.95,
                channel="first",
                vocoder=kind_of(vocoder) if (vocoder / "config.json").is_file() else "",
            ),
        ),
        classes=tuple(map(str, range(num_classes))),
        trained=Trained(window=window),
        steps=20,
        source=source,
    )
    return Published(pipeline, rename(state, RFLAV_KEYS), vocoder if (vocoder / "config.json").is_file() else None)


def _rflav_parameter_names(count: int) -> Iterator[str]:
    """The order of ``parameters()`` in the published network, whose EMA file is a list without names."""
    linear = ("weight", "bias")
    per_block, outside = 32, 4 + 2 + 2 + 8 + 8
    with_classes = (count - outside) % per_block == 2
    depth = (count - outside) // per_block
    yield from (f"{s}_{kind}_pos_embed" for s in ("video", "audio") for kind in ("spatial", "temporal"))
    yield from (f"{layer}.{p}" for layer in ("v_embedder.proj", "a_embedder") for p in linear)
    yield from (f"{s}_t_embedder.mlp.{i}.{p}" for s in ("video", "audio") for i in (0, 2) for p in linear)
    if with_classes:
        yield from (f"{s}_y_embedder.embedding_table.weight" for s in ("video", "audio"))
    attention = [
        f"{a}.{part}"
        for a in ("video_spatial_attn", "video_temporal_attn", "audio_spatial_attn")
        for part in ("qkv", "proj")
    ]
    mlp = [f"{s}_mlp.{part}" for s in ("video", "audio") for part in ("fc1", "fc2")]
    modulation = ["video_adaLN_modulation.1", "audio_adaLN_modulation.1", "video_scale.1", "audio_scale.1"]
    for i in range(depth):
        for layer in (*attention, *mlp, *modulation, "v_avg_proj.0", "a_avg_proj.0"):
            yield from (f"blocks.{i}.{layer}.{p}" for p in linear)
    for stream in ("video", "audio"):
        yield from (f"{stream}_final_layer.{layer}.{p}" for layer in ("linear", "adaLN_modulation.1") for p in linear)


def _trainer_arguments(path: Path) -> dict[str, Any]:
    """R-FLAV's trainer writes its arguments to ``config.json`` in the experiment's folder, above its checkpoints."""
    for parent in path.parents[:4]:
        if (parent / "config.json").is_file():
            values = read_json(parent / "config.json")
            if "predict_frames" in values and "causal_attn" in values:
                return values
    raise InputError(
        f"{path} holds weights without their settings: put the config.json that R-FLAV's trainer wrote (with "
        "predict_frames, causal_attn) beside it or up to three folders above"
    )


# --- GenerativeFlow -----------------------------------------------------------------------------------------------


_HEADS = 16
"""Of attention, in every published size of FlowField."""


def read_generativeflow(path: Path, content: Any) -> Published:
    """GenerativeFlow's ``content.pt`` or numbered checkpoints: ``{"dnn": state_dict, "args": Namespace, ...}``."""
    source = str(path)
    state = plain(content["dnn"], source)
    arguments = mapping(content.get("args", {}), f"{path}: args")
    _measured(path, state, FLOWFIELD_MEASURED)
    dim, channels, patch = state["x_embedder.proj.weight"].shape[:3]
    side = math.isqrt(state["pos_embed"].shape[2])
    if tuple(state["pos_embed"].shape) != (1, 1, side * side, dim) or dim % _HEADS:
        raise InputError(
            f"{path}: pos_embed should be of a shape (1, 1, N, {dim}), N a square and {dim} a multiple of {_HEADS}; it "
            f"is {described(state['pos_embed'])}"
        )
    fixed = torch.allclose(state["pos_embed"][0, 0], sincos_2d(dim, side, side), atol=1e-5)
    if fixed:
        del state["pos_embed"]
    window = int(number(arguments, "temporal_res", 72, path))
    if window < 1:
        raise InputError(f"{path}: temporal_res, the frames of a window, should be at least 1, it is {window}")
    dropout = number(arguments, "label_dropout", 0.1, path)
    timing = Timing(24, 0, 0)
    pipeline = PipelineConfig(
        model=ModelConfig(
            kind="flowfield",
            dim=dim,
            depth=_count_blocks(source, state),
            heads=_HEADS,
            patch=patch,
            mlp_ratio=state["blocks.0.mlp.fc2.weight"].shape[1] / dim,
            positions="sincos" if fixed else "learned",
            class_dropout=dropout,
            drop_path=number(arguments, "drop_path", 0.0, path),
            temporal_attention="blocks.0.temporal_att.qkv.weight" in state,
        ),
        shape=LatentShape(channels, side * patch, side * patch, fps=timing.fps),
        timing=timing,
        codec=CodecConfig(video=autoencoder_for(channels, str(arguments.get("vae", "ema")))),
        classes=tuple(map(str, range(state["class_embedder.table.weight"].shape[0] - 1))),
        trained=Trained(window=window, blocks=(window,)),
        steps=30,
        solver="heun",
        guidance=4.0 if dropout > 0 else 1.0,
        source=path.name,
    )
    return Published(pipeline, rename(state, FLOWFIELD_KEYS))


# --- both ---------------------------------------------------------------------------------------------------------


def _count_blocks(where: str | Path, state: Mapping[str, Tensor]) -> int:
    found = {int(match[1]) for key in state if (match := re.match(r"blocks\.(\d{1,9})\.", key))}
    require(where, {f"blocks.{k}": None for k in found}, [f"blocks.{k}" for k in range(len(found))])
    return len(found)


def read_published(path: Path, source: str = "") -> Published:
    """Read whichever published checkpoint ``path`` is.

    Raises:
        InputError: it is none of them.
    """
    try:
        return _read(path, source)
    except InputError as error:
        if str(path) in str(error):
            raise
        raise InputError(f"{path}: {error}") from error


def _read(path: Path, source: str) -> Published:
    if path.is_dir():
        return read_rflav_folder(path, source)
    saved = load_pickle(path)
    keys = set(saved) if isinstance(saved, dict) else set()
    if "dnn" in keys:
        return read_generativeflow(path, saved)
    if "shadow_params" in keys or {"model", "ema", "args"} <= keys:
        return read_rflav_save(path, saved)
    raise InputError(
        f"{path} is neither GenerativeFlow's content.pt (keys dnn, args) nor R-FLAV's final.pt (model, ema, args) or "
        f"ema.pth (shadow_params): it has {', '.join(sorted(map(str, keys))) or type(saved).__name__}"
    )
