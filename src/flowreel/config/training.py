"""The options of training runs, the shares of roles among them, and impossible combinations."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Literal

from flowreel.config.base import HIDDEN, check, check_fields, hidden
from flowreel.config.pipeline import MelConfig, ModelConfig
from flowreel.config.sampling import Precision

# --- objective ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RoleShares:
    """How often a training sample has each role. Shares are relative: they are divided by their sum."""

    joint: float = 1.0
    """share of samples in which both streams have one progress"""
    independent: float = 0.0
    """share of samples in which each stream has a progress of its own"""
    audio_clean: float = 0.0
    """share of samples with clean audio (t = 1): trains audio to video"""
    video_clean: float = 0.0
    """share of samples with clean video: trains video to audio"""
    context: float = 0.0
    """share of samples whose oldest frames are clean: trains continuation"""

    def __post_init__(self) -> None:
        shares = dataclasses.asdict(self)
        check(all(share >= 0 for share in shares.values()), f"role shares must be 0 or more: {shares}")
        check(sum(shares.values()) > 0, "at least one role share must be above 0")


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is drawn for a training sample, and how its loss is weighted."""

    roles: RoleShares = field(default_factory=RoleShares)
    warmup: float = 0.2
    """share of the rolling samples that are of the first window, which is still filling"""
    blocks: tuple[int, ...] = (1,)
    """frames that are finished together, drawn evenly from the list; the window's length makes clips"""
    contexts: tuple[int, ...] = ()
    """clean frames of role context, drawn evenly from the list"""
    lookaheads: tuple[int, ...] = ()
    """frames at the window's end that stay noise beside a clean stream, drawn evenly from the list"""
    weight: Literal["none", "logit_normal"] = "none"
    """weight of a frame's loss by its time; logit_normal as R-FLAV"""
    degrade: float = 0.0
    """share of samples with degraded history, which teaches the model to correct its own drift in long rolls"""
    guidance: float = 1.0
    """guidance scale that the model learns, so that it samples guided in one pass; 1 is none"""
    conditioned_guidance: float | None = None
    """the same for samples with a clean stream; default: as guidance"""

    def __post_init__(self) -> None:
        check_fields(self, "objective.")
        for name in ("guidance", "conditioned_guidance"):
            value = getattr(self, name)
            check(value is None or 1 <= value < math.inf, f"objective.{name} must be at least 1, not {value}")
        check(
            self.conditioned_guidance is None or self.roles.audio_clean + self.roles.video_clean > 0,
            f"objective.conditioned_guidance {self.conditioned_guidance} is for samples with a clean stream: give "
            "objective.roles.audio_clean or objective.roles.video_clean a share above 0, or leave it out",
        )
        check(0 <= self.warmup <= 1, f"objective.warmup must be at least 0 and at most 1, not {self.warmup}")
        check(
            bool(self.blocks) and min(self.blocks) >= 1,
            f"objective.blocks must list whole numbers from 1, not {self.blocks}",
        )
        if self.roles.context > 0:
            check(bool(self.contexts), "objective.roles.context is above 0: list objective.contexts, for example [4]")


# --- training -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataConfig:
    """The windows of clips that a model is trained on."""

    window: int = 10
    """frames of a window"""
    flip: float = 0.0
    """probability that a window is mirrored left-right; needs prepare --flip"""
    cut: float = 0.0
    """probability of a cut from one clip to another, so that the model follows a change of class with one"""
    workers: int = 0
    """processes that read; 0 is the training process itself"""
    validation: int = hidden(64)

    def __post_init__(self) -> None:
        check_fields(self, "data.")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with weight decay on matrices alone, a linear warm-up, then a constant or a cosine schedule."""

    kind: Literal["adamw", "muon"] = hidden("adamw")
    lr: float = 3e-4
    """learning rate"""
    beta1: float = hidden(0.9)
    beta2: float = 0.99
    """decay of the second moment"""
    weight_decay: float = 0.02
    """weight decay of matrices"""
    warmup: int = 50
    """steps over which the learning rate rises"""
    schedule: Literal["constant", "cosine"] = "constant"
    """learning rate after the warm-up"""
    final: float = 0.1
    """where the cosine ends, as a share of lr"""
    clip: float = 1.0
    """largest norm of the gradient; 0 does not clip"""
    accumulate: int = 1
    """micro-batches that a batch is split into, to save memory"""

    def __post_init__(self) -> None:
        check_fields(self, "optim.")
        check(self.warmup >= 0, f"optim.warmup must be at least 0, not {self.warmup}")


@dataclass(frozen=True)
class FlowOptimConfig(OptimConfig):
    """The optimizer of a flow model, which can be Muon for the matrices within blocks."""

    kind: Literal["adamw", "muon"] = "adamw"
    """optimizer; muon steps the matrices within blocks by Muon, at the same lr and decay"""


@dataclass(frozen=True)
class EMAConfig:
    """The moving average of the weights, which is what is exported."""

    kind: Literal["power", "fixed"] = hidden("power")
    power: float = hidden(0.75)
    decay: float = 0.9999
    """highest decay of the moving average of the weights; 0 exports the weights themselves"""

    def __post_init__(self) -> None:
        check_fields(self, "ema.")


@dataclass(frozen=True)
class LoopConfig:
    """The options of every training run, of a flow model or of a codec."""

    steps: int = 1000
    """optimizer steps in all"""
    batch: int = 16
    """samples per step, over all processes and micro-batches"""
    seed: int = 0
    """seed of everything that is drawn"""
    precision: Precision = "float32"
    """arithmetic; bfloat16 is autocast"""
    compile: bool = False
    """compile the network with torch.compile"""
    log: int = 10
    """steps between lines of the log"""
    save: int = 200
    """steps between checkpoints"""
    keep: int = 2
    """how many of the newest checkpoints stay"""
    preview: int = 200
    """steps between previews; 0 makes none"""
    validate: int = 200
    """steps between validation losses on the test clips; 0 makes none"""
    tracker: Literal["none", "tensorboard", "wandb"] = "none"
    """where curves go besides loss.csv and loss.png"""
    optim: OptimConfig = field(default_factory=OptimConfig)
    ema: EMAConfig = field(default_factory=EMAConfig)

    def __post_init__(self) -> None:
        check_fields(self)
        check(
            self.batch % self.optim.accumulate == 0,
            f"batch {self.batch} is not a multiple of optim.accumulate {self.optim.accumulate}",
        )


@dataclass(frozen=True)
class TrainConfig(LoopConfig):
    """The options of ``flowreel train``."""

    init: str = ""
    """pipeline to train further: a folder, a shipped name or a hub id; its architecture and scales are taken"""
    checkpointing: bool = False
    """recompute blocks in the backward pass, to save memory"""
    sharding: Literal["none", "fsdp"] = "none"
    """fsdp spreads weights, gradients and optimizer over the processes (FSDP2) instead of copying them"""
    optim: FlowOptimConfig = field(default_factory=FlowOptimConfig)
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
    """The options of ``flowreel train-codec``: the small autoencoder, on single frames."""

    steps: int = 1200
    batch: int = 8
    save: int = 300
    preview: int = 300
    size: int = 64
    """pixels a side of the frames it is trained on; it encodes any size"""
    fps: float = 10.0
    """frames a second that clips are read at"""
    frames: int = 4000
    """frames, drawn evenly from the clips, that are held in memory"""
    channels: int = 8
    """channels of the latents"""
    width: int = 32
    """channels of the network at its widest resolution"""
    kl: float = 1e-4
    """weight of the KL divergence of the latents"""
    adversarial: float = 0.0
    """weight of a patch discriminator; try 0.003, as from about 0.03 it learns nothing"""
    adversarial_start: int = 600
    """first step of the discriminator"""
    fit: Literal["crop", "letterbox", "stretch"] = "crop"
    """how frames are brought to size"""
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=2e-3, beta2=0.95, warmup=50, schedule="cosine"))
    ema: EMAConfig = field(default_factory=lambda: EMAConfig(kind="fixed", decay=0.99))


@dataclass(frozen=True)
class SinusoidsTrainConfig:
    """The vocoder of kind sinusoids: bands of the log-mel, each with an oscillator and a noise."""

    bands: int = 0
    """bands that divide the mel bins; 0 is as many as divide them, up to 64"""
    points: int = 4
    """instants of a mel step at which a band is controlled"""
    width: int = 48
    """channels of the network"""
    layers: int = 3
    """layers of the network"""
    spectrum_weight: float = hidden(1.0)
    mel_weight: float = hidden(1.0)
    frequency_weight: float = hidden(2.0)
    disturbance: float = hidden(0.25)
    exercises: float = hidden(0.25)

    def __post_init__(self) -> None:
        check_fields(self, "sinusoids.")


@dataclass(frozen=True)
class VocoderTrainConfig(LoopConfig):
    """The options of ``flowreel train-vocoder``, on the audio of the clips."""

    kind: Literal["sinusoids", "hifigan"] = "sinusoids"
    """oscillators and noise, which have steady tones after minutes without a GPU, or a HiFi-GAN"""
    like: str = ""
    """prepared folder, codec or pipeline whose log-mel, channel and peak it is for; default: the log-mel of R-FLAV"""
    steps: int = 3000
    batch: int = 4
    save: int = 500
    preview: int = 500
    seconds: float = 1200.0
    """seconds of audio, drawn evenly from the clips, that are held in memory"""
    segment: int = 32
    """mel steps of a training sample"""
    width: int = 128
    """HiFi-GAN: channels at its start"""
    rates: tuple[int, ...] = (8, 5, 4)
    """HiFi-GAN: upsampling rates; their product is the hop of the log-mel"""
    resblock_kernels: tuple[int, ...] = hidden((3, 7))
    discriminator: int = 8
    """HiFi-GAN: channels of the discriminators at their start"""
    mel_weight: float = hidden(45.0)
    feature_weight: float = hidden(2.0)
    adversarial: float = 1.0
    """HiFi-GAN: weight of the discriminators"""
    adversarial_start: int = 2000
    """HiFi-GAN: first step of the discriminators"""
    channel: Literal["mean", "first"] = hidden("mean")
    peak: float = hidden(0.0)
    mel: MelConfig = field(default_factory=MelConfig, metadata=HIDDEN)
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=2e-3, beta1=0.8, beta2=0.99, weight_decay=0.01, schedule="cosine")
    )
    ema: EMAConfig = field(default_factory=lambda: EMAConfig(kind="fixed", decay=0.99))
    sinusoids: SinusoidsTrainConfig = field(default_factory=SinusoidsTrainConfig)

    @property
    def kernels(self) -> tuple[int, ...]:
        """Kernel sizes of HiFi-GAN's upsampling layers."""
        return tuple(2 * rate for rate in self.rates)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == "hifigan":
            check(
                self.sinusoids == SinusoidsTrainConfig(),
                "sinusoids.* are options of another vocoder: leave them out, or give kind sinusoids",
            )
        else:
            defaults = {field.name: field.default for field in dataclasses.fields(self)}
            only = ("width", "rates", "discriminator", "adversarial", "adversarial_start")
            chosen = [name for name in only if getattr(self, name) != defaults[name]]
            check(not chosen, f"for kind hifigan alone: {', '.join(chosen)}; the other's options are sinusoids.*")
