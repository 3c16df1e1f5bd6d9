"""Clips in and out of files: pictures and sound with exact times, in constant memory.

``clip`` is what a clip is, ``reading`` and ``writing`` are PyAV (FFmpeg), ``rgb`` and ``hdr`` bring a picture to 8-bit
RGB, ``deinterlace`` makes whole pictures of fields, ``discontinuity`` one clock of several, ``resize`` fits pictures
into a size and ``pictures`` draws a clip on one page. Nothing here knows of latents or of torch. Files need PyAV and
Pillow, which are imported when a name that needs them is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowreel.lazy import attributes

if TYPE_CHECKING:
    from flowreel.media.clip import Clip, samples_for
    from flowreel.media.pictures import contact_sheet, spectrogram, stack_pictures, with_sound_below
    from flowreel.media.reading import MediaInfo, iterate, probe
    from flowreel.media.resize import Fit, resize_frames
    from flowreel.media.sound import read_sound
    from flowreel.media.writing import Writer

__all__ = [
    "Clip",
    "Fit",
    "MediaInfo",
    "Writer",
    "contact_sheet",
    "iterate",
    "probe",
    "read_sound",
    "resize_frames",
    "samples_for",
    "spectrogram",
    "stack_pictures",
    "with_sound_below",
]

__getattr__ = attributes(
    __name__,
    {
        "Clip": "flowreel.media.clip",
        "samples_for": "flowreel.media.clip",
        "contact_sheet": "flowreel.media.pictures",
        "spectrogram": "flowreel.media.pictures",
        "stack_pictures": "flowreel.media.pictures",
        "with_sound_below": "flowreel.media.pictures",
        "MediaInfo": "flowreel.media.reading",
        "iterate": "flowreel.media.reading",
        "probe": "flowreel.media.reading",
        "Fit": "flowreel.media.resize",
        "resize_frames": "flowreel.media.resize",
        "read_sound": "flowreel.media.sound",
        "Writer": "flowreel.media.writing",
    },
)
