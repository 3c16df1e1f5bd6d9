"""Our small autoencoder: shapes, files, and that it learns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from flowreel.codec import TinyAutoencoder
from flowreel.config import VideoCodecConfig
from flowreel.errors import InputError


def pictures(count: int, side: int = 16) -> torch.Tensor:
    """Bright discs on black, (N, 3, H, W) in [-1, 1]."""
    centre = torch.rand(count, 2, 1, 1) * side
    grid = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"))
    inside = ((grid - centre).square().sum(1) < 9).float()[:, None]
    return inside * torch.rand(count, 3, 1, 1) * 2 - 1


@pytest.mark.parametrize(
    ("channels", "factor", "width"), [(8, 8, 32), (4, 2, 8), (3, 4, 16), (12, 16, 8), (5, 8, 8), (40, 4, 8)]
)
@torch.no_grad()
def test_shapes_follow_the_config(channels: int, factor: int, width: int) -> None:
    model = TinyAutoencoder(VideoCodecConfig(channels=channels, factor=factor, width=width)).eval()
    x = torch.rand(2, 3, 2 * factor, 3 * factor) * 2 - 1
    mean, logvar = model.encode(x)
    assert mean.shape == logvar.shape == (2, channels, 2, 3)
    assert model.decode(mean).shape == x.shape


@torch.no_grad()
def test_frames_are_independent_of_their_batch() -> None:
    model = TinyAutoencoder().eval()
    x = torch.rand(3, 3, 16, 24) * 2 - 1
    together = model.encode(x)[0]
    torch.testing.assert_close(model.encode(x[1:2])[0], together[1:2], atol=1e-5, rtol=0)
    torch.testing.assert_close(model.decode(together[1:2]), model.decode(together)[1:2], atol=1e-5, rtol=0)


def test_log_variance_is_bounded() -> None:
    model = TinyAutoencoder(VideoCodecConfig(width=8))
    logvar = model.encode(torch.full((1, 3, 8, 8), 1e6))[1]
    assert logvar.min() >= -30
    assert logvar.max() == 2, "noise of such a frame is no more than e"


@torch.no_grad()
def test_save_then_load_gives_the_same(tmp_path: Path) -> None:
    model = TinyAutoencoder(VideoCodecConfig(channels=4, factor=4, width=8)).eval()
    model.save(tmp_path / "tiny")
    loaded = TinyAutoencoder.load(tmp_path / "tiny")
    assert (loaded.channels, loaded.factor, loaded.width, loaded.training) == (4, 4, 8, False)
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(loaded.encode(x)[0], model.encode(x)[0])
    assert torch.equal(loaded.decode(x.new_ones(1, 4, 2, 2)), model.decode(x.new_ones(1, 4, 2, 2)))


def test_broken_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        TinyAutoencoder.load(tmp_path)
    TinyAutoencoder(VideoCodecConfig(width=8)).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "width": 16}))
    with pytest.raises(InputError, match=r"does not fit the config\.json beside it: .*and \d+ more"):
        TinyAutoencoder.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"width": 8}))
    with pytest.raises(InputError, match="channels, factor and width"):
        TinyAutoencoder.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="missing or damaged"):
        TinyAutoencoder.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factor": 6}, "power of two, not 6"),
        ({"factor": 1}, "power of two, not 1"),
        ({"width": 12}, "multiple of 8, not 12"),
        ({"channels": 0}, "at least 1 latent channel"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TinyAutoencoder(VideoCodecConfig(**change))


def test_frames_that_do_not_divide_are_refused() -> None:
    with pytest.raises(InputError, match="20x16 can't be encoded: both must be multiples of 8"):
        TinyAutoencoder().encode(torch.zeros(1, 3, 20, 16))


def test_it_learns() -> None:
    model = TinyAutoencoder(VideoCodecConfig(channels=8, factor=4, width=16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    errors = []
    for _ in range(60):
        x = pictures(16)
        error = (model.decode(model.encode(x)[0]) - x).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert sum(errors[-5:]) < 0.2 * sum(errors[:5])
