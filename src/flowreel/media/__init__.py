"""Clips in and out of files: pictures and sound with exact times, in constant memory.

``clip`` is what a clip is, ``reading`` and ``writing`` are PyAV (FFmpeg), ``rgb`` and ``hdr`` bring a picture to 8-bit
RGB, ``deinterlace`` makes whole pictures of fields, ``discontinuity`` one clock of several, ``resize`` fits pictures
into a size and ``pictures`` draws a clip on one page. Nothing here knows of latents or of torch. Files need PyAV and
Pillow, which are imported when a name that needs them is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowreel.utils.lazy import attributes

if TYPE_CHECKING:
    from flowreel.media.audio import read_sound
    from flowreel.media.clip import Clip
    from flowreel.media.figures import contact_sheet, spectrogram, stack_pictures, with_sound_below
    from flowreel.media.reader import MediaInfo, iterate, probe
    from flowreel.media.resize import Fit, resize_frames
    from flowreel.media.timing import samples_for
    from flowreel.media.writer import Writer

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
        "contact_sheet": "flowreel.media.figures",
        "spectrogram": "flowreel.media.figures",
        "stack_pictures": "flowreel.media.figures",
        "with_sound_below": "flowreel.media.figures",
        "MediaInfo": "flowreel.media.reader",
        "iterate": "flowreel.media.reader",
        "probe": "flowreel.media.reader",
        "Fit": "flowreel.media.resize",
        "resize_frames": "flowreel.media.resize",
        "read_sound": "flowreel.media.audio",
        "Writer": "flowreel.media.writer",
    },
)
