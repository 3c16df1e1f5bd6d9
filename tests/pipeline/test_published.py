"""Checkpoints in the formats that the two published trainers write."""

from __future__ import annotations

import io
import json
import pickle
import random
import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from flowreel.config import PipelineConfig, from_dict, to_dict
from flowreel.config.presets import Size
from flowreel.errors import InputError
from flowreel.models import Network, build
from flowreel.pipeline import published as convert
from flowreel.pipeline.published import Published, plain, read_published, rename
from flowreel.utils.tensors import load_pickle
from tests.conftest import GOLDEN, close

State = dict[str, Tensor]
JOINT, CAUSAL = GOLDEN / "rflav_joint", GOLDEN / "rflav_causal_uncond"
CONTENT = GOLDEN / "flowfield_temporal" / "content.pt"
TINY = {"FLAV-T/2": Size(64, 2, 4, 2), "FLAV-U/1": Size(48, 3, 3, 1)}
PREFIXES = pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module."])

# R-FLAV registers its parameters in this order, weights before biases
BLOCK = [
    "video_spatial_attn.qkv",
    "video_spatial_attn.proj",
    "video_temporal_attn.qkv",
    "video_temporal_attn.proj",
    "audio_spatial_attn.qkv",
    "audio_spatial_attn.proj",
    "video_mlp.fc1",
    "video_mlp.fc2",
    "audio_mlp.fc1",
    "audio_mlp.fc2",
    "video_adaLN_modulation.1",
    "audio_adaLN_modulation.1",
    "video_scale.1",
    "audio_scale.1",
    "v_avg_proj.0",
    "a_avg_proj.0",
]
BEFORE = [
    "video_spatial_pos_embed",
    "video_temporal_pos_embed",
    "audio_spatial_pos_embed",
    "audio_temporal_pos_embed",
    "v_embedder.proj",
    "a_embedder",
    "video_t_embedder.mlp.0",
    "video_t_embedder.mlp.2",
    "audio_t_embedder.mlp.0",
    "audio_t_embedder.mlp.2",
    "video_y_embedder.embedding_table",
    "audio_y_embedder.embedding_table",
]
AFTER = [
    "video_final_layer.linear",
    "video_final_layer.adaLN_modulation.1",
    "audio_final_layer.linear",
    "audio_final_layer.adaLN_modulation.1",
]


def in_order(state: State, depth: int) -> State:
    layers = [*BEFORE, *(f"blocks.{i}.{layer}" for i in range(depth) for layer in BLOCK), *AFTER]
    keys = [key for layer in layers for key in (layer, f"{layer}.weight", f"{layer}.bias") if key in state]
    assert set(keys) == set(state)
    return {key: state[key] for key in keys}


def network(published: Published) -> Network:
    c = published.config
    model = build(c.model, c.shape, c.num_classes, c.trained.window).eval()
    model.load_state_dict(published.state)
    return model


def gives_the_golden_values(published: Published, folder: Path) -> None:
    g = load_file(folder / "forward.safetensors")
    with torch.no_grad():
        out = network(published)(
            {k: g[k] for k in ("video", "audio")}, dict.fromkeys(("video", "audio"), g["t"]), g.get("label")
        )
    close(out["video"], g["velocity_video"])
    close(out["audio"], g["velocity_audio"])


def same(a: State, b: State) -> bool:
    return set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "SIZES", TINY)


# --- R-FLAV -----------------------------------------------------------------------------------------------------------


def test_rflav_folder_is_described_by_its_tensors() -> None:
    joint, causal = read_published(JOINT).config, read_published(CAUSAL).config
    assert (joint.model.dim, joint.model.depth, joint.model.heads, joint.model.patch) == (64, 2, 4, 2)
    assert (joint.model.kind, joint.model.positions, joint.model.fusion) == ("flav", "learned", "mean_time")
    assert (joint.model.causal, causal.model.causal) == (False, True)
    assert (joint.classes, causal.classes) == (("0", "1", "2"), ())
    assert causal.model.mlp_ratio == 2
    assert joint.shape.streams == {"video": (4, 8, 8), "audio": (1, 32, 10)}
    assert causal.shape.streams == {"video": (8, 4, 4), "audio": (1, 24, 10)}
    assert joint.timing.fps == joint.shape.fps == 10
    assert (joint.trained.window, causal.trained.window) == (4, 5)
    assert joint.trained.blocks == (1,)
    assert joint.codec.audio is not None
    assert (joint.codec.audio.scale, joint.codec.audio.mel.bins, joint.codec.audio.peak) == (0, 32, 0.95)
    assert joint.codec.video.source == "stabilityai/sd-vae-ft-ema"


def test_known_repositories_have_their_audio_scale() -> None:
    audio = read_published(JOINT, "MaverickAlex/R-FLAV-B-1-LS").config.codec.audio
    assert audio is not None
    assert audio.scale == 3.0951129410195515


def test_the_vocoder_lies_beside_the_network(tmp_path: Path) -> None:
    assert read_published(JOINT).vocoder is None
    shutil.copytree(JOINT, tmp_path / "joint")
    shutil.copytree(GOLDEN / "vocoder_0", tmp_path / "joint" / "vocoder")
    published = read_published(tmp_path / "joint")
    assert published.vocoder == tmp_path / "joint" / "vocoder"
    assert published.config.codec.audio is not None
    assert published.config.codec.audio.vocoder == "hifigan"


@PREFIXES
@pytest.mark.parametrize(("folder", "depth"), [(JOINT, 2), (CAUSAL, 3)])
@pytest.mark.usefixtures("tiny")
def test_rflav_final(tmp_path: Path, prefix: str, folder: Path, depth: int) -> None:
    state = in_order(load_file(folder / "model.safetensors"), depth)
    arguments = json.loads((folder / "config.json").read_text())
    saved = {
        "model": {f"{prefix}{k}": torch.zeros_like(v) for k, v in state.items()},
        "ema": {"decay": 0.9999, "optimization_step": 7, "shadow_params": list(state.values())},
        "opt": {"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999)}]},
        "args": Namespace(model="FLAV-B/1", audio_scale=3.5, **arguments),
    }
    torch.save(saved, tmp_path / "final.pt")
    published = read_published(tmp_path / "final.pt")
    assert same(published.state, read_published(folder).state)
    gives_the_golden_values(published, folder)
    assert published.config.codec.audio is not None
    assert published.config.codec.audio.scale == 3.5
    assert published.config.trained == read_published(folder).config.trained


@pytest.mark.parametrize(("folder", "depth"), [(JOINT, 2), (CAUSAL, 3)])
@pytest.mark.usefixtures("tiny")
def test_rflav_ema(tmp_path: Path, folder: Path, depth: int) -> None:
    state = in_order(load_file(folder / "model.safetensors"), depth)
    saved = tmp_path / "FLAV-B-1" / "checkpoints" / "checkpoint_3"
    saved.mkdir(parents=True)
    torch.save({"decay": 0.9999, "shadow_params": list(state.values())}, saved / "ema.pth")
    with pytest.raises(InputError, match=r"without their settings: put the config\.json"):
        read_published(saved / "ema.pth")
    shutil.copy(folder / "config.json", tmp_path / "FLAV-B-1")
    published = read_published(saved / "ema.pth")
    assert same(published.state, read_published(folder).state)
    gives_the_golden_values(published, folder)


def test_a_width_that_was_never_published_has_no_known_heads(tmp_path: Path) -> None:
    state = in_order(load_file(JOINT / "model.safetensors"), 2)
    shutil.copy(JOINT / "config.json", tmp_path)
    torch.save({"shadow_params": list(state.values())}, tmp_path / "ema.pth")
    with pytest.raises(InputError, match="64 wide"):
        read_published(tmp_path / "ema.pth")


@pytest.mark.usefixtures("tiny")
def test_an_average_of_other_tensors_is_refused(tmp_path: Path) -> None:
    state = list(load_file(JOINT / "model.safetensors").values())
    shutil.copy(JOINT / "config.json", tmp_path)
    torch.save({"shadow_params": state[:-1]}, tmp_path / "ema.pth")
    with pytest.raises(InputError, match="averages 89 tensors"):
        read_published(tmp_path / "ema.pth")


@PREFIXES
def test_rflav_weights_of_wrapped_networks(tmp_path: Path, prefix: str) -> None:
    state = load_file(JOINT / "model.safetensors")
    save_file({f"{prefix}{k}": v.half() for k, v in state.items()}, tmp_path / "model.safetensors")
    shutil.copy(JOINT / "config.json", tmp_path)
    read = read_published(tmp_path).state
    assert all(v.dtype == torch.float32 for v in read.values())
    assert set(read) == set(read_published(JOINT).state)


def test_a_network_trained_without_class_dropout_gets_a_null_class(tmp_path: Path) -> None:
    state = load_file(JOINT / "model.safetensors")
    tables = [f"{stream}_y_embedder.embedding_table.weight" for stream in ("video", "audio")]
    save_file(state | {k: state[k][:3].contiguous() for k in tables}, tmp_path / "model.safetensors")
    shutil.copy(JOINT / "config.json", tmp_path)
    published = read_published(tmp_path)
    assert published.config.num_classes == 3
    assert published.config.model.class_dropout == 0
    assert (published.state["class_embed.audio.weight"][3] == 0).all()
    network(published)


# --- GenerativeFlow ---------------------------------------------------------------------------------------------------


def test_generativeflow_is_described_by_its_tensors() -> None:
    temporal, spatial = (
        read_published(GOLDEN / f"flowfield_{k}" / "content.pt").config for k in ("temporal", "spatial")
    )
    # its stored arguments name a size that the tensors do not have
    assert (temporal.model.dim, temporal.model.depth, temporal.model.heads, temporal.model.patch) == (64, 2, 16, 4)
    assert (temporal.model.positions, spatial.model.positions) == ("learned", "sincos")
    assert (temporal.model.temporal_attention, spatial.model.temporal_attention) == (True, False)
    assert (len(temporal.classes), len(spatial.classes)) == (5, 2)
    assert temporal.shape.streams == {"video": (4, 16, 16)}
    assert (temporal.trained.window, temporal.trained.blocks) == (6, (6,))
    assert (temporal.solver, temporal.steps, temporal.guidance) == ("heun", 30, 4)
    assert not temporal.timing.has_audio
    assert temporal.codec.audio is None


@PREFIXES
def test_generativeflow_of_wrapped_networks(tmp_path: Path, prefix: str) -> None:
    content = load_pickle(CONTENT)
    content["dnn"] = {f"{prefix}{k}": v for k, v in content["dnn"].items()}
    torch.save(content, tmp_path / "epoch0000001_step5.pt")
    published = read_published(tmp_path / "epoch0000001_step5.pt")
    assert same(published.state, read_published(CONTENT).state)
    network(published)


@pytest.mark.parametrize("path", [JOINT, CAUSAL, CONTENT, GOLDEN / "flowfield_spatial" / "content.pt"])
def test_what_is_read_survives_json(path: Path) -> None:
    config = read_published(path).config
    assert from_dict(PipelineConfig, json.loads(json.dumps(to_dict(config)))) == config


# --- what is refused --------------------------------------------------------------------------------------------------


class Trap:
    """Unpickling this makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["args", "dnn", "alone", "namespace"])
def test_nothing_in_a_pickle_is_executed(tmp_path: Path, place: str, zipped: bool) -> None:
    trap = Trap(tmp_path / "sprung")
    content: Any = load_pickle(CONTENT)
    if place == "alone":
        content = trap
    else:
        content |= {"namespace": {"args": Namespace(vae=trap)}}.get(place, {place: trap})
    torch.save(content, tmp_path / "content.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match="was not read"):
        read_published(tmp_path / "content.pt")
    assert not trap.target.exists()
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(trap, protocol=2))
    with pytest.raises(InputError):
        read_published(tmp_path / "raw.pt")
    assert not trap.target.exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_file_is_refused_whatever_the_damage(tmp_path: Path, zipped: bool) -> None:
    file, rng = io.BytesIO(), random.Random(0)
    torch.save(load_pickle(GOLDEN / "flowfield_spatial" / "content.pt"), file, _use_new_zipfile_serialization=zipped)
    whole, path = file.getvalue(), tmp_path / "content.pt"
    for length in (0, 1, 2, 100, *(rng.randrange(len(whole)) for _ in range(30)), len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"not a readable|was not read|is not a whole|is neither"):
            read_published(path)
    reasons = []
    for _ in range(60):
        spoiled = bytearray(whole)
        for _ in range(3):
            spoiled[rng.randrange(5000)] = rng.randrange(256)
        path.write_bytes(bytes(spoiled))
        try:
            read_published(path)
        except InputError as error:
            reasons.append(str(error))
    assert reasons
    assert not any("\n" in reason for reason in reasons)


@pytest.mark.parametrize("keep", [0, 4, 0.5, 0.999])
def test_a_truncated_safetensors_file_is_refused(tmp_path: Path, keep: float) -> None:
    whole = (JOINT / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: int(keep * len(whole)) if keep < 1 else int(keep)])
    shutil.copy(JOINT / "config.json", tmp_path)
    with pytest.raises(InputError, match="not a readable safetensors"):
        read_published(tmp_path)


def test_tensors_that_no_network_has_are_refused(tmp_path: Path) -> None:
    shutil.copy(JOINT / "config.json", tmp_path)
    save_file(load_file(JOINT / "model.safetensors") | {"head.bias": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"'head\.bias' of a shape \(2,\)"):
        read_published(tmp_path)
    content = load_pickle(CONTENT)
    content["dnn"]["head.bias"] = torch.zeros(2)
    torch.save(content, tmp_path / "content.pt")
    with pytest.raises(InputError, match=r"head\.bias"):
        read_published(tmp_path / "content.pt")


@pytest.mark.parametrize("key", [*convert.RFLAV_MEASURED, *convert.FLOWFIELD_MEASURED])
def test_missing_tensors_are_named(tmp_path: Path, key: str) -> None:
    if key in convert.RFLAV_MEASURED:
        shutil.copy(JOINT / "config.json", tmp_path)
        state = {k: v for k, v in load_file(JOINT / "model.safetensors").items() if k != key}
        save_file(state, tmp_path / "model.safetensors")
        path = tmp_path
    else:
        content, path = load_pickle(CONTENT), tmp_path / "content.pt"
        del content["dnn"][key]
        torch.save(content, path)
    with pytest.raises(InputError, match=f"it has no {key}"):
        read_published(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"dnn": [1, 2]}, "named tensors"),
        ({"dnn": {"a": 1}}, "named tensors"),
        ({"weights": {"a": 1}}, "it has weights"),
        ([1, 2], "it has list"),
        ({"model": {}, "ema": {}, "args": Namespace()}, "it has no shadow_params"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: Any, says: str) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(InputError, match=says):
        read_published(tmp_path / "other.pt")


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        read_published(tmp_path / "content.pt")
    shutil.copy(JOINT / "config.json", tmp_path)
    with pytest.raises(InputError, match=r"config\.json and model\.safetensors"):
        read_published(tmp_path)
    shutil.copy(JOINT / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="it has no num_heads"):
        read_published(tmp_path)


def test_renaming_takes_the_first_rule_that_fits_the_beginning() -> None:
    x = torch.zeros(1)
    assert rename({"a.b": x, "b.a": x}, ((r"a\.", "x."), (r"b\.", "y."))) == {"x.b": x, "y.a": x}
    assert set(plain({"module._orig_mod.a.module.b": x})) == {"a.b"}
