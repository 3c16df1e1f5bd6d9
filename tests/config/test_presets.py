"""Every preset is a possible run, and every size the published one."""

from __future__ import annotations

import json

import pytest
import torch

from flowreel.config import LatentShape, TrainConfig, from_dict, to_dict
from flowreel.config.presets import AUTOENCODERS, PRESETS, RFLAV_AUDIO_SCALES, SIZES, model, preset
from flowreel.errors import InputError
from flowreel.flow.roles import draw_times
from flowreel.models import build


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str) -> None:
    config = preset(name)
    assert from_dict(TrainConfig, json.loads(json.dumps(to_dict(config)))) == config
    assert PRESETS[name][0]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_make_a_network_and_draw_its_times(name: str) -> None:
    config, flav = preset(name), preset(name).model.kind == "flav"
    shape = LatentShape(8, 8, 8, 64, 10, 10) if flav else LatentShape(8, 8, 8)
    with torch.device("meta"):
        assert build(config.model, shape, 3, config.data.window).window == config.data.window
    law, roles = config.objective, to_dict(config.objective.roles)
    for seed in range(20):
        t = draw_times(
            torch.Generator().manual_seed(seed),
            config.data.window,
            tuple(shape.streams),
            shares=roles,
            warmup=law.warmup,
            blocks=law.blocks,
            contexts=law.contexts,
        )
        assert all(v.shape == (config.data.window,) for v in t.values())


def test_laptop_is_the_default_and_sees_all_roles() -> None:
    assert next(iter(PRESETS)) == "laptop"
    assert all(share > 0 for share in to_dict(preset("laptop").objective.roles).values())
    assert preset("laptop-joint").objective.roles.joint == 1
    clip = preset("laptop-clip")
    assert clip.objective.blocks == (clip.data.window,)


def test_sizes_are_the_published_ones() -> None:
    table = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 20, 16), "XL": (1152, 28, 16)}
    for letter, (dim, depth, heads) in table.items():
        for patch in (1, 2, 4, 8):
            size = SIZES[f"FLAV-{letter}/{patch}"]
            wanted = 24 if (letter, patch) == ("L", 1) else depth
            assert (size.dim, size.depth, size.heads, size.patch) == (dim, wanted, heads, patch)
    flowfield = {"XS/4": (256, 6), "S/4": (512, 8), "S/2": (384, 8), "M/2": (768, 12)}
    assert {k for k in SIZES if k.startswith("FlowField")} == {f"FlowField-{k}" for k in flowfield}
    for name, wide in flowfield.items():
        size = SIZES[f"FlowField-{name}"]
        assert (size.dim, size.depth, size.heads, size.patch) == (*wide, 16, int(name[-1]))


def test_models_have_the_published_options() -> None:
    flav, flowfield = model("FLAV-B/1"), model("FlowField-S/4")
    assert (flav.kind, flav.positions, flav.fusion, flav.mlp_ratio) == ("flav", "learned", "mean_time", 4)
    assert (flowfield.kind, flowfield.positions, flowfield.temporal_attention) == ("flowfield", "sincos", True)
    assert preset("rflav-b1").model.causal
    assert preset("generativeflow-s4").data.window == 72


def test_published_scales() -> None:
    assert RFLAV_AUDIO_SCALES["MaverickAlex/R-FLAV-B-1-AIST"] == 3.5009668382765917
    assert AUTOENCODERS["stabilityai/sd-vae-ft-mse"].scale == (0.18215,)
    assert all(config.source == name for name, config in AUTOENCODERS.items())


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'FLAV-H/2'; known are FLAV-S/1"):
        model("FLAV-H/2")
    with pytest.raises(InputError, match=r"'desktop'; known are laptop"):
        preset("desktop")
