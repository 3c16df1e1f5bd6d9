"""Guidance is a wrapper: what it adds, what it leaves alone, and what it costs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flowreel.flow.guidance import classifier_free, gradient, renoise
from flowreel.flow.types import Latents, Times, mix, per_frame

B, T = 3, 4
LABEL = torch.tensor([0, 2, 1])


def latents(batch: int = B, seed: int = 0) -> Latents:
    g = torch.Generator().manual_seed(seed)
    return {
        "video": torch.randn(batch, T, 2, 3, 3, generator=g),
        "audio": torch.randn(batch, T, 1, 4, 2, generator=g),
    }


def times(value: float = 0.5, batch: int = B) -> Times:
    return {"video": torch.full((batch, T), value), "audio": torch.full((batch, T), value)}


class Stub:
    """v = weight[label] * x + t, and a record of the calls."""

    num_classes = 3

    def __init__(self) -> None:
        self.weight = torch.tensor([1.0, 2.0, 4.0, -1.0])
        self.labels: list[Tensor | None] = []

    def __call__(self, x: Latents, t: Times, label: Tensor | None = None) -> Latents:
        self.labels.append(label)
        w = self.weight[label] if label is not None else torch.ones(len(t["video"]))
        return {k: per_frame(w[:, None], v) * v + per_frame(t[k], v) for k, v in x.items()}


# --- classifier-free --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [LABEL, None])
def test_scale_one_is_the_model_in_one_pass(label: Tensor | None) -> None:
    model, x, t = Stub(), latents(), times()
    guided, plain = classifier_free(model, label, 1)(x, t, t), Stub()(x, t, label)
    assert len(model.labels) == 1
    assert model.labels[0] is label
    assert all(torch.equal(guided[k], plain[k]) for k in x)


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, 7.5])
def test_other_scales_move_from_the_null_class_in_one_doubled_pass(scale: float) -> None:
    model, x, t = Stub(), latents(), times()
    guided = classifier_free(model, LABEL, scale)(x, t, t)
    assert [label.tolist() for label in model.labels if label is not None] == [[0, 2, 1, 3, 3, 3]]
    given, null = Stub()(x, t, LABEL), Stub()(x, t, torch.full((B,), 3))
    for k in x:
        torch.testing.assert_close(guided[k], null[k] + scale * (given[k] - null[k]))


def test_a_tensor_gives_each_sample_its_scale() -> None:
    x, t, scales = latents(), times(), torch.tensor([1.0, 3.0, 0.0])
    guided = classifier_free(Stub(), LABEL, scales)(x, t, t)
    for i, scale in enumerate(scales.tolist()):
        alone = classifier_free(Stub(), LABEL, scale)(x, t, t)
        for k in x:
            torch.testing.assert_close(guided[k][i], alone[k][i])


def test_guidance_without_a_label_is_refused() -> None:
    with pytest.raises(ValueError, match="label"):
        classifier_free(Stub(), None, 2.0)


# --- gradient ---------------------------------------------------------------------------------------------------------


class Listener(torch.nn.Module):
    """The sound's velocity of a frame is the mean of its picture times ``gain``; the picture's is its own latents."""

    num_classes = 0

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(2.0))
        self.seen: Latents = {}

    def forward(self, x: Latents, t: Times, label: Tensor | None = None) -> Latents:  # noqa: ARG002
        self.seen = {k: v.detach() for k, v in x.items()}
        loudness = x["video"].mean((2, 3, 4)) * self.gain
        return {"video": x["video"] * 1.0, "audio": per_frame(loudness, x["audio"]).expand_as(x["audio"])}


def guide(scale: float, t_next: Times | None = None, model: Listener | None = None) -> Latents:
    known, noise, x, t = latents(seed=1)["audio"], latents(seed=2)["audio"], latents(), times(0.4)
    velocity = gradient(model or Listener(), None, {"audio": known}, {"audio": noise}, scale)
    return velocity(x, t, t_next or times(0.5))


def test_gradient_is_that_of_one_samples_mean() -> None:
    x, target = latents(), latents(seed=1)["audio"] - latents(seed=2)["audio"]
    loudness = 2 * x["video"].mean((2, 3, 4))
    values, pixels = target[0].numel(), x["video"][0, 0].numel()
    # d/dx of mean over a sample's sound of (target - loudness of the frame)^2
    slope = 2 * (per_frame(loudness, target) - target).flatten(2).sum(2) / values * 2 / pixels
    for scale in (0.0, 1.0, 30.0):
        guided = guide(scale)
        torch.testing.assert_close(guided["video"], x["video"] - scale * per_frame(slope, x["video"]))
        torch.testing.assert_close(guided["audio"], target)


def test_the_known_stream_is_put_on_its_path() -> None:
    model = Listener()
    guide(1.0, model=model)
    wanted = mix(latents(seed=1)["audio"], latents(seed=2)["audio"], torch.full((B, T), 0.4))
    torch.testing.assert_close(model.seen["audio"], wanted)
    assert torch.equal(model.seen["video"], latents()["video"])


def test_scale_zero_changes_nothing() -> None:
    assert torch.equal(guide(0.0)["video"], latents()["video"])


def test_frames_that_arrive_are_not_guided() -> None:
    t_next = times(0.5)
    t_next["video"][:, :2] = 1
    guided, free, plain = guide(3.0, t_next), guide(3.0), guide(0.0)
    assert torch.equal(guided["video"][:, :2], plain["video"][:, :2])
    assert torch.equal(guided["video"][:, 2:], free["video"][:, 2:])
    assert not torch.isclose(guided["video"][:, 2:], plain["video"][:, 2:]).all()


def test_a_sample_does_not_depend_on_its_batch() -> None:
    whole = guide(5.0)
    known, noise, x = latents(seed=1)["audio"], latents(seed=2)["audio"], latents()
    for i in range(B):
        one = slice(i, i + 1)
        velocity = gradient(Listener(), None, {"audio": known[one]}, {"audio": noise[one]}, 5.0)
        alone = velocity({k: v[one] for k, v in x.items()}, times(0.4, 1), times(0.5, 1))
        torch.testing.assert_close(alone["video"], whole["video"][one])


@torch.no_grad()
def test_nothing_is_left_behind_in_the_graph_or_the_weights() -> None:
    model = Listener()
    guided = guide(2.0, model=model)
    assert not any(v.requires_grad for v in guided.values())
    assert model.gain.grad is None
    assert not torch.is_grad_enabled()


def test_it_goes_around_classifier_free_guidance() -> None:
    class Crossed(Stub):
        """Each stream's velocity also has the other's mean, so that a gradient exists."""

        def __call__(self, x: Latents, t: Times, label: Tensor | None = None) -> Latents:
            own = super().__call__(x, t, label)
            return {
                k: v + sum(x[o].flatten(1).mean(1) for o in x if o != k)[:, None, None, None, None]
                for k, v in own.items()
            }

    x, t, known, noise = latents(), times(), {"video": latents(seed=1)["video"]}, {"video": latents(seed=2)["video"]}
    inner = classifier_free(Crossed(), LABEL, 3.0)
    guide_by = lambda scale: gradient(lambda x, t, _: inner(x, t, t), None, known, noise, scale)(x, t, t)["audio"]  # noqa: E731
    on_path = {"audio": x["audio"], "video": mix(known["video"], noise["video"], t["video"])}
    torch.testing.assert_close(guide_by(0.0), inner(on_path, t, t)["audio"])
    assert not torch.isclose(guide_by(50.0), guide_by(0.0)).any()


def test_impossible_calls_are_refused() -> None:
    x, t = latents(), times()
    with pytest.raises(ValueError, match="same stream"):
        gradient(Listener(), None, {"audio": x["audio"]}, {"video": x["video"]}, 1.0)
    with pytest.raises(ValueError, match="same stream"):
        gradient(Listener(), None, {}, {}, 1.0)
    with pytest.raises(ValueError, match="nothing is left"):
        gradient(Listener(), None, x, x, 1.0)(x, t, t)


# --- by what is given -------------------------------------------------------------------------------------------------


def test_what_is_held_looks_as_if_it_were_generated() -> None:
    x, noise = latents(), {"audio": latents(seed=1)["audio"]}
    ladder = torch.tensor([0.9, 0.6, 0.3, 0.0]).expand(B, T)
    t = {"video": ladder, "audio": torch.ones(B, T)}
    t["audio"][0, 3] = 0.2  # not held
    less, earlier = renoise(x, t, noise)
    assert torch.equal(less["video"], x["video"])
    assert torch.equal(earlier["video"], ladder)
    assert torch.equal(earlier["audio"][1:], ladder[1:])
    assert earlier["audio"][0, 3] == t["audio"][0, 3]
    wanted = mix(x["audio"], noise["audio"], ladder)
    assert torch.equal(less["audio"][1:], wanted[1:])
    assert torch.equal(less["audio"][0, 3], x["audio"][0, 3])


def test_of_a_batch_each_sample_loses_what_it_was_given_alone() -> None:
    x, noise = latents(), latents(seed=1)
    t = {k: torch.rand(B, T) * 0.9 for k in x}
    t["audio"][0] = 1
    t["video"][1] = 1
    for k in x:
        t[k][:, 0] = 1  # history, of both
    less, earlier = renoise(x, t, noise)
    assert torch.equal(earlier["audio"][0], t["video"][0])
    assert torch.equal(earlier["video"][1], t["audio"][1])
    for k, sample in (("video", 0), ("audio", 1)):
        assert torch.equal(earlier[k][sample], t[k][sample])
        assert torch.equal(less[k][sample], x[k][sample])
    assert torch.equal(less["audio"][0, 1:], mix(x["audio"], noise["audio"], t["video"])[0, 1:])
    assert all(torch.equal(less[k][:, 0], x[k][:, 0]) for k in x)


def test_guidance_moves_away_from_what_knows_less() -> None:
    model, x, t = Stub(), latents(), times()
    unconditional = ({k: v + 1 for k, v in x.items()}, times(0.2))
    guided = classifier_free(model, LABEL, 2.0, lambda *_: unconditional)(x, t, t)
    given, null = Stub()(x, t, LABEL), Stub()(*unconditional, torch.full((B,), 3))
    for k in x:
        assert torch.allclose(guided[k], null[k] + 2 * (given[k] - null[k]))
    unnamed = classifier_free(model, None, 2.0, lambda *_: unconditional)(x, t, t)
    given, null = Stub()(x, t), Stub()(*unconditional)
    assert all(torch.allclose(unnamed[k], null[k] + 2 * (given[k] - null[k])) for k in x)
