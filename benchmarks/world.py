"""The figures of a pipeline of the procedural world, as a table: synchrony, notes, classes, continuation, drift, speed.

    python benchmarks/world.py                          # the shipped pipeline, all figures (about an hour on two cores)
    python benchmarks/world.py --count 8 --only joint,codec     # a quick look
    python benchmarks/world.py --pipe run --json figures.json

Seeds are fixed; sampling is as the pipeline is shipped. Clips of the world that are given have seeds that no training
clip has. Figures that were measured already are kept in the JSON file, so a run can be stopped and goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import flowreel
from flowreel.flow.noise import sample_seed
from flowreel.media import Clip, Writer
from flowreel.metrics import Events, Found, classify, compare, events_of, find_audio_events, floor, match, pooled
from flowreel.metrics.drift import measured
from flowreel.pipeline.conditioning import stack
from flowreel.utils import runtime
from flowreel.utils.files import read_json, write_json
from flowreel.world.render import CLASSES, World

SEED = 20_000
BATCH = 16
Figures = dict[str, Any]


# --- clips --------------------------------------------------------------------------------------------------------


def rendered(label: str, count: int, seconds: float, pipe: flowreel.Pipeline) -> World:
    """Clips of one class that no training has seen."""
    size = pipe.config.frame_size[0]
    return World(count, seconds, SEED + CLASSES.index(label), size, pipe.config.timing.fps, (label,))


def joined(chunks: Iterable[list[Clip]]) -> list[Clip]:
    """The clips whose chunks come in step."""
    return [Clip.join(parts) for parts in zip(*chunks, strict=True)]


def generated(pipe: flowreel.Pipeline, label: str, count: int, seconds: float) -> Iterator[Clip]:
    """Clips of both streams from nothing."""
    for first in range(0, count, BATCH):
        numbers = range(first, min(count, first + BATCH))
        seeds = [sample_seed(SEED, number) for number in numbers]
        yield from joined(pipe.clips([label] * len(seeds), seeds, seconds=seconds))


def for_each(pipe: flowreel.Pipeline, label: str, kind: str, clips: list[Clip], seconds: float) -> Iterator[Clip]:
    """A clip for each of ``clips``, which is given as ``kind``: audio, video or prefix."""
    for first in range(0, len(clips), BATCH):
        part = clips[first : first + BATCH]
        seeds = [sample_seed(SEED, first + number) for number in range(len(part))]
        given = stack([pipe.condition(**{kind: clip}) for clip in part])  # type: ignore[arg-type]
        yield from joined(pipe.clips([label] * len(part), seeds, seconds=seconds, conditioning=given))


# --- figures ------------------------------------------------------------------------------------------------------


def synchrony_of(found: list[Events]) -> Figures:
    """F1, its floor, offset, notes, rates."""
    total = pooled(compare(events) for events in found)
    return total.figures() | {"floor_f1": floor(found).f1}


def joint(pipe: flowreel.Pipeline, label: str, count: int, seconds: float) -> Figures:
    """Both streams from nothing; ``classes``: share of clips that look like their class."""
    clips = list(generated(pipe, label, count, seconds))
    truth = pooled(compare(events_of(clip, label)) for clip, _ in rendered(label, count, seconds, pipe))
    figures = synchrony_of([events_of(clip, label) for clip in clips])
    figures["classes"] = sum(classify(clip) == label for clip in clips) / count
    return figures | {"rendered_picture_rate": truth.picture_rate, "rendered_sound_rate": truth.sound_rate}


def followed(stream: str) -> Callable[[flowreel.Pipeline, str, int, float], Figures]:
    """The figures of one stream made for the other, which is given."""

    def measure(pipe: flowreel.Pipeline, label: str, count: int, seconds: float) -> Figures:
        given = [clip for clip, _ in rendered(label, count, seconds, pipe)]
        return synchrony_of([events_of(clip, label) for clip in for_each(pipe, label, stream, given, seconds)])

    return measure


def continuation(pipe: flowreel.Pipeline, label: str, count: int, seconds: float) -> Figures:
    """Rendered clips gone on from. ``smooth``: shares of which no break shows, ``true_smooth``: the same of how the
    world itself goes on; ``same``: whose objects keep their hue."""
    count = max(1, count // len(CLASSES))
    cut = [clip.cut(round(seconds * clip.fps)) for clip, _ in rendered(label, count, seconds + 2.0, pipe)]
    clips, truth = [given for given, _ in cut], [rest for _, rest in cut if rest is not None]
    made = list(for_each(pipe, label, "prefix", clips, 2.0))
    same = [np.minimum(hues(a.frames[-1]), hues(b.frames[0])).sum() > 0.7 for a, b in zip(clips, made, strict=True)]
    return {
        "clips": count,
        "smooth": float(np.mean([smooth(a, b) for a, b in zip(clips, made, strict=True)])),
        "true_smooth": float(np.mean([smooth(a, b) for a, b in zip(clips, truth, strict=True)])),
        "same": float(np.mean(same)),
    }


def smooth(clip: Clip, rest: Clip) -> bool:
    """Whether picture and sound change no more where ``rest`` follows than in 99 % of the places of ``clip``."""
    whole = Clip.join([clip, rest])
    place = len(clip.frames)
    picture, jumps = np.abs(np.diff(whole.frames.astype(float), axis=0)).mean((1, 2, 3)), np.abs(np.diff(levels(whole)))
    at = len(levels(clip)) - 1
    still = picture[place - 1] <= np.percentile(picture[: place - 1], 99)
    return bool(still and jumps[at - 1 : at + 2].max() <= np.percentile(jumps[: at - 1], 99))


def levels(clip: Clip, window: int = 400) -> np.ndarray:
    """RMS of 25 ms of sound after 25 ms."""
    assert clip.audio is not None
    sound = clip.audio[: len(clip.audio) // window * window].reshape(-1, window)
    return np.sqrt(np.square(sound).mean(1))


def hues(frame: np.ndarray) -> np.ndarray:
    """How much of what is bright and saturated has which hue: (6,), sums to 1."""
    pixels = frame.reshape(-1, 3).astype(float)
    vivid = np.clip(np.ptp(pixels, axis=1) - 60, 0, None)
    primary = (pixels > (pixels.max(1, keepdims=True) / 2)) @ [1, 2, 4]
    shares = np.bincount(primary.astype(int), weights=vivid, minlength=8)[1:7]
    return shares / max(1.0, shares.sum())


def codec(pipe: flowreel.Pipeline, label: str, count: int, seconds: float) -> Figures:
    """What the codec alone does to rendered clips: PSNR of the frames in dB, share of notes that are still right, and
    the F1 of what the detectors find in them against the events."""
    error, frames, right, notes = 0.0, 0, 0, 0
    seen, heard = [], []
    for clip, events in rendered(label, count, seconds, pipe):
        stored = {k: v[None] for k, v in pipe.codec.encode(clip).items()}
        again = pipe.codec.decode(pipe.codec.to_model(stored))[0]
        error += np.square(again.frames.astype(float) - clip.frames).mean() * len(clip.frames)
        frames += len(clip.frames)
        struck = [event for event in events if 0.1 < event.time < seconds - 0.2]
        truth = [Found(event.time, event.note) for event in struck]
        right += sum(a.note == b.note for a, b in match(truth, find_audio_events(again.audio, again.sample_rate), 0.05))
        notes += len(struck)
        found = events_of(again, label)
        everything = tuple(Found(event.time, event.note) for event in events)
        for counts, some in ((seen, found.picture), (heard, found.sound)):
            counts.append(compare(Events(label, found.seconds, found.fps, everything, some)))
    return {
        "psnr": float(10 * np.log10(255**2 / (error / frames))),
        "notes": right / notes,
        "seen_f1": pooled(seen).f1,
        "heard_f1": pooled(heard).f1,
    }


def roll(pipe: flowreel.Pipeline, minutes: float) -> Figures:
    """All classes rolling in step: the figures of each minute, and its time per frame and memory."""
    chunks = pipe.clips(list(CLASSES), [sample_seed(SEED, 0)] * len(CLASSES), seconds=60 * minutes)
    wanted = round(min(60, 60 * minutes) * pipe.config.timing.fps)
    rows: list[Figures] = []
    held: list[list[Clip]] = []
    frames, left, start = 0, round(60 * minutes * pipe.config.timing.fps), time.perf_counter()
    for chunk in chunks:
        held.append(chunk)
        frames, left = frames + len(chunk[0].frames), left - len(chunk[0].frames)
        if frames >= wanted or (not left and frames > wanted / 2):
            took = time.perf_counter() - start
            row: Figures = {"seconds_per_frame": took / frames / len(CLASSES), "memory_mb": memory()}
            for label, clip in zip(CLASSES, joined(held), strict=True):
                figures = measured(clip, label, 60.0 * len(rows)).figures()
                row[label] = {name: None if np.isnan(value) else value for name, value in figures.items()}
            rows.append(row)
            print(f"  minute {len(rows)}: {row['seconds_per_frame'] * 1e3:.1f} ms a frame, {row['memory_mb']:.0f} MB")
            held, frames, start = [], 0, time.perf_counter()
    return {"minutes": rows}


def memory() -> float:
    """MB of memory that this process holds; where /proc does not tell it, the most that it has held."""
    status = Path("/proc/self/status")
    if status.is_file():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmRSS"].split()[0]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def speed(pipe: flowreel.Pipeline, where: str, seconds: float) -> Figures:
    """Rolling into an mp4, as a multiple of real time, of about four clips of ``seconds``; and how long ``flowreel
    generate`` takes for one, from a cold start."""
    with tempfile.TemporaryDirectory() as folder:
        stream = pipe.stream(label=0, seed=SEED)
        next(stream)
        height, width = next(stream).frames.shape[1:3]
        fps, rate = pipe.config.timing.fps, pipe.config.timing.sample_rate
        start, made = time.perf_counter(), 0.0
        with Writer(Path(folder) / "roll.mp4", fps=fps, height=height, width=width, sample_rate=rate) as writer:
            while made < 4 * seconds:
                clip = next(stream)
                writer.write(clip)
                made += clip.seconds
        rolling = made / (time.perf_counter() - start)
        command = [sys.executable, "-m", "flowreel", "generate", where, "--out", f"{folder}/clip.mp4"]
        command += ["--seconds", str(seconds)]
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return {"rolling": rolling, "cold_start": time.perf_counter() - start}


# --- all of them --------------------------------------------------------------------------------------------------

PER_CLASS: dict[str, Callable[[flowreel.Pipeline, str, int, float], Figures]] = {
    "joint": joint,
    "audio_to_video": followed("audio"),
    "video_to_audio": followed("video"),
    "continuation": continuation,
    "codec": codec,
}


def measure(pipe: flowreel.Pipeline, options: argparse.Namespace, figures: Figures, keep: Callable[[], None]) -> None:
    """Add what is missing in ``figures``; ``keep`` after each."""
    for name, function in PER_CLASS.items():
        for label in CLASSES:
            if name in options.only and label not in figures.setdefault(name, {}):
                start = time.perf_counter()
                figures[name][label] = function(pipe, label, options.count, options.seconds)
                print(f"{name} {label}: {time.perf_counter() - start:.0f} s", flush=True)
                keep()
    if "speed" in options.only and "speed" not in figures:
        figures["speed"] = speed(pipe, options.pipe, options.seconds)
        keep()
    if "roll" in options.only and "roll" not in figures:
        figures["roll"] = roll(pipe, options.minutes)
        keep()


def shown(value: float | None, form: str) -> str:
    """A figure, or a dash where there is none."""
    return "-" if value is None else form.format(value)


def table(figures: Figures) -> Iterator[str]:
    """Lines of Markdown."""
    yield "| figure | " + " | ".join(CLASSES) + " |"
    yield "|---|" + "---|" * len(CLASSES)
    rows = [
        ("sync F1, joint (other clip's sound)", "joint", lambda f: f"{f['f1']:.3f} ({f['floor_f1']:.2f})"),
        ("median offset, joint", "joint", lambda f: shown(f["offset_ms"], "{:+.0f} ms")),
        ("note agreement, joint", "joint", lambda f: shown(f["note_agreement"], "{:.3f}")),
        ("class agreement", "joint", lambda f: f"{f['classes']:.3f}"),
        ("events a second, picture / sound", "joint", lambda f: f"{f['picture_rate']:.2f} / {f['sound_rate']:.2f}"),
        (
            "the same of rendered clips",
            "joint",
            lambda f: f"{f['rendered_picture_rate']:.2f} / {f['rendered_sound_rate']:.2f}",
        ),
    ]
    for name, title in (("audio_to_video", "audio → video"), ("video_to_audio", "video → audio")):
        rows += [
            (f"sync F1, {title} (other clip)", name, lambda f: f"{f['f1']:.3f} ({f['floor_f1']:.2f})"),
            (f"note agreement, {title}", name, lambda f: shown(f["note_agreement"], "{:.3f}")),
        ]
    rows += [
        (
            "continuation: no break (the world's own) / same objects",
            "continuation",
            lambda f: f"{f['smooth']:.2f} ({f['true_smooth']:.2f}) / {f['same']:.2f}",
        ),
        ("codec: PSNR", "codec", lambda f: f"{f['psnr']:.1f} dB"),
        ("codec: notes still right", "codec", lambda f: f"{f['notes']:.3f}"),
        (
            "detectors' F1 after the codec, picture / sound",
            "codec",
            lambda f: f"{f['seen_f1']:.3f} / {f['heard_f1']:.3f}",
        ),
    ]
    for title, name, show in rows:
        if len(figures.get(name, {})) == len(CLASSES):
            yield f"| {title} | " + " | ".join(show(figures[name][label]) for label in CLASSES) + " |"
    if "roll" in figures:
        yield from roll_rows(figures["roll"]["minutes"])
    if "speed" in figures:
        yield ""
        yield (
            f"Rolling into an mp4: {figures['speed']['rolling']:.2f} times real time. "
            f"`flowreel generate` of {figures['of']['seconds']:g} s from a cold start: "
            f"{figures['speed']['cold_start']:.1f} s."
        )


def roll_rows(minutes: list[Figures]) -> Iterator[str]:
    """The first and the last minute of a roll."""
    for title, name, form in (
        ("sync F1", "f1", "{:.3f}"),
        ("note agreement", "note_agreement", "{:.3f}"),
        ("loudness", "loudness", "{:.1f} dB"),
        ("brightness", "brightness", "{:.1f}"),
        ("frozen seconds", "frozen", "{:.2f}"),
        ("silent stretches", "silent", "{:.2f}"),
    ):
        ends = [[shown(row[label][name], form) for row in (minutes[0], minutes[-1])] for label in CLASSES]
        yield f"| roll, minute 1 → {len(minutes)}: {title} | " + " | ".join(" → ".join(pair) for pair in ends) + " |"
    first, last = (minutes[min(1, len(minutes) - 1)], minutes[-1])
    times = " → ".join(f"{row['seconds_per_frame'] * 1e3:.1f}" for row in (first, last))
    sizes = " → ".join(f"{row['memory_mb']:.0f}" for row in (first, last))
    yield ""
    yield f"Roll of {len(minutes)} minutes, all classes in step: {times} ms a frame, {sizes} MB."


def fingerprint(pipe: flowreel.Pipeline) -> str:
    """What tells one network from another."""
    tensors = [tensor.detach().cpu().numpy().tobytes() for tensor in pipe.model.state_dict().values()]
    return hashlib.sha256(b"".join(tensors)).hexdigest()[:16]


def main(arguments: Sequence[str] | None = None) -> None:
    names = [*PER_CLASS, "speed", "roll"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipe", default="world")
    parser.add_argument("--count", type=int, default=64, help="clips per class (a quarter of it for continuation)")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--minutes", type=float, default=10.0, help="of the roll")
    parser.add_argument("--only", type=lambda text: text.split(","), default=names, help=", ".join(names))
    parser.add_argument("--json", type=Path, help="keep the figures here, and go on from those that are there")
    options = parser.parse_args(arguments)
    if unknown := set(options.only) - set(names):
        parser.error(f"--only {', '.join(unknown)}: choose from {', '.join(names)}")
    runtime.keep_memory()  # as the command line does
    pipe = flowreel.load(options.pipe, device="cpu")
    of = {"version": flowreel.__version__, "weights": fingerprint(pipe)}
    of |= {name: getattr(options, name) for name in ("count", "seconds", "minutes")}
    figures: Figures = read_json(options.json) if options.json and options.json.is_file() else {"of": of}
    if figures.get("of") != of:
        parser.error(f"{options.json} holds figures of {figures.get('of')}, not of {of}: choose another file")

    def keep() -> None:
        if options.json:
            write_json(options.json, figures)

    measure(pipe, options, figures, keep)
    print("\n".join(table(figures)))


if __name__ == "__main__":
    main()
