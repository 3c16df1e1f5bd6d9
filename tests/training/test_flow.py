"""Training a flow: the random numbers of a sample, resuming to the bit, and the exported folder."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import flowreel
from flowreel.codec import Codec, TinyAutoencoder
from flowreel.config import (
    AudioCodecConfig,
    CodecConfig,
    DataConfig,
    EMAConfig,
    LatentShape,
    MelConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    RoleShares,
    Timing,
    TrainConfig,
    VideoCodecConfig,
    to_dict,
)
from flowreel.data.shards import ClipRecord, IndexEntry, ShardWriter
from flowreel.errors import InputError
from flowreel.flow import objective
from flowreel.training import checkpoint
from flowreel.training.flow import FlowTask, train
from flowreel.utils import files
from tests.runs import check_shown_again, same

C, H, W, M, F = 4, 4, 4, 16, 10
MEL = MelConfig(n_fft=512, win_length=512, bins=M)
ALL_ROLES = RoleShares(joint=1, independent=1, audio_clean=1, video_clean=1, context=1)


def quiet(text: str) -> None:
    pass


def prepared(
    folder: Path, has_audio: bool = True, classes: tuple[str, ...] = ("low", "high"), clips: int = 5, test: int = 0
) -> Path:
    """Latents of a slow drift, one direction per class, as ``prepare`` lays them out."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(1)
    timing = Timing(10, 16000, 160) if has_audio else Timing(10, 0, 0)
    config = CodecConfig(VideoCodecConfig(channels=C, width=8), AudioCodecConfig(mel=MEL) if has_audio else None)
    writer = ShardWriter(folder, "train", 2**20, "test")
    for clip in range(clips):
        label, frames = (clip % len(classes) if classes else 0), 12 + clip
        drift = torch.linspace(-1, 1, frames).view(-1, 1, 1, 1) * (1 - 2 * label)
        tensors = {"video": drift + 0.1 * torch.randn(frames, C, H, W, generator=generator)}
        if has_audio:
            tensors["audio"] = -3 + drift + 0.1 * torch.randn(frames, 1, M, F, generator=generator)
        writer.add(ClipRecord(IndexEntry(f"{clip}.mp4", frames, 0, label=label)), tensors)
    writer.flush()
    Codec(config, timing).save(folder / "codec")
    index = {
        "format_version": 1,
        "classes": list(classes),
        "timing": to_dict(timing),
        "codec": to_dict(config),
        "shape": to_dict(LatentShape(C, H, W, M if has_audio else 0, F if has_audio else 0, 10.0)),
        "splits": {
            "train": [record.entry.to_dict() for record in writer.records[: clips - test]],
            "test": [record.entry.to_dict() for record in writer.records[clips - test :]],
        },
        "skipped": [],
    }
    files.write_json(folder / "index.json", index)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("data") / "audio")


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("data") / "silent", has_audio=False, classes=())


def config(**changes: object) -> TrainConfig:
    base = TrainConfig(
        steps=4,
        batch=4,
        log=1,
        save=2,
        preview=0,
        model=ModelConfig(dim=16, depth=1, heads=2, class_dropout=0.3),
        objective=ObjectiveConfig(roles=ALL_ROLES, blocks=(1, 2), contexts=(2,), lookaheads=(2,), guidance=1.5),
        data=DataConfig(window=6),
        optim=OptimConfig(lr=1e-3, warmup=2),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def flowfield(**changes: object) -> TrainConfig:
    model = ModelConfig("flowfield", dim=16, depth=2, heads=2, positions="sincos", drop_path=0.4)
    plain = ObjectiveConfig(blocks=(6,))
    return config(model=model, objective=plain, **changes)


def losses_of(run: Path) -> list[float]:
    with (run / "loss.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


# --- resuming -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_flav_four_steps_equal_two_and_two_to_the_bit(data: Path, tmp_path: Path, kind: str):
    settings = OptimConfig(kind=kind, warmup=2)  # type: ignore[arg-type]
    train(data, tmp_path / "whole", config(optim=settings), quiet)
    for steps in (2, 4):
        train(data, tmp_path / "parts", config(optim=settings, steps=steps), quiet)
    assert same(tmp_path / "whole", tmp_path / "parts")


def test_flowfield_with_stochastic_depth_resumes_to_the_bit(silent: Path, tmp_path: Path):
    train(silent, tmp_path / "whole", flowfield(), quiet)
    for steps in (2, 4):
        train(silent, tmp_path / "parts", flowfield(steps=steps), quiet)
    assert same(tmp_path / "whole", tmp_path / "parts")


def test_workers_and_recomputation_change_nothing(data: Path, tmp_path: Path):
    train(data, tmp_path / "plain", config(), quiet)
    train(data, tmp_path / "workers", config(data=DataConfig(window=6, workers=1)), quiet)
    assert same(tmp_path / "plain", tmp_path / "workers")
    train(data, tmp_path / "recomputed", config(checkpointing=True), quiet)
    assert losses_of(tmp_path / "recomputed") == pytest.approx(losses_of(tmp_path / "plain"), rel=1e-5)


def test_other_data_is_refused(data: Path, tmp_path: Path):
    train(data, tmp_path / "run", config(steps=2), quiet)
    other = prepared(tmp_path / "other", clips=4)
    with pytest.raises(InputError, match=r"data\.index: was"):
        train(other, tmp_path / "run", config(), quiet)


# --- several processes --------------------------------------------------------------------------------------------


def processes(data: Path, run: Path, steps: int, sharding: str) -> str:
    """Train in two processes; returns what they printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "tests.sharded", str(data), str(run), str(steps), sharding]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def near(first: Path, second: Path) -> None:
    """Check that two runs are equal, up to the rounding of sums in another order."""
    a, b = (checkpoint.latest(run, quiet) for run in (first, second))
    assert a is not None
    assert b is not None
    assert a.step == b.step
    for name in a.parts:
        torch.testing.assert_close(b.parts[name], a.parts[name], rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_two_processes_equal_one_and_resume_as_one(data: Path, tmp_path: Path, sharding: str):
    train(data, tmp_path / "one", config(), quiet)
    said = processes(data, tmp_path / "run", 2, sharding)
    assert said.count(f"sharded {sharding == 'fsdp'}") == 2
    assert said.count(" 0.5" if sharding == "fsdp" else " 1.00") == 2  # of the weights in each
    assert flowreel.load(tmp_path / "run").config.trained.step == 2
    assert len(list((tmp_path / "run" / "previews" / "2").glob("*.png"))) == 2
    train(data, tmp_path / "run", config(), quiet)
    near(tmp_path / "one", tmp_path / "run")


def test_shards_resume_a_run_of_one_process(data: Path, tmp_path: Path):
    train(data, tmp_path / "one", config(), quiet)
    train(data, tmp_path / "run", config(steps=2), quiet)
    said = processes(data, tmp_path / "run", 4, "fsdp")
    assert said.count("sharded True") == 2
    near(tmp_path / "one", tmp_path / "run")


def test_sharding_needs_several_processes(data: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"torchrun --nproc_per_node N"):
        train(data, tmp_path / "run", config(sharding="fsdp"), quiet)


@pytest.mark.skipif(os.name != "posix", reason="there are no process groups")
def test_ending_the_whole_process_group_saves(data: Path, tmp_path: Path):
    command = [sys.executable, "-m", "flowreel", "train", str(data), str(tmp_path / "run"), "--data.workers", "1"]
    command += ["--model.dim", "16", "--model.depth", "1", "--model.heads", "2", "--data.window", "6", "--batch", "4"]
    command += ["--steps", "100000", "--log", "1", "--preview", "0", "--objective.contexts", "2"]
    root, environment = Path(__file__).parents[2], {**os.environ, "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        assert running.stdout is not None
        said = [running.stdout.readline() for _ in range(3)]  # it trains
        os.killpg(running.pid, signal.SIGTERM)
        rest, _ = running.communicate(timeout=200)
    finally:
        running.kill()
    assert running.returncode == 130, "".join(said) + rest
    assert "Traceback" not in rest
    assert "the same command resumes from there" in rest
    assert checkpoint.steps(tmp_path / "run")


# --- what a sample's randomness hangs on --------------------------------------------------------------------------


def drawn(data: Path, settings: TrainConfig, monkeypatch: pytest.MonkeyPatch, world: int, start: int) -> list[Tensor]:
    """All inputs of the loss of step ``start``, sample by sample, in the order of positions."""
    seen: list[list[Tensor]] = []

    def note(model, latents, noise, t, label, *rest):  # noqa: ARG001
        labels = [label[stream].unsqueeze(1).float() for stream in latents]
        parts = [group[stream].flatten(1) for group in (latents, noise, t) for stream in latents]
        seen.append([torch.cat([*parts, *labels], dim=1)])
        return {}

    monkeypatch.setattr(objective, "losses", note)
    for rank in range(world):
        task = FlowTask(data, settings, quiet)
        batches = task.batches(start, rank, world)
        for _ in range(settings.optim.accumulate):
            task.losses(task.module, next(batches))
    return [row for part in seen for row in part[0]]


@pytest.mark.parametrize("degrade", [0.0, 0.7])
def test_sample_depends_on_its_number_alone(data: Path, monkeypatch, degrade: float):
    law = replace(config().objective, degrade=degrade)
    whole = drawn(data, config(batch=8, steps=8, objective=law), monkeypatch, world=1, start=2)
    shared = config(batch=8, steps=8, objective=law, optim=OptimConfig(accumulate=2))
    cut = drawn(data, shared, monkeypatch, world=2, start=2)
    smaller = drawn(data, config(batch=4, steps=8, objective=law), monkeypatch, world=1, start=4)
    assert len(whole) == len(cut) == 8
    assert all(torch.equal(a, b) for a, b in zip(whole, cut, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(whole[:4], smaller, strict=True))
    assert len({tuple(row[-80:].tolist()) for row in whole}) == 8  # and no two samples are alike
    other = drawn(data, config(batch=8, steps=8, seed=1), monkeypatch, world=1, start=2)
    assert not any(torch.equal(a, b) for a, b in zip(whole, other, strict=True))


def test_a_share_of_the_samples_is_degraded(data: Path, monkeypatch):
    plain = drawn(data, config(batch=16, steps=8), monkeypatch, world=1, start=0)
    degraded = drawn(
        data, config(batch=16, steps=8, objective=replace(config().objective, degrade=0.5)), monkeypatch, 1, 0
    )
    half = len(plain[0]) // 2  # the latents are in front; what is drawn after them may differ
    changed = sum(not torch.equal(a[:half], b[:half]) for a, b in zip(plain, degraded, strict=True))
    assert 2 <= changed <= 14


def test_data_without_classes_has_no_labels(silent: Path, monkeypatch):
    labels: list[object] = []

    def note(model, latents, noise, t, label, *rest):  # noqa: ARG001
        labels.append(label)
        return {}

    monkeypatch.setattr(objective, "losses", note)
    task = FlowTask(silent, flowfield(), quiet)
    task.losses(task.module, next(task.batches(0, 0, 1)))
    assert labels == [None]


@pytest.mark.parametrize(("scale", "conditioned"), [(1.5, None), (1.5, 3.0), (1.0, 3.0)])
@pytest.mark.parametrize("roles", [ALL_ROLES, RoleShares(joint=0, audio_clean=1)])
def test_samples_that_kept_their_class_learn_guidance(
    data: Path, roles: RoleShares, scale: float, conditioned: float | None, monkeypatch: pytest.MonkeyPatch
):
    seen: list[tuple[object, ...]] = []
    monkeypatch.setattr(objective, "losses", lambda *arguments: seen.append(arguments) or {})
    settings = config(
        batch=64,
        objective=ObjectiveConfig(roles=roles, contexts=(2,), guidance=scale, conditioned_guidance=conditioned),
    )
    task = FlowTask(data, settings, quiet)
    task.losses(task.module, next(task.batches(0, 0, 1)))
    _, latents, _, times, label, _, guidance, unconditional, counted = seen[0]
    dropped = torch.stack([rows == 2 for rows in label.values()]).any(0)  # type: ignore[attr-defined]
    assert 0 < int(dropped.sum()) < 64
    whole = torch.stack([(rows == 1).all(1) for rows in times.values()]).any(0)  # type: ignore[attr-defined]
    assert bool(whole.any())
    assert torch.equal(guidance, torch.where(dropped, 1.0, torch.where(whole, conditioned or scale, scale)))
    assert all(bool(rows.all()) for rows in counted.values())  # there is no lookahead
    if roles.joint:
        _, less = unconditional(latents, times)  # type: ignore[operator]
        assert not any(bool((rows == 1).all(1).any()) for rows in less.values())
    else:
        assert unconditional is None  # the model never generates both


def test_guidance_needs_classes_or_conditioning(data: Path, silent: Path):
    learn = ObjectiveConfig(guidance=2.0)
    with pytest.raises(InputError, match=r"set model\.class_dropout above 0"):
        FlowTask(data, config(model=ModelConfig(dim=16, depth=1, heads=2, class_dropout=0.0)), quiet)
    with pytest.raises(InputError, match="needs classes or conditioning: set it to 1"):
        FlowTask(silent, config(objective=learn), quiet)
    conditioned = ObjectiveConfig(conditioned_guidance=2.0, roles=RoleShares(joint=1, audio_clean=1))
    with pytest.raises(InputError, match=r"objective\.conditioned_guidance 2 needs a null class"):
        FlowTask(
            data, config(model=ModelConfig(dim=16, depth=1, heads=2, class_dropout=0.0), objective=conditioned), quiet
        )
    FlowTask(silent, config(objective=conditioned), quiet)  # there is no audio to condition on
    with pytest.raises(InputError, match=r"objective\.conditioned_guidance must be at least 1, not 0\.5"):
        replace(conditioned, conditioned_guidance=0.5)
    with pytest.raises(InputError, match="is for samples with a clean stream"):
        ObjectiveConfig(conditioned_guidance=2.0)


def test_learnt_guidance_and_lookaheads_are_known_of_the_model(data: Path, silent: Path, tmp_path: Path):
    trained = flowreel.load(train(data, tmp_path / "run", config(steps=1), quiet)).config.trained
    assert (trained.guidance, trained.lookaheads) == (1.5, (2,))
    said: list[str] = []
    further = config(steps=1, init=str(tmp_path / "run"), objective=ObjectiveConfig())
    train(data, tmp_path / "further", further, said.append)
    assert "the pipeline to start from was trained with guidance 1.5, this run with 1" in said
    assert "the pipeline to start from was trained with conditioned guidance 1.5, this run with 1" in said
    more = config(steps=1, objective=replace(config().objective, conditioned_guidance=3.0))
    assert flowreel.load(train(data, tmp_path / "more", more, quiet)).config.trained.conditioned_guidance == 3.0
    plain = config(steps=1, objective=ObjectiveConfig(lookaheads=(2,)))
    assert flowreel.load(train(silent, tmp_path / "silent", plain, quiet)).config.trained.lookaheads == ()


@pytest.mark.parametrize(("ahead", "message"), [(3, "lookahead of 3"), (6, "lookahead of 6"), (-2, "lookahead of -2")])
def test_lookaheads_leave_whole_blocks(ahead: int, message: str):
    with pytest.raises(InputError, match=message):
        config(objective=ObjectiveConfig(blocks=(2,), lookaheads=(ahead,)))
    with pytest.raises(InputError, match=r"model\.causal is set"):
        config(model=ModelConfig(causal=True, positions="rope"), objective=ObjectiveConfig(lookaheads=(2,)))


def test_roles_that_need_audio_are_left_out_without_it(silent: Path):
    lines: list[str] = []
    unguided = config(objective=replace(config().objective, guidance=1.0))
    task = FlowTask(silent, unguided, lines.append)
    assert set(task.roles) <= {"joint", "context"}
    assert any("audio_clean, independent, video_clean are left out" in line for line in lines)
    only_sound = replace(unguided.objective, roles=RoleShares(joint=0, audio_clean=1))
    with pytest.raises(InputError, match="give joint or context a share"):
        FlowTask(silent, config(objective=only_sound), quiet)


# --- held-out clips -----------------------------------------------------------------------------------------------


def validated(run: Path) -> list[dict[str, str]]:
    with (run / "validation.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_validation_is_the_same_every_time_and_on_test_clips_alone(tmp_path: Path):
    held_out = prepared(tmp_path / "data", test=2)
    settings = config(validate=2, data=DataConfig(window=6, validation=6), batch=4)
    train(held_out, tmp_path / "run", settings, quiet)
    rows = validated(tmp_path / "run")
    assert [row["step"] for row in rows] == ["2", "4"]
    assert list(rows[0]) == ["step", "loss", "video", "audio"]
    task = FlowTask(held_out, settings, quiet)
    pipe = flowreel.load(tmp_path / "run")
    again = [task.validate(pipe.model) for _ in range(2)]
    assert again[0] == again[1]
    assert again[0]["loss"] == pytest.approx(float(rows[1]["loss"]), rel=1e-4)
    assert again[0]["loss"] == pytest.approx(again[0]["video"] + again[0]["audio"])
    other = FlowTask(held_out, config(validate=2, data=DataConfig(window=6, validation=6), batch=2), quiet)
    assert other.validate(pipe.model)["loss"] == pytest.approx(again[0]["loss"], rel=1e-5)
    assert task.held_out is not None
    assert {entry.path for entry in task.held_out.entries} == {"3.mp4", "4.mp4"}
    assert {entry.path for entry in task.dataset.entries} == {"0.mp4", "1.mp4", "2.mp4"}


def test_without_test_clips_there_is_no_validation(data: Path, tmp_path: Path):
    train(data, tmp_path / "run", config(steps=1, validate=1), quiet)
    assert not (tmp_path / "run" / "validation.csv").exists()


# --- going on from a pipeline -------------------------------------------------------------------------------------


def velocity(pipe: flowreel.Pipeline, label: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = {stream: torch.randn(1, 6, *shape, generator=generator) for stream, shape in pipe.model.shape.streams.items()}
    t = {stream: torch.full((1, 6), 0.4) for stream in x}
    with torch.no_grad():
        return pipe.model(x, t, torch.tensor([label]))


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.allclose(first[stream], second[stream], atol=1e-6) for stream in first)


@pytest.fixture(scope="module")
def begun(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(data, tmp_path_factory.mktemp("begun") / "run", config(), quiet)


@pytest.mark.parametrize("classes", [("high", "middle", "low"), ("low", "high"), ()])
def test_finetuning_starts_with_the_outputs_of_the_pipeline(begun: Path, tmp_path: Path, classes: tuple[str, ...]):
    other = prepared(tmp_path / "data", classes=classes, clips=6)
    said: list[str] = []
    settings = config(steps=1, init=str(begun), optim=OptimConfig(lr=1e-12, warmup=0, weight_decay=0.0))
    settings = replace(settings, ema=EMAConfig(decay=0.0), model=ModelConfig(dim=64))
    train(other, tmp_path / "run", settings, said.append)
    start, tuned = flowreel.load(begun), flowreel.load(tmp_path / "run")
    assert tuned.config.model == start.config.model
    assert tuned.config.codec == start.config.codec  # and its statistics
    assert tuned.config.classes == classes
    null = len(start.classes)
    for place, name in enumerate(classes):
        known = start.classes.index(name) if name in start.classes else null
        assert equal(velocity(tuned, place), velocity(start, known)), name
    assert equal(velocity(tuned, len(classes)), velocity(start, null))
    assert any("starting from step 4" in line for line in said)
    assert not classes or any(f"new: {'middle' if 'middle' in classes else 'none'}" in line for line in said)


def test_finetuning_resumes_to_the_bit(begun: Path, tmp_path: Path):
    other = prepared(tmp_path / "data", classes=("high", "new"))
    train(other, tmp_path / "whole", config(init=str(begun)), quiet)
    for steps in (2, 4):
        train(other, tmp_path / "parts", config(steps=steps, init=str(begun)), quiet)
    assert same(tmp_path / "whole", tmp_path / "parts")
    nothing = tmp_path / "nothing"
    train(other, nothing, config(), quiet)
    assert not same(tmp_path / "whole", nothing)


def test_finetuning_on_other_latents_is_refused(begun: Path, tmp_path: Path):
    other = prepared(tmp_path / "data")
    torch.manual_seed(5)
    config_, timing = Codec.load(other / "codec").config, Timing(10, 16000, 160)
    Codec(config_, timing, video_module=TinyAutoencoder(config_.video)).save(other / "codec")
    with pytest.raises(InputError, match=r"another autoencoder than the pipeline.*--codec PIPE"):
        train(other, tmp_path / "run", config(init=str(begun)), quiet)
    mute = prepared(tmp_path / "mute", has_audio=False)
    with pytest.raises(InputError, match="has no audio, but the pipeline to start from was trained with"):
        train(mute, tmp_path / "run", config(init=str(begun)), quiet)


def test_finetuning_on_audio_of_other_levels_is_refused_with_both(begun: Path, tmp_path: Path):
    other = prepared(tmp_path / "data")
    codec = Codec.load(begun / "codec")
    audio = replace(codec.config.audio, peak=0.5, channel="first")
    codec.with_config(replace(codec.config, audio=audio)).save(other / "codec")
    with pytest.raises(InputError, match=r"peak 0.5 \(the pipeline: 0.0\) and channel first \(the pipeline: mean\)"):
        train(other, tmp_path / "run", config(init=str(begun)), quiet)
    assert not (tmp_path / "run").exists()


# --- what comes out -----------------------------------------------------------------------------------------------


def test_run_folder_is_a_pipeline_with_its_training_on_record(data: Path, tmp_path: Path):
    said: list[str] = []
    train(data, tmp_path / "run", config(preview=4), said.append)
    assert not [line for line in said if "WARNING" in line]
    pipe = flowreel.load(tmp_path / "run")
    trained = pipe.config.trained
    assert (trained.window, trained.blocks, trained.contexts, trained.step) == (6, (1, 2), (0, 2), 4)
    assert trained.roles == ("joint", "independent", "audio_clean", "video_clean", "context")
    assert pipe.config.classes == ("low", "high")
    saved = checkpoint.latest(tmp_path / "run", quiet)
    assert saved is not None
    weights = pipe.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in saved.ema.items())
    previews = {path.name for path in (tmp_path / "run" / "previews" / "4").iterdir()}
    assert previews == {"0-low.mp4", "0-low.png", "1-high.mp4", "1-high.png"}
    check_shown_again(tmp_path / "run", lambda: train(data, tmp_path / "run", config(preview=4), said.append))
    assert not [line for line in said if "WARNING" in line]


def test_only_contexts_that_were_trained_are_on_record(data: Path, tmp_path: Path):
    only = config(steps=1, objective=ObjectiveConfig(roles=RoleShares(joint=0, context=1), contexts=(2, 4)))
    train(data, tmp_path / "only", only, quiet)
    assert flowreel.load(tmp_path / "only").config.trained.contexts == (2, 4)
    joint = config(steps=1, objective=ObjectiveConfig(contexts=(2, 4)))
    train(data, tmp_path / "joint", joint, quiet)
    assert flowreel.load(tmp_path / "joint").config.trained.contexts == (0,)
    assert flowreel.load(tmp_path / "joint").config.trained.roles == ("joint",)


def test_training_learns(data: Path, tmp_path: Path):
    settings = config(
        steps=120, batch=8, save=120, log=20, objective=ObjectiveConfig(), optim=OptimConfig(lr=5e-3, warmup=5)
    )
    train(data, tmp_path / "run", settings, quiet)
    losses = losses_of(tmp_path / "run")
    assert losses[-1] < 0.75 * losses[0], losses
