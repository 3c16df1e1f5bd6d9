"""The output folder of ``flowreel generate``: which files it makes, and which are there already.

A folder holds ``generation.json`` beside its files: all that they depend on. So the same command resumes where it was
stopped, and other settings' files are never mixed with them. How many there are, in what batches, on which device and
by how many processes they are made changes nothing in a file.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flowreel.config import GenerateConfig, PipelineConfig, from_dict, to_dict
from flowreel.errors import InputError
from flowreel.flow.noise import sample_seed
from flowreel.pipeline.pipeline import Pipeline
from flowreel.utils.files import json_text, read_json, write_complete
from flowreel.utils.resume import check_unchanged
from flowreel.utils.runtime import rank_and_world

NOTE = "generation.json"
NOISE = "philox-4x32-10"
STREAMED = (".mp4", ".mkv", ".webp", ".gif", ".wav")
"""Files that are written as they are made."""
WHOLE = (".png",)
"""Frames of a whole clip."""
PICTURES = (".mp4", ".mkv", ".mov", ".webm", ".avi")
SOUNDS = (".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus")
GIVEN = ("audio", "video", "prefix")

_FREE = ("out", "count", "batch", "device")  # what changes nothing in a file
_IN_THE_PIPELINE = ("audio_scale", "autoencoder", "vocoder", "fps")  # and so in its identity


@dataclass(frozen=True)
class Job:
    """One output: sample ``k`` of the seed, its conditioning, and the beginning of its name."""

    k: int
    conditioning: dict[str, Path]
    stem: str
    from_folder: bool = False


@dataclass(frozen=True)
class Output:
    """A job with the class of its sample (None without classes) and the file that it makes."""

    job: Job
    seed: int
    label: str | None
    path: Path

    @property
    def is_there(self) -> bool:
        return self.path.is_file() and self.path.stat().st_size > 0  # a power cut may leave an empty one


@dataclass(frozen=True)
class Share:
    """The place of this process among those that torchrun started: ``rank`` of ``world``."""

    rank: int = 0
    world: int = 1

    @classmethod
    def of_this_process(cls) -> Share:
        return cls(*rank_and_world())

    @property
    def lead(self) -> bool:
        return self.rank == 0


def single_file(out: Path, count: int) -> Path | None:
    """``out`` if it names a file, None if it is a folder.

    Raises:
        InputError: a file of a kind that can't be written, or for several outputs.
    """
    if not out.suffix or out.is_dir():
        return None
    if out.suffix.lower() not in (*STREAMED, *WHOLE):
        raise InputError(f"--out {out} must end in one of {', '.join((*STREAMED, *WHOLE))}, or in nothing for a folder")
    if count > 1:
        raise InputError(f"{count} clips don't fit in the one file {out}: give a folder as --out")
    return out


def all_jobs(config: GenerateConfig) -> list[Job]:
    """Every output: ``count`` samples for each combination of conditioning files. A higher count only adds to them."""
    files: dict[str, Path] = {}
    folder: tuple[str, list[Path]] | None = None
    for name in GIVEN:
        value = getattr(config, name)
        if value is None:
            continue
        path = Path(value).expanduser()
        if not path.is_dir():
            files[name] = path
        elif folder is not None:
            raise InputError(f"--{folder[0]} and --{name} are both folders: only one of them can be")
        else:
            folder = (name, _media_in(path, name))
    if folder is None:
        return [Job(k, files, f"{k:05d}") for k in range(config.count)]
    kind, paths = folder
    return [
        Job(
            k * len(paths) + i,
            {**files, kind: path},
            f"{i:05d}-{path.stem}" + (f"-{k:03d}" if k else ""),
            from_folder=True,
        )
        for i, path in enumerate(paths)
        for k in range(config.count)
    ]


def _media_in(folder: Path, kind: str) -> list[Path]:
    suffixes = (*PICTURES, *SOUNDS) if kind == "audio" else PICTURES
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in suffixes and not p.name.startswith("."))
    if not found:
        raise InputError(f"--{kind} {folder} holds no files that end in {', '.join(suffixes)}")
    return found


def all_outputs(jobs: list[Job], pipeline: Pipeline, config: GenerateConfig) -> list[Output]:
    """The jobs with their classes, which follow from the seeds, and with their files."""
    out = Path(config.out)
    single = single_file(out, len(jobs))
    outputs = []
    for job in jobs:
        seed = sample_seed(config.seed, job.k)
        label = pipeline.class_name(config.label, seed)
        name = job.stem if label is None else f"{job.stem}-{_plain(label)}"
        outputs.append(Output(job, seed, label, single or out / f"{name}.mp4"))
    return outputs


def _plain(label: str) -> str:
    """A class as a part of a file's name: it can't lead to another folder."""
    return re.sub(r'[/\\:*?"<>|\x00-\x1f]', "_", label)


class Folder:
    """The folder of ``outputs``, with the note of what they are made from.

    Raises:
        InputError: the files in it were made from something else, or nobody knows from what.
    """

    def __init__(self, path: Path, outputs: list[Output], pipeline: Pipeline, config: GenerateConfig) -> None:
        self.path, self._note = path, path / NOTE
        self._identity, self._outputs = _identity(outputs, pipeline, config), outputs
        self.check()

    @property
    def purpose(self) -> str:
        """What tells runs apart that make other files."""
        return hashlib.sha256(json_text(self._identity)).hexdigest()[:16]

    def check(self) -> None:
        """Refuse a folder whose files were made from something else."""
        if self._note.is_file() and any(self.path.glob("*.mp4")):
            check_unchanged(self.path, _with_defaults(read_json(self._note)), self._identity, "was generated")
        elif any(output.is_there for output in self._outputs):
            raise InputError(
                f"{self.path} holds files of these names, but no {NOTE} that says what they were made from: "
                "choose another folder, or delete it"
            )

    def note(self) -> None:
        """Write the note, before the first file. Every process writes the same."""
        write_complete(self._note, json_text(self._identity))


def clear_leftovers(folder: Path, outputs: list[Output]) -> None:
    """Delete what killed processes left of files that this process makes."""
    mine = {output.path.name for output in outputs}
    for path in folder.glob(".*.part"):
        if path.name[1:].rsplit(".", 2)[0] in mine:
            path.unlink(missing_ok=True)


def _identity(outputs: list[Output], pipeline: Pipeline, config: GenerateConfig) -> dict[str, Any]:
    """All that the files depend on, JSON-able and without paths."""
    values = to_dict(config)
    settings = {name: value for name, value in values.items() if name not in (*_FREE, *GIVEN, *_IN_THE_PIPELINE)}
    settings["label"] = outputs[0].label if config.label is not None else None
    given: dict[str, dict[str, int]] = {}
    for output in outputs:
        for kind, path in output.job.conditioning.items():
            given.setdefault(kind, {})[_below(path, config, kind)] = _size(path)
    identity = {
        "noise": NOISE,
        "pipeline": {
            "weights": _digest(pipeline.model),
            "codec": _codec_digest(pipeline),
            "config": to_dict(pipeline.config),
        },
        "settings": settings,
        "given": given,
    }
    return json.loads(json.dumps(identity))


def _with_defaults(noted: dict[str, Any]) -> dict[str, Any]:
    """An identity of an older version, whose pipelines had fewer fields and whose noise was another."""
    pipeline = noted["pipeline"]
    config = to_dict(from_dict(PipelineConfig, pipeline["config"], NOTE))
    return {"noise": "as before flowreel 0.7"} | noted | {"pipeline": pipeline | {"config": config}}


def _below(path: Path, config: GenerateConfig, kind: str) -> str:
    """The name of a conditioning file, below the folder of conditioning files if there is one."""
    folder = Path(getattr(config, kind)).expanduser()
    return path.relative_to(folder).as_posix() if folder.is_dir() else path.name


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from error


def _codec_digest(pipeline: Pipeline) -> str:
    """Of the networks that lie in the codec's folder; those from a hub are named by the config."""
    codec = pipeline.codec
    digests = [] if codec.config.video.source else [_digest(codec.video.module)]
    if codec.config.audio is not None and codec.config.audio.vocoder:
        digests.append(_digest(codec.vocoder))
    return "-".join(digests)


def _digest(network: nn.Module) -> str:
    """A short digest of a network's weights, whatever device they are on."""
    sha = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()[:16]
