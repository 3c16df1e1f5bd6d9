"""Published checkpoints with values of a wrong type or shape: one message that names the file and what is wrong."""

from __future__ import annotations

import json
import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import flowreel
from flowreel.codec.vocoder import load as load_vocoder
from flowreel.errors import InputError
from flowreel.pipeline import published as convert
from flowreel.utils.tensors import load_pickle
from tests.conftest import GOLDEN
from tests.pipeline.test_published import TINY, in_order

JOINT = GOLDEN / "rflav_joint"
CONTENT = GOLDEN / "flowfield_temporal" / "content.pt"
BROKEN: dict[str, Any] = {
    "none": None,
    "int": 3,
    "text": "abc",
    "list": [1, 2],
    "empty list": [],
    "dict": {"a": 1},
    "numbered": {1: torch.zeros(1)},
    "tensor": torch.zeros(2),
}
BROKEN_TENSORS: dict[str, Any] = {
    "none": None,
    "int": 3,
    "text": "abc",
    "scalar": torch.tensor(1.0),
    "empty": torch.zeros(0),
    "empty but 4-D": torch.zeros(0, 0, 0, 0),
    "one": torch.ones(1, 1, 1, 1),
    "complex": torch.zeros(2, 2, dtype=torch.complex64),
    "sparse": torch.eye(3).to_sparse(),
    "stretched": torch.zeros(1).expand(10**12),
    "of another shape": torch.zeros(7, 5, 3),
}

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "SIZES", TINY)


def final() -> dict[str, Any]:
    state = in_order(load_file(JOINT / "model.safetensors"), 2)
    arguments = json.loads((JOINT / "config.json").read_text())
    return {
        "model": state,
        "ema": {"decay": 0.9999, "shadow_params": list(state.values())},
        "args": Namespace(**arguments),
    }


def refused(path: Path, load: Callable[[Path], Any] = flowreel.load) -> str:
    """What is said of ``path``: one line that names the file."""
    with pytest.raises(InputError) as error:
        load(path)
    message = str(error.value)
    assert path.name in message or path.parent.name in message
    assert "\n" not in message
    return message


def save(folder: Path, name: str, content: Any) -> Path:
    shutil.copy(JOINT / "config.json", folder)
    torch.save(content, folder / name)
    return folder / name


def test_what_is_not_malformed_is_read(tmp_path: Path) -> None:
    assert flowreel.load(save(tmp_path, "final.pt", final())).config.num_classes == 3
    assert flowreel.load(save(tmp_path, "ema.pth", final()["ema"])).config.num_classes == 3
    assert flowreel.load(save(tmp_path, "dict.pt", final() | {"args": vars(final()["args"])})).config.num_classes == 3


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("part", ["model", "ema", "args"])
def test_parts_of_final(tmp_path: Path, part: str, what: str) -> None:
    if (part, what) == ("args", "dict"):
        pytest.skip("arguments of which none is needed")
    message = refused(save(tmp_path, "final.pt", final() | {part: BROKEN[what]}))
    assert "final.pt" in message


@pytest.mark.parametrize("what", BROKEN)
def test_averages(tmp_path: Path, what: str) -> None:
    message = refused(save(tmp_path, "ema.pth", {"shadow_params": BROKEN[what]}))
    if what == "none":
        assert message.endswith("ema.pth: shadow_params should be a list of tensors, it is nothing (None)")
    content = final()
    content["ema"]["shadow_params"] = BROKEN[what]
    refused(save(tmp_path, "final.pt", content))


@pytest.mark.parametrize("what", BROKEN_TENSORS)
def test_tensors_of_an_average(tmp_path: Path, what: str) -> None:
    for place in (0, 4, 11, -1):
        shadow = final()["ema"]["shadow_params"]
        shadow[place] = BROKEN_TENSORS[what]
        refused(save(tmp_path, "ema.pth", {"shadow_params": shadow}))


@pytest.mark.parametrize("what", BROKEN_TENSORS)
@pytest.mark.parametrize("key", [*convert.FLOWFIELD_MEASURED, "blocks.1.mlp.fc1.bias"])
def test_tensors_of_content(tmp_path: Path, key: str, what: str) -> None:
    content = load_pickle(CONTENT)
    content["dnn"][key] = BROKEN_TENSORS[what]
    assert "content.pt" in refused(save(tmp_path, "content.pt", content))


@pytest.mark.parametrize("what", BROKEN)
def test_parts_of_content(tmp_path: Path, what: str) -> None:
    refused(save(tmp_path, "content.pt", load_pickle(CONTENT) | {"dnn": BROKEN[what]}))
    if what != "dict":
        refused(save(tmp_path, "content.pt", load_pickle(CONTENT) | {"args": BROKEN[what]}))


@pytest.mark.parametrize("name", ["temporal_res", "label_dropout", "drop_path"])
@pytest.mark.parametrize("value", [None, "6", [6], float("nan"), float("inf"), -1, torch.zeros(2)])
def test_arguments_of_content(tmp_path: Path, name: str, value: Any) -> None:
    content = load_pickle(CONTENT)
    setattr(content["args"], name, value)
    assert name in refused(save(tmp_path, "content.pt", content)).replace("class_dropout", "label_dropout")


def test_blocks_that_are_missing(tmp_path: Path) -> None:
    content = load_pickle(CONTENT)
    content["dnn"] = {key.replace("blocks.1.", "blocks.900000000."): v for key, v in content["dnn"].items()}
    assert "it has no blocks.1" in refused(save(tmp_path, "content.pt", content))


@pytest.mark.parametrize("name", ["num_heads", "num_classes", "audio_scale"])
@pytest.mark.parametrize("value", [None, "4", [4], {}])
def test_settings_of_a_folder(tmp_path: Path, name: str, value: Any) -> None:
    shutil.copytree(JOINT, tmp_path / "joint")
    settings = json.loads((JOINT / "config.json").read_text()) | {name: value}
    (tmp_path / "joint" / "config.json").write_text(json.dumps(settings))
    assert f"{name} should be a number" in refused(tmp_path / "joint")


@pytest.mark.parametrize("key", convert.RFLAV_MEASURED)
def test_tensors_of_a_folder(tmp_path: Path, key: str) -> None:
    shutil.copytree(JOINT, tmp_path / "joint")
    state = load_file(JOINT / "model.safetensors")
    for value in (torch.tensor(1.0), torch.zeros(0), torch.zeros(0, 0, 0, 0), torch.ones(1, 1, 1, 1), torch.ones(9, 9)):
        save_file(state | {key: value}, tmp_path / "joint" / "model.safetensors")
        refused(tmp_path / "joint")


@pytest.mark.parametrize("what", BROKEN)
def test_a_published_vocoder(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "vocoder"
    shutil.copytree(GOLDEN / "vocoder_0", folder)
    whole = load_pickle(folder / "vocoder.pt")
    torch.save(BROKEN[what], folder / "vocoder.pt")
    refused(folder, load_vocoder)
    torch.save({"generator": BROKEN[what]}, folder / "vocoder.pt")
    refused(folder, load_vocoder)
    for key in list(whole["generator"])[:4]:
        for value in (BROKEN[what], *BROKEN_TENSORS.values()):
            torch.save({"generator": whole["generator"] | {key: value}}, folder / "vocoder.pt")
            refused(folder, load_vocoder)
