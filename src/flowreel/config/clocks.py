"""Finds the log-mel for a frame rate, so that each frame has a whole number of mel steps."""

from __future__ import annotations

from fractions import Fraction

from flowreel.config import MelConfig, Timing, pipeline
from flowreel.config.rates import NTSC, exact_rate
from flowreel.errors import InputError

# R-FLAV's log-mel (100 steps a second), and the same in seconds at 48 kHz with 120 and with 96 steps a second.
_FILM = {"sample_rate": 48000, "n_fft": 6144, "win_length": 3072, "fmax": 24000.0, "ceiling": 600.0}
MELS = (MelConfig(), MelConfig(**_FILM, hop=400), MelConfig(**_FILM, hop=500))  # type: ignore[arg-type]


def frame_rate_with_sound(fps: float) -> float:
    """The rate at which clips with audio are read: 30 for 30000/1001, and so on, as frames need whole mel steps.

    Video and audio are read by their true times, so they stay together; of 29.97 frames a second one in 1000 is
    seen twice.
    """
    rate = exact_rate(fps)
    return float(rate * Fraction(1001, 1000) if rate in NTSC else rate)


def mel_for(fps: float) -> MelConfig:
    """The log-mel for audio beside ``fps`` frames a second: at 16 kHz where it fits, else at 48 kHz (24, 30, 48, 60).
    Where none fits, the first."""
    return next((mel for mel in MELS if has_whole_steps(fps, mel)), MELS[0])


def timing_with_sound(fps: float, mel: MelConfig) -> Timing:
    """The clocks of clips with audio.

    Raises:
        InputError: the mel steps a second are no multiple of the frame rate.
    """
    if mel in MELS and not has_whole_steps(fps, mel):
        whole = [n for n in range(1, 121) if any(has_whole_steps(n, known) for known in MELS)]
        raise InputError(
            f"fps {fps:g} can't be cut into whole mel steps: with audio choose one of {', '.join(map(str, whole))}, "
            "or leave the audio out with --audio none"
        )
    return Timing(frame_rate_with_sound(fps), mel.sample_rate, mel.hop)


def has_whole_steps(fps: float, mel: MelConfig) -> bool:
    """Whether each frame of clips with audio has a whole number of mel steps."""
    return pipeline.has_whole_steps(frame_rate_with_sound(fps), mel.sample_rate, mel.hop)
