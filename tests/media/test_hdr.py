"""Deep colour: known light in PQ and HLG comes out where the tone curve says, 10 bits are right to rounding."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation, VideoReformatter

from flowreel.media import Clip, hdr
from tests.filming import X265_IN_ORDER

PQ, HLG, SDR = 16, 18, 1  # FFmpeg's numbers of the transfer, as of BT.709
BT709, BT2020 = 1, 9  # of primaries, and of matrices
LIGHT = np.array([0, 1, 10, 26, 60, 100, 203, 400, 700, 1000, 4000], float)  # cd/m2
EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
LOSSLESS = {
    "libx264": {"qp": "0", "preset": "ultrafast"},
    "libx265": {"x265-params": f"lossless=1:{X265_IN_ORDER}", "preset": "ultrafast"},
}


def make(
    path: Path, codes: np.ndarray, codec: str, pixels: str, transfer: int, colours: int, full: bool = False
) -> Path:
    """Two pictures with a block of 16 x 16 for each of the codes (N, 3) in [0, 1], tagged with their colours."""
    blocks = np.round(65535 * codes).astype(np.uint16)[None].repeat(16, axis=1).repeat(32, axis=0)
    extent = 2 if full else 1
    scaler = VideoReformatter()
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = *blocks.shape[:2], pixels
        context = stream.codec_context
        context.options = LOSSLESS.get(codec, {})
        for number in range(2):
            frame = scaler.reformat(
                av.VideoFrame.from_ndarray(blocks, format="rgb48le"),
                format=pixels,
                dst_colorspace=colours,
                dst_color_range=extent,
                interpolation=EXACT,
            )
            for tagged in (frame, context) if number == 0 else (frame,):
                tagged.color_trc, tagged.color_primaries = transfer, colours
                tagged.colorspace, tagged.color_range = colours, extent
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def grey(codes: np.ndarray) -> np.ndarray:
    return np.repeat(codes[:, None], 3, axis=1)


def colours(clip: Clip) -> np.ndarray:
    """The colour of each block, (N, 3)."""
    height, width = clip.frames.shape[1:3]
    return clip.frames[0, height // 2, height // 4 :: height // 2][: 2 * width // height].astype(int)


@pytest.mark.parametrize(
    ("codec", "pixels", "suffix"),
    [("libx265", "yuv420p10le", ".mkv"), ("libx264", "yuv422p10le", ".mp4"), ("ffv1", "yuv444p12le", ".mkv")],
)
def test_pq_light_becomes_the_tone_it_should(tmp_path, codec, pixels, suffix):
    path = make(tmp_path / f"a{suffix}", grey(hdr.pq_code(LIGHT)), codec, pixels, PQ, BT2020)
    wanted = 255 * (np.array([hdr.compress(light) for light in LIGHT]) / 203) ** (1 / 2.4)
    for size in (None, (16, 8 * len(LIGHT))):
        got = colours(Clip.read(path, size=size, fit="stretch"))
        assert np.abs(got - wanted[:, None]).max() <= 1.5
        assert (np.diff(got[:, 0]) >= 0).all()
    tones = dict(zip(LIGHT, got[:, 0], strict=True))
    assert tones[0] == 0
    assert tones[1000] == tones[4000] == 255
    assert 225 <= tones[203] <= 235  # reference white is nearly white, with room for highlights
    assert tones[400] - tones[203] < tones[203] - tones[100]  # they are compressed
    assert 95 <= tones[26] <= 115  # a grey card, which BT.709 codes as 104


def test_hlg_light_becomes_the_tone_it_should(tmp_path):
    codes = np.array([0, 0.38, 0.5, 0.75, 1])  # black, grey card, knee, reference white, peak (BT.2408, table 1)
    got = colours(Clip.read(make(tmp_path / "a.mkv", grey(codes), "libx265", "yuv420p10le", HLG, BT2020)))
    assert np.ptp(got, axis=1).max() <= 1
    assert got[0, 0] == 0
    assert 95 <= got[1, 0] <= 115
    assert 225 <= got[3, 0] <= 235
    assert got[4, 0] == 255


def test_colours_are_kept_and_what_bt709_can_not_show_is_limited(tmp_path):
    bt709 = np.array([[0.8, 0.3, 0.2], [0.2, 0.7, 0.3], [0.3, 0.4, 0.9], [0.9, 0.9, 0.1]])  # light, of white
    bt2020 = 60 * bt709 @ np.linalg.inv(hdr._TO_BT709).T  # below the knee
    pure = np.array([[0, 100, 0]])
    path = make(tmp_path / "a.mkv", hdr.pq_code(np.concatenate([bt2020, pure])), "ffv1", "yuv444p12le", PQ, BT2020)
    got = colours(Clip.read(path))
    assert np.abs(got[:-1] - 255 * (60 * bt709 / 203) ** (1 / 2.4)).max() <= 2
    assert got[-1].tolist() == [0, pytest.approx(199, abs=3), 0]


def test_wide_colours_without_high_range_become_bt709(tmp_path):
    bt709 = np.array([[1, 1, 1], [0.8, 0.3, 0.2], [0.2, 0.7, 0.3]])
    codes = (bt709 @ np.linalg.inv(hdr._TO_BT709).T) ** (1 / 2.4)
    got = colours(Clip.read(make(tmp_path / "a.mkv", codes, "ffv1", "yuv444p12le", 14, BT2020)))
    assert np.abs(got - 255 * bt709 ** (1 / 2.4)).max() <= 1


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_ten_bits_are_right_to_rounding_in_both_ranges(tmp_path, codec, full):
    levels = np.linspace(0, 1, 52)
    path = make(tmp_path / "a.mkv", grey(levels), codec, "yuv420p10le", SDR, BT709, full)
    for size in (None, (16, 8 * len(levels))):
        got = colours(Clip.read(path, size=size, fit="stretch"))
        assert np.abs(got - 255 * levels[:, None]).max() < 1.01
        assert abs((got - 255 * levels[:, None]).mean()) < 0.25


def test_the_curves_are_those_of_bt2100():
    codes = np.linspace(0, 1, 101)
    assert np.allclose(hdr.pq_code(hdr.pq_light(codes)), codes, atol=1e-6)
    assert hdr.pq_light(np.array(0.58)) == pytest.approx(203, rel=0.01)  # BT.2408, table 1
    assert hdr.pq_light(np.array(1.0)) == pytest.approx(10_000)
    assert hdr.hlg_scene(np.array([0.5, 1.0])) == pytest.approx([1 / 12, 1], abs=1e-6)
    assert 1000 * hdr.hlg_scene(np.array(0.75)) ** 1.2 == pytest.approx(203, rel=0.01)
    light = np.linspace(0, 1000, 2001)
    shown = hdr.compress(light)
    assert np.allclose(shown[light < 87], light[light < 87])
    assert (np.diff(shown) > 0).all()
    assert shown[-1] == pytest.approx(203)
    assert np.abs(np.diff(shown, 2)).max() < 0.02  # no kink at the knee
