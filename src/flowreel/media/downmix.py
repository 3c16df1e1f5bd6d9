"""Mixes surround audio down to one channel, by ITU-R BS.775-3 (annex 4, table 2).

Centre and surrounds go into left and right at -3 dB, the low frequency effects are left out. So stereo audio that is
stored with silent surround channels is as loud as it is without them. Knows loudspeakers, not files.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

DOWNMIX = "ITU-R BS.775"

_LESS = 0.5**0.5  # -3 dB
_SIDE, _MIDDLE = 0.5, 1.0  # mean of the pair: of what is in one of the two, of what is in both
_WEIGHTS = {
    **dict.fromkeys(("FL", "FR", "FLC", "FRC", "WL", "WR", "DL", "DR", "BFL", "BFR"), _SIDE),
    **dict.fromkeys(("FC", "BFC"), _MIDDLE * _LESS),
    **dict.fromkeys(("SL", "SR", "BL", "BR", "SDL", "SDR", "TFL", "TFR", "TBL", "TBR", "TSL", "TSR"), _SIDE * _LESS),
    **dict.fromkeys(("BC", "TC", "TFC", "TBC"), _MIDDLE * _LESS * _LESS),  # shared between two surrounds at -3 dB each
    **dict.fromkeys(("LFE", "LFE2"), 0.0),
}


# What FFmpeg takes channels for where a file does not name them, as PCM in Matroska.
_GUESSED = {
    3: ("FL", "FR", "LFE"),
    4: ("FL", "FR", "FC", "BC"),
    5: ("FL", "FR", "FC", "BL", "BR"),
    6: ("FL", "FR", "FC", "LFE", "BL", "BR"),
    7: ("FL", "FR", "FC", "LFE", "BC", "SL", "SR"),
    8: ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"),
}


def downmix(channels: Sequence[str]) -> np.ndarray | None:
    """The weight of each channel, (channels,) float32, by FFmpeg's names of loudspeakers such as "FL" and "LFE".

    Where no channel has a name they are taken as FFmpeg does. None where a name is not known, or where there is nothing
    but low frequency effects: then nothing better is known than the mean of all.
    """
    if set(channels) == {"NONE"}:
        channels = _GUESSED.get(len(channels), channels)
    weights = np.array([_WEIGHTS.get(name, np.nan) for name in channels], np.float32)
    return weights if weights.sum() > 0 else None
