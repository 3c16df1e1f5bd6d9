"""What training draws for a sample, and how a batch's loss is made of its frames."""

from __future__ import annotations

import collections
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from flowreel.flow.degradation import degrade
from flowreel.flow.objective import logit_normal_density, losses
from flowreel.flow.roles import EDGE, ROLES, draw_times
from flowreel.flow.types import Latents, Times, per_frame

BOTH = ("video", "audio")


def draw(n: int, frames: int = 6, streams: tuple[str, ...] = BOTH, **law: Any) -> list[Times]:
    law.setdefault("shares", {"joint": 1.0})
    return [draw_times(torch.Generator().manual_seed(i), frames, streams, **law) for i in range(n)]


def role(t: Times) -> str:
    if (t["audio"] == 1).all():
        return "audio_clean"
    if (t["video"] == 1).all():
        return "video_clean"
    if t["video"][0] == 1:
        return "context"
    return "joint" if torch.equal(t["video"], t["audio"]) else "independent"


def near(share: float, wanted: float, n: int) -> bool:
    return abs(share - wanted) < 4 * math.sqrt(wanted * (1 - wanted) / n) + 1e-9


# --- draws ------------------------------------------------------------------------------------------------------------


def test_roles_come_at_their_shares() -> None:
    n, shares = 2000, {"joint": 2.0, "independent": 0.5, "audio_clean": 0.5, "video_clean": 0.25, "context": 0.75}
    drawn = draw(n, shares=shares, contexts=(1, 2))
    counts = collections.Counter(map(role, drawn))
    assert set(counts) == set(ROLES)
    for name, share in shares.items():
        assert near(counts[name] / n, share / 4, n), (name, counts)


@pytest.mark.parametrize("only", ROLES)
def test_a_single_role_is_always_drawn(only: str) -> None:
    for t in draw(50, shares={only: 1.0, "joint": 0.0} if only != "joint" else {"joint": 1.0}, contexts=(2,)):
        assert role(t) == only
        assert all(v.shape == (6,) for v in t.values())


def test_frames_are_held_exactly_and_others_stay_off_the_edges() -> None:
    for t in draw(300, shares=dict.fromkeys(ROLES, 1.0), contexts=(2,)):
        held = {"joint": (0, 0), "independent": (0, 0), "audio_clean": (0, 6), "video_clean": (6, 0), "context": (2, 2)}
        for stream, count in zip(BOTH, held[role(t)], strict=True):
            assert (t[stream][:count] == 1).all()
            rest = t[stream][count:]
            assert ((rest >= EDGE) & (rest <= 1 - EDGE)).all()


def test_the_share_of_warm_up() -> None:
    # a window of m frames is fully staggered, 1/m apart, always under roll and with probability 1/m under ramp
    n, m = 2000, 4
    for warmup in (0.0, 0.2, 1.0):
        staggered = [bool(torch.allclose(t["video"].diff(), torch.tensor(-1 / m))) for t in draw(n, m, warmup=warmup)]
        assert near(sum(staggered) / n, 1 - warmup * (1 - 1 / m), n)


def test_blocks_and_contexts_are_drawn_evenly() -> None:
    n = 1500
    drawn = draw(n, 8, shares={"context": 1.0}, contexts=(2, 4), blocks=(1, 2), warmup=0.0)
    contexts = collections.Counter(int((t["video"] == 1).sum()) for t in drawn)
    assert set(contexts) == {2, 4}
    assert near(contexts[2] / n, 0.5, n)
    paired = sum(bool((t["video"][::2] == t["video"][1::2]).all()) for t in drawn)
    assert near(paired / n, 0.5, n)


def test_lookaheads_are_for_what_is_given_whole_and_for_what_it_is_compared_with() -> None:
    drawn = draw(600, frames=8, shares=dict.fromkeys(ROLES, 1.0), contexts=(2,), blocks=(2,), lookaheads=(2, 4))
    ahead: dict[str, collections.Counter[int]] = {name: collections.Counter() for name in ROLES}
    for t in drawn:
        free = min(t.values(), key=lambda times: float(times.sum()))
        count = int((free == 0).sum())
        assert bool((free[8 - count :] == 0).all())
        assert bool((free[: 8 - count] > 0).all())
        ahead[role(t)][count] += 1
    for name in ("audio_clean", "video_clean"):
        assert set(ahead[name]) == {2, 4}
        assert near(ahead[name][2] / ahead[name].total(), 0.5, ahead[name].total())
    assert set(ahead["joint"]) == {0, 2, 4}
    assert near(ahead["joint"][0] / ahead["joint"].total(), 1 / 3, ahead["joint"].total())
    assert set(ahead["independent"]) == set(ahead["context"]) == {0}


def test_what_does_not_count_counts_zero_and_stays_in_the_mean() -> None:
    (data, noise), t = batch(), some_times()
    counted = {k: torch.rand(4, 3) > 0.4 for k in BOTH}
    parts = losses(Stub(), data, noise, t, counted=counted)
    times = {k: v.clamp(EDGE, 1 - EDGE).where(v < 1, v) for k, v in t.items()}
    for k, part in parts.items():
        x = per_frame(times[k], data[k]) * data[k] + (1 - per_frame(times[k], data[k])) * noise[k]
        error = (Stub()({k: x}, t)[k] - (data[k] - noise[k])).square().flatten(2).mean(2)
        torch.testing.assert_close(part, error.where(counted[k] & (t[k] < 1), 0).mean())


def test_contexts_belong_to_their_role_alone() -> None:
    assert all((t["video"] < 1).all() for t in draw(100, contexts=(2,)))


def test_progress_is_uniform() -> None:
    n = 2000
    u = torch.stack([t["video"][0] for t in draw(n, 4, blocks=(4,))]).sort().values.double()
    assert (u - torch.linspace(0, 1, n)).abs().max() < 1.63 / math.sqrt(n)  # Kolmogorov and Smirnov, 1 %


def test_independent_streams_are_uncorrelated() -> None:
    drawn = draw(1500, 4, shares={"independent": 1.0}, blocks=(4,))
    pairs = torch.stack([torch.stack([t["video"][0], t["audio"][0]]) for t in drawn])
    assert abs(float(torch.corrcoef(pairs.T)[0, 1])) < 0.08


def test_a_video_model_draws_joint_and_context_alone() -> None:
    shares = {"joint": 1.0, "independent": 5.0, "audio_clean": 5.0, "video_clean": 5.0, "context": 1.0}
    drawn = draw(600, streams=("video",), shares=shares, contexts=(2,))
    assert all(set(t) == {"video"} for t in drawn)
    held = [int((t["video"] == 1).sum()) for t in drawn]
    assert set(held) == {0, 2}
    assert near(held.count(2) / 600, 0.5, 600)


def test_impossible_shares_are_refused() -> None:
    for shares, streams in (({"audio_clean": 1.0}, ("video",)), ({}, BOTH), ({"solo": 1.0, "joint": 1.0}, BOTH)):
        with pytest.raises(ValueError, match="share above 0"):
            draw(1, streams=streams, shares=shares)
    with pytest.raises(ValueError, match="can't be cut"):
        draw(1, 6, shares={"context": 1.0}, contexts=(1,), blocks=(2,))


def test_draws_follow_their_generator_alone() -> None:
    law: dict[str, Any] = {"shares": dict.fromkeys(ROLES, 1.0), "contexts": (2,)}
    state = torch.get_rng_state()
    first, again = draw(30, **law), draw(30, **law)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a[k], b[k]) for a, b in zip(first, again, strict=True) for k in BOTH)
    assert len({round(float(t["video"].sum() + t["audio"].sum()), 4) for t in first}) > 20


# --- losses -----------------------------------------------------------------------------------------------------------


class Stub:
    """Velocity = ``factor`` times the latents; keeps what it was given."""

    def __init__(self, factor: float = 0.5) -> None:
        self.factor = factor
        self.given: tuple[Latents, Times, Any] = ({}, {}, None)

    def __call__(self, x: Latents, t: Times, label: Any = None) -> Latents:
        self.given = (x, t, label)
        return {k: v * self.factor for k, v in x.items()}


def batch(n: int = 4, frames: int = 3) -> tuple[Latents, Latents]:
    shapes = {"video": (n, frames, 2, 3, 3), "audio": (n, frames, 1, 4, 2)}
    return {k: torch.randn(v) for k, v in shapes.items()}, {k: torch.randn(v) for k, v in shapes.items()}


def some_times(n: int = 4, frames: int = 3) -> Times:
    t = {k: torch.rand(n, frames) for k in BOTH}
    t["video"][0, :2], t["audio"][1], t["video"][2, 2] = 1, 1, 0
    return t


@pytest.mark.parametrize("weight", ["none", "logit_normal"])
def test_loss_is_the_mean_over_frames_with_held_ones_at_zero(weight: Any) -> None:
    (data, noise), t = batch(), some_times()
    parts = losses(Stub(), data, noise, t, weight=weight)
    for k in BOTH:
        total = torch.tensor(0.0, dtype=torch.float64)
        for b in range(4):
            for f in range(3):
                if t[k][b, f] == 1:
                    continue
                time = t[k][b, f].clamp(EDGE, 1 - EDGE).double()
                x = time * data[k][b, f] + (1 - time) * noise[k][b, f]
                w = logit_normal_density(time) if weight == "logit_normal" else 1
                total += w * ((0.5 * x - (data[k][b, f] - noise[k][b, f])) ** 2).mean()
        torch.testing.assert_close(parts[k].double(), total / 12, rtol=1e-4, atol=1e-6)


def test_the_model_sees_held_frames_as_data_at_one() -> None:
    (data, noise), t, model, label = batch(), some_times(), Stub(), torch.arange(4)
    losses(model, data, noise, t, label)
    x, given, passed = model.given
    assert passed is label
    for k in BOTH:
        held = t[k] == 1
        assert torch.equal(given[k][held], torch.ones(int(held.sum())))
        assert torch.equal(x[k][held], data[k][held])
        assert given[k][~held].min() >= EDGE
        assert given[k][~held].max() <= 1 - EDGE


def test_shards_of_a_batch_add_up() -> None:
    (data, noise), t = batch(6), some_times(6)
    whole = losses(Stub(), data, noise, t)
    shards = [
        losses(Stub(), *({k: v[rows] for k, v in values.items()} for values in (data, noise, t)))
        for rows in (slice(0, 2), slice(2, 4), slice(4, 6))
    ]
    for k in BOTH:
        torch.testing.assert_close(torch.stack([shard[k] for shard in shards]).mean(), whole[k])


def test_held_frames_give_no_gradient() -> None:
    (data, noise), t = batch(), some_times()
    offset = {k: torch.zeros_like(v, requires_grad=True) for k, v in data.items()}
    parts = losses(lambda x, *_: {k: v + offset[k] for k, v in x.items()}, data, noise, t)
    sum(parts.values()).backward()  # type: ignore[union-attr]
    for k in BOTH:
        slope = offset[k].grad
        assert slope is not None
        assert torch.isfinite(slope).all()
        assert (slope[t[k] == 1] == 0).all()
        assert (slope[t[k] < 1].flatten(1) != 0).any(1).all()


def test_a_true_velocity_has_no_loss() -> None:
    (data, noise), t = batch(), some_times()
    parts = losses(lambda *_: {k: data[k] - noise[k] for k in data}, data, noise, t, weight="logit_normal")
    assert {k: float(v) for k, v in parts.items()} == {"video": 0.0, "audio": 0.0}


def test_a_batch_that_is_held_whole_counts_zero() -> None:
    data, noise = batch()
    t = {k: torch.ones(4, 3) for k in BOTH}
    assert all(float(v) == 0 for v in losses(Stub(), data, noise, t).values())


def test_one_stream_is_enough() -> None:
    data, noise = batch()
    parts = losses(Stub(), {"video": data["video"]}, {"video": noise["video"]}, {"video": torch.rand(4, 3)})
    assert set(parts) == {"video"}


def test_the_weight_is_a_density() -> None:
    t = torch.linspace(EDGE, 1 - EDGE, 20001, dtype=torch.float64)
    density = logit_normal_density(t)
    torch.testing.assert_close(torch.trapezoid(density, t), torch.tensor(1.0, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(density, density.flip(0))
    law = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1), torch.distributions.SigmoidTransform()
    )
    torch.testing.assert_close(density[1:-1:100], law.log_prob(t[1:-1:100]).exp())


def test_an_unknown_weight_is_refused() -> None:
    data, noise = batch()
    with pytest.raises(ValueError, match="logit-normal"):
        losses(Stub(), data, noise, some_times(), weight="logit-normal")  # type: ignore[arg-type]


def test_losses_differentiate_through_the_model() -> None:
    (data, noise), t = batch(), some_times()
    gain = torch.tensor(0.1, requires_grad=True)

    def model(x: Latents, times: Times, label: Tensor | None) -> Latents:  # noqa: ARG001
        return {k: v * gain * per_frame(times[k], v) for k, v in x.items()}

    sum(losses(model, data, noise, t).values()).backward()  # type: ignore[union-attr]
    assert gain.grad is not None
    assert float(gain.grad) != 0


# --- guidance that is learnt ------------------------------------------------------------------------------------------


class Table(torch.nn.Module):
    """A velocity per class, whatever x and t; the last is the null class."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.values = torch.nn.Parameter(torch.zeros(classes + 1))

    def forward(self, x: Latents, t: Times, label: Tensor | None = None) -> Latents:  # noqa: ARG002
        rows = torch.full((len(x["video"]),), -1) if label is None else label
        return {k: self.values[rows].reshape(-1, *(1,) * (v.ndim - 1)).expand_as(v) for k, v in x.items()}


def test_the_guided_velocity_is_where_training_ends() -> None:
    label = torch.tensor([0, 1, 2])
    truth = torch.tensor([1.0, -0.5, 0.25])  # of each class and of all together
    noise = {"video": torch.zeros(3, 2, 1, 2, 2), "audio": torch.zeros(3, 2, 1, 2, 2)}
    data = {k: v + truth.reshape(3, 1, 1, 1, 1) for k, v in noise.items()}
    t = {k: torch.full((3, 2), 0.5) for k in BOTH}
    model = Table()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        sum(losses(model, data, noise, t, label, guidance=torch.tensor([3.0, 3.0, 1.0])).values()).backward()  # type: ignore[union-attr]
        optimizer.step()
    wanted = truth[2] + 3 * (truth - truth[2])
    torch.testing.assert_close(model.values.detach(), wanted, atol=1e-4, rtol=0)


def test_guidance_leads_the_target_away_from_what_knows_less() -> None:
    (data, noise), t, scale = batch(), some_times(), torch.tensor([2.0, 1.0, 4.0, 1.0])
    seen = []

    def model(x: Latents, times: Times, label: Tensor | None = None) -> Latents:
        seen.append((times, label, torch.is_grad_enabled()))
        return {k: v * (0.3 if label is None else 0.7) for k, v in x.items()}

    earlier = {k: v * 0 for k, v in t.items()}
    parts = losses(
        model, data, noise, t, torch.arange(4), guidance=scale,
        unconditional=lambda x, times: ({k: -v for k, v in x.items()}, earlier),  # noqa: ARG005
    )  # fmt: skip
    assert [(label is None, grad) for _, label, grad in seen] == [(False, True), (True, False)]
    assert seen[1][0] is earlier
    for k, part in parts.items():
        at = per_frame(t[k].clamp(EDGE, 1 - EDGE).where(t[k] < 1, t[k]), data[k])
        x = at * data[k] + (1 - at) * noise[k]
        lead = (1 - 1 / scale).reshape(4, 1, 1, 1, 1) * (0.7 * x + 0.3 * x)
        error = (0.7 * x - (data[k] - noise[k] + lead)).square().flatten(2).mean(2)
        torch.testing.assert_close(part, error.where(t[k] < 1, 0).mean())


def test_guidance_in_bfloat16_leaves_every_weight_its_gradient() -> None:
    network = torch.nn.Linear(1, 1)

    def model(x: Latents, times: Times, label: Tensor | None = None) -> Latents:  # noqa: ARG001
        return {k: network(v.unsqueeze(-1)).squeeze(-1) for k, v in x.items()}

    data, noise = batch()
    with torch.autocast("cpu", torch.bfloat16):
        parts = losses(model, data, noise, some_times(), torch.arange(4), guidance=torch.full((4,), 2.0))
    sum(parts.values()).backward()  # type: ignore[union-attr]
    assert all(weight.grad is not None for weight in network.parameters())


def test_guidance_of_one_is_none() -> None:
    (data, noise), t = batch(), some_times()
    plain, guided = (losses(Table(4), data, noise, t, torch.arange(4), guidance=g) for g in (None, torch.ones(4)))
    assert all(torch.equal(plain[k], guided[k]) for k in BOTH)


# --- degraded frames --------------------------------------------------------------------------------------------------


def window(seed: int = 0) -> Latents:
    """A still picture with one frame's worth of something that moves through it."""
    g = torch.Generator().manual_seed(seed)
    video = torch.randn(1, 3, 8, 8, generator=g).repeat(12, 1, 1, 1)
    for frame in range(12):
        video[frame, :, frame % 8, :] += 5
    return {"video": video, "audio": torch.randn(12, 1, 4, 5, generator=g)}


def test_what_is_near_the_data_is_degraded_and_what_is_far_is_not() -> None:
    ladder = torch.linspace(1 - 1e-6, 0.0, 12)
    worn_somewhere = 0
    for seed in range(40):
        data = window()
        result = degrade(data, dict.fromkeys(data, ladder), torch.Generator().manual_seed(seed))
        for k in data:
            change = (result[k] - data[k]).flatten(1).abs().amax(1)
            assert change[-1] == 0, "frames of noise have nothing to degrade"
            first = int((change > 0).sum())
            assert (change[:first] > 0).all(), "degraded frames are the oldest ones"
            worn_somewhere += first > 0
    assert worn_somewhere > 70


def test_what_does_not_move_is_not_degraded() -> None:
    data = {"video": torch.randn(1, 3, 8, 8).repeat(12, 1, 1, 1)}
    result = degrade(data, {"video": torch.ones(12) - 0.01}, torch.Generator().manual_seed(0))
    assert torch.equal(result["video"], data["video"])


def test_a_stream_that_is_held_whole_is_not_degraded() -> None:
    data = window()
    t = {"video": torch.linspace(0.99, 0, 12), "audio": torch.ones(12)}
    for seed in range(5):
        result = degrade(data, t, torch.Generator().manual_seed(seed))
        assert torch.equal(result["audio"], data["audio"])


def test_wear_follows_its_generator_alone() -> None:
    data, t = window(), {k: torch.linspace(1 - 1e-6, 0, 12) for k in ("video", "audio")}
    one, other = (degrade(data, t, torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(one[k], other[k]) for k in data)
