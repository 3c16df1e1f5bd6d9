"""Training objective of a HiFi-GAN (arXiv 2010.05646): generator and discriminators are updated alternately.

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
from flowreel.training import discriminators
from flowreel.training.audio_segments import mel_distance
from flowreel.training.discriminators import Adversarial, AudioDiscriminator
from flowreel.training.task import Batch, device_of

DILATIONS = (1, 3)
"""Of the residual blocks' convolutions, one each (published as resblock "2"): a third of the work of pairs of them, and
a smaller mel distance after minutes of training."""
_NO_FLOOR = 1e-9  # in training: below the floor there is no gradient, so that a silent output would stay silent


class HiFiGANTraining:
    """A generator that is trained against discriminators from step ``adversarial_start`` on."""

    loss_names: tuple[str, ...] = ("mel", "feature", "adversarial", "discriminator")

    def __init__(self, config: VocoderTrainConfig) -> None:
        _check(config)
        self.config = config
        generator = with_weight_norm(HiFiGAN(architecture(config)))
        self.averaged: nn.Module = generator
        adversarial = Adversarial("generator", generator, AudioDiscriminator(config.discriminator))
        self.module: nn.Module = adversarial
        self.networks: tuple[str, ...] = adversarial.networks

    def sample(
        self,
        log_mel: Tensor,
        audio: Tensor,
        generator: torch.Generator,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        """The pair unchanged."""
        return log_mel, audio

    def losses(self, module: nn.Module, batch: Batch, network: str = "") -> dict[str, Tensor]:
        """Nothing for the discriminator before step ``adversarial_start``; the generator's other losses are 0 then."""
        config = self.config
        active = int(batch["step"]) >= config.adversarial_start
        if network == "discriminator" and not active:
            return {}
        generated, of_real, of_generated = module(network, [batch["log_mel"]], batch["audio"], active)
        if network == "discriminator":
            return {"discriminator": discriminators.lsgan_discriminator_loss(of_real, of_generated)}
        distance = mel_distance(generated.float(), batch["audio"], replace(config.mel, floor=_NO_FLOOR))
        feature = adversarial = distance.new_zeros(())
        if active:
            feature = discriminators.feature_matching_loss(of_real, of_generated)
            adversarial = discriminators.lsgan_generator_loss(of_generated)
        return {
            "mel": config.mel_weight * distance,
            "feature": config.feature_weight * feature,
            "adversarial": config.adversarial * adversarial,
        }

    def plain(self, module: nn.Module) -> HiFiGAN:
        """The generator without weight norm."""
        assert isinstance(module, HiFiGAN)
        return fused(module)


def architecture(config: VocoderTrainConfig) -> VocoderConfig:
    """The generator's configuration."""
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
        raise InputError(f"width {config.width} must be a multiple of {2 ** len(rates)}: every rate halves it")
    if config.discriminator < 8 or config.discriminator % 8:
        raise InputError(f"discriminator must be a multiple of 8, not {config.discriminator}")


def with_weight_norm(vocoder: HiFiGAN) -> HiFiGAN:
    """Put the convolutions under weight norm (arXiv 1602.07868), in place, for training."""
    for layer in [layer for layer in vocoder.modules() if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d)]:
        weight_norm(layer)
    return vocoder


def fused(vocoder: HiFiGAN) -> HiFiGAN:
    """A copy with plain weights, in evaluation mode, for use and export."""
    plain = HiFiGAN(vocoder.config).to(device_of(vocoder))
    plain.load_state_dict(fuse_weight_norm(vocoder.state_dict()))
    return plain.eval()
