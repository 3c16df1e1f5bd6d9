"""Tables: sizes of both published systems, known autoencoders, and the presets of ``flowreel train``.

Torch-free.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from flowreel.config import (
    DataConfig,
    EMAConfig,
    FlowOptimConfig,
    ModelConfig,
    ObjectiveConfig,
    RoleShares,
    TrainConfig,
    VideoCodecConfig,
)
from flowreel.errors import InputError


@dataclass(frozen=True)
class Size:
    dim: int
    depth: int
    heads: int
    patch: int


# fmt: off
SIZES: dict[str, Size] = {
    #                       dim depth heads patch
    "FLAV-S/1":       Size( 384,   12,    6,    1),
    "FLAV-S/2":       Size( 384,   12,    6,    2),
    "FLAV-S/4":       Size( 384,   12,    6,    4),
    "FLAV-S/8":       Size( 384,   12,    6,    8),
    "FLAV-B/1":       Size( 768,   12,   12,    1),
    "FLAV-B/2":       Size( 768,   12,   12,    2),
    "FLAV-B/4":       Size( 768,   12,   12,    4),
    "FLAV-B/8":       Size( 768,   12,   12,    8),
    "FLAV-L/1":       Size(1024,   24,   16,    1),
    "FLAV-L/2":       Size(1024,   20,   16,    2),
    "FLAV-L/4":       Size(1024,   20,   16,    4),
    "FLAV-L/8":       Size(1024,   20,   16,    8),
    "FLAV-XL/1":      Size(1152,   28,   16,    1),
    "FLAV-XL/2":      Size(1152,   28,   16,    2),
    "FLAV-XL/4":      Size(1152,   28,   16,    4),
    "FLAV-XL/8":      Size(1152,   28,   16,    8),
    "FlowField-XS/4": Size( 256,    6,   16,    4),
    "FlowField-S/4":  Size( 512,    8,   16,    4),
    "FlowField-S/2":  Size( 384,    8,   16,    2),
    "FlowField-M/2":  Size( 768,   12,   16,    2),
}

MIRRORING = ("stabilityai/sd-vae-ft-ema", "stabilityai/sd-vae-ft-mse")
"""Autoencoders whose mirrored latents are nearly those of the mirrored frame: both published recipes flip them."""

AUTOENCODERS: dict[str, VideoCodecConfig] = {
    name: VideoCodecConfig(kind=kind, source=name, channels=channels, factor=factor, scale=(scale,))  # type: ignore[arg-type]
    for name, kind, channels, factor, scale in (
        ("stabilityai/sd-vae-ft-ema",                    "AutoencoderKL",    4,  8, 0.18215),
        ("stabilityai/sd-vae-ft-mse",                    "AutoencoderKL",    4,  8, 0.18215),
        ("mit-han-lab/dc-ae-f32c32-sana-1.0-diffusers",  "AutoencoderDC",   32, 32, 0.41407),
        ("madebyollin/taesd",                            "AutoencoderTiny",  4,  8, 1.0),
    )
}

RFLAV_AUDIO_SCALES: dict[str, float] = {
    # published checkpoints do not carry the scale of their audio latents
    "MaverickAlex/R-FLAV-B-1-AIST": 3.5009668382765917,
    "MaverickAlex/R-FLAV-B-1-LS":   3.0951129410195515,
}
# fmt: on


def model(name: str) -> ModelConfig:
    """The published architecture named ``name``, positions and options as published.

    Raises:
        InputError: no such size.
    """
    if name not in SIZES:
        raise InputError(f"no model is called {name!r}; known are {', '.join(SIZES)}")
    size = SIZES[name]
    flav = name.startswith("FLAV")
    return ModelConfig(
        kind="flav" if flav else "flowfield",
        dim=size.dim,
        depth=size.depth,
        heads=size.heads,
        patch=size.patch,
        positions="learned" if flav else "sincos",
    )


ALL_ROLES = RoleShares(joint=0.5, independent=0.1, audio_clean=0.1, video_clean=0.1, context=0.2)


def _laptop() -> TrainConfig:
    return TrainConfig(
        steps=2000,
        batch=16,
        model=ModelConfig(dim=128, depth=6, heads=4, patch=2),
        objective=ObjectiveConfig(roles=ALL_ROLES, contexts=(2, 4)),
        data=DataConfig(window=10),
        optim=FlowOptimConfig(lr=5e-4, warmup=50),
    )


def _joint() -> TrainConfig:
    return replace(_laptop(), objective=ObjectiveConfig())


def _world() -> TrainConfig:
    return TrainConfig(
        steps=4400,
        batch=16,
        precision="bfloat16",
        log=50,
        save=200,
        preview=1000,
        validate=500,
        model=ModelConfig(dim=160, depth=6, heads=5, patch=2, qk_norm=True, fusion_norm=True),
        objective=ObjectiveConfig(
            roles=RoleShares(joint=0.4, independent=0.1, audio_clean=0.3, video_clean=0.08, context=0.12),
            blocks=(2,),
            contexts=(4,),
            degrade=0.2,
        ),
        data=DataConfig(window=24, cut=0.1),
        optim=FlowOptimConfig(kind="muon", lr=2e-3, warmup=100, schedule="cosine", final=0.02),
    )


def _small() -> TrainConfig:
    return replace(
        _laptop(),
        steps=100_000,
        batch=64,
        precision="bfloat16",
        save=2000,
        preview=2000,
        log=50,
        model=replace(model("FLAV-S/2"), positions="rope", qk_norm=True),
        optim=FlowOptimConfig(lr=2e-4, warmup=1000),
    )


def _clip() -> TrainConfig:
    return TrainConfig(
        steps=2000,
        batch=16,
        model=ModelConfig(kind="flowfield", dim=192, depth=4, heads=8, patch=2, positions="sincos"),
        objective=ObjectiveConfig(blocks=(16,)),
        data=DataConfig(window=16),
        optim=FlowOptimConfig(lr=5e-4, warmup=50),
    )


def _rflav(name: str) -> TrainConfig:
    return TrainConfig(
        steps=400_000,
        batch=16,
        save=5000,
        preview=20_000,
        log=100,
        checkpointing=True,
        model=replace(model(name), causal=True),
        objective=ObjectiveConfig(weight="logit_normal"),
        data=DataConfig(window=10),
        optim=FlowOptimConfig(lr=1e-4, beta2=0.999, weight_decay=0.02, warmup=0),
        ema=EMAConfig(kind="power", power=0.75, decay=0.9999),
    )


def _generativeflow(name: str) -> TrainConfig:
    return TrainConfig(
        steps=100_000,
        batch=16,
        precision="bfloat16",
        save=2000,
        preview=5000,
        log=100,
        model=model(name),
        objective=ObjectiveConfig(blocks=(72,)),
        data=DataConfig(window=72, flip=0.5),
        optim=FlowOptimConfig(lr=1e-4, beta2=0.95, weight_decay=0.1, warmup=0),
        ema=EMAConfig(decay=0.0),
    )


PRESETS: dict[str, tuple[str, Callable[[], TrainConfig]]] = {
    "laptop": ("rolling audio+video for a CPU, all roles (the default)", _laptop),
    "laptop-joint": ("the same, joint generation alone", _joint),
    "laptop-clip": ("fixed-length clips of video alone for a CPU", _clip),
    "world": ("as the shipped pipeline was trained, on clips of flowreel world", _world),
    "small": ("rolling audio+video for one GPU, all roles, FLAV-S/2", _small),
    "rflav-b1": ("R-FLAV as published: FLAV-B/1, causal", lambda: _rflav("FLAV-B/1")),
    "generativeflow-s4": (
        "GenerativeFlow as published: FlowField-S/4, 72 frames",
        lambda: _generativeflow("FlowField-S/4"),
    ),
}


def preset(name: str) -> TrainConfig:
    """The training preset named ``name``.

    Raises:
        InputError: no such preset.
    """
    if name not in PRESETS:
        raise InputError(f"no preset is called {name!r}; known are {', '.join(PRESETS)}")
    return PRESETS[name][1]()
