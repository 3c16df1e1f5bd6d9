"""Converts high dynamic range and wide gamut to SDR BT.709.

The light of a coded frame is computed in cd/m2, its peak of ``PEAK`` is brought to ``WHITE`` = 203 cd/m2, the level
of HDR's reference white (BT.2408-7, 2.1), with the knee of BT.2390-11, 5.4.1, the primaries go from BT.2020 to BT.709,
and the result is coded with the inverse of a screen's curve (BT.1886, black at 0), so that it is shown as it was meant.
With a peak of 1000 cd/m2 light below 88 cd/m2 stays as it is and reference white becomes 230 of 255. Both are fixed,
whatever a file says of the screen that it was graded on: the same light is the same colour in every clip.
"""

from __future__ import annotations

import numpy as np

WHITE = 203.0  # cd/m2 that become 1.0: BT.2408's reference white
PEAK = 1000.0  # cd/m2 that the tone curve brings to WHITE; also the screen of HLG's reference viewing (BT.2100)
PQ, HLG, WIDE = "pq", "hlg", "wide"

_TRANSFERS = {16: PQ, 18: HLG}  # AVCOL_TRC_SMPTE2084, AVCOL_TRC_ARIB_STD_B67
_BT2020, _UNSPECIFIED = 9, 2  # AVCOL_PRI_BT2020, AVCOL_PRI_UNSPECIFIED
_GAMMA = 2.4  # BT.1886

_TO_BT709 = np.array(  # linear light, ITU-R BT.2087-0, annex 2, inverted
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]], np.float32
)
_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)  # of BT.2020's primaries


def kind(transfer: int, primaries: int) -> str | None:
    """What a frame with these tags (FFmpeg's numbers) needs: PQ, HLG, WIDE (SDR in BT.2020's colours) or None."""
    return _TRANSFERS.get(transfer) or (WIDE if primaries == _BT2020 else None)


def to_sdr(coded: np.ndarray, curve: str, primaries: int = _BT2020) -> np.ndarray:
    """R'G'B' (H, W, 3) uint16, full range, as ``curve`` codes it -> SDR (H, W, 3) uint8.

    ``primaries`` are FFmpeg's number; those of high dynamic range that names none are BT.2020's.
    """
    if curve == WIDE:
        shown = _linear(WIDE)[coded]
    else:
        light = _linear(curve)[coded]
        if curve == HLG:  # BT.2100, table 5: the system gamma of 1.2 acts on luminance
            light *= PEAK * np.maximum(light @ _LUMINANCE, 1e-6)[..., None] ** 0.2
        brightest = np.maximum(light.max(axis=-1), 1e-4)  # "maxRGB": keeps hues, and no channel ends above white
        shown = light * (_tone(brightest) / brightest / WHITE)[..., None]
    if primaries in (_BT2020, _UNSPECIFIED):
        shown = shown @ _TO_BT709.T
    return np.round(255 * np.clip(shown, 0, 1) ** (1 / _GAMMA)).astype(np.uint8)


def pq_light(code: np.ndarray) -> np.ndarray:
    """PQ's code values in [0, 1] as light in cd/m2 (BT.2100, table 4: the EOTF)."""
    m1, m2, c1, c2, c3 = _PQ
    power = np.power(code, 1 / m2)
    return 10_000 * np.power(np.maximum(power - c1, 0) / (c2 - c3 * power), 1 / m1)


def pq_code(light: np.ndarray) -> np.ndarray:
    """The inverse of :func:`pq_light`."""
    m1, m2, c1, c2, c3 = _PQ
    power = np.power(np.asarray(light) / 10_000, m1)
    return np.power((c1 + c2 * power) / (1 + c3 * power), m2)


def hlg_scene(code: np.ndarray) -> np.ndarray:
    """HLG's code values in [0, 1] as the scene's light in [0, 1] (BT.2100, table 5: the inverse OETF)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)


def compress(light: np.ndarray) -> np.ndarray:
    """Light up to PEAK cd/m2 to light up to WHITE (BT.2390-11, 5.4.1: a Hermite spline above a knee, in PQ's code)."""
    top, target = pq_code(np.array(PEAK)), pq_code(np.array(WHITE))
    code, highest = np.minimum(pq_code(light) / top, 1), target / top
    knee = 1.5 * highest - 0.5
    t = np.maximum(code - knee, 0) / (1 - knee)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * highest
    return pq_light(np.where(code < knee, code, spline) * top)


_PQ = 2610 / 16384, 2523 / 4096 * 128, 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
_CURVES = {PQ: pq_light, HLG: hlg_scene, WIDE: lambda code: code**_GAMMA}
_tables: dict[str, np.ndarray] = {}
_STEPS = np.concatenate([[0.0], np.geomspace(1e-4, 10_000, 4096)])


def _linear(curve: str) -> np.ndarray:
    """Light of each 16-bit code value: (65536,) float32."""
    if curve not in _tables:
        _tables[curve] = _CURVES[curve](np.arange(65536) / 65535).astype(np.float32)
    return _tables[curve]


def _tone(light: np.ndarray) -> np.ndarray:
    """:func:`compress` by a table."""
    if "tone" not in _tables:
        _tables["tone"] = compress(_STEPS)
    return np.interp(light, _STEPS, _tables["tone"]).astype(np.float32)
