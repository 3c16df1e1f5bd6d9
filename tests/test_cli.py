"""The command line: help at once, clear refusals, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import flowreel
from flowreel.cli import COMMANDS, main, parse
from flowreel.cli_parser import documentation, leaves
from flowreel.config import GenerateConfig, PrepareConfig, TrainConfig
from flowreel.config.presets import PRESETS, preset
from flowreel.errors import InputError
from flowreel.media import Clip, probe
from flowreel.pipeline.generate import generate
from flowreel.pipeline.info import info
from flowreel.utils.locking import held
from tests.conftest import GOLDEN, tiny_pipeline
from tests.kills import content, states


def test_presets_are_the_defaults_and_overrides_win() -> None:
    _, config = parse("train", COMMANDS["train"], ["data", "run"])
    assert config == preset("laptop")
    for name in PRESETS:
        assert parse("train", COMMANDS["train"], ["d", "r", "--preset", name])[1] == preset(name)
    arguments = ["d", "r", "--steps", "7", "--model.dim", "64", "--objective.contexts", "2,4", "--optim.lr=1e-3"]
    _, config = parse("train", COMMANDS["train"], arguments)
    assert isinstance(config, TrainConfig)
    assert (config.steps, config.model.dim, config.objective.contexts, config.optim.lr) == (7, 64, (2, 4), 1e-3)


def test_config_file_lies_between_preset_and_options(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("steps: 5\nmodel:\n  dim: 32\n")
    _, config = parse("train", COMMANDS["train"], ["d", "r", "--config", str(tmp_path / "c.yaml"), "--steps", "6"])
    assert (config.steps, config.model.dim, config.model.depth) == (6, 32, preset("laptop").model.depth)


def test_sizes_may_be_one_side_or_two() -> None:
    for text, want in (("96", (96, 96)), ("64,96", (64, 96)), ("[64,96]", (64, 96)), ("96x64", (64, 96))):
        _, config = parse("prepare", COMMANDS["prepare"], ["c", "o", "--size", text])
        assert isinstance(config, PrepareConfig)
        assert config.height_width == want


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "d", "r", "--model.dims", "3"], "did you mean --model.dim?"),
        (["train", "d", "r", "--step", "3"], "no option --step, did you mean --steps?"),
        (["train", "d", "r", "--lr", "3"], "no option --lr, did you mean --optim.lr?"),
        (["train", "d", "r", "extra"], "too many arguments: extra"),
        (["prepare", "c", "o", "--size", "64x"], "--size: expected a size in pixels"),
        (["train", "d", "r", "--model.dim", "wide"], "--model.dim: expected a whole number, not 'wide'"),
        (["train", "d", "r", "--model.dim", "130"], "not a multiple of model.heads"),
        (["train", "d", "r", "--model.kind", "flaw"], "--model.kind: expected one of flav, flowfield, not 'flaw'"),
        (["train", "d", "r", "--preset", "huge"], "known are laptop"),
        (["train", "d", "r", "--data.window", "7", "--objective.blocks", "2"], "multiples of every block"),
        (["train", "d"], "required: RUN"),
        (["generat"], "did you mean generate?"),
        (["generate", "nowhere"], "there is nothing at nowhere"),
        (["generate", "p", "--count", "0"], "at least 1"),
        (["prepare", "nowhere", "out"], "nowhere"),
        (["generate", "world", "--guidance", "-1"], "--guidance must be a number of 0 or more, not -1.0"),
        (["generate", "world", "--guidance", "nan"], "--guidance: expected a number, not 'nan'"),
        (["generate", "world", "--gradient-scale", "-1"], "--gradient_scale must be a number of 0 or more, not -1.0"),
        (["convert", "world", "out", "--guidance=-2"], "--guidance must be a number of 0 or more, not -2.0"),
    ],
)
def test_refusals_name_the_closest_right_thing(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_help_of_every_command_is_there_without_torch() -> None:
    code = (
        "import sys; from flowreel.cli import COMMANDS, main\n"
        "for name in COMMANDS:\n"
        "    try: main([name, '--help'])\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "assert main(['--help']) == 0 and 'torch' not in sys.modules and 'av' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert f"usage: flowreel {name}" in done.stdout


def test_generate_writes_one_line_and_one_file_per_sample(tmp_path: Path) -> None:
    pipe, lines = tiny_pipeline(), []
    config = GenerateConfig(out=str(tmp_path / "many"), count=3, batch=2, seconds=0.6, seed=4)
    made = generate(pipe, config, lines.append)
    assert len(made) == len(lines) == 3
    assert all(str(path) in line and "with audio" in line for path, line in zip(made, lines, strict=True))
    assert probe(made[2]).has_audio
    assert sorted(tmp_path.rglob("*.mp4")) == sorted(made)
    single = generate(pipe, GenerateConfig(out=str(tmp_path / "one.mkv"), seconds=0.6, seed=4), lines.append)
    lossless, *lossy = (Clip.read(path).frames.mean(axis=-1).flatten() for path in (single[0], *made))
    likeness = [np.corrcoef(lossless, picture)[0, 1] for picture in lossy]
    assert likeness[0] > 0.7  # sample 0 both times; mp4 loses something
    assert likeness[0] > 2 * max(likeness[1:])


def test_generate_takes_a_folder_of_given_clips(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    for name in ("a", "b"):
        pipe.generate(seconds=0.8).save(tmp_path / "given" / f"{name}.mp4")
    config = GenerateConfig(out=str(tmp_path / "out"), audio=str(tmp_path / "given"))
    made = generate(pipe, config, lambda _: None)
    assert [path.stem.split("-")[1] for path in made] == ["a", "b"]
    assert all(probe(path).has_audio for path in made)
    with pytest.raises(InputError, match="give a folder as --out"):
        generate(pipe, GenerateConfig(out=str(tmp_path / "x.mp4"), audio=str(tmp_path / "given")), lambda _: None)
    with pytest.raises(InputError, match="must end in one of"):
        generate(pipe, GenerateConfig(out=str(tmp_path / "x.txt")), lambda _: None)
    assert not list(tmp_path.glob("x*"))


def test_pictures_of_a_clip(tmp_path: Path) -> None:
    made = generate(tiny_pipeline(), GenerateConfig(out=str(tmp_path / "sheet.png"), seconds=0.5), lambda _: None)
    assert made[0].read_bytes().startswith(b"\x89PNG")


def test_info_counts_arithmetic() -> None:
    lines: list[str] = []
    for where in (GOLDEN / "rflav_joint", GOLDEN / "flowfield_temporal" / "content.pt"):
        facts = info(where, report=lines.append)
        assert facts["flops_forward"] > 2 * facts["parameters"]
        assert facts["parameters"] > 100_000
    assert any("endless rolls" in line for line in lines)
    assert any("makes             clips" in line for line in lines)


def test_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "ours"
    assert main(["convert", str(GOLDEN / "flowfield_spatial" / "content.pt"), str(out)]) == 0
    assert (out / "model.safetensors").is_file()
    assert main(["convert", str(GOLDEN / "rflav_joint"), str(out)]) == 2
    assert "choose another OUT" in capsys.readouterr().err


def test_a_killed_convert_is_done_again_as_if_it_had_not_been_there(tmp_path: Path) -> None:
    def convert(source: str, out: Path) -> None:
        assert main(["convert", str(GOLDEN / source), str(out)]) == 0

    found = states(tmp_path / "out", tmp_path / "states", lambda: convert("rflav_joint", tmp_path / "out"))
    convert("rflav_joint", tmp_path / "same")
    convert("flowfield_spatial/content.pt", tmp_path / "other")
    assert content(tmp_path / "same") == content(tmp_path / "out")
    done = content(tmp_path / "out")
    unfinished = [folder for folder in found if {k: v for k, v in content(folder).items() if k != ".lock"} != done]
    assert len(unfinished) > 10
    for number, folder in enumerate(unfinished):
        source, right = [("rflav_joint", "same"), ("flowfield_spatial/content.pt", "other")][number % 2]
        convert(source, folder)
        assert content(folder) == content(tmp_path / right), folder


def test_convert_says_who_uses_its_folder_and_touches_no_files_of_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = str(GOLDEN / "flowfield_spatial" / "content.pt"), tmp_path / "out"
    with held(out):
        holder = json.loads((out / ".lock").read_text(encoding="utf-8"))
        other = holder | {"host": "elsewhere", "token": "another"}
        (out / ".lock").write_text(json.dumps(other), encoding="utf-8")
        assert main(["convert", source, str(out)]) == 2
        assert f"in use by process {os.getpid()} on elsewhere since" in capsys.readouterr().err
        (out / ".lock").unlink()
    (out / ".tmp-export").mkdir(parents=True)
    (out / "holiday.jpg").write_text("mine")
    assert main(["convert", source, str(out)]) == 2
    assert content(out) == {"holiday.jpg": b"mine"}


def test_convert_halves_weights_and_sets_how_to_sample(tmp_path: Path) -> None:
    source, out = str(GOLDEN / "flowfield_spatial" / "content.pt"), tmp_path / "half"
    assert main(["convert", source, str(out), "--dtype", "float16", "--steps", "3", "--guidance", "2"]) == 0
    assert main(["convert", source, str(tmp_path / "whole")]) == 0
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.6 * sizes[1]
    half, whole = (flowreel.load(tmp_path / name, device="cpu") for name in ("half", "whole"))
    assert (half.config.steps, half.config.guidance) == (3, 2)
    for a, b in zip(half.model.parameters(), whole.model.parameters(), strict=True):
        assert a.dtype == b.dtype
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-6)
    assert main(["convert", source, str(tmp_path / "x"), "--steps", "0"]) == 2


def test_every_command_says_at_once_what_it_does() -> None:
    """Before anything heavy is imported, and on the standard error, so that results stay alone."""
    names = {name: command.doing.format(*"xy") for name, command in COMMANDS.items()}
    assert len(set(names.values())) == len(COMMANDS)
    run = subprocess.run(
        [sys.executable, "-m", "flowreel", "synchrony", "nowhere"], capture_output=True, text=True, check=False
    )
    assert run.stderr.splitlines()[0] == "flowreel: measuring nowhere"
    assert run.stdout == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    options, first = leaves(COMMANDS[name].options), COMMANDS[name].first
    assert set(options) == set(documentation(COMMANDS[name].options))
    assert set(first) <= set(options)
    for more, shown in (([], first or options), (["all"], options)):
        with pytest.raises(SystemExit) as end:
            main([name, "--help", *more])
        assert end.value.code == 0
        said = capsys.readouterr().out
        assert {option for option in options if f"  --{option} " in said} == set(shown)
