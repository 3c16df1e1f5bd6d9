"""Media: what is transparent is seen over black, whatever colours it hides."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from flowreel.media import Clip, probe
from tests.filming import even_times, grey, make

HEIGHT, WIDTH, COUNT = 48, 64, 5


def layers(dtype: type = np.uint8) -> np.ndarray:
    """Pictures (T, H, W, 4): the left third transparent, the middle half so, the right opaque, of one strong colour."""
    top = np.iinfo(dtype).max
    pictures = np.zeros((COUNT, HEIGHT, WIDTH, 4), dtype)
    pictures[..., :3] = [int(0.8 * top), int(0.4 * top), int(0.2 * top)]
    pictures[:, :, 16:32, 3] = top // 2
    pictures[:, :, 32:, 3] = top
    return pictures


SEEN = (np.array([[0.0], [0.5], [1.0]]) * np.array([204, 102, 51]))[:, None]  # of the three stretches


def film(path: Path, codec: str, pixels: str, deep: bool = False, **options: str) -> Path:
    form = "rgba64le" if deep else "rgba"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, pixels
        for number, picture in enumerate(layers(np.uint16 if deep else np.uint8)):
            frame = av.VideoFrame.from_ndarray(picture, format=form).reformat(format=pixels)
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def stretches(picture: np.ndarray) -> np.ndarray:
    """The mean colours (3, 1, 3) of the three stretches, away from their edges."""
    return np.stack([picture[8:40, begin : begin + 8].reshape(-1, 3).mean(axis=0) for begin in (4, 20, 44)])[:, None]


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "deep", "within"),
    [
        ("a.mkv", "ffv1", "bgra", False, 1),
        ("a.mkv", "ffv1", "yuva420p", False, 4),
        ("a.mov", "qtrle", "argb", False, 1),
        ("a.mov", "png", "rgba", False, 1),
        ("a.mov", "png", "rgba64be", True, 1),
        ("a.mov", "prores_ks", "yuva444p10le", True, 4),
        ("a.mkv", "ffv1", "gbrap16le", True, 1),
        ("a.webm", "libvpx-vp9", "yuva420p", False, 6),
        ("a.webm", "libvpx", "yuva420p", False, 10),
    ],
)
def test_hidden_colours_stay_hidden(tmp_path, name, codec, pixels, deep, within):
    options = {"auto-alt-ref": "0", "crf": "4", "b": "4M"} if codec.startswith("libvpx") else {}
    path = film(tmp_path / name, codec, pixels, deep, **options)
    clip = Clip.read(path)
    assert clip.frames.shape == (COUNT, HEIGHT, WIDTH, 3)
    for picture in clip.frames:
        assert np.abs(stretches(picture) - SEEN).max() <= within
    assert probe(path).seconds == clip.seconds
    later = Clip.read(path, start=0.2)
    assert np.array_equal(later.frames, clip.frames[2:])


@pytest.mark.parametrize("pixels", ["ya8", "ya16be"])
def test_grey_with_transparency(tmp_path, pixels):
    path = film(tmp_path / "a.mov", "png", pixels, pixels != "ya8")
    light = 0.299 * 204 + 0.587 * 102 + 0.114 * 51
    seen = stretches(Clip.read(path).frames[0])[:, 0, 0]
    assert seen == pytest.approx([0, light / 2, light], abs=2)


def test_a_transparent_neighbour_does_not_bleed_into_a_smaller_picture(tmp_path):
    path = film(tmp_path / "a.mkv", "ffv1", "bgra")
    small = Clip.read(path, size=(12, 16)).frames[0].astype(int)
    black = layers()[0]
    composed = (black[..., :3].astype(float) * black[..., 3:] / 255).round().astype(np.uint8)
    want = np.asarray(Image.fromarray(composed).resize((16, 12), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(small - want).max() <= 4
    assert small[:, :3].max() <= 4, "nothing is seen where all is transparent"


def test_moving_gif_over_black(tmp_path):
    path = tmp_path / "a.gif"
    picture = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    picture[..., 0], picture[:, 32:, 3] = 200, 255
    images = [Image.fromarray(np.roll(picture, shift, axis=0)) for shift in range(3)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=100, loop=0, disposal=2)
    frames = Clip.read(path).frames
    assert frames[:, :, 2:28].max() == 0
    assert np.abs(frames[:, :, 36:].astype(int) - [200, 0, 0]).max() <= 8


def test_webp_and_film_agree(tmp_path):
    images = [Image.fromarray(picture) for picture in layers()[:2]]
    images[1].putpixel((60, 40), (0, 0, 0, 0))  # pictures that are equal would be one
    path = tmp_path / "a.webp"
    images[0].save(path, save_all=True, append_images=images[1:], duration=100, lossless=True, exact=True)
    webp = Clip.read(path).frames[0]
    film_ = Clip.read(film(tmp_path / "a.mkv", "ffv1", "bgra")).frames[0]
    assert np.abs(webp.astype(int) - film_).max() <= 1


def test_an_opaque_vp9_is_read_by_the_usual_decoder(tmp_path, monkeypatch):
    path = make(tmp_path / "a.webm", grey([20, 120, 220]), even_times(3, 10))
    monkeypatch.setattr("flowreel.media.demux._WITH_ALPHA", {"vp9": "there is none"})
    assert len(Clip.read(path).frames) == 3
