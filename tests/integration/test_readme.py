"""Every command of the README runs, on a small folder of clips and with small settings put behind it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from flowreel.cli import COMMANDS, main, parse
from flowreel.media import Clip, probe

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
SMALL_MODEL = "--model.dim 32 --model.depth 1 --model.heads 2 --data.window 6 --batch 2 --save 2 --preview 0"
SMALL = {
    "prepare": "--size 16 --codec_steps 2 --mel.bins 16",
    "train": f"--steps 3 --objective.contexts 2 {SMALL_MODEL}",
    "train-codec": "--steps 2 --size 16 --batch 2 --preview 0",
    "train-vocoder": "--steps 2 --batch 2 --preview 0 --segment 8",
    "generate": "--seconds 0.6 --steps 1",
    "world": "--count 2 --seconds 1",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line.split("#")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    words = [shlex.split(line) for line in lines]
    return [w[w.index("flowreel") + 1 :] for w in words if "flowreel" in w]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the README's commands find: CLIPS, and the files that it gives to `generate`."""
    rng = np.random.default_rng(0)
    for i in range(3):
        tone = (0.3 * np.sin(np.arange(16000) * 0.05 * (i + 1))).astype(np.float32)
        clip = Clip(rng.integers(0, 255, (10, 16, 16, 3), dtype=np.uint8), tone, 10, 16000)
        clip.save(tmp_path / "CLIPS" / f"{i}.mp4")
    Clip(clip.frames, None, 10).save(tmp_path / "silent.mp4")
    clip.save(tmp_path / "song.wav")
    clip.save(tmp_path / "clip.mp4")
    (tmp_path / "NEWCLIPS").symlink_to(tmp_path / "CLIPS")
    (tmp_path / "train.lmdb").symlink_to(Path(__file__).parents[1] / "golden" / "legacy_latents" / "train.lmdb")
    (tmp_path / "R-FLAV-FOLDER").symlink_to(Path(__file__).parents[1] / "golden" / "rflav_joint")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*")
def test_the_commands_and_the_python(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lmdb")
    found = [["4" if word == "2048" else word for word in words] for words in commands()]
    assert {words[0] for words in found} == set(COMMANDS)
    for words in found:
        if words[0] == "serve":  # never ends; tests/serve runs it
            parse("serve", COMMANDS["serve"], words[1:])
            continue
        assert main([*words, *shlex.split(SMALL.get(words[0], ""))]) == 0, capsys.readouterr().err
    for name in ("clip.mp4", "better.mp4", "forvideo.mp4", "forsound.mp4", "continued.mp4"):
        assert probe(folder / name).has_audio
    assert len(list((folder / "many").glob("*.mp4"))) == 16
    assert (folder / "ours" / "config.json").is_file()
    code = blocks("python")[0].replace("range(100)", "range(3)").replace("i == 50", "i == 1")
    code = code.replace("seconds=4", "seconds=0.6").replace("label=0", "label=None").replace("label=1", "guidance=1.0")
    exec(compile(code, "README.md", "exec"), {})
    assert (folder / "sheet.png").is_file()


def test_the_files_it_names_exist() -> None:
    root = Path(__file__).parents[2]
    for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (root / name).is_file(), name
    tree = blocks("")[-1]
    for name in re.findall(r"\b(\w+(?:\.py|/))", tree):
        assert list(root.rglob(name.rstrip("/"))), name
