"""Clips in and out of files: pictures and sound with exact times, in constant memory.

``clip`` is what a clip is, ``reading`` and ``writing`` are PyAV (FFmpeg), ``rgb`` and ``hdr`` bring a picture to 8-bit
RGB, ``resize`` fits pictures into a size and ``pictures`` draws a clip on one page. Nothing here knows of latents or of
torch.
"""

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
