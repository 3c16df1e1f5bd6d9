"""One interface to every autoencoder: ours and three of diffusers, from folders, lazily, in bounded batches."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from flowreel.codec import TinyAutoencoder, VideoAutoencoder
from flowreel.codec import autoencoder as video
from flowreel.config import VideoCodecConfig
from flowreel.errors import InputError

needs_diffusers = pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="diffusers is not installed")

SMALL: dict[str, dict[str, Any]] = {
    "AutoencoderKL": {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "block_out_channels": [8, 8],
        "norm_num_groups": 4,
        "latent_channels": 4,
        "layers_per_block": 1,
        "scaling_factor": 0.5,
    },
    "AutoencoderDC": {
        "latent_channels": 4,
        "attention_head_dim": 4,
        "encoder_block_types": "ResBlock",
        "decoder_block_types": "ResBlock",
        "encoder_block_out_channels": (8, 8),
        "decoder_block_out_channels": (8, 8),
        "encoder_layers_per_block": (1, 1),
        "decoder_layers_per_block": (1, 1),
        "encoder_qkv_multiscales": ((), ()),
        "decoder_qkv_multiscales": ((), ()),
        "scaling_factor": 0.4,
    },
    "AutoencoderTiny": {
        "encoder_block_out_channels": (8, 8),
        "decoder_block_out_channels": (8, 8),
        "num_encoder_blocks": (1, 1),
        "num_decoder_blocks": (1, 1),
        "latent_channels": 4,
    },
}


def settings(kind: str = "tiny", **changes: Any) -> VideoCodecConfig:
    return VideoCodecConfig(**{"kind": kind, "channels": 4, "factor": 2, "width": 8, **changes})


def frames(count: int = 3, height: int = 8, width: int = 12) -> torch.Tensor:
    return torch.randint(256, (count, height, width, 3), dtype=torch.uint8)


@pytest.fixture(params=SMALL)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[VideoCodecConfig, Any]:
    """A diffusers autoencoder with random weights: settings that name its folder, and the network."""
    diffusers = pytest.importorskip("diffusers")
    network = getattr(diffusers, request.param)(**SMALL[request.param]).eval()
    network.save_pretrained(tmp_path / "vae")
    return settings(request.param, source=str(tmp_path / "vae")), network


# --- ours ---------------------------------------------------------------------------------------------------------


def test_media_and_raw_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    module = TinyAutoencoder(settings()).train()
    autoencoder = VideoAutoencoder(settings(), module=module)
    assert not autoencoder.module.training
    x = frames(5)
    latents = autoencoder.encode(x)
    assert latents.shape == (5, 4, 4, 6)
    assert (latents.dtype, latents.requires_grad) == (torch.float32, False)
    with torch.no_grad():
        direct = module.encode(x.movedim(-1, 1) / 127.5 - 1)[0]
    torch.testing.assert_close(latents, direct)
    decoded = autoencoder.decode(latents)
    assert (decoded.shape, decoded.dtype) == (x.shape, torch.uint8)
    monkeypatch.setattr(video, "PIXELS", 2 * 8 * 12)
    torch.testing.assert_close(autoencoder.encode(x), latents, atol=1e-5, rtol=0)
    assert (autoencoder.decode(latents).int() - decoded.int()).abs().max() <= 1


def test_batches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Spy(TinyAutoencoder):
        def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            sizes.append(len(x))
            return super().encode(x)

        def decode(self, z: torch.Tensor) -> torch.Tensor:
            sizes.append(-len(z))
            return super().decode(z)

    autoencoder = VideoAutoencoder(settings(), module=Spy(settings()))
    for pixels, expected in ((2 * 96, [2, 2, 1, -2, -2, -1]), (10, [1] * 5 + [-1] * 5), (10**6, [5, -5])):
        monkeypatch.setattr(video, "PIXELS", pixels)
        sizes.clear()
        autoencoder.decode(autoencoder.encode(frames(5)))
        assert sizes == expected


def test_decoding_rounds_and_clamps() -> None:
    class Identity(torch.nn.Module):
        def decode(self, z: torch.Tensor) -> torch.Tensor:
            return z

    autoencoder = VideoAutoencoder(settings(factor=1), module=Identity())
    x = torch.tensor([-3.0, -1.0, 100.4 / 127.5 - 1, 100.6 / 127.5 - 1, 1.0, 7.0])
    decoded = autoencoder.decode(x.expand(3, -1)[None, :, None])
    assert decoded[0, 0, :, 0].tolist() == [0, 0, 100, 101, 255, 255]


def test_posterior_samples_are_drawn_frame_by_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    autoencoder = VideoAutoencoder(settings(posterior="sample"), module=TinyAutoencoder(settings()))
    x = frames(5)
    draw = lambda: torch.Generator().manual_seed(7)  # noqa: E731
    whole = autoencoder.encode(x, draw())
    generator = draw()
    parts = torch.cat([autoencoder.encode(part, generator) for part in (x[:2], x[2:])])
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)
    monkeypatch.setattr(video, "PIXELS", 96)
    torch.testing.assert_close(autoencoder.encode(x, draw()), whole, atol=1e-5, rtol=0)
    mean = VideoAutoencoder(settings(), module=autoencoder.module).encode(x)
    assert 0.5 < (whole - mean).std() < 2  # a network without training has log-variances near 0
    with pytest.raises(InputError, match="pass a generator"):
        autoencoder.encode(x)


def test_fresh_weights_are_the_same_every_time_and_leave_the_generator_alone() -> None:
    x = frames()
    state = torch.random.get_rng_state()
    a, b = (VideoAutoencoder(settings()).encode(x) for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_weights_in_a_folder_load_at_first_use(tmp_path: Path) -> None:
    first = VideoAutoencoder(settings())
    first.module.save(tmp_path / "tiny")
    x = frames()
    assert torch.equal(VideoAutoencoder(settings(), tmp_path / "tiny").encode(x), first.encode(x))
    missing = VideoAutoencoder(settings(), tmp_path / "none")  # not yet needed
    with pytest.raises(InputError, match=r"no config\.json"):
        missing.encode(x)


def test_other_settings_keep_the_network_if_it_is_the_same() -> None:
    autoencoder = VideoAutoencoder(settings(), module=TinyAutoencoder(settings()))
    scaled = autoencoder.with_config(settings(posterior="sample", shift=(1.0,), scale=(2.0,)))
    assert scaled.module is autoencoder.module
    assert autoencoder.with_config(settings(channels=6)).module is not autoencoder.module


def test_what_can_not_be_encoded_is_refused() -> None:
    with pytest.raises(InputError, match="7 x 12 can't be encoded: both must be multiples of 2"):
        VideoAutoencoder(settings()).encode(frames(1, 7))
    with pytest.raises(InputError, match="no autoencoder is of the kind 'VQModel'"):
        VideoAutoencoder(settings("VQModel"))


# --- diffusers ----------------------------------------------------------------------------------------------------


@needs_diffusers
@torch.no_grad()
def test_diffusers_kinds_from_a_folder(saved: tuple[VideoCodecConfig, Any]) -> None:
    config, network = saved
    autoencoder, x = VideoAutoencoder(config), frames(3, 8, 8)
    latents = autoencoder.encode(x)
    unit = x.movedim(-1, 1) / 127.5 - 1
    encoded = network.encode(unit)
    raw = encoded.latent_dist.mean if config.kind == "AutoencoderKL" else encoded[0]
    torch.testing.assert_close(latents, raw)
    expected = ((network.decode(raw)[0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).movedim(1, -1)
    decoded = autoencoder.decode(latents)
    assert decoded.shape == x.shape
    assert (decoded.int() - expected.int()).abs().max() <= 1


@needs_diffusers
def test_diffusers_posterior(tmp_path: Path) -> None:
    import diffusers

    diffusers.AutoencoderKL(**SMALL["AutoencoderKL"]).save_pretrained(tmp_path)
    autoencoder = VideoAutoencoder(settings("AutoencoderKL", source=str(tmp_path), posterior="sample"))
    x = frames(3, 8, 8)
    a, b, c = (autoencoder.encode(x, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@needs_diffusers
def test_diffusers_weights_in_the_codecs_own_folder(saved: tuple[VideoCodecConfig, Any], tmp_path: Path) -> None:
    config, network = saved
    own = settings(config.kind)
    VideoAutoencoder(own, module=network).save(tmp_path / "own")
    VideoAutoencoder(config).save(tmp_path / "named")  # the config says where they are
    assert not (tmp_path / "named").exists()
    x = frames(2, 8, 8)
    torch.testing.assert_close(VideoAutoencoder(own, tmp_path / "own").encode(x), VideoAutoencoder(config).encode(x))


def test_an_autoencoder_that_the_checkpoint_does_not_name_is_asked_for() -> None:
    with pytest.raises(InputError, match="its 16-channel latents are of: load it with autoencoder="):
        VideoAutoencoder(settings("AutoencoderKL", channels=16)).encode(frames())


@needs_diffusers
def test_hub_ids_without_a_network_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    name = "nobody/no-such-autoencoder"
    for kind in SMALL:
        with pytest.raises(InputError) as caught:
            VideoAutoencoder(settings(kind, source=name, revision="main")).encode(frames())
        message = str(caught.value)
        assert name in message
        assert "check the id and the network, or give the path of a folder" in message
        assert "can't be loaded" in message
        assert len(message) < 700


@needs_diffusers
def test_the_deepest_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers

    def fail(*_: Any, **__: Any) -> None:
        try:
            raise ConnectionError("Name or service not known")
        except ConnectionError as error:
            raise OSError("owner/name has no config.json\nand much more") from error

    monkeypatch.setattr(diffusers.AutoencoderKL, "from_pretrained", fail)
    with pytest.raises(InputError, match=r"owner/name has no config\.json \(Name or service not known\)\ncheck the id"):
        VideoAutoencoder(settings("AutoencoderKL", source="owner/name")).encode(frames())


@needs_diffusers
def test_broken_folders_and_paths_that_are_not_there(saved: tuple[VideoCodecConfig, Any]) -> None:
    config, _ = saved
    with pytest.raises(InputError, match=r"there is no folder \./nowhere"):
        VideoAutoencoder(settings(config.kind, source="./nowhere")).encode(frames())
    (weights,) = Path(config.source).glob("*.safetensors")
    state = load_file(weights)
    name = sorted(state)[0]
    save_file({k: v for k, v in state.items() if k != name}, weights, {"format": "pt"})
    with pytest.raises(InputError, match=f"not hold a whole {config.kind}: 1 tensors are missing, the first is {name}"):
        VideoAutoencoder(config).encode(frames())
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InputError, match="can't be loaded"):
        VideoAutoencoder(config).encode(frames())
    weights.unlink()
    with pytest.raises(InputError, match="is the folder whole, and of that kind"):
        VideoAutoencoder(config).encode(frames())


def test_missing_diffusers_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    with pytest.raises(InputError, match=r"pip install 'flowreel\[vae\]'"):
        VideoAutoencoder(settings("AutoencoderKL", source=str(tmp_path))).encode(frames())
