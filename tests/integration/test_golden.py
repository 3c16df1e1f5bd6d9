"""Numbers that the two published systems' own code gave, from their own checkpoint formats."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flowreel.flow.guidance import classifier_free, gradient
from flowreel.flow.objective import losses
from flowreel.flow.sampling import stream
from flowreel.flow.schedule import ramp, roll
from flowreel.flow.solver import euler, heun, integrate
from flowreel.flow.types import Latents
from flowreel.models import CachedModulation, Network, build
from flowreel.pipeline.published import read_published
from tests.conftest import GOLDEN, close

RFLAV = ("rflav_joint", "rflav_causal_uncond")
FLOWFIELD = ("flowfield_temporal", "flowfield_spatial")


def load(path: Path) -> Network:
    published = read_published(path)
    config = published.config
    model = build(config.model, config.shape, config.num_classes, config.trained.window).eval()
    model.load_state_dict(published.state)
    return model


def pair(data: dict[str, torch.Tensor], prefix: str = "") -> Latents:
    return {k: data[f"{prefix}{k}"] for k in ("video", "audio")}


def both(t: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"video": t, "audio": t}


@pytest.fixture(params=RFLAV)
def rflav(request: pytest.FixtureRequest) -> tuple[Network, Path]:
    folder = GOLDEN / request.param
    return load(folder), folder


@pytest.fixture(params=FLOWFIELD)
def flowfield(request: pytest.FixtureRequest) -> tuple[Network, dict[str, torch.Tensor]]:
    folder = GOLDEN / request.param
    return load(folder / "content.pt"), load_file(folder / "golden.safetensors")


@torch.no_grad()
def test_rflav_forward(rflav: tuple[Network, Path]) -> None:
    model, folder = rflav
    g = load_file(folder / "forward.safetensors")
    velocity = model(pair(g), both(g["t"]), g.get("label"))
    close(velocity["video"], g["velocity_video"])
    close(velocity["audio"], g["velocity_audio"])
    if "label" in g:
        guided = classifier_free(model, g["label"], 3.0)(pair(g), both(g["t"]), both(g["t"]))
        close(guided["video"], g["cfg3_velocity_video"])
        close(guided["audio"], g["cfg3_velocity_audio"])


@pytest.mark.parametrize("prefix", ["", "cfg2.5_"])
@pytest.mark.parametrize("remember", [False, True])
@torch.no_grad()
def test_rflav_rolling(rflav: tuple[Network, Path], prefix: str, remember: bool) -> None:
    model, folder = rflav
    g = load_file(folder / "rolling.safetensors")
    if f"{prefix}frames_video" not in g:
        pytest.skip("recorded for the model with classes alone")
    fresh = pair(g, f"{prefix}fresh_")
    first = itertools.count()

    def noise(_: int) -> Latents:
        i = next(first)
        return pair(g, "noise_") if i == 0 else {k: v[:, i - 1 : i] for k, v in fresh.items()}

    steps = int(g["steps_per_frame"])
    sampler = CachedModulation(model, entries=steps) if remember else model
    velocity = classifier_free(sampler, g.get("label"), 2.5 if prefix else 1.0)
    want = pair(g, f"{prefix}frames_")
    rolled = itertools.islice(stream(velocity, noise, model.window, steps), want["video"].shape[1])
    for i, frame in enumerate(rolled):
        close(frame["video"][:, 0], want["video"][:, i])
        close(frame["audio"][:, 0], want["audio"][:, i])


@pytest.mark.parametrize(("name", "weight"), [("loss_uniform", "none"), ("loss_logit", "logit_normal")])
def test_rflav_loss(rflav: tuple[Network, Path], name: str, weight: str) -> None:
    model, folder = rflav
    g = load_file(folder / f"{name}.safetensors")
    parts = losses(model, pair(g), pair(g, "noise_"), both(g["t"]), g.get("label"), weight=weight)  # type: ignore[arg-type]
    close(sum(parts.values()).detach(), g["loss"])  # type: ignore[union-attr]


@pytest.mark.parametrize(("name", "known", "free"), [("a2v", "audio", "video"), ("v2a", "video", "audio")])
def test_rflav_gradient_guidance(rflav: tuple[Network, Path], name: str, known: str, free: str) -> None:
    model, folder = rflav
    g = load_file(folder / f"{name}_first_frame.safetensors")
    window = model.window
    given, stored = ({known: g[key][:, :window]} for key in (f"known_{known}", f"noise_{'known'}"))
    scale = float(g["scale"]) / len(given[known])  # published: the mean also runs over the batch
    velocity = gradient(model, g.get("label"), given, stored, scale)
    start = {free: g[f"noise_{free}"], known: stored[known]}
    first = next(stream(velocity, lambda _: start, window, int(g["steps_per_frame"])))
    close(first[free][:, 0], g["first_frame"])
    close(first[known][:, 0], given[known][:, 0])


def test_gradient_guidance_does_not_depend_on_the_batch() -> None:
    model = load(GOLDEN / "rflav_joint")
    g = load_file(GOLDEN / "rflav_joint" / "a2v_first_frame.safetensors")
    t = both(torch.full((2, 4), 0.4))
    x = {"video": g["noise_video"], "audio": g["noise_known"][:, :4]}

    def velocity(rows: slice) -> torch.Tensor:
        cut = lambda v: v[rows]  # noqa: E731
        guided = gradient(
            model, g["label"][rows], {"audio": cut(g["known_audio"][:, :4])}, {"audio": cut(x["audio"])}, 5.0
        )
        times = {k: cut(v) for k, v in t.items()}
        return guided({k: cut(v) for k, v in x.items()}, times, times)["video"]

    close(velocity(slice(0, 1)), velocity(slice(0, 2))[:1])


@torch.no_grad()
def test_flowfield_forward(flowfield: tuple[Network, dict[str, torch.Tensor]]) -> None:
    model, g = flowfield
    t = {"video": g["t"][:, None].expand(-1, model.window)}
    close(model({"video": g["video"]}, t, g["label"])["video"], g["velocity"])
    close(classifier_free(model, g["label"], 4.0)({"video": g["video"]}, t, t)["video"], g["cfg4_velocity"])


@pytest.mark.parametrize("name", ["euler", "heun"])
@pytest.mark.parametrize("scale", [1, 4])
@torch.no_grad()
def test_flowfield_samples(flowfield: tuple[Network, dict[str, torch.Tensor]], name: str, scale: int) -> None:
    model, g = flowfield
    frames, step = model.window, {"euler": euler, "heun": heun}[name]
    velocity = classifier_free(model, g["label"], scale)
    want = g[f"sample_{name}_cfg{scale}_steps5"]
    u = torch.linspace(0, 1, 6)
    for schedule in (ramp, roll):
        close(integrate(velocity, {"video": g["video"]}, schedule(u, frames, frames), step)["video"], want)
    clip = next(stream(velocity, lambda _: {"video": g["video"]}, frames, 5, block=frames, step=step))
    close(clip["video"], want)


def test_flowfield_loss(flowfield: tuple[Network, dict[str, torch.Tensor]]) -> None:
    model, g = flowfield
    t = {"video": g["loss_t"][:, None].expand(-1, model.window)}
    parts = losses(model, {"video": g["video"]}, {"video": g["loss_noise"]}, t, g["label"])
    close(parts["video"].detach(), g["loss"])
