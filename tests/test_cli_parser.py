"""Options: text as it stands, every type in every spelling, files, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from flowreel import cli_parser as options
from flowreel.cli import COMMANDS, parse
from flowreel.config import GenerateConfig, PrepareConfig, TrainConfig, WorldConfig
from flowreel.config.presets import preset
from flowreel.errors import InputError
from flowreel.utils.spelling import closest

TEXTS = ["null", "~", "#shorts clip.mp4", "# b", "&c", "*d", "yes", "1e3", "0x10", "007", "[a", "{x", "2024-01-01"]
TEXTS += ["- a", "-a.mp4", "-", "", " ", "a: b", "'q", '"', "None", "true", "!!int 3", "@x", "%y", "a\nb", "[a]", "a=b"]


def parsed(command: str, *arguments: str) -> Any:
    positionals = [word.upper() for word in COMMANDS[command].positionals]
    return parse(command, COMMANDS[command], [*positionals, *arguments])[1]


@pytest.mark.parametrize("text", TEXTS)
def test_text_stands_as_it_is(text: str) -> None:
    for command, name in (("generate", "video"), ("generate", "out"), ("serve", "label"), ("train", "init")):
        assert getattr(parsed(command, f"--{name}", text), name) == text
        assert getattr(parsed(command, f"--{name}={text}"), name) == text
    if not text.startswith("-"):
        assert parse("convert", COMMANDS["convert"], [text, "OUT"])[0] == [text, "OUT"]
    assert parse("convert", COMMANDS["convert"], ["OUT", "--", text])[0] == ["OUT", text]


def test_lists_of_text_stand_as_they_are() -> None:
    for written, want in (
        ("null", ("null",)),
        ("~,#a,&b", ("~", "#a", "&b")),
        ("yes,1e3,007", ("yes", "1e3", "007")),
        ("[null, 'a, b', ~]", ("null", "a, b", "~")),
        ("[a", ("[a",)),
        ("[#a,&b]", ("#a", "&b")),
        ("a,", ("a",)),
        ("[]", ()),
        ("", ()),
    ):
        assert parsed("world", "--classes", written).classes == want, written


@given(st.text(max_size=12))
def test_any_text_survives_a_file_of_the_options(text: str) -> None:
    config = GenerateConfig(out=text, label=text or None)
    loaded = options.mapping(options.as_yaml(config))
    assert (loaded["out"], loaded["label"], loaded["seconds"]) == (text, text or None, None)


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_a_file_of_the_options_gives_the_same_config(tmp_path: Path, suffix: str) -> None:
    for name, config in (
        ("train", dataclasses.replace(preset("rflav-b1"), seed=3, init="null")),
        ("generate", GenerateConfig(label="~", seconds=1.5, precision="bfloat16", seed=2**40)),
        ("world", WorldConfig(classes=("null", "a, b"), lossless=True, fps=29.97)),
        ("prepare", PrepareConfig(size=(48, 64), peak=0.95)),
    ):
        text = options.as_yaml(config)
        path = tmp_path / f"{name}{suffix}"
        path.write_text(text if suffix == ".yaml" else json.dumps(yaml.safe_load(text)), encoding="utf-8")
        assert parsed(name, "--config", str(path)) == config


def test_files_sections_and_options_come_in_this_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text("steps: 5\nseed: 5\nmodel: {dim: 32}\nobjective.contexts: [2, 4]\ninit: 1e3\n")
    (tmp_path / "b.json").write_text('{"seed": 6, "compile": true, "optim.lr": 1e-3}')
    (tmp_path / "m.yaml").write_text("heads: 2\ncausal: yes\n")
    files = [
        "--config",
        str(tmp_path / "a.yaml"),
        f"--config={tmp_path / 'b.json'}",
        "--model",
        str(tmp_path / "m.yaml"),
    ]
    config = parsed("train", "--steps", "7", *files)
    assert isinstance(config, TrainConfig)
    assert (config.steps, config.seed, config.compile, config.optim.lr, config.init) == (7, 6, True, 1e-3, "1e3")
    assert (config.model.dim, config.model.heads, config.model.causal) == (32, 2, True)
    assert config.objective.contexts == (2, 4)
    (tmp_path / "n.yaml").write_text("label: null\nsteps: ~\n")
    assert parsed("serve", "--config", str(tmp_path / "n.yaml")).label is None
    with pytest.raises(SystemExit) as end:
        parsed("train", "--steps", "7", *files, "--print_config")
    assert end.value.code == 0
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    assert parsed("train", "--config", str(tmp_path / "printed.yaml")) == config


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("model: {dims: 3}", "there is no option model.dims, did you mean model.dim?"),
        ("lr: 3", "there is no option lr, did you mean optim.lr?"),
        ("steps: [1, 2]", "steps: expected one value, not a list"),
        ("steps: null", "steps: expected one value, not null"),
        ("steps: many", "steps: expected a whole number, not 'many'"),
        ("compile: 3", "compile: expected one of true, yes, on, false, no, off, not '3'"),
        ("objective.contexts: [2, null]", "expected one value, not null"),
        ("- steps", "it must hold options with their values, not a list"),
        ("steps: [", "not valid YAML"),
        ("a\x00b: 3", "not valid YAML"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(content)
    with pytest.raises(InputError) as error:
        parsed("train", "--config", str(path))
    assert message in str(error.value)
    assert str(path) in str(error.value)
    with pytest.raises(InputError, match=r"can't read .*nowhere: No such file"):
        parsed("train", "--config", str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("command", "arguments", "want"),
    [
        ("train", ["--seed", "0x10"], {"seed": 16}),
        ("train", ["--optim.lr=1e-3"], {"optim.lr": 1e-3}),
        ("train", ["--objective.contexts", "[2, 4]"], {"objective.contexts": (2, 4)}),
        ("train", ["--objective.contexts", "2"], {"objective.contexts": (2,)}),
        ("train", ["--objective.conditioned-guidance", "null"], {"objective.conditioned_guidance": None}),
        (
            "serve",
            ["--max-viewers", "3", "--broadcast", "--steps", "~"],
            {"max_viewers": 3, "broadcast": True, "steps": None},
        ),
        ("serve", ["--broadcast", "false", "--no-token=yes"], {"broadcast": False, "no_token": True}),
        ("world", ["--lossless", "--test", ".5"], {"lossless": True, "test": 0.5}),
        ("world", ["--seed", "1", "--seed", "2"], {"seed": 2}),
        ("prepare", ["--size", "48,64"], {"size": (48, 64)}),
        ("prepare", ["--size", "64X48"], {"size": (48, 64)}),
        ("prepare", ["--size", "[96]"], {"size": 96}),
    ],
)
def test_every_type_in_every_spelling(command: str, arguments: list[str], want: dict[str, Any]) -> None:
    values = options.flat(options.to_dict(parsed(command, *arguments)))
    assert {name: values[name] for name in want} == want


def test_a_switch_leaves_the_word_behind_it() -> None:
    assert parse("serve", COMMANDS["serve"], ["--broadcast", "pipe", "--port", "0"])[0] == ["pipe"]
    assert parse("generate", COMMANDS["generate"], ["--label", "rain", "pipe"])[0] == ["pipe"]


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("train", ["--steps"], "--steps needs a value"),
        ("train", ["--steps", "--batch", "3"], "--steps needs a value"),
        ("train", ["--steps", "1.5"], "--steps: expected a whole number, not '1.5'"),
        ("train", ["--optim.lr", "nan"], "--optim.lr: expected a number, not 'nan'"),
        ("world", ["--seconds", "inf"], "--seconds: expected a number, not 'inf'"),
        ("train", ["--compile=maybe"], "--compile: expected one of true"),
        ("train", ["-x"], "there is no option -x"),
        ("train", ["--objective.contexts", "2,b"], "--objective.contexts: expected a whole number, not 'b'"),
        ("prepare", ["--size", "1,2,3"], "--size: expected a size in pixels"),
        ("prepare", ["--size", "wide"], "--size: expected a size in pixels"),
    ],
)
def test_options_that_are_refused(command: str, arguments: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        parsed(command, *arguments)
    assert message in str(error.value)
    assert "|" not in str(error.value)


@pytest.mark.parametrize(
    ("word", "want"),
    [
        ("--lr", "--optim.lr"),
        ("--learning-rate", "--optim.lr"),
        ("--optim.learning_rate", "--optim.lr"),
        ("--step", "--steps"),
        ("--model.head", "--model.heads"),
        ("--decay", "--ema.decay"),
        ("--weight-decay", "--optim.weight_decay"),
        ("--warmup", "--optim.warmup or --objective.warmup"),
        ("--optim.warm", "--optim.warmup"),
        ("--Batch", "--batch"),
    ],
)
def test_the_closest_by_the_last_part(word: str, want: str) -> None:
    assert closest(word, [f"--{name}" for name in options.leaves(TrainConfig)]) == f", did you mean {want}?"


def test_no_guess_where_nothing_is_close() -> None:
    assert closest("--zebra", [f"--{name}" for name in options.leaves(TrainConfig)]) == ""
