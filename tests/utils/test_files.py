"""Files appear complete or not at all: every one is on the disk before it has its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from flowreel.data import shards
from flowreel.errors import InputError
from flowreel.utils import files
from flowreel.utils.tensors import store_as_half


def _half(path: Path) -> None:
    save_file({"x": torch.ones(3), "large": torch.full((1,), 1e6)}, path)
    store_as_half(path)


WRITERS: dict[str, Callable[[Path], object]] = {
    "a.json": lambda path: files.write_json(path, {"a": 1}),
    "a.png": lambda path: files.write_complete(path, b"data"),
    "train-00000.safetensors": lambda path: shards.write(path, {"0.video": torch.ones(3)}, "stamp", []),
    "model.safetensors": _half,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_synced_before_its_rename(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[tuple[str, Path]] = []
    real = Path.replace

    def replace(path: Path, target: Path) -> Path:
        log.append(("replace", path))
        return real(path, target)

    monkeypatch.setattr(files, "sync", lambda path: log.append(("sync", path)))
    monkeypatch.setattr(Path, "replace", replace)
    WRITERS[name](tmp_path / name)
    (first, temporary), (second, renamed) = log
    assert (first, second) == ("sync", "replace")
    assert temporary == renamed
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_half_precision_keeps_what_it_can_not_store(tmp_path: Path) -> None:
    _half(tmp_path / "model.safetensors")
    stored = load_file(tmp_path / "model.safetensors")
    assert (stored["x"].dtype, stored["large"].dtype) == (torch.float16, torch.float32)


def test_a_failed_write_leaves_the_file_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    files.write_complete(path, b"before")

    def fail(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync", fail)
    with pytest.raises(InputError, match=r"a\.png can't be written: No space left on device"):
        files.write_complete(path, b"after")
    assert path.read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_json_that_is_no_object_is_refused_with_its_path(tmp_path: Path) -> None:
    for text, reason in (("[1]", "holds a list, not an object"), ("{", "is not valid JSON")):
        path = tmp_path / "a.json"
        path.write_text(text)
        with pytest.raises(InputError) as error:
            files.read_json(path)
        assert error.value.path == str(path)
        assert error.value.reason.startswith(reason)
