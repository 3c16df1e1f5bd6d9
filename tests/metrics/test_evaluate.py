"""``flowreel synchrony``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flowreel.cli import main, synchrony, world
from flowreel.config import SynchronyConfig, WorldConfig
from flowreel.world.render import CLASSES, render


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "clips"
    world(str(out), WorldConfig(count=8, seconds=4, size=48, test=0.5), lambda _: None)
    return out


def test_a_folder_with_sidecars(folder: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    figures = synchrony(str(folder), SynchronyConfig(json=str(tmp_path / "f.json")), lines.append)
    assert list(figures["classes"]) == list(CLASSES)
    assert json.loads((tmp_path / "f.json").read_text()) == figures
    for values in figures["classes"].values():
        assert values["clips"] == 2
        assert values["f1"] > 0.9
        assert values["class_agreement"] == values["note_agreement"] == 1
        assert values["truth"]["picture_f1"] > 0.9
        assert values["truth"]["sound_f1"] > 0.9
        assert values["floor_f1"] is not None
    assert " ".join(lines[0].split()) == "class clips picture/s sound/s F1 in 0.1 s floor offset ms notes % class %"
    assert [line.split()[0] for line in lines[1:5]] == list(CLASSES)


def test_files_and_parts_of_folders(folder: Path) -> None:
    part = folder / "train" / "bounce"
    (file,) = part.glob("*.mp4")
    for where in (part, file):
        assert list(synchrony(str(where), report=lambda _: None)["classes"]) == ["bounce"]
    (folder.parent / "only").mkdir()
    (folder / "test").rename(folder.parent / "only" / "test")
    try:
        assert list(synchrony(str(folder.parent / "only"), report=lambda _: None)["classes"]) == list(CLASSES)
    finally:
        (folder.parent / "only" / "test").rename(folder / "test")


def test_classes_are_guessed_or_given_and_bad_files_left_out(tmp_path: Path) -> None:
    clip, _ = render("rain", 1, 3, 48)
    (tmp_path / "things").mkdir()
    clip.save(tmp_path / "things" / "a.mp4")
    (tmp_path / "things" / "b.mp4").write_text("not a film")
    lines: list[str] = []
    guessed = synchrony(str(tmp_path / "things"), report=lines.append)
    assert list(guessed["classes"]) == ["rain"]
    assert guessed["classes"]["rain"]["class_agreement"] is None
    assert guessed["classes"]["rain"]["truth"] is None
    assert [Path(entry["path"]).name for entry in guessed["left_out"]] == ["b.mp4"]
    assert any("guessed" in line for line in lines)
    assert any("left out" in line and "b.mp4" in line for line in lines)
    given = synchrony(str(tmp_path / "things"), SynchronyConfig(label="bounce"), lambda _: None)
    assert given["classes"]["bounce"]["class_agreement"] == 0


def test_bad_input_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.mp4").write_text("not a film")
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ([str(tmp_path / "nowhere")], "there is nothing at"),
        ([str(tmp_path / "empty")], "has no clips"),
        ([str(tmp_path / "bad.mp4")], "none of the clips can be read"),
        ([str(tmp_path), "--label", "snow"], "no class 'snow'"),
    ):
        assert main(["synchrony", *arguments]) == 2
        assert message in capsys.readouterr().err
