"""HiFi-GAN against its golden values; chunk by chunk against the whole; the Griffin-Lim fallback."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from flowreel.codec import mel
from flowreel.codec.griffin_lim import Blocks
from flowreel.codec.hifigan import HiFiGAN, VocoderConfig
from flowreel.codec.vocoder import GriffinLim, StreamingVocoder, load
from flowreel.config import MelConfig
from flowreel.errors import InputError
from tests.conftest import GOLDEN, close

from .test_mel import chirp, loud_error

NAMES = ("vocoder_0", "vocoder_1")
SMALL = MelConfig(n_fft=512, win_length=512, hop=160, bins=40)

CONFIGS = {
    "odd": VocoderConfig(6, 16, (5, 2), (11, 4), (3, 7), ((1, 3), (1, 2)), "1"),
    "even": VocoderConfig(6, 16, (4, 3), (8, 9), (3, 5), ((1,), (2, 3)), "2"),
    "no overlap": VocoderConfig(6, 16, (4, 2), (4, 2), (3,), ((1,),), "2"),
    "wide upsampling": VocoderConfig(6, 16, (2, 3), (12, 14), (3,), ((1, 3),), "1"),
}


def build(name: str) -> HiFiGAN:
    torch.manual_seed(3)
    return HiFiGAN(CONFIGS[name]).double().eval()


@torch.no_grad()
def stream(vocoder: HiFiGAN | GriffinLim, log_mel: torch.Tensor, chunks: Iterable[int]) -> torch.Tensor:
    streaming = StreamingVocoder(vocoder, len(log_mel))
    pieces, start = [], 0
    for chunk in chunks:
        pieces.append(streaming.push(log_mel[..., start : start + chunk]))
        start += chunk
    assert start == log_mel.shape[-1]
    return torch.cat([*pieces, streaming.finish()], 1)


# --- golden and files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_golden_values_and_save_then_load(name: str, tmp_path: Path) -> None:
    golden = load_file(GOLDEN / name / "golden.safetensors")
    vocoder = load(GOLDEN / name)
    assert not vocoder.training
    waveform = vocoder(golden["log_mel"])
    close(waveform, golden["waveform"].squeeze(1))
    vocoder.save(tmp_path / "ours")
    assert torch.equal(load(tmp_path / "ours")(golden["log_mel"]), waveform)


def test_both_names_of_weight_norm_and_none_load(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "vocoder_1", tmp_path, dirs_exist_ok=True)
    state = torch.load(tmp_path / "vocoder.pt", weights_only=True)["generator"]
    new = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    renamed = {
        key.removesuffix(end) + new.get(end, end): value for key, value in state.items() for end in [key.split(".")[-1]]
    }
    expected = load(GOLDEN / "vocoder_1").state_dict()
    for generator in (renamed, expected):
        torch.save({"generator": generator}, tmp_path / "vocoder.pt")
        loaded = load(tmp_path).state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in expected.items())


def test_settings_of_training_in_the_config_are_passed_over(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "vocoder_1", tmp_path, dirs_exist_ok=True)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "learning_rate": 1e-4, "resblock": 2}))
    assert load(tmp_path).config.resblock == "2"


def test_what_is_not_a_vocoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no config\.json"):
        load(tmp_path)
    shutil.copytree(GOLDEN / "vocoder_1", tmp_path, dirs_exist_ok=True)
    values = json.loads((tmp_path / "config.json").read_text())
    weights = (tmp_path / "vocoder.pt").read_bytes()
    (tmp_path / "vocoder.pt").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(InputError, match=r"vocoder\.pt is not a readable torch checkpoint"):
        load(tmp_path)
    torch.save({"discriminator": {}}, tmp_path / "vocoder.pt")
    with pytest.raises(InputError, match="it has no generator"):
        load(tmp_path)
    (tmp_path / "vocoder.pt").write_bytes(weights)
    (tmp_path / "config.json").write_text(json.dumps({**values, "num_mels": 25}))
    with pytest.raises(InputError, match=r"conv_pre\.weight is \(32, 24, 7\), not \(32, 25, 7\)"):
        load(tmp_path)
    (tmp_path / "vocoder.pt").unlink()
    with pytest.raises(InputError, match=r"neither model\.safetensors nor vocoder\.pt"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="it lacks num_mels"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resblock": "3"}, "'1' or '2'"),
        ({"upsample_rates": (5,)}, "1 upsample_rates, 2"),
        ({"upsample_kernel_sizes": (4, 4)}, "below the rates"),
        ({"resblock_kernel_sizes": (3, 4)}, "must be odd"),
        ({"resblock_dilation_sizes": ((1,),)}, "differ in length"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(CONFIGS["odd"], **change)  # type: ignore[arg-type]


def test_other_mel_bins_are_refused() -> None:
    with pytest.raises(InputError, match=r"takes a log-mel \(B, 6, N\)"):
        HiFiGAN(CONFIGS["odd"])(torch.zeros(1, 5, 4))


# --- context ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_length_and_context_are_exact(name: str) -> None:
    """The gradient of one step's samples vanishes outside the context, and not at its two ends."""
    vocoder = build(name)
    before, after = vocoder.context
    middle, steps = before + 3, before + after + 7
    log_mel = torch.randn(1, 6, steps, dtype=torch.float64, requires_grad=True)
    waveform = vocoder(log_mel)
    assert waveform.shape == (1, steps * vocoder.hop)
    of_step = waveform[0, middle * vocoder.hop : (middle + 1) * vocoder.hop]
    seen = torch.zeros(steps, dtype=torch.bool)
    for sample in (of_step[0], of_step[-1]):
        (gradient,) = torch.autograd.grad(sample, log_mel, retain_graph=True)
        seen |= (gradient != 0).any(1)[0]
    assert seen.nonzero()[[0, -1], 0].tolist() == [middle - before, middle + after]


def test_context_of_the_published_shape() -> None:
    config = VocoderConfig(256, 512, (5, 4, 2, 2, 2), (11, 8, 4, 4, 4), (3, 7, 11), ((1, 3, 5),) * 3)
    with torch.device("meta"):
        assert HiFiGAN(config).context == (22, 22)
    assert [load(GOLDEN / name).context for name in NAMES] == [(15, 15), (6, 6)]


# --- streaming ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(
    "chunks", [(1,) * 40, (40,), (3, 1, 0, 20, 2, 2, 12), (0, 39, 1), (7,) * 5 + (5,)], ids=lambda c: f"{len(c)} chunks"
)
def test_any_chunking_equals_the_whole(name: str, chunks: tuple[int, ...]) -> None:
    vocoder = build(name)
    log_mel = torch.randn(2, 6, 40, dtype=torch.float64)
    with torch.no_grad():
        whole = vocoder(log_mel)
    torch.testing.assert_close(stream(vocoder, log_mel, chunks), whole.float(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_golden_networks_stream_exactly(name: str) -> None:
    vocoder, log_mel = load(GOLDEN / name), load_file(GOLDEN / name / "golden.safetensors")["log_mel"].repeat(1, 1, 3)
    with torch.no_grad():
        whole = vocoder(log_mel)
    for chunks in ((1,) * 69, (10,) * 6 + (9,), (50, 19)):
        close(stream(vocoder, log_mel, chunks), whole, 1e-5)


def test_shorter_than_the_context_and_nothing_at_all() -> None:
    vocoder = build("odd")
    log_mel = torch.randn(1, 6, 2, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(stream(vocoder, log_mel, (1, 1)), vocoder(log_mel).float(), atol=1e-6, rtol=0)
    assert StreamingVocoder(vocoder, 3).finish().shape == (3, 0)


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_samples_come_as_soon_as_they_are_final_from_a_bounded_memory(name: str) -> None:
    vocoder = build(name)
    _, after = vocoder.context
    streaming = StreamingVocoder(vocoder, 1)
    made, held = 0, []
    for step in range(1, 100):
        made += streaming.push(torch.randn(1, 6, 1, dtype=torch.float64)).shape[1]
        whole = max(0, step - after) * vocoder.hop
        assert whole <= made < whole + vocoder.hop
        held.append(sum(tensor.untyped_storage().nbytes() for tensor in remembered(streaming)))
    assert len(set(held[40:])) == 1


def remembered(streaming: StreamingVocoder) -> list[torch.Tensor]:
    """What a HiFi-GAN's stream holds on to."""
    assert isinstance(streaming._advance, functools.partial)
    (pieces,) = streaming._advance.args
    return [*pieces._before.values(), *itertools.chain(*pieces._waiting.values())]


@torch.no_grad()
def test_a_stream_computes_hardly_more_than_the_whole() -> None:
    """By torch's count of operations: what a layer redoes is a tap or two of the upsampling, not its context."""
    vocoder = HiFiGAN(VocoderConfig(6, 16, (5, 4), (11, 8), (3, 7), ((1, 3), (1, 3))))
    log_mel = torch.randn(1, 6, 100)

    def work(do: Callable[[], object]) -> int:
        with FlopCounterMode(display=False) as counter:
            do()
        return counter.get_total_flops()

    assert work(lambda: stream(vocoder, log_mel, (10,) * 10)) < 1.25 * work(lambda: vocoder(log_mel))


def test_misuse_of_a_stream_is_refused() -> None:
    streaming = StreamingVocoder(build("odd"), 2)
    with pytest.raises(InputError, match="batch of 2"):
        streaming.push(torch.zeros(1, 6, 3))
    streaming.finish()
    with pytest.raises(InputError, match="finished"):
        streaming.push(torch.zeros(2, 6, 3))


# --- Griffin-Lim --------------------------------------------------------------------------------------------------


def test_griffin_lim_streams_the_same_in_any_chunking() -> None:
    log_mel = mel.log_mel(torch.cat([chirp(0.6), chirp(0.6, 800, 300)]), SMALL)
    vocoder = GriffinLim(SMALL, iterations=4)
    whole = stream(vocoder, log_mel, (60,))
    assert whole.shape == (2, 60 * 160)
    for chunks in ((1,) * 60, (25, 35), (10,) * 6):
        assert torch.equal(stream(vocoder, log_mel, chunks), whole)
    torch.testing.assert_close(stream(vocoder, log_mel[1:], (60,)), whole[1:], atol=1e-4, rtol=0)


@pytest.mark.parametrize("steps", [1, 3, 9, 10, 11, 19, 27])
def test_griffin_lim_streams_any_length(steps: int) -> None:
    sound = stream(GriffinLim(SMALL, iterations=2), torch.randn(2, 40, steps) - 3, (1,) * steps)
    assert sound.shape == (2, steps * 160)
    assert torch.isfinite(sound).all()


def test_griffin_lim_streams_without_clicks_as_well_as_the_whole() -> None:
    """A click is a kink: a second difference at a seam that stands out from those elsewhere."""
    t = torch.arange(16000) / 16000
    tone = 0.4 * torch.sin(2 * torch.pi * 440 * t)[None]
    for waveform in (tone, chirp()):
        log_mel = mel.log_mel(waveform)
        sound = stream(GriffinLim(MelConfig()), log_mel, (10,) * 10)
        error = loud_error(mel.log_mel(sound), log_mel)
        whole = loud_error(mel.log_mel(mel.griffin_lim(log_mel)), log_mel)
        assert error < 0.3
        assert error < 1.5 * whole
        kink = sound.diff(n=2).abs()[0]
        seams = torch.cat([kink[b - 4 : b + 3] for b in range(1600, 16000, 1600)])
        assert seams.max() < 1.2 * kink.max()
        assert seams.square().mean() < 2 * kink.square().mean()


@torch.no_grad()
def test_griffin_lim_holds_a_bounded_history() -> None:
    vocoder = GriffinLim(SMALL, iterations=1)
    streaming = StreamingVocoder(vocoder, 1)
    sizes = []
    for _ in range(12):
        streaming.push(torch.randn(1, 40, 10) - 3)
        blocks = streaming._advance
        assert isinstance(blocks, Blocks)
        held = [*vars(blocks).values(), *vars(blocks._render).values()]
        sizes.append(sum(t.untyped_storage().nbytes() for t in held if isinstance(t, torch.Tensor)))
    assert len(set(sizes[4:])) == 1


def test_griffin_lim_keeps_silence_silent() -> None:
    silence = mel.log_mel(torch.zeros(1, 8000))
    assert stream(GriffinLim(MelConfig(), iterations=4), silence, (50,)).abs().max() < 1e-3
