"""The judges and their losses: what they see, how far, and what each side gains."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flowreel.training.discriminators import (
    PERIODS,
    SCALES,
    Judgement,
    PatchJudge,
    SoundJudges,
    feature_distance,
    hinge,
    hinge_to_pass,
    least_squares,
    least_squares_to_pass,
)


def says(score: float, feature: float = 0.0) -> Judgement:
    return Judgement(torch.full((2, 3), score), [torch.full((2, 4, 3), feature)])


def test_each_judge_of_sound_gives_scores_and_the_maps_before_them() -> None:
    judgements = SoundJudges(8)(torch.randn(2, 1601))  # no multiple of a period
    assert len(judgements) == len(PERIODS) + SCALES
    for judgement in judgements:
        assert judgement.scores.shape[:2] == (2, 1)
        assert len(judgement.features) == 5
    scales = [judgement.scores.shape[-1] for judgement in judgements[len(PERIODS) :]]
    assert scales == sorted(scales, reverse=True)
    assert scales[0] > 3 * scales[-1]


@torch.no_grad()
def test_a_period_judge_sees_each_phase_of_its_period_alone() -> None:
    judge = SoundJudges(8).periods[1]
    x = torch.randn(1, 1, 600)
    other = x.clone()
    other[..., 2::3] += 1
    changed = (judge(x).scores != judge(other).scores).flatten(0, 2).any(0)
    assert changed.tolist() == [False, False, True]


def test_a_patch_judge_scores_patches() -> None:
    judge = PatchJudge(8)
    pictures = torch.randn(1, 3, 64, 64)
    assert judge(pictures).scores.shape == (1, 1, 14, 14)
    assert judge(torch.randn(1, 3, 32, 32)).scores.shape == (1, 1, 6, 6)


@pytest.mark.parametrize("judge", [SoundJudges(8), PatchJudge(8)], ids=["sound", "pictures"])
@torch.no_grad()
def test_a_sample_is_judged_whatever_its_batch(judge: torch.nn.Module) -> None:
    batch = torch.randn(3, 800) if isinstance(judge, SoundJudges) else torch.randn(3, 3, 32, 32)
    together, alone = judge(batch), judge(batch[1:2])
    for a, b in zip(together, alone, strict=True) if isinstance(together, list) else [(together, alone)]:
        torch.testing.assert_close(a.scores[1:2], b.scores, atol=1e-5, rtol=1e-4)


def test_least_squares_has_its_minima_at_1_and_0() -> None:
    assert least_squares([says(1.0)] * 2, [says(0.0)] * 2) == 0
    assert least_squares_to_pass([says(1.0)] * 2) == 0
    torch.testing.assert_close(least_squares([says(0.5)] * 2, [says(0.5)] * 2), torch.tensor(1.0))
    torch.testing.assert_close(least_squares_to_pass([says(0.0)] * 2), torch.tensor(2.0))


def test_hinge_gains_nothing_beyond_1() -> None:
    assert hinge(says(1.0), says(-1.0)) == hinge(says(7.0), says(-3.0)) == 0
    torch.testing.assert_close(hinge(says(0.0), says(0.0)), torch.tensor(1.0))
    assert hinge_to_pass(says(2.0)) < hinge_to_pass(says(1.0))


def test_features_pull_what_was_made_alone() -> None:
    real, made = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)

    def seen(feature: Tensor) -> list[Judgement]:
        return [Judgement(feature, [feature, feature])]

    distance = feature_distance(seen(real), seen(made))
    torch.testing.assert_close(distance, 2 * (real - made).abs().mean())
    distance.backward()
    assert real.grad is None
    assert made.grad is not None
    assert feature_distance([says(0.0, 3.0)], [says(1.0, 3.0)]) == 0
