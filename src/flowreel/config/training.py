"""What can be chosen for a training run, its defaults, and which combinations are impossible. Torch-free."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Literal

from flowreel.config.base import check
from flowreel.config.pipeline import MelConfig, ModelConfig

# --- objective ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RoleShares:
    """How often a training sample plays each role. Shares are relative: they are divided by their sum.

    ``joint``: both streams share one progress u; ``independent``: each stream has its own u; ``audio_clean`` and
    ``video_clean``: that stream is given (t = 1); ``context``: the oldest frames are given. A video-only model uses
    ``joint`` and ``context`` alone.
    """

    joint: float = 1.0
    independent: float = 0.0
    audio_clean: float = 0.0
    video_clean: float = 0.0
    context: float = 0.0

    def __post_init__(self) -> None:
        shares = dataclasses.asdict(self)
        check(all(share >= 0 for share in shares.values()), f"role shares must be 0 or more: {shares}")
        check(sum(shares.values()) > 0, "at least one role share must be above 0")


@dataclass(frozen=True)
class ObjectiveConfig:
    """What training draws: roles, the share of warm-up (``ramp``) among rolling samples, blocks and contexts (each
    drawn evenly from its list; ``contexts`` are for the role ``context``, ``lookaheads``, frames at the window's end
    that stay noise, for those of a given stream), the law of u, the per-frame weight. ``wear`` is the share of samples
    whose older frames are worn, so that a model mends its own errors in long rolls.
    ``guidance`` above 1 is learnt, so that sampling has it in one pass: half the work of guiding while sampling;
    ``given_guidance``, if it is another, by the samples that are given a whole stream."""

    roles: RoleShares = field(default_factory=RoleShares)
    warmup: float = 0.2
    blocks: tuple[int, ...] = (1,)
    contexts: tuple[int, ...] = ()
    lookaheads: tuple[int, ...] = ()
    progress: Literal["uniform", "logit_normal"] = "uniform"
    weight: Literal["none", "logit_normal"] = "none"
    wear: float = 0.0
    guidance: float = 1.0
    given_guidance: float | None = None

    def __post_init__(self) -> None:
        for name in ("guidance", "given_guidance"):
            value = getattr(self, name)
            check(value is None or 1 <= value < math.inf, f"objective.{name} must be 1 or more, not {value}")
        check(
            self.given_guidance is None or self.roles.audio_clean + self.roles.video_clean > 0,
            f"objective.given_guidance {self.given_guidance} is for samples that are given a whole stream: give "
            "objective.roles.audio_clean or objective.roles.video_clean a share above 0, or leave it out",
        )
        for name in ("warmup", "wear"):
            check(0 <= getattr(self, name) <= 1, f"objective.{name} must be in [0, 1], not {getattr(self, name)}")
        known = {"progress": ("uniform", "logit_normal"), "weight": ("none", "logit_normal")}
        for name, options in known.items():
            value = getattr(self, name)
            check(value in options, f"objective.{name} must be {' or '.join(options)}, not {value!r}")
        check(
            bool(self.blocks) and min(self.blocks) >= 1,
            f"objective.blocks must list whole numbers from 1, not {self.blocks}",
        )
        if self.roles.context > 0:
            check(bool(self.contexts), "objective.roles.context is above 0: list objective.contexts, for example [4]")


# --- training -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataConfig:
    """Windows of ``window`` frames, every ``stride``-th frame, flipped left-right with probability ``flip``, and with
    probability ``cut`` the beginning of one clip and the rest of another (a model that has seen cuts follows a change
    of class with one); of the first ``limit`` clips alone if above 0 (for over-fitting on purpose). ``validation``: how
    many windows of the test clips a validation loss is over."""

    window: int = 10
    stride: int = 1
    flip: float = 0.0
    cut: float = 0.0
    limit: int = 0
    workers: int = 0
    validation: int = 64

    def __post_init__(self) -> None:
        for name in ("workers", "validation"):
            check(getattr(self, name) >= 0, f"data.{name} must be 0 or more, not {getattr(self, name)}")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with weight decay on matrices alone, linear warm-up, then constant or cosine down to ``final`` * lr.
    ``kind`` "muon" steps the matrices within a flow's blocks by Muon, at the same lr and decay."""

    kind: Literal["adamw", "muon"] = "adamw"
    lr: float = 3e-4
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.02
    warmup: int = 50
    schedule: Literal["constant", "cosine"] = "constant"
    final: float = 0.1
    clip: float = 1.0
    accumulate: int = 1

    def __post_init__(self) -> None:
        check(self.kind in ("adamw", "muon"), f"optim.kind must be adamw or muon, not {self.kind!r}")
        check(self.lr > 0, f"optim.lr must be above 0, not {self.lr}")
        for name in ("beta1", "beta2"):
            check(0 <= getattr(self, name) < 1, f"optim.{name} must be in [0, 1), not {getattr(self, name)}")
        for name in ("eps", "weight_decay", "warmup", "clip"):
            check(getattr(self, name) >= 0, f"optim.{name} must be 0 or more, not {getattr(self, name)}")
        check(0 <= self.final <= 1, f"optim.final must be in [0, 1], not {self.final}")


@dataclass(frozen=True)
class EMAConfig:
    """The moving average of the weights: ``power`` decays with 1 - (1 + step)^-power up to ``decay``; ``fixed`` with
    ``decay``; ``none`` exports the raw weights."""

    kind: Literal["power", "fixed", "none"] = "power"
    power: float = 0.75
    decay: float = 0.9999

    def __post_init__(self) -> None:
        check(0 <= self.decay < 1, f"ema.decay must be in [0, 1), not {self.decay}")
        check(self.power > 0, f"ema.power must be above 0, not {self.power}")


@dataclass(frozen=True)
class LoopConfig:
    """What every training run has, of a flow or of a codec. ``batch`` is the global batch, over all processes and
    accumulation steps. ``precision`` "bfloat16" is autocast. ``checkpointing`` recomputes blocks to save memory. Every
    ``log`` steps a line, every ``save`` steps a checkpoint (the newest ``keep`` stay), every ``preview`` steps a
    preview and every ``validate`` steps a look at the test clips; 0 does without. ``nonfinite``: what a loss that is
    not finite does, "stop" the run or "skip" the step. ``sharding`` "fsdp" spreads weights, gradients and optimizer
    over the processes (FSDP2) instead of copying them. ``tracker``: where curves go beside loss.csv and loss.png."""

    steps: int = 1000
    batch: int = 16
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    checkpointing: bool = False
    log: int = 10
    save: int = 200
    keep: int = 2
    preview: int = 200
    validate: int = 200
    nonfinite: Literal["stop", "skip"] = "stop"
    sharding: Literal["none", "fsdp"] = "none"
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    optim: OptimConfig = field(default_factory=OptimConfig)
    ema: EMAConfig = field(default_factory=EMAConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "log", "save", "keep"):
            check(getattr(self, name) >= 1, f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("preview", "validate", "seed"):
            check(getattr(self, name) >= 0, f"{name} must be 0 or more, not {getattr(self, name)}")
        check(
            self.optim.accumulate >= 1 and self.batch % self.optim.accumulate == 0,
            f"batch {self.batch} is not a multiple of optim.accumulate {self.optim.accumulate}",
        )


@dataclass(frozen=True)
class TrainConfig(LoopConfig):
    """A run of ``flowreel train``. ``init``: the pipeline to start from (a folder, a shipped name, a hub id); its
    architecture and scales are taken, and its classes where the data has them too."""

    init: str = ""
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    data: DataConfig = field(default_factory=DataConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        window, objective = self.data.window, self.objective
        contexts = objective.contexts if objective.roles.context > 0 else ()
        for block in objective.blocks:
            for context in (0, *contexts):
                check(
                    context < window and context % block == 0 and (window - context) % block == 0,
                    f"data.window {window} with context {context} can't be cut into blocks of {block}: "
                    "window and context must be multiples of every block, and context smaller than the window",
                )
            for lookahead in objective.lookaheads:
                check(not self.model.causal, "objective.lookaheads are for models that see ahead: model.causal is set")
                check(
                    0 <= lookahead < window and (window - lookahead) % block == 0,
                    f"data.window {window} with a lookahead of {lookahead} can't be cut into blocks of {block}: "
                    "what is left of the window must be a multiple of every block",
                )


@dataclass(frozen=True)
class CodecTrainConfig(LoopConfig):
    """A run of ``flowreel train-codec``: our small autoencoder on single frames. ``frames`` is how many, drawn evenly
    from the clips, are held in memory. ``adversarial`` above 0 weighs a patch discriminator's judgement, from step
    ``adversarial_start`` on; try 0.003, as from about 0.03 the discriminator learns nothing."""

    steps: int = 1200
    batch: int = 8
    save: int = 300
    preview: int = 300
    size: int = 64
    fps: float = 10.0
    frames: int = 4000
    channels: int = 8
    width: int = 32
    kl: float = 1e-4
    adversarial: float = 0.0
    adversarial_start: int = 600
    fit: Literal["crop", "letterbox", "stretch"] = "crop"
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=2e-3, beta2=0.95, warmup=50, schedule="cosine"))
    ema: EMAConfig = field(default_factory=lambda: EMAConfig(kind="fixed", decay=0.99))

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.fps > 0, f"fps must be above 0, not {self.fps}")
        check(self.frames >= 1, f"frames must be at least 1, not {self.frames}")
        check(self.adversarial >= 0, f"adversarial must be 0 or more, not {self.adversarial}")


@dataclass(frozen=True)
class SinusoidsTrainConfig:
    """The vocoder of kind "sinusoids": ``bands``, each with an oscillator and a noise, divide the mel bins: 0 is as
    many as do, up to 64; ``points`` is at how many instants of a mel step they are controlled, ``width`` and ``layers``
    the size of its network.
    ``spectrum_weight``, ``mel_weight`` and ``frequency_weight`` weigh its losses. ``disturbance``: the log-mel that
    it learns from is blurred and has noise in it, up to so many nats, as one that a model has generated. ``exercises``:
    the share of samples that are tones of our own instead of the clips' sound, for what the clips don't have."""

    bands: int = 0
    points: int = 4
    width: int = 48
    layers: int = 3
    spectrum_weight: float = 1.0
    mel_weight: float = 1.0
    frequency_weight: float = 2.0
    disturbance: float = 0.25
    exercises: float = 0.25

    def __post_init__(self) -> None:
        for name in ("spectrum_weight", "mel_weight", "frequency_weight", "disturbance", "exercises"):
            check(getattr(self, name) >= 0, f"sinusoids.{name} must be 0 or more, not {getattr(self, name)}")


_HIFIGAN = (
    "width",
    "rates",
    "kernels",
    "resblock_kernels",
    "discriminator",
    "mel_weight",
    "feature_weight",
    "adversarial",
    "adversarial_start",
)
"""Options of train-vocoder that are for this kind alone."""


@dataclass(frozen=True)
class VocoderTrainConfig(LoopConfig):
    """A run of ``flowreel train-vocoder`` on the sound of the clips. ``kind``: "hifigan", a HiFi-GAN, or "sinusoids",
    oscillators and noise: steady tones after minutes, without a GPU. At most ``seconds`` of sound, drawn evenly from
    the clips, are held in memory; a sample is ``segment`` mel steps. ``channel`` and ``peak`` are those of prepare.

    A HiFi-GAN begins ``width`` channels wide and upsamples by ``rates`` (their product is mel.hop). ``mel_weight``,
    ``feature_weight`` and ``adversarial`` weigh its losses; the discriminators, ``discriminator`` channels wide at
    first, begin at step ``adversarial_start``. What is the other kind's alone is in ``sinusoids``."""

    kind: Literal["hifigan", "sinusoids"] = "hifigan"
    steps: int = 3000
    batch: int = 4
    save: int = 500
    preview: int = 500
    seconds: float = 1200.0
    segment: int = 32
    width: int = 128
    rates: tuple[int, ...] = (8, 5, 4)
    kernels: tuple[int, ...] = (16, 10, 8)
    resblock_kernels: tuple[int, ...] = (3, 7)
    discriminator: int = 8
    mel_weight: float = 45.0
    feature_weight: float = 2.0
    adversarial: float = 1.0
    adversarial_start: int = 2000
    channel: Literal["mean", "first"] = "mean"
    peak: float = 0.0
    mel: MelConfig = field(default_factory=MelConfig)
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=2e-3, beta1=0.8, beta2=0.99, weight_decay=0.01, schedule="cosine")
    )
    ema: EMAConfig = field(default_factory=lambda: EMAConfig(kind="fixed", decay=0.99))
    sinusoids: SinusoidsTrainConfig = field(default_factory=SinusoidsTrainConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.kind in ("hifigan", "sinusoids"), f"kind must be hifigan or sinusoids, not {self.kind!r}")
        if self.kind == "hifigan":
            check(
                self.sinusoids == SinusoidsTrainConfig(),
                "sinusoids.* are options of another vocoder: leave them out, or give kind sinusoids",
            )
        else:
            defaults = {field.name: field.default for field in dataclasses.fields(self)}
            given = [name for name in _HIFIGAN if getattr(self, name) != defaults[name]]
            check(not given, f"for kind hifigan alone: {', '.join(given)}; the other's options are sinusoids.*")
