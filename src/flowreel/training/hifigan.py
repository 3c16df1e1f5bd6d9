"""How a HiFi-GAN (arXiv 2010.05646) is trained: it and its judges take turns.

Knows: weight norm, whose turn it is, what each minimises. Does not know: where sound comes from and how a vocoder is
shown and measured (``train_vocoder.py``), how the networks are built (``codec/vocoder.py``, ``adversaries.py``).

Shapes: B batch, M mel bins, N mel steps.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from flowreel.codec.hifigan import HiFiGAN, VocoderConfig, fuse_weight_norm
from flowreel.config import VocoderTrainConfig
from flowreel.errors import InputError
from flowreel.training import discriminators as adversaries
from flowreel.training.audio_segments import mel_distance
from flowreel.training.discriminators import SoundJudges
from flowreel.training.task import Batch, device_of

DILATIONS = (1, 3)
"""Of the residual blocks' convolutions, one each (the published "2"): a third of the work of pairs of them, and in
minutes of training nearer to the sound."""
_NO_FLOOR = 1e-9  # in training: below a floor there is no gradient, and what has fallen silent would stay so


class HiFiGANTraining:
    """A generator that is trained against judges from step ``adversarial_start`` on."""

    players: tuple[str, ...] = ("discriminator", "generator")

    def __init__(self, config: VocoderTrainConfig) -> None:
        _check(config)
        self.config = config
        generator = with_weight_norm(HiFiGAN(architecture(config)))
        self.averaged: nn.Module = generator
        self.module: nn.Module = Contest(generator, SoundJudges(config.discriminator))

    def sample(
        self,
        log_mel: Tensor,
        sound: Tensor,
        generator: torch.Generator,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        """It learns from the sound as it is."""
        return log_mel, sound

    def losses(self, module: nn.Module, batch: Batch, player: str = "") -> dict[str, Tensor]:
        """Nothing for the discriminator until step ``adversarial_start``: the generator has its mel loss alone."""
        config = self.config
        judged = int(batch["step"]) >= config.adversarial_start
        if player == "discriminator" and not judged:
            return {}
        made, real_judged, made_judged = module(batch["log_mel"], batch["sound"], player, judged)
        if player == "discriminator":
            return {"discriminator": adversaries.least_squares(real_judged, made_judged)}
        distance = mel_distance(made.float(), batch["sound"], replace(config.mel, floor=_NO_FLOOR))
        feature = passing = distance.new_zeros(())
        if judged:
            feature = adversaries.feature_distance(real_judged, made_judged)
            passing = adversaries.least_squares_to_pass(made_judged)
        return {
            "mel": config.mel_weight * distance,
            "feature": config.feature_weight * feature,
            "adversarial": config.adversarial * passing,
        }

    def plain(self, module: nn.Module) -> HiFiGAN:
        """The generator without weight norm."""
        assert isinstance(module, HiFiGAN)
        return fused(module)


class Contest(nn.Module):
    """The generator and those that judge it, as one module with a forward pass for each of them."""

    def __init__(self, generator: HiFiGAN, discriminator: SoundJudges) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, discriminator

    def forward(
        self, mel: Tensor, sound: Tensor, player: str, judged: bool
    ) -> tuple[Tensor, list[adversaries.Judgement], list[adversaries.Judgement]]:
        """Log-mel (B, M, N) and its sound (B, N * hop) -> the re-synthesis, and what the judges say of the sound and of
        the re-synthesis: nothing unless ``judged``. In the discriminator's turn the generator only plays."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and player == "generator"):
            made = self.generator(mel)
        if not judged:
            return made, [], []
        return made, self.discriminator(sound), self.discriminator(made)


def architecture(config: VocoderTrainConfig) -> VocoderConfig:
    """The generator that the settings ask for."""
    return VocoderConfig(
        num_mels=config.mel.bins,
        upsample_initial_channel=config.width,
        upsample_rates=config.rates,
        upsample_kernel_sizes=config.kernels,
        resblock_kernel_sizes=config.resblock_kernels,
        resblock_dilation_sizes=(DILATIONS,) * len(config.resblock_kernels),
        resblock="2",
        mel=config.mel,
    )


def _check(config: VocoderTrainConfig) -> None:
    rates, hop = config.rates, config.mel.hop
    if math.prod(rates) != hop:
        raise InputError(f"rates {list(rates)} make {math.prod(rates)} samples of a mel step, but mel.hop is {hop}")
    if config.width % 2 ** len(rates):
        raise InputError(
            f"width {config.width} must be a multiple of {2 ** len(rates)}: it is halved for each of rates"
        )
    if config.discriminator < 8 or config.discriminator % 8:
        raise InputError(f"discriminator must be a multiple of 8, not {config.discriminator}")


def with_weight_norm(vocoder: HiFiGAN) -> HiFiGAN:
    """The same network, its convolutions under weight norm (arXiv 1602.07868), which is how it trains."""
    for layer in [layer for layer in vocoder.modules() if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d)]:
        weight_norm(layer)
    return vocoder


def fused(vocoder: HiFiGAN) -> HiFiGAN:
    """The same with plain weights, in evaluation mode: what is used and exported."""
    plain = HiFiGAN(vocoder.config).to(device_of(vocoder))
    plain.load_state_dict(fuse_weight_norm(vocoder.state_dict()))
    return plain.eval()
