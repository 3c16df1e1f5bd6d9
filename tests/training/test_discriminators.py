"""Discriminators: the shape of their outputs, what they see, and their losses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flowreel.training.discriminators import (
    PERIODS,
    SCALES,
    AudioDiscriminator,
    DiscriminatorOutput,
    PatchDiscriminator,
    feature_matching_loss,
    hinge_discriminator_loss,
    hinge_generator_loss,
    lsgan_discriminator_loss,
    lsgan_generator_loss,
)


def output(score: float, feature: float = 0.0) -> DiscriminatorOutput:
    return DiscriminatorOutput(torch.full((2, 3), score), [torch.full((2, 4, 3), feature)])


def test_each_audio_discriminator_gives_scores_and_feature_maps() -> None:
    outputs = AudioDiscriminator(8)(torch.randn(2, 1601))  # no multiple of a period
    assert len(outputs) == len(PERIODS) + SCALES
    for scores, features in outputs:
        assert scores.shape[:2] == (2, 1)
        assert len(features) == 5
    scales = [each.scores.shape[-1] for each in outputs[len(PERIODS) :]]
    assert scales == sorted(scales, reverse=True)
    assert scales[0] > 3 * scales[-1]


@torch.no_grad()
def test_a_period_discriminator_sees_each_phase_separately() -> None:
    discriminator = AudioDiscriminator(8).periods[1]
    x = torch.randn(1, 1, 600)
    other = x.clone()
    other[..., 2::3] += 1
    changed = (discriminator(x).scores != discriminator(other).scores).flatten(0, 2).any(0)
    assert changed.tolist() == [False, False, True]


def test_a_patch_discriminator_scores_patches() -> None:
    for size, scores in ((64, 14), (32, 6)):
        (of_frames,) = PatchDiscriminator(8)(torch.randn(1, 3, size, size))
        assert of_frames.scores.shape == (1, 1, scores, scores)


@pytest.mark.parametrize("discriminator", [AudioDiscriminator(8), PatchDiscriminator(8)], ids=["audio", "frames"])
@torch.no_grad()
def test_scores_do_not_depend_on_the_batch(discriminator: torch.nn.Module) -> None:
    batch = torch.randn(3, 800) if isinstance(discriminator, AudioDiscriminator) else torch.randn(3, 3, 32, 32)
    together, alone = discriminator(batch), discriminator(batch[1:2])
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a.scores[1:2], b.scores, atol=1e-5, rtol=1e-4)


def test_least_squares_has_its_minima_at_1_and_0() -> None:
    assert lsgan_discriminator_loss([output(1.0)] * 2, [output(0.0)] * 2) == 0
    assert lsgan_generator_loss([output(1.0)] * 2) == 0
    torch.testing.assert_close(lsgan_discriminator_loss([output(0.5)] * 2, [output(0.5)] * 2), torch.tensor(1.0))
    torch.testing.assert_close(lsgan_generator_loss([output(0.0)] * 2), torch.tensor(2.0))


def test_hinge_gains_nothing_beyond_1() -> None:
    for real, generated in ((1.0, -1.0), (7.0, -3.0)):
        assert hinge_discriminator_loss([output(real)], [output(generated)]) == 0
    torch.testing.assert_close(hinge_discriminator_loss([output(0.0)], [output(0.0)]), torch.tensor(1.0))
    assert hinge_generator_loss([output(2.0)]) < hinge_generator_loss([output(1.0)])


def test_features_have_a_gradient_for_generated_samples_only() -> None:
    real, made = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)

    def seen(feature: Tensor) -> list[DiscriminatorOutput]:
        return [DiscriminatorOutput(feature, [feature, feature])]

    distance = feature_matching_loss(seen(real), seen(made))
    torch.testing.assert_close(distance, 2 * (real - made).abs().mean())
    distance.backward()
    assert real.grad is None
    assert made.grad is not None
    assert feature_matching_loss([output(0.0, 3.0)], [output(1.0, 3.0)]) == 0
