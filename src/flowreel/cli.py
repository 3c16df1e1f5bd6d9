"""The command line: a dictionary of commands, each one Python function that a notebook can call.

>>> from flowreel.cli import prepare, train, generate
>>> prepare("clips", "data"); train("data", "run", preset("laptop")); generate("run", GenerateConfig(out="clip.mp4"))

Imports nothing heavy by itself, so that help is there at once. Bad input ends with one message and exit code 2.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flowreel import cli_parser as options
from flowreel.config import (
    CodecTrainConfig,
    ConvertConfig,
    GenerateConfig,
    InfoConfig,
    PrepareConfig,
    SamplingConfig,
    ServeConfig,
    SynchronyConfig,
    TrainConfig,
    VocoderTrainConfig,
    WorldConfig,
    flat,
    to_dict,
)
from flowreel.config.presets import PRESETS, preset
from flowreel.errors import InputError
from flowreel.utils import console, runtime
from flowreel.utils.reporting import Report, say
from flowreel.utils.spelling import closest


def _leads() -> bool:
    """Whether this is the one that speaks of the processes that torchrun started."""
    return runtime.rank_and_world()[0] == 0


def _print(line: str) -> None:
    if _leads():
        _print_from_all(line)


def _print_from_all(line: str) -> None:
    console.put(line, sys.stdout)


def prepare(clips: str, out: str, config: PrepareConfig | None = None, report: Report = _print) -> dict[str, Any]:
    """Turn a folder of clips into latents to train on.

    CLIPS holds train/ and test/ or neither, with or without a folder per class; OUT gets shards and index.json. The
    same command resumes, and adds new clips. CLIPS may also be a latent store of GenerativeFlow or
    R-FLAV.
    """
    from flowreel.data.prepare import prepare as run

    return run(Path(clips), Path(out), config or PrepareConfig(), report, _fit_codec)


def _fit_codec(*arguments: Any) -> Path:
    """Fit an autoencoder for prepare: what trains is imported where no codec was given."""
    from flowreel.training.autoencoder import fit_for_prepare

    return fit_for_prepare(*arguments)


def train(data: str, run: str, config: TrainConfig | None = None, report: Report = _print) -> Path:
    """Train a model on prepared latents. The same command again resumes it.

    DATA is a folder made by prepare; RUN gets the checkpoints, previews and the finished pipeline. --init PIPE trains
    a finished pipeline further.
    """
    from flowreel.training.flow import train as fit

    return fit(Path(data), Path(run), config or preset("laptop"), report)


def train_codec(clips: str, out: str, config: CodecTrainConfig | None = None, report: Report = _print) -> Path:
    """Train the small autoencoder on a folder of clips, for prepare --codec OUT."""
    from flowreel.training.autoencoder import train_codec as fit

    return fit(Path(clips), Path(out), config or CodecTrainConfig(), report)


def train_vocoder(clips: str, out: str, config: VocoderTrainConfig | None = None, report: Report = _print) -> Path:
    """Train a vocoder on the audio of a folder of clips, for --vocoder OUT of prepare, generate and convert."""
    from flowreel.training.vocoder import train_vocoder as fit

    return fit(Path(clips), Path(out), config or VocoderTrainConfig(), report)


def generate(pipe: str = "world", config: GenerateConfig | None = None, report: Report = _print_from_all) -> list[Path]:
    """Generate clips or rolls, with audio where the model has it.

    PIPE is a run folder, a saved pipeline, a hub repo id, an R-FLAV folder or a GenerativeFlow content.pt; without it
    the pipeline that comes with flowreel.
    """
    from flowreel.pipeline.generate import generate as run

    return run(pipe, config or GenerateConfig(), report)


def serve(pipe: str = "world", config: ServeConfig | None = None, report: Report = _print) -> None:
    """Generate without end, live in a browser, and steer it there.

    PIPE is what generate takes; without it the pipeline that comes with flowreel. Open the address that it prints.
    /stream.mp4 there is the same for a player, /openapi.json what programs can ask for.
    """
    from flowreel.serve.server import serve as run

    run(pipe, config or ServeConfig(), report)


def world(out: str, config: WorldConfig | None = None, report: Report = _print) -> list[Path]:
    """Write clips of the procedural world, in which every sounding event is known exactly.

    OUT gets train/CLASS/*.mp4 and test/CLASS/*.mp4, and beside each clip a .json with its events. The same command goes
    on where it stopped; a higher count adds clips.
    """
    from flowreel.world.export import write_world

    return write_world(out, config or WorldConfig(), report)


def synchrony(clips: str, config: SynchronyConfig | None = None, report: Report = _print) -> dict[str, Any]:
    """Measure audio-video synchrony.

    CLIPS are clips of the world, by any generator: a file, or a folder with train/ and test/ or neither, with a folder
    per class or without.
    Events are found in the video alone and in the audio alone, and matched within 0.1 seconds. The floor is what chance
    gives: video with the audio of other clips. Where a .json with the true events lies beside a clip, the detectors are
    measured too.
    """
    from flowreel.metrics.evaluate import measure

    return measure(Path(clips), config or SynchronyConfig(), report)


def convert(src: str, out: str, config: ConvertConfig | None = None, report: Report = _print) -> Path:
    """Convert a checkpoint of any known kind to a folder of ours.

    SRC is what flowreel.load takes: an R-FLAV folder or training save, a GenerativeFlow content.pt, a hub repo id.
    """
    from flowreel.pipeline.loading import convert as run

    return run(src, Path(out), config or ConvertConfig(), report)


def info(pipe: str, config: InfoConfig | None = None, report: Report = _print) -> dict[str, Any]:  # noqa: ARG001
    """Show a checkpoint's architecture, shapes and cost per generated second."""
    from flowreel.pipeline.info import info as run

    return run(pipe, report)


@dataclasses.dataclass(frozen=True)
class Command:
    """A function, what is said while it starts (with the positional values), and what it takes."""

    function: Callable[..., Any]
    doing: str
    positionals: tuple[str, ...]
    options: type
    presets: bool = False
    first: tuple[str, ...] = ()
    """The options that --help shows; --help all shows the others too. None is all of them."""


_LOOP = ("steps", "batch", "seed", "precision", "save", "preview", "tracker", "optim.lr")
COMMANDS: dict[str, Command] = {
    "prepare": Command(prepare, "preparing {} into {}", ("clips", "out"), PrepareConfig),
    "train": Command(
        train,
        "training on {} into {}",
        ("data", "run"),
        TrainConfig,
        presets=True,
        first=(
            *_LOOP,
            "init",
            "optim.kind",
            "optim.accumulate",
            "model.kind",
            "model.dim",
            "model.depth",
            "objective.blocks",
            "objective.contexts",
            "objective.roles.joint",
            "objective.roles.audio_clean",
            "objective.roles.video_clean",
            "objective.roles.context",
            "data.window",
            "data.workers",
        ),
    ),
    "train-codec": Command(
        train_codec,
        "fitting an autoencoder on {} into {}",
        ("clips", "out"),
        CodecTrainConfig,
        first=(*_LOOP, "size", "fps", "frames", "channels", "width", "fit", "adversarial"),
    ),
    "train-vocoder": Command(
        train_vocoder,
        "fitting a vocoder on {} into {}",
        ("clips", "out"),
        VocoderTrainConfig,
        first=(*_LOOP, "kind", "like", "seconds", "segment", "width", "rates", "adversarial"),
    ),
    "generate": Command(generate, "generating with {}", ("pipe",), GenerateConfig),
    "serve": Command(serve, "loading {} to serve it", ("pipe",), ServeConfig),
    "world": Command(world, "rendering clips of the world into {}", ("out",), WorldConfig),
    "synchrony": Command(synchrony, "measuring {}", ("clips",), SynchronyConfig),
    "convert": Command(convert, "converting {} into {}", ("src", "out"), ConvertConfig),
    "info": Command(info, "reading {}", ("pipe",), InfoConfig),
}


_PRESET = "laptop"
"""The one that is taken where none is named."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 2 bad input, 130 interrupted)."""
    console.settle()
    code = _answered(list(sys.argv[1:] if argv is None else argv))
    return code if console.finish() else code or 2


def _answered(arguments: list[str]) -> int:
    """Run a command; what a person can act on becomes one line on the standard error."""
    try:
        return _run(arguments)
    except InputError as error:
        console.put_error(f"flowreel: {error}")
        return 2
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        console.put_error(f"flowreel: {error.strerror or error}{where}")
        return 2
    except KeyboardInterrupt:
        console.put_error("flowreel: interrupted")
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


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        _print_from_all(_usage())
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        from flowreel import __version__

        _print_from_all(f"flowreel {__version__}")
        return 0
    warnings.showwarning = _show_warning
    runtime.keep_memory()
    name, *rest = arguments
    if name not in COMMANDS:
        raise InputError(f"there is no command {name!r}{closest(name, COMMANDS)}; there are {', '.join(COMMANDS)}")
    command = COMMANDS[name]
    positionals, config = parse(name, command, rest)
    if _leads():
        say(command.doing.format(*positionals))  # importing torch takes seconds
    command.function(*positionals, config)
    return 0


def parse(name: str, command: Command, arguments: Sequence[str]) -> tuple[list[str], Any]:
    """Positional values and the options of one command, checked.

    What an option says holds, then the last file of ``--config`` that has it, then the preset.

    Raises:
        InputError: an unknown option (with the closest right one), a wrong type, an impossible combination.
        SystemExit: the help or the options were asked for, and printed.
    """
    hints, sections = options.leaves(command.options), options.sections(command.options)
    known = {**hints, **dict.fromkeys(("help", "print_config", "config", *sections, *_preset_option(command)))}
    switches: dict[str, tuple[str, ...]] = {name: () for name, hint in hints.items() if hint is bool}
    switches |= {"print_config": (), "help": ("all",)}
    words = options.split(arguments, known, switches)
    special = dict(words.options)
    if "help" in special:
        _print_from_all(_help(name, command, special["help"] == "all"))
        raise SystemExit(0)
    values: dict[str, Any] = {}
    for option, text in words.options:
        if option == "config" or option in sections:
            values |= options.read_file(Path(text), command.options, "" if option == "config" else option)
    values |= {
        option: options.value_of(option, hints[option], text) for option, text in words.options if option in hints
    }
    base = preset(special.get("preset", _PRESET)) if command.presets else command.options()
    config = options.with_values(base, values)
    if "print_config" in special:
        _print_from_all(options.as_yaml(config).rstrip("\n"))
        raise SystemExit(0)
    return _positionals(name, command, words.positionals), config


def _positionals(name: str, command: Command, words: Sequence[str]) -> list[str]:
    """All positional values, with the defaults of those that were left out."""
    parameters = [inspect.signature(command.function).parameters[p] for p in command.positionals]
    usage = f"usage: {_usage_of(name, command)}"
    if len(words) > len(parameters):
        raise InputError(f"too many arguments: {', '.join(words[len(parameters) :])}; {usage}")
    missing = [p for p in parameters[len(words) :] if p.default is inspect.Parameter.empty]
    if missing:
        raise InputError(f"required: {', '.join(p.name.upper() for p in missing)}; {usage}")
    return [*words, *(p.default for p in parameters[len(words) :])]


def _usage_of(name: str, command: Command) -> str:
    parameters = inspect.signature(command.function).parameters
    required = {p for p in command.positionals if parameters[p].default is inspect.Parameter.empty}
    shown = [p.upper() if p in required else f"[{p.upper()}]" for p in command.positionals]
    return " ".join([f"flowreel {name} [OPTION ...]", *shown])


def _preset_option(command: Command) -> tuple[str, ...]:
    return ("preset",) if command.presets else ()


def _help(name: str, command: Command, everything: bool) -> str:
    """What the command does, and its options by groups, one a line, with their defaults.

    Args:
        everything: all options, in place of those that people change first.
    """
    hints, texts = options.leaves(command.options), options.documentation(command.options)
    defaults = flat(to_dict(preset(_PRESET) if command.presets else command.options()))
    sampling = SamplingConfig.__dataclass_fields__ if issubclass(command.options, SamplingConfig) else ()
    groups: dict[str, list[tuple[str, str]]] = {"": []}
    for option, hint in hints.items():
        if everything or not command.first or option in command.first:
            default = "" if defaults[option] in (None, "", ()) else f" ({options.written(defaults[option])})"
            group = "sampling" if option in sampling else option.rpartition(".")[0]
            row = f"--{option} {options.metavar(hint)}", texts.get(option, "") + default
            groups.setdefault(group, []).append(row)
    about = [("--config FILE", "YAML or JSON file of options"), ("--print_config", "print the options as such a file")]
    if command.presets:
        about = [(f"--preset {key}", text) for key, (text, _) in PRESETS.items()] + about
    about += [(f"--{name} FILE", f"file of the options {name}.*") for name in options.sections(command.options)]
    lines = [f"usage: {_usage_of(name, command)}", "", inspect.cleandoc(command.function.__doc__ or "")]
    for group, rows in groups.items():
        if rows:
            lines += ["", f"{group or 'options'}:", *map(_row, rows)]
    if everything or not command.first:
        lines += ["", "more:", *map(_row, about)]
    else:
        lines += ["", f"flowreel {name} --help all: all {len(hints)} options, presets and files of options"]
    return "\n".join(lines)


def _row(row: tuple[str, str]) -> str:
    option, text = row
    return f"  {option:33} {text}" if len(option) <= 33 else f"  {option}\n{'':36}{text}"


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    console.put(f"flowreel: warning: {message}", sys.stderr)
