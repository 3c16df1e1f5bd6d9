"""Loading, generating, streaming, steering, saving."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import flowreel
from flowreel.config import ConvertConfig, GenerateConfig
from flowreel.errors import InputError
from flowreel.flow.noise import sample_seed
from flowreel.flow.sampling import stream
from flowreel.media import Clip
from flowreel.pipeline import stream as generation
from flowreel.pipeline.conditioning import stack
from flowreel.pipeline.loading import load
from flowreel.pipeline.pipeline import Pipeline
from tests.conftest import GOLDEN, tiny_pipeline


def same(a: Clip, b: Clip) -> None:
    np.testing.assert_array_equal(a.frames, b.frames)
    assert (a.audio is None) == (b.audio is None)
    if a.audio is not None and b.audio is not None:
        np.testing.assert_allclose(a.audio, b.audio, atol=1e-5)


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return tiny_pipeline()


def test_clip_has_the_asked_length_sound_and_class(pipe: Pipeline) -> None:
    clip = pipe.generate(seconds=1.2, label="high")
    assert clip.frames.shape == (12, 16, 16, 3)
    assert clip.audio is not None
    assert clip.audio.shape == (12 * 1600,)
    assert (clip.fps, clip.sample_rate, clip.label) == (10, 16000, "high")


def test_same_seed_same_clip_other_seed_other_clip(pipe: Pipeline) -> None:
    same(pipe.generate(seconds=0.8, seed=3), pipe.generate(seconds=0.8, seed=3))
    other = pipe.generate(seconds=0.8, seed=4, label="low")
    assert not np.array_equal(other.frames, pipe.generate(seconds=0.8, seed=3, label="low").frames)


def test_a_longer_roll_begins_like_a_shorter_one(pipe: Pipeline) -> None:
    short, long = (pipe.generate(seconds=s, label=0) for s in (0.5, 1.5))
    np.testing.assert_array_equal(long.frames[:5], short.frames)


def test_sample_does_not_depend_on_its_batch(pipe: Pipeline) -> None:
    seeds = [sample_seed(5, k) for k in range(3)]
    together = list(pipe.clips([0, 1, None], seeds, seconds=0.7))
    alone = Clip.join(chunk[0] for chunk in pipe.clips([1], [seeds[1]], seconds=0.7))
    joined = Clip.join(chunk[1] for chunk in together)
    assert np.abs(joined.frames.astype(int) - alone.frames).max() <= 1  # float tolerance may turn a rounding


def test_stream_is_the_clip_and_can_be_steered(pipe: Pipeline) -> None:
    stream = pipe.stream(label=0, seed=2)
    clip = Clip.join(itertools.islice(stream, 6))
    np.testing.assert_array_equal(clip.frames, pipe.generate(label=0, seed=2, seconds=clip.seconds).frames)
    steered, plain = pipe.stream(label=0, seed=2), pipe.stream(label=0, seed=2)
    for _ in range(3):
        same(next(steered), next(plain))
    steered.steer(label="high", guidance=2.0)
    chunks = [(next(steered), next(plain)) for _ in range(8)]
    assert chunks[-1][0].label == "high"
    assert any(not np.array_equal(a.frames, b.frames) for a, b in chunks)
    with pytest.raises(InputError, match="no class is called 'none'"):
        steered.steer(label="none")


def test_a_model_that_knows_cuts_begins_another_scene_behind_those_that_have_taken_shape(pipe: Pipeline) -> None:
    config = replace(pipe.config, trained=replace(pipe.config.trained, cuts=True))
    knowing = Pipeline(pipe.model, pipe.codec, config)
    steered, plain = knowing.stream(label="low", seed=2), pipe.stream(label="low", seed=2)
    for _ in range(3):
        same(next(steered), next(plain))
    steered.steer(label="high")
    window, made = config.trained.window, 0
    labels: list[str | None] = []
    while "high" not in labels[:-1] and made < 3 * window:
        chunk = next(steered)
        made += len(chunk.frames)
        labels += [chunk.label] * len(chunk.frames)
    # frames wait in the decoder for their sound, so the cut is at least as far away as the kept part of the window
    assert labels.index("high") >= window - max(1, window // 3)
    assert labels == sorted(labels, reverse=True)
    generation = steered._generation
    generation._classes.change(0, 0)
    generation._classes.change(1, generation._start + 2)
    assert generation._classes.window(generation._start, 4).tolist() == [[0, 0, 1, 1]]  # type: ignore[union-attr]
    first = knowing.stream(label="low", seed=2)
    first.steer(label="high")
    same(next(first), next(knowing.stream(label="high", seed=2)))


def test_a_steer_that_is_refused_changes_nothing(pipe: Pipeline) -> None:
    steered, plain = pipe.stream(label=0, seed=2), pipe.stream(label=0, seed=2)
    unguided = replace(pipe.config, model=replace(pipe.config.model, class_dropout=0))
    steered._generation._config = unguided
    with pytest.raises(InputError, match="class dropout"):
        steered.steer(label="high", guidance=2.0)
    same(next(steered), next(plain))
    classless = tiny_pipeline(classes=())
    with pytest.raises(InputError, match="no classes"):
        classless.stream(seed=1).steer(label="high")


def test_history_in_sight_keeps_the_class_that_it_had(pipe: Pipeline) -> None:
    config = replace(pipe.config, trained=replace(pipe.config.trained, cuts=True))
    stream = Pipeline(pipe.model, pipe.codec, config).stream(label="low", seed=1, context=2)
    for _ in range(4):
        next(stream)
    stream.steer(label="high")
    generation = stream._generation
    window = config.trained.window
    for _ in range(3 * window):
        next(stream)
        labels = generation._classes.window(generation._start, window)
        assert labels is not None
        if labels.ndim == 1:
            continue
        cut = labels[0].tolist().index(1)
        assert generation._classes.at(generation._start).item() == 0
        assert generation._start + cut == generation._classes._changes[-1][0]


def test_samples_in_step_may_each_be_given_something(pipe: Pipeline) -> None:
    clips = [pipe.generate(label=0, seed=seed, seconds=0.8) for seed in (1, 2)]
    seeds = [sample_seed(5, k) for k in range(2)]
    for kind in ("audio", "video", "prefix"):
        conditionings = [pipe.condition(**{kind: clip}) for clip in clips]
        together = list(pipe.clips([0, 1], seeds, seconds=0.8, conditioning=stack(conditionings)))
        for k in range(2):
            alone = Clip.join(c[0] for c in pipe.clips([k], [seeds[k]], seconds=0.8, conditioning=conditionings[k]))
            joined = Clip.join(chunk[k] for chunk in together)
            assert np.abs(joined.frames.astype(int) - alone.frames).max() <= 1
    with pytest.raises(InputError, match="same kind and length"):
        stack([conditionings[0], pipe.condition(audio=clips[0])])
    with pytest.raises(InputError, match="conditioning for 2 samples, but 3 seeds"):
        pipe.clips([0, 1, 0], [1, 2, 3], seconds=0.8, conditioning=stack(conditionings))


def test_given_sound_and_picture_stay_as_they_are(pipe: Pipeline) -> None:
    clip = pipe.generate(seconds=1.0, seed=9)
    for_sound = pipe.generate(audio=clip, seed=1)
    np.testing.assert_array_equal(for_sound.audio, clip.audio)
    assert len(for_sound.frames) == 10
    for_picture = pipe.generate(video=clip, seed=1)
    np.testing.assert_array_equal(for_picture.frames, clip.frames)
    assert for_picture.audio is not None
    other = pipe.generate(video=pipe.generate(seconds=1.0, seed=10, label=0), seed=1)
    assert not np.allclose(for_picture.audio, other.audio, atol=1e-3)


def test_guidance_follows_what_is_given_where_the_model_knows_it_both_ways() -> None:
    """Beside the class: so it changes a model for which the classes are all one."""
    both, alone = (tiny_pipeline(roles=roles) for roles in (("joint", "audio_clean"), ("audio_clean",)))
    for pipe in (both, alone):
        for embedding in pipe.model.class_embed.values():
            torch.nn.init.zeros_(embedding.weight)
    sound = both.generate(seconds=1.0, seed=9)
    guided, free = (both.generate(audio=sound, seed=1, label=0, guidance=g).frames for g in (3.0, 1.0))
    assert not np.array_equal(guided, free)
    guided, free = (alone.generate(audio=sound, seed=1, label=0, guidance=g).frames for g in (3.0, 1.0))
    assert np.abs(guided.astype(int) - free).max() <= 1
    longer = both.stream(audio=sound, seed=1, label=0, guidance=3.0)  # and goes on when the sound has ended
    assert sum(len(next(longer).frames) for _ in range(25)) > 15


def test_bfloat16_is_nearly_the_same(pipe: Pipeline) -> None:
    fine, coarse = (
        pipe.generate(seconds=0.6, seed=3, label=0, guidance=2.0, precision=p) for p in ("float32", "bfloat16")
    )
    difference = np.abs(fine.frames.astype(int) - coarse.frames).mean()
    assert 0 < difference < 8
    with pytest.raises(InputError, match="precision must be one of float32, bfloat16, not 'float8'"):
        pipe.generate(seconds=0.6, precision="float8")


def test_prefix_is_gone_on_from_and_not_repeated(pipe: Pipeline) -> None:
    clip = pipe.generate(seconds=1.0, seed=9)
    more = pipe.generate(prefix=clip, seconds=0.6, label=0)
    assert len(more.frames) == 6
    other = pipe.generate(prefix=pipe.generate(seconds=1.0, seed=11), seconds=0.6, label=0)
    assert not np.array_equal(more.frames, other.frames)
    with pytest.raises(InputError, match="2 frames of history"):
        pipe.generate(prefix=pipe.generate(seconds=0.1), seconds=0.5)


def test_history_grows_from_nothing(pipe: Pipeline) -> None:
    assert len(pipe.generate(seconds=1.5, context=2).frames) == 15


def test_gradient_guidance_where_the_role_was_not_trained() -> None:
    pipe = tiny_pipeline(roles=("joint",))
    clip = pipe.generate(seconds=1.0, seed=9)
    guided, free = (pipe.generate(audio=clip, seed=1, label=0, gradient_scale=s) for s in (50.0, 0.0))
    assert not np.array_equal(guided.frames, free.frames)
    np.testing.assert_array_equal(guided.audio, clip.audio)
    with pytest.warns(UserWarning, match="not seen in training"):
        pipe.generate(audio=clip, method="hold")


def test_other_frame_rate_needs_rotary_positions(pipe: Pipeline) -> None:
    clip = pipe.generate(seconds=0.5, fps=20)
    assert (len(clip.frames), clip.fps) == (10, 20)
    assert clip.audio is not None
    assert len(clip.audio) == 8000
    with pytest.raises(InputError, match=r"train with model\.positions=rope"):
        tiny_pipeline(positions="learned").generate(fps=20)
    with pytest.raises(InputError, match="choose one of"):
        pipe.generate(fps=24)


def test_learned_positions_refuse_another_window() -> None:
    with pytest.warns(UserWarning, match="trained with 6"), pytest.raises(InputError, match="one learned position"):
        tiny_pipeline(positions="learned").generate(window=8)


def test_what_is_given_is_seen_as_far_ahead_as_training_has_shown(
    pipe: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(
        generation, "stream", lambda *given, **more: asked.append(more["lookahead"]) or stream(*given, **more)
    )
    sound = pipe.generate(seconds=1.0)
    ahead = tiny_pipeline(roles=("joint", "audio_clean"), lookaheads=(2, 4))
    ahead.generate(label=0, audio=sound)
    ahead.generate(label=0, audio=sound, lookahead=2)
    ahead.generate(label=0, seconds=1.0)
    ahead.generate(label=0, audio=sound, method="gradient")
    assert asked[-4:] == [4, 2, 0, 0]
    with pytest.warns(UserWarning, match="blocks of 2"):
        ahead.generate(label=0, audio=sound, block=2)
    with pytest.warns(UserWarning, match="frames: the model was trained with") as warned:
        ahead.generate(label=0, audio=sound, block=3)  # none of those that were trained leaves whole blocks
    assert any("a lookahead of 0 frames" in str(warning.message) for warning in warned)
    assert asked[-2:] == [4, 0]
    with pytest.warns(UserWarning, match="lookahead of 1 frames: the model was trained with 2, 4"):
        ahead.generate(label=0, audio=sound, lookahead=1)
    with pytest.warns(UserWarning, match="lookahead of 2 frames"):
        ahead.generate(label=0, seconds=1.0, lookahead=2)
    with pytest.raises(InputError, match="lookahead 6 can't be cut"):
        ahead.generate(label=0, audio=sound, lookahead=6)


def test_clip_model_makes_clips_and_does_not_roll() -> None:
    pipe = tiny_pipeline(
        sound=False, kind="flowfield", positions="sincos", blocks=(6,), contexts=(0,), roles=("joint",)
    )
    assert len(pipe.generate().frames) == 6
    with pytest.warns(UserWarning, match="trained with 6"):
        assert len(pipe.generate(seconds=0.9).frames) == 9
    with pytest.raises(InputError, match="can't roll"):
        pipe.stream()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label": "loud"}, "choose one of low, high"),
        ({"label": 7}, "index from 0 to 1"),
        ({"seconds": -1}, "above 0"),
        ({"block": 4}, "can't be cut into blocks"),
        ({"steps": 0}, "at least 1|trained"),
        ({"audio": "nowhere.wav"}, "does not exist"),
        ({"solver": "rk4"}, "one of euler, heun"),
    ],
)
def test_bad_requests(pipe: Pipeline, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pipe.generate(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [-1.0, -1e-9, float("nan"), float("inf"), "2", True])
def test_scales_below_0_and_what_is_no_number_are_refused(scale: float) -> None:
    pipe = tiny_pipeline()
    for name in ("guidance", "gradient_scale"):
        with pytest.raises(InputError, match=f"{name} must be a number of 0 or more, not"):
            pipe.generate(seconds=0.4, **{name: scale})
        with pytest.raises(InputError, match=f"--{name} must be a number of 0 or more, not"):
            GenerateConfig(**{name: scale})
    with pytest.raises(InputError, match="--guidance must be a number of 0 or more, not"):
        ConvertConfig(guidance=scale)
    stream = pipe.stream()
    with pytest.raises(InputError, match="guidance must be a number of 0 or more"):
        stream.steer(guidance=scale)


def test_guidance_0_leaves_the_class_out() -> None:
    pipe = tiny_pipeline()
    one, other = (pipe.generate(seconds=0.4, seed=1, label=label, guidance=0).frames for label in (0, 1))
    assert np.array_equal(one, other)


def test_guidance_needs_classes_and_dropout() -> None:
    with pytest.raises(InputError, match="needs classes"):
        tiny_pipeline(classes=()).generate(guidance=2)
    with pytest.raises(InputError, match="class dropout"):
        tiny_pipeline(class_dropout=0.0).generate(guidance=2)
    with pytest.raises(InputError, match="has no classes"):
        tiny_pipeline(classes=()).generate(label="low")


def test_save_then_load_gives_the_same_clip(pipe: Pipeline, tmp_path: Path) -> None:
    loaded = load(pipe.save(tmp_path / "pipe"))
    assert loaded.config == pipe.config
    same(loaded.generate(seconds=0.6, seed=1), pipe.generate(seconds=0.6, seed=1))
    assert isinstance(flowreel.load(str(tmp_path / "pipe")), flowreel.Pipeline)


def test_published_folders_load_convert_and_keep_their_velocity(tmp_path: Path) -> None:
    published = load(GOLDEN / "rflav_joint")
    ours = load(published.save(tmp_path / "ours"))
    x = {k: torch.randn(1, 4, *shape) for k, shape in published.config.shape.streams.items()}
    t = {k: torch.rand(1, 4) for k in x}
    with torch.no_grad():
        a, b = (p.model(x, t, torch.tensor([1])) for p in (published, ours))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_unknown_audio_scale_is_asked_for_when_sound_is_decoded() -> None:
    clips = load(GOLDEN / "rflav_joint").clips([0], [1], seconds=0.4, steps=1)
    with pytest.raises(InputError, match=r"audio_scale|sd-vae"):
        next(clips)
    assert load(GOLDEN / "rflav_joint", audio_scale=3.5).config.codec.audio.scale == 3.5  # type: ignore[union-attr]


def test_what_is_not_a_pipeline_is_refused(tmp_path: Path, pipe: Pipeline) -> None:
    with pytest.raises(InputError, match="there is nothing at"):
        load(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no config\.json"):
        load(tmp_path / "empty")
    folder = pipe.save(tmp_path / "pipe")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(InputError, match="can't be used"):
        load(folder)
    shutil.rmtree(folder)
    config = json.loads((pipe.save(folder) / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "format_version": 99}))
    with pytest.raises(InputError, match="format 99"):
        load(folder)


def test_hub_repos_are_fetched_and_pushed(pipe: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    hub = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **_: str(hub / repo))
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda _, repo, **__: f"hub:{repo}")
    monkeypatch.setattr(
        huggingface_hub.HfApi,
        "upload_folder",
        lambda _, repo_id, folder_path: shutil.copytree(folder_path, hub / repo_id),
    )
    assert pipe.push_to_hub("someone/bells") == "hub:someone/bells"
    same(load("someone/bells").generate(seconds=0.5, seed=1), pipe.generate(seconds=0.5, seed=1))
    shutil.copytree(GOLDEN / "rflav_causal_uncond", hub / "MaverickAlex" / "R-FLAV-B-1-LS")
    published = load("MaverickAlex/R-FLAV-B-1-LS")
    assert published.config.codec.audio is not None
    assert published.config.codec.audio.scale == 3.0951129410195515


def test_a_repo_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def refuse(*_: object, **__: object) -> str:
        raise OSError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(InputError, match="someone/none could not be fetched: no connection"):
        load("someone/none")


@pytest.mark.parametrize("blocks", [(6,), (1,)])
def test_nothing_beyond_the_asked_length_is_sampled(blocks: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny_pipeline(blocks=blocks, contexts=(0,))
    calls = []
    run = type(pipe.model).run
    monkeypatch.setattr(type(pipe.model), "run", lambda self, x, plan: calls.append(1) or run(self, x, plan))
    clip = pipe.generate(seconds=0.6, steps=3)
    assert len(clip.frames) == 6
    warm_up = 3 * 6 // blocks[0]
    assert len(calls) == warm_up + 3 * (6 // blocks[0] - 1)


@pytest.mark.filterwarnings("ignore:a prefix beside")
def test_a_prefix_and_a_sound_that_is_followed_by_the_gradient() -> None:
    pipe = tiny_pipeline(roles=("joint", "context"))
    given = pipe.generate(seconds=1.0, seed=9)
    clip = pipe.generate(prefix=given, audio=given, seed=1, label=0)
    np.testing.assert_array_equal(clip.audio, given.audio)
    assert len(clip.frames) == 10
    assert not np.array_equal(clip.frames[:2], given.frames[-2:])  # history is not yielded again


def test_a_stream_that_follows_by_the_gradient_ends_with_what_it_follows() -> None:
    pipe = tiny_pipeline(roles=("joint",), contexts=(0,))
    given = pipe.generate(seconds=0.9, seed=9)
    rolled = Clip.join(pipe.stream(audio=given, seed=1))
    np.testing.assert_array_equal(rolled.audio, given.audio)
    held = tiny_pipeline().stream(audio=given, seed=1)
    assert sum(len(next(held).frames) for _ in range(3)) > 0


def test_steps_belong_to_the_smallest_trained_block(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny_pipeline(blocks=(1, 3), contexts=(0,))
    calls: list[int] = []
    run = type(pipe.model).run
    monkeypatch.setattr(type(pipe.model), "run", lambda self, x, plan: calls.append(1) or run(self, x, plan))
    for block, turns in ((1, 6), (3, 2)):
        calls.clear()
        pipe.generate(seconds=0.1, block=block)
        assert len(calls) == 2 * block * turns


def test_what_goes_on_from_a_clip_warms_up_finer(monkeypatch: pytest.MonkeyPatch) -> None:
    rolling = tiny_pipeline(roles=("joint", "context"), contexts=(0, 2))  # a window of 6 frames, 2 steps a turn
    prefix = rolling.generate(seconds=1.0, seed=9)
    calls: list[int] = []
    run = type(rolling.model).run
    monkeypatch.setattr(type(rolling.model), "run", lambda self, x, plan: calls.append(1) or run(self, x, plan))

    def count(pipe: Pipeline, **given: object) -> int:
        calls.clear()
        pipe.generate(seconds=0.1, label=0, **given)  # type: ignore[arg-type]
        return len(calls)

    assert count(rolling) == 2 * 6
    assert count(rolling, prefix=prefix) == 4 * 4
    assert count(rolling, prefix=prefix, warmup_steps=3) == 3 * 4
    with pytest.raises(InputError, match="warmup_steps must be at least 1, not 0"):
        rolling.generate(seconds=0.1, warmup_steps=0)


def test_untrained_values_are_warned_about() -> None:
    pipe = tiny_pipeline(contexts=(2,), roles=("context",))
    with pytest.warns(UserWarning, match="context of 0 frames"):
        pipe.generate(seconds=0.2)
    given = tiny_pipeline().generate(seconds=0.5)
    with pytest.warns(UserWarning, match="ends after"):
        tiny_pipeline().generate(audio=given, seconds=2)
    clips = tiny_pipeline(
        kind="flowfield", sound=False, positions="sincos", blocks=(6,), contexts=(0,), roles=("joint",)
    )
    with pytest.raises(InputError, match="at most"):
        clips.generate(seconds=60)


def test_devices_and_saving_onto_a_file_are_refused(pipe: Pipeline, tmp_path: Path) -> None:
    folder = pipe.save(tmp_path / "pipe")
    with pytest.raises(InputError, match="can't be used here"):
        load(folder, device="abacus")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        pipe.save(tmp_path / "file")
    (folder / "config.json").write_text(json.dumps({"format_version": 1}))
    with pytest.raises(InputError, match="incomplete"):
        load(folder)


def test_another_autoencoder_is_used_and_copied(pipe: Pipeline, tmp_path: Path) -> None:
    other = tiny_pipeline()
    with torch.no_grad():
        for parameter in other.codec.video.module.parameters():
            parameter.mul_(0.5)
    other.codec.save(tmp_path / "codec")
    folder = pipe.save(tmp_path / "pipe")
    changed = load(folder, autoencoder=str(tmp_path / "codec"))
    assert not np.array_equal(changed.generate(seconds=0.3).frames, load(folder).generate(seconds=0.3).frames)
    same(load(changed.save(tmp_path / "again")).generate(seconds=0.3), changed.generate(seconds=0.3))


def test_a_notebook_gets_clear_errors(pipe: Pipeline) -> None:
    assert pipe.generate(seconds=0.2, label=np.int64(1)).label == "high"  # type: ignore[arg-type]
    for wrong, message in (
        ({"second": 4}, "did you mean seconds"),
        ({"seconds": "4"}, "must be a number"),
        ({"seconds": float("inf")}, "must be a number"),
        ({"label": 1.5}, "no class is called 1.5"),
        ({"audio": np.zeros(1600, np.float32)}, "must be a Clip or the path"),
    ):
        with pytest.raises(InputError, match=message):
            pipe.generate(**wrong)  # type: ignore[arg-type]
    assert "2 classes" in repr(pipe)
    assert repr(pipe.generate(seconds=0.2)).startswith("Clip(2 frames of 16x16")


def test_saved_files_can_be_read_by_others(pipe: Pipeline, tmp_path: Path) -> None:
    folder = pipe.save(tmp_path / "pipe")
    modes = {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}
    assert len(modes) == 1
