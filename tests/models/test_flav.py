"""FLAV: shapes, classes, time's arrow, clocks, sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from flowreel.config import LatentShape, ModelConfig
from flowreel.config.presets import SIZES
from flowreel.config.presets import model as published
from flowreel.errors import InputError
from flowreel.models import Network, build, positions
from tests.conftest import close

from .small import CLASSES, SHAPE, VIDEO, WINDOW, flav, inputs, labels

FUSIONS = pytest.mark.parametrize("fusion", ["mean", "joint", "mean_time"])
POSITIONS = pytest.mark.parametrize("positions", ["learned", "rope"])


def differ(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() > 1e-4 * b.abs().max())


def total(out: dict[str, Tensor]) -> Tensor:
    return torch.stack([(v * torch.linspace(0.5, 1, v.numel()).view_as(v)).sum() for v in out.values()]).sum()


# --- shapes -----------------------------------------------------------------------------------------------------------


@FUSIONS
@POSITIONS
@pytest.mark.parametrize("shape", [SHAPE, VIDEO])
@pytest.mark.parametrize("patch", [1, 2])
def test_forward_and_backward(fusion: str, positions: str, shape: LatentShape, patch: int) -> None:
    model = flav(shape, fusion=fusion, positions=positions, patch=patch, qk_norm=patch == 2)
    x, t = inputs(shape)
    out = model(x, t, labels())
    assert {k: v.shape for k, v in out.items()} == {k: v.shape for k, v in x.items()}
    total(out).backward()
    slopes = {name: p.grad for name, p in model.named_parameters()}
    # what softmax can't see has no gradient: a bias that all keys share
    missing = [name for name, g in slopes.items() if g is None or not torch.isfinite(g).all() or not g.any()]
    assert missing == []


def test_streams_are_those_of_the_data() -> None:
    x, t = inputs()
    with pytest.raises(InputError, match="streams video, but was given"):
        flav(VIDEO)(x, t, labels())
    with pytest.raises(InputError, match="streams video, audio, but was given video"):
        flav()({"video": x["video"]}, t, labels())
    swapped = flav()(dict(reversed(x.items())), t, labels())
    assert all(torch.equal(v, flav()(x, t, labels())[k]) for k, v in swapped.items())


@FUSIONS
def test_streams_hear_each_other_per_frame(fusion: str) -> None:
    model, (x, t) = flav(fusion=fusion, causal=True, depth=1), inputs()
    for moved, other in (("video", "audio"), ("audio", "video")):
        changed = {**x, moved: x[moved].clone()}
        changed[moved][:, 2] += 1
        before, after = model(x, t, labels())[other], model(changed, t, labels())[other]
        assert torch.equal(before[:, :2], after[:, :2])
        assert differ(after[:, 2], before[:, 2])


@FUSIONS
@POSITIONS
def test_velocity_is_zero_at_the_start_of_training(fusion: str, positions: str) -> None:
    fresh = build(ModelConfig(dim=32, depth=2, heads=2, fusion=fusion, positions=positions), SHAPE, CLASSES, WINDOW)  # type: ignore[arg-type]
    x, t = inputs()
    assert all((v == 0).all() for v in fresh(x, t, labels()).values())


@FUSIONS
def test_gradient_checkpointing_gives_the_same_gradients(fusion: str) -> None:
    slopes = []
    for checkpointing in (False, True):
        model, (x, t) = flav(fusion=fusion), inputs()
        model.gradient_checkpointing = checkpointing
        total(model(x, t, labels())).backward()
        slopes.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*slopes, strict=True))


def test_a_sample_does_not_depend_on_its_batch() -> None:
    model, (x, t) = flav(), inputs(batch=3)
    whole = model(x, t, labels(3))
    alone = model({k: v[1:2] for k, v in x.items()}, {k: v[1:2] for k, v in t.items()}, labels(3)[1:2])
    for k in x:
        close(alone[k], whole[k][1:2])


def test_times_are_per_frame_and_per_stream() -> None:
    model, (x, t) = flav(causal=True), inputs()
    before = model(x, t, labels())
    for stream in x:
        later = {**t, stream: t[stream].clone()}
        later[stream][:, 2:] = 1 - later[stream][:, 2:]
        after = model(x, later, labels())
        assert torch.equal(after[stream][:, :2], before[stream][:, :2])
        assert differ(after[stream][:, 2:], before[stream][:, 2:])


# --- classes ----------------------------------------------------------------------------------------------------------


def test_labels_are_per_stream() -> None:
    model, (x, t) = flav(fusion="mean", depth=1), inputs()
    one, other = labels(), (labels() + 1) % CLASSES
    same = model(x, t, {"video": one, "audio": one})
    assert all(torch.equal(same[k], v) for k, v in model(x, t, one).items())
    split = model(x, t, {"video": one, "audio": other})
    assert differ(split["audio"], same["audio"])


def test_no_label_is_the_null_class() -> None:
    model, (x, t) = flav(), inputs()
    null = model(x, t, torch.full((2,), CLASSES))
    assert all(torch.equal(v, null[k]) for k, v in model(x, t).items())
    assert differ(model(x, t, labels())["video"], null["video"])


def test_a_model_without_classes_takes_no_label() -> None:
    model, (x, t) = flav(classes=0), inputs()
    assert not any("class" in name for name, _ in model.named_parameters())
    assert all(v.isfinite().all() for v in model(x, t).values())


def test_labels_are_dropped_per_sample_and_per_stream() -> None:
    n, model, given = 3000, flav(class_dropout=0.2), labels(3000)
    generators = lambda: [torch.Generator().manual_seed(i) for i in range(n)]  # noqa: E731
    dropped = model.drop_label(given, generators())
    gone = {k: v == CLASSES for k, v in dropped.items()}
    for k, v in dropped.items():
        assert abs(float(gone[k].float().mean()) - 0.2) < 0.03
        assert torch.equal(v[~gone[k]], given[~gone[k]])
    assert abs(float((gone["video"] & gone["audio"]).float().mean()) - 0.04) < 0.015
    again = model.drop_label(given, generators())
    assert all(torch.equal(again[k], v) for k, v in dropped.items())


def test_labels_may_change_from_frame_to_frame() -> None:
    model, (x, t) = flav(class_dropout=0.5), inputs()
    plain, per_frame = labels(), labels().unsqueeze(1).repeat(1, WINDOW)
    expected, same = model(x, t, plain), model(x, t, per_frame)
    changed = model(x, t, torch.cat([per_frame[:, :2], (per_frame[:, 2:] + 1) % CLASSES], dim=1))
    for k, v in expected.items():
        assert torch.equal(same[k], v)
        assert not torch.allclose(changed[k], v)
    dropped = model.drop_label(per_frame, [torch.Generator().manual_seed(i) for i in range(2)])
    assert all(v.shape == (2, WINDOW) and (v.float().std(dim=1) == 0).all() for v in dropped.values())


@pytest.mark.parametrize(("share", "left"), [(0.0, 2), (1.0, 0)])
def test_labels_are_dropped_never_or_always(share: float, left: int) -> None:
    model = flav(class_dropout=share)
    dropped = model.drop_label(labels(), [torch.Generator().manual_seed(i) for i in range(2)])
    assert all(int((v < CLASSES).sum()) == left for v in dropped.values())


# --- time -------------------------------------------------------------------------------------------------------------


@FUSIONS
@POSITIONS
@pytest.mark.parametrize("causal", [True, False])
def test_a_later_frame_changes_earlier_ones_only_without_causality(fusion: str, positions: str, causal: bool) -> None:
    model, (x, t) = flav(fusion=fusion, positions=positions, causal=causal), inputs()
    for stream in x:
        later = {**x, stream: x[stream].clone()}
        later[stream][:, 3] += 1
        before, after = model(x, t, labels()), model(later, t, labels())
        for k in x:
            assert torch.equal(after[k][:, :3], before[k][:, :3]) == causal
            assert differ(after[k][:, 3], before[k][:, 3])


@torch.no_grad()
def test_rotary_positions_take_any_window_rate_and_size() -> None:
    model = flav(positions="rope")
    for shape, frames in ((SHAPE, 9), (SHAPE, 1), (replace(SHAPE, height=8, width=4), 3)):
        x, t = inputs(shape, frames=frames)
        assert {k: v.shape for k, v in model(x, t).items()} == {k: v.shape for k, v in x.items()}
    faster = replace(SHAPE, mel_steps=2, fps=25)
    model.fps = 25
    x, t = inputs(faster, frames=6)
    at_25 = model(x, t)
    model.fps = 5
    assert differ(model(x, t)["audio"], at_25["audio"])


@torch.no_grad()
def test_rotary_positions_are_relative(put_rope_table: Callable[..., None]) -> None:
    model, (x, t) = flav(positions="rope"), inputs()
    before, table = model(x, t, labels()), positions.rope_table
    put_rope_table(lambda seconds, size: table(seconds + 11.7, size))
    for k, v in model(x, t, labels()).items():
        close(v, before[k], 2e-5)
    put_rope_table(lambda seconds, size: table(seconds * 2, size))
    assert all(differ(v, before[k]) for k, v in model(x, t, labels()).items())


@torch.no_grad()
def test_streams_share_one_clock(put_rope_table: Callable[..., None]) -> None:
    asked, table = list[Tensor](), positions.rope_table
    put_rope_table(lambda seconds, size: (asked.append(seconds), table(seconds, size))[1])
    model, (x, t) = flav(positions="rope"), inputs()
    for fps in (10.0, 20.0):
        model.fps = fps
        model(x, t)
        video, audio = asked[-2:]
        torch.testing.assert_close(video, (torch.arange(4) + 0.5) / fps)
        torch.testing.assert_close(audio, (torch.arange(20) + 0.5) / (5 * fps))
        torch.testing.assert_close(audio.view(4, 5).mean(1), video)


@pytest.mark.parametrize(
    ("shape", "frames", "says"),
    [
        (SHAPE, WINDOW + 1, "window of 5 frames"),
        (replace(SHAPE, width=8), WINDOW, "learned positions for"),
        (replace(SHAPE, mel_steps=4, fps=12.5), WINDOW, "learned positions for"),
    ],
)
def test_learned_positions_say_what_they_lack(shape: LatentShape, frames: int, says: str) -> None:
    x, t = inputs(shape, frames=frames)
    with pytest.raises(InputError, match=says):
        flav(positions="learned")(x, t)


def test_pictures_are_cut_into_whole_patches() -> None:
    with pytest.raises(InputError, match="can't be cut into patches of 4"):
        flav(patch=4)
    x, t = inputs(replace(SHAPE, width=5))
    with pytest.raises(InputError, match="4 x 5"):
        flav()(x, t)


# --- arithmetic -------------------------------------------------------------------------------------------------------


@FUSIONS
@POSITIONS
def test_autocast(fusion: str, positions: str) -> None:
    model, (x, t) = flav(fusion=fusion, positions=positions, qk_norm=True), inputs()
    kinds = []
    model.blocks[-1].register_forward_pre_hook(lambda _, given: kinds.extend(v.dtype for v in given[0].values()))
    wanted = model(x, t, labels())
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x, t, labels())
    assert kinds == [torch.float32] * 4  # the residual stream stays in float32
    for k, v in out.items():
        close(v.float(), wanted[k], 0.1)
    total({k: v.float() for k, v in out.items()}).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def count(dim: int, depth: int, patch: int, shape: LatentShape, classes: int, window: int) -> int:
    """Parameters of the published network, summed by hand."""
    linear = lambda a, b: a * b + b  # noqa: E731
    tokens = shape.height * shape.width // patch**2 + shape.mel_steps
    outside = linear(shape.channels * patch**2, dim) + linear(shape.mel_bins, dim)
    outside += 2 * (linear(256, dim) + linear(dim, dim)) + 2 * (classes + 1) * dim + (tokens + 2 * window) * dim
    outside += linear(dim, shape.channels * patch**2) + linear(dim, shape.mel_bins) + 2 * linear(dim, 2 * dim)
    attention = 3 * (linear(dim, 3 * dim) + linear(dim, dim))
    mlp = 2 * (linear(dim, 4 * dim) + linear(4 * dim, dim))
    modulation = linear(dim, 6 * dim) + 3 * linear(dim, 3 * dim)
    return outside + depth * (attention + mlp + modulation + 2 * linear(dim, dim))


@pytest.mark.parametrize("name", [name for name in SIZES if name.startswith("FLAV")])
def test_published_sizes(name: str) -> None:
    size, shape = SIZES[name], LatentShape(4, 32, 32, 256, 10)
    with torch.device("meta"):
        model = build(published(name), shape, 9, 10)
    assert sum(p.numel() for p in model.parameters()) == count(size.dim, size.depth, size.patch, shape, 9, 10)


@FUSIONS
@POSITIONS
def test_a_forward_pass_without_memory(fusion: str, positions: str) -> None:
    with torch.device("meta"):
        config: dict[str, Any] = {"fusion": fusion, "positions": positions}
        model: Network = build(ModelConfig(dim=32, depth=1, heads=2, **config), SHAPE, CLASSES, WINDOW)
        x = {k: torch.empty(1, WINDOW, *size) for k, size in SHAPE.streams.items()}
        out = model(x, {k: torch.empty(1, WINDOW) for k in x}, torch.zeros(1, dtype=torch.long))
    assert {k: v.shape for k, v in out.items()} == {k: v.shape for k, v in x.items()}


def test_width_of_the_mlp_is_exact() -> None:
    # a ratio read off a checkpoint (hidden / dim) must give that hidden width back
    for dim, hidden in ((112, 488), (176, 240), (208, 504)):
        model = build(ModelConfig(dim=dim, depth=1, heads=2, mlp_ratio=hidden / dim), VIDEO, 0, 2)
        assert model.state_dict()["blocks.0.streams.video.mlp.fc1.weight"].shape == (hidden, dim)


@pytest.mark.parametrize("fusion", ["mean", "mean_time"])
def test_normed_fusion_does_not_run_away(fusion: str) -> None:
    """Without it, a stream that is larger than in training makes the other larger, and that one the first again."""
    largest = []
    for normed in (False, True):
        model, (x, t) = flav(fusion=fusion, fusion_norm=normed, depth=4), inputs()
        sizes: list[float] = []
        model.blocks[-1].register_forward_hook(
            lambda _, __, out, sizes=sizes: sizes.append(max(float(v.detach().abs().max()) for v in out.values()))
        )
        model({k: 1000 * v for k, v in x.items()}, t, labels())
        largest += sizes
    assert largest[1] < 1e5
    assert not largest[0] < 10 * largest[1]
