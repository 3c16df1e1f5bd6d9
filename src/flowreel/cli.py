"""The command line: a dictionary of commands, each one Python function that a notebook can call.

>>> from flowreel.cli import prepare, train, generate
>>> prepare("clips", "data"); train("data", "run", preset("laptop")); generate("run", GenerateConfig(out="clip.mp4"))

Imports nothing heavy by itself, so that help is there at once. Bad input ends with one message and exit code 2.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import os
import re
import sys
import textwrap
import typing
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flowreel import machine
from flowreel.config import (
    CodecTrainConfig,
    ConvertConfig,
    GenerateConfig,
    LoadConfig,
    PrepareConfig,
    ServeConfig,
    SynchronyConfig,
    TrainConfig,
    VocoderTrainConfig,
    WorldConfig,
    flat,
    from_dict,
    to_dict,
)
from flowreel.errors import InputError
from flowreel.presets import PRESETS, preset
from flowreel.report import Report


def _print(line: str) -> None:
    if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
        _print_from_all(line)


def _print_from_all(line: str) -> None:
    print(line, flush=True)


def prepare(clips: str, out: str, config: PrepareConfig | None = None, report: Report = _print) -> dict[str, Any]:
    """Turn a folder of clips into latents to train on.

    CLIPS holds train/ and test/ or neither, with or without a folder per class; OUT gets shards and index.json. The
    same command goes on where it stopped, and adds new clips. CLIPS may also be a latent store of GenerativeFlow or
    R-FLAV.
    """
    from flowreel.prepare import prepare as run

    return run(Path(clips), Path(out), config or PrepareConfig(), report)


def train(data: str, run: str, config: TrainConfig | None = None, report: Report = _print) -> Path:
    """Train a model on prepared latents. The same command again goes on where it stopped.

    DATA is a folder made by prepare; RUN gets the checkpoints, previews and the finished pipeline. --init PIPE trains
    a finished pipeline further.
    """
    from flowreel.train import train as fit

    return fit(Path(data), Path(run), config or preset("laptop"), report)


def train_codec(clips: str, out: str, config: CodecTrainConfig | None = None, report: Report = _print) -> Path:
    """Fit the small autoencoder on a folder of clips, for prepare --codec OUT."""
    from flowreel.train_codec import train_codec as fit

    return fit(Path(clips), Path(out), config or CodecTrainConfig(), report)


def train_vocoder(clips: str, out: str, config: VocoderTrainConfig | None = None, report: Report = _print) -> Path:
    """Fit a vocoder on the sound of a folder of clips, for --vocoder OUT of prepare, generate and convert."""
    from flowreel.train_vocoder import train_vocoder as fit

    return fit(Path(clips), Path(out), config or VocoderTrainConfig(), report)


def generate(pipe: str = "world", config: GenerateConfig | None = None, report: Report = _print_from_all) -> list[Path]:
    """Generate clips or rolls, with sound where the model has it.

    PIPE is a run folder, a saved pipeline, a hub repo id, an R-FLAV folder or a GenerativeFlow content.pt; without it
    the pipeline that comes with flowreel.
    """
    from flowreel.generate import generate as run

    return run(pipe, config or GenerateConfig(), report)


def serve(pipe: str = "world", config: ServeConfig | None = None, report: Report = _print) -> None:
    """Watch an endless generation live in a browser, and steer it while it rolls.

    PIPE is what generate takes; without it the pipeline that comes with flowreel. Open the address that is said.
    /stream.mp4 there is the same for a player, /openapi.json what programs can ask for.
    """
    from flowreel.serve import serve as run

    run(pipe, config or ServeConfig(), report)


def world(out: str, config: WorldConfig | None = None, report: Report = _print) -> list[Path]:
    """Write clips of the procedural world, in which every sounding event is known exactly.

    OUT gets train/CLASS/*.mp4 and test/CLASS/*.mp4, and beside each clip a .json with its events. The same command goes
    on where it stopped; a higher count adds clips.
    """
    from flowreel.worldfiles import write_world

    return write_world(out, config or WorldConfig(), report)


def synchrony(clips: str, config: SynchronyConfig | None = None, report: Report = _print) -> dict[str, Any]:
    """Say how well sound and picture of clips of the world belong together.

    CLIPS is a file, or a folder with train/ and test/ or neither, with or without a folder per class; any generator's.
    Events are found in the picture alone and in the sound alone, and matched within one video frame. floor is what
    chance gives, pictures with the sound of other clips. Where a .json with the true events lies beside a clip, the
    detectors are measured too.
    """
    from flowreel.metrics.folder import measure

    return measure(Path(clips), config or SynchronyConfig(), report)


def convert(src: str, out: str, config: ConvertConfig | None = None, report: Report = _print) -> Path:
    """Read a checkpoint of any known kind and write it as a folder of ours.

    SRC is what flowreel.load takes: an R-FLAV folder or training save, a GenerativeFlow content.pt, a hub repo id.
    """
    from flowreel.loading import convert as run

    return run(src, Path(out), config or ConvertConfig(), report)


def info(pipe: str, config: LoadConfig | None = None, report: Report = _print) -> dict[str, Any]:
    """Say what a checkpoint is: sizes, clocks, classes, arithmetic per generated second."""
    from flowreel.info import info as run

    return run(pipe, config or LoadConfig(), report)


@dataclasses.dataclass(frozen=True)
class Command:
    function: Callable[..., Any]
    positionals: tuple[str, ...]
    options: type
    presets: bool = False


COMMANDS: dict[str, Command] = {
    "prepare": Command(prepare, ("clips", "out"), PrepareConfig),
    "train": Command(train, ("data", "run"), TrainConfig, presets=True),
    "train-codec": Command(train_codec, ("clips", "out"), CodecTrainConfig),
    "train-vocoder": Command(train_vocoder, ("clips", "out"), VocoderTrainConfig),
    "generate": Command(generate, ("pipe",), GenerateConfig),
    "serve": Command(serve, ("pipe",), ServeConfig),
    "world": Command(world, ("out",), WorldConfig),
    "synchrony": Command(synchrony, ("clips",), SynchronyConfig),
    "convert": Command(convert, ("src", "out"), ConvertConfig),
    "info": Command(info, ("pipe",), LoadConfig),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 2 bad input, 130 interrupted)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        from flowreel import __version__

        print(f"flowreel {__version__}")
        return 0
    warnings.showwarning = _show_warning
    machine.settle()
    try:
        return _run(arguments[0], arguments[1:])
    except InputError as error:
        print(f"flowreel: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # who read the output has left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        print(f"flowreel: {error.strerror or error}{where}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("flowreel: interrupted", file=sys.stderr)
        return 130


def _usage() -> str:
    lines = [
        "usage: flowreel COMMAND ...",
        "",
        "Flow-matching models of video with synchronised sound, on your own clips.",
        "",
    ]
    lines += [f"  {name:13} {(c.function.__doc__ or '').splitlines()[0]}" for name, c in COMMANDS.items()]
    return "\n".join([*lines, "", "flowreel COMMAND --help says more; flowreel --version the version."])


def _run(name: str, arguments: list[str]) -> int:
    if name not in COMMANDS:
        raise InputError(f"there is no command {name!r}{_closest(name, COMMANDS)}; there are {', '.join(COMMANDS)}")
    command = COMMANDS[name]
    positionals, config = parse(name, command, arguments)
    command.function(*positionals, config)
    return 0


def parse(name: str, command: Command, arguments: list[str]) -> tuple[list[str], Any]:
    """Positional values and the options of one command, checked.

    Raises:
        InputError: an unknown option (with the closest right one), a wrong type, an impossible combination.
    """
    import argparse

    from jsonargparse import ArgumentParser, DefaultHelpFormatter

    class Formatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
        """The options with their defaults, and the text below as it is."""

    parser = ArgumentParser(
        prog=f"flowreel {name}",
        description=inspect.cleandoc(command.function.__doc__ or ""),
        epilog="\n\n".join(_documentation(command.options)),
        formatter_class=Formatter,
        exit_on_error=False,
    )
    parameters = inspect.signature(command.function).parameters
    for positional in command.positionals:
        default = parameters[positional].default
        optional = {} if default is inspect.Parameter.empty else {"nargs": "?", "default": default}
        parser.add_argument(f"{positional}_", metavar=positional.upper(), **optional)  # an option may have that name
    parser.add_argument("--config", action="config", help="a YAML or JSON file of the options below")
    if command.presets:
        parser.add_argument(
            "--preset", default="laptop", help="; ".join(f"{k}: {text}" for k, (text, _) in PRESETS.items())
        )
    parser.add_class_arguments(command.options, None)
    if command.presets:
        parser.set_defaults(flat(to_dict(preset(_value_of("--preset", arguments, "laptop")))))
    try:
        values = parser.parse_args(_with_lists(_spelled(arguments, command.options), command.options)).as_dict()
    except argparse.ArgumentError as error:
        raise InputError(_explain(str(error), parser)) from error
    fields = {f.name for f in dataclasses.fields(command.options)}
    return [values[f"{p}_"] for p in command.positionals], from_dict(
        command.options, {k: v for k, v in values.items() if k in fields}
    )


def _documentation(options: Any, prefix: str = "") -> list[str]:
    """What the settings mean: the docstrings of a config class and of those within it."""
    title = f"{prefix}*" if prefix else "options"
    docs = [inspect.cleandoc(c.__doc__ or "") for c in options.__mro__ if dataclasses.is_dataclass(c)]
    text = [f"{title}:\n" + textwrap.indent(re.sub(r":class:|:func:|``", "", "\n".join(docs)), "  ")]
    for name, hint in typing.get_type_hints(options).items():
        if dataclasses.is_dataclass(hint):
            text += _documentation(hint, f"{prefix}{name}.")
    return text


def _value_of(option: str, arguments: Sequence[str], default: str) -> str:
    """The value of ``option`` before any parser exists, as the defaults depend on it."""
    for i, argument in enumerate(arguments):
        if argument == option and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith(f"{option}="):
            return argument.split("=", 1)[1]
    return default


def _spelled(arguments: Sequence[str], options: type) -> list[str]:
    """``--max-viewers 2`` and ``--broadcast`` as the parser knows them: ``--max_viewers 2``, ``--broadcast true``."""
    leaves = {f"--{name}": hint for name, hint in _leaves(options).items()}
    result = []
    for i, argument in enumerate(arguments):
        option, joined, value = argument.partition("=")
        known = option.replace("-", "_").replace("__", "--", 1)
        if option.startswith("--") and option not in leaves and known in leaves:
            option = known
        result.append(f"{option}{joined}{value}")
        last = i + 1 == len(arguments) or arguments[i + 1].startswith("--")
        if not joined and leaves.get(option) is bool and last:
            result.append("true")
    return result


def _with_lists(arguments: Sequence[str], options: type) -> list[str]:
    """``--contexts 2,4``, ``--size 64,96`` and ``--classes a,b`` read as lists where the option is one."""
    lists = {f"--{name}" for name, hint in _leaves(options).items() if "tuple" in str(hint)}
    plain = re.compile(r"-?[\w.]+(,-?[\w.]+)*,?")
    result = list(arguments)
    for i, argument in enumerate(result):
        option, joined, value = argument.partition("=")
        if option not in lists or (not joined and i + 1 == len(result)):
            continue
        value = value if joined else result[i + 1]
        single = "," not in value and "int |" in str(_leaves(options)[option[2:]])
        if plain.fullmatch(value) and not single:
            result[i if joined else i + 1] = f"{option}=[{value.strip(',')}]" if joined else f"[{value.strip(',')}]"
    return result


def _leaves(options: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> type of every setting of a config class."""
    leaves: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(options).items():
        leaves |= _leaves(hint, f"{prefix}{name}.") if dataclasses.is_dataclass(hint) else {f"{prefix}{name}": hint}
    return leaves


def _explain(message: str, parser: Any) -> str:
    """A parser's message in one line, with the closest option where one is unknown."""
    unknown = re.search(r"unrecognized arguments: (.*)", message, re.DOTALL)
    if unknown:
        options = [option for action in parser._actions for option in action.option_strings]
        named = [word for word in unknown[1].split() if word.startswith("-")] or unknown[1].split()
        return "; ".join(f"there is no option {w}{_closest(w.split('=')[0], options)}" for w in named)
    wrong = re.search(r'Parser key "([^"]+)":\s*(.*)', message, re.DOTALL)
    if wrong:
        reason = " ".join(wrong[2].split())
        reason = (
            re.sub(r"<class '(\w+)'>", r"\1", reason).replace("typing.Literal", "one of ").replace("Got value:", "got")
        )
        return f"--{wrong[1]}: {reason}"
    return re.sub(r"\b(\w+)_(?=,|$)", r"\1", " ".join(message.split()))


def _closest(word: str, known: Sequence[str] | dict[str, Any]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f", did you mean {close[0]}?" if close else ""


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"flowreel: warning: {message}", file=sys.stderr)
