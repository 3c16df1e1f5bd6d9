"""Clips in and out of files: video and audio with exact times, in constant memory.

``clip`` is what a clip is, ``reader`` and ``writer`` are PyAV (FFmpeg), ``color`` and ``hdr`` convert a frame to 8-bit
RGB, ``deinterlace`` makes whole frames of fields, ``discontinuity`` one clock of several, ``resize`` fits frames into a
size and ``figures`` draws a clip on one page. Nothing here knows of latents or of torch. Files need PyAV and Pillow,
which are imported when a name that needs them is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowreel.utils.lazy import attributes

if TYPE_CHECKING:
    from flowreel.media.audio import read_audio
    from flowreel.media.clip import Clip
    from flowreel.media.figures import contact_sheet, spectrogram, stack_images, with_spectrogram
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
    "read_audio",
    "resize_frames",
    "samples_for",
    "spectrogram",
    "stack_images",
    "with_spectrogram",
]

__getattr__ = attributes(
    __name__,
    {
        "Clip": "flowreel.media.clip",
        "samples_for": "flowreel.media.clip",
        "contact_sheet": "flowreel.media.figures",
        "spectrogram": "flowreel.media.figures",
        "stack_images": "flowreel.media.figures",
        "with_spectrogram": "flowreel.media.figures",
        "MediaInfo": "flowreel.media.reader",
        "iterate": "flowreel.media.reader",
        "probe": "flowreel.media.reader",
        "Fit": "flowreel.media.resize",
        "resize_frames": "flowreel.media.resize",
        "read_audio": "flowreel.media.audio",
        "Writer": "flowreel.media.writer",
    },
)
