"""FlowField: shapes, positions, stochastic depth, sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from flowreel.config import ModelConfig
from flowreel.config.presets import SIZES
from flowreel.config.presets import model as published
from flowreel.errors import InputError
from flowreel.models import build, positions
from tests.conftest import close

from .small import CLASSES, SHAPE, VIDEO, WINDOW, flowfield, inputs, labels

POSITIONS = pytest.mark.parametrize("positions", ["sincos", "learned", "rope"])
TEMPORAL = pytest.mark.parametrize("temporal", [True, False])


@POSITIONS
@TEMPORAL
@pytest.mark.parametrize("patch", [1, 2])
def test_forward_and_backward(positions: str, temporal: bool, patch: int) -> None:
    model = flowfield(positions=positions, temporal_attention=temporal, patch=patch, qk_norm=patch == 1)
    x, t = inputs(VIDEO)
    out = model(x, t, labels())
    assert set(out) == {"video"}
    assert out["video"].shape == x["video"].shape
    (out["video"] * torch.linspace(0.5, 1, out["video"].numel()).view_as(out["video"])).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@POSITIONS
@TEMPORAL
def test_velocity_is_zero_at_the_start_of_training(positions: Any, temporal: bool) -> None:
    config = ModelConfig("flowfield", 32, 2, 2, positions=positions, temporal_attention=temporal)
    x, t = inputs(VIDEO)
    assert (build(config, VIDEO, CLASSES, WINDOW)(x, t, labels())["video"] == 0).all()


def test_the_sound_is_refused() -> None:
    with pytest.raises(InputError, match="video alone"):
        flowfield(SHAPE)


@torch.no_grad()
@POSITIONS
def test_any_length(positions: str) -> None:
    model = flowfield(positions=positions)
    for frames in (1, 3, 9):
        x, t = inputs(VIDEO, frames=frames)
        assert model(x, t)["video"].shape == x["video"].shape


@torch.no_grad()
def test_sizes_other_than_the_trained() -> None:
    x, t = inputs(replace(VIDEO, height=6, width=10))
    for kind in ("sincos", "rope"):
        assert flowfield(positions=kind)(x, t)["video"].shape == x["video"].shape
    with pytest.raises(InputError, match="learned positions for"):
        flowfield(positions="learned")(x, t)
    with pytest.raises(InputError, match="4 x 5"):
        flowfield()(*inputs(replace(VIDEO, width=5)))


@torch.no_grad()
@TEMPORAL
def test_frames_see_each_other_by_temporal_attention_alone(temporal: bool) -> None:
    model, (x, t) = flowfield(temporal_attention=temporal), inputs(VIDEO)
    moved = {"video": x["video"].clone()}
    moved["video"][:, 1] += 1
    before, after = model(x, t)["video"], model(moved, t)["video"]
    assert not torch.isclose(after[:, 1], before[:, 1]).all()
    assert torch.equal(after[:, [0, 2, 3]], before[:, [0, 2, 3]]) == (not temporal)


@torch.no_grad()
def test_rotary_positions_are_relative_and_in_seconds(put_rope_table: Callable[..., None]) -> None:
    model, (x, t), table = flowfield(positions="rope"), inputs(VIDEO), positions.rope_table
    before = model(x, t)["video"]
    put_rope_table(lambda seconds, size: table(seconds + 3.3, size))
    close(model(x, t)["video"], before, 2e-5)
    model.fps = 20
    assert (model(x, t)["video"] - before).abs().max() > 1e-4


def test_no_label_is_the_null_class() -> None:
    model, (x, t) = flowfield(), inputs(VIDEO)
    null = model(x, t, torch.full((2,), CLASSES))["video"]
    assert torch.equal(model(x, t)["video"], null)
    assert torch.equal(model(x, t, {"video": labels()})["video"], model(x, t, labels())["video"])
    assert not torch.isclose(model(x, t, labels())["video"], null).all()
    assert set(model.drop_label(labels(), [torch.Generator()] * 2)) == {"video"}


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    slopes = []
    for checkpointing in (False, True):
        model, (x, t) = flowfield(drop_path=0.5).train(), inputs(VIDEO)
        model.gradient_checkpointing = checkpointing
        torch.manual_seed(5)
        model(x, t, labels())["video"].square().sum().backward()
        slopes.append([p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*slopes, strict=True))


def test_stochastic_depth_grows_with_depth_and_rests_in_evaluation() -> None:
    model, (x, t) = flowfield(depth=5, drop_path=0.4), inputs(VIDEO)
    assert [block.drop_path.probability for block in model.blocks] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert torch.equal(model(x, t)["video"], model(x, t)["video"])
    model.train()
    assert not torch.equal(model(x, t)["video"], model(x, t)["video"])
    assert flowfield(depth=1, drop_path=0.4).blocks[0].drop_path.probability == 0


@POSITIONS
def test_autocast(positions: str) -> None:
    model, (x, t) = flowfield(positions=positions, qk_norm=True), inputs(VIDEO)
    kinds = []
    model.blocks[-1].register_forward_pre_hook(lambda _, given: kinds.append(given[0].dtype))
    wanted = model(x, t, labels())["video"]
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x, t, labels())["video"]
    assert kinds == [torch.float32] * 2
    close(out.float(), wanted, 0.1)


def count(dim: int, depth: int, patch: int, classes: int) -> int:
    """Parameters of the published network on 4 channels, summed by hand (its fixed positions are not one)."""
    linear = lambda a, b: a * b + b  # noqa: E731
    values = 4 * patch**2
    outside = linear(values, dim) + linear(256, dim) + linear(dim, dim) + (classes + 1) * dim
    outside += linear(dim, values) + linear(dim, 2 * dim)
    attention = 2 * (linear(dim, 3 * dim) + linear(dim, dim))
    return outside + depth * (
        attention + linear(dim, 8 * dim) + linear(4 * dim, dim) + linear(dim, 9 * dim) + 3 * 2 * dim
    )


@pytest.mark.parametrize("name", [name for name in SIZES if name.startswith("FlowField")])
def test_published_sizes(name: str) -> None:
    size, shape = SIZES[name], replace(VIDEO, height=32, width=32)
    with torch.device("meta"):
        model = build(published(name), shape, 12, 72)
        out = model({"video": torch.empty(1, 2, 4, 32, 32)}, {"video": torch.empty(1, 2)})
    assert out["video"].shape == (1, 2, 4, 32, 32)
    assert sum(p.numel() for p in model.parameters()) == count(size.dim, size.depth, size.patch, 12)


@pytest.mark.parametrize("positions", ["learned", "rope"])
def test_a_forward_pass_without_memory(positions: Any) -> None:
    with torch.device("meta"):
        model = build(ModelConfig("flowfield", 32, 1, 2, positions=positions), VIDEO, CLASSES, WINDOW)
        out = model({"video": torch.empty(1, 4, 4, 4, 6)}, {"video": torch.empty(1, 4)})
    assert out["video"].shape == (1, 4, 4, 4, 6)


def test_width_of_the_mlp_is_exact() -> None:
    model = build(ModelConfig("flowfield", 112, 1, 2, mlp_ratio=488 / 112), VIDEO, 0, 2)
    assert model.state_dict()["blocks.0.branches.mlp.fc2.weight"].shape == (112, 488)


def test_unknown_networks_are_refused() -> None:
    for wrong in ({"kind": "unet"}, {"positions": "alibi"}, {"fusion": "sum"}):
        with pytest.raises(InputError, match=f"model.{next(iter(wrong))} must be one of"):
            ModelConfig(**wrong)  # type: ignore[arg-type]
