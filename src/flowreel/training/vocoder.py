"""Training a vocoder on the sound of clips: what :mod:`flowreel.training.loop` needs to know of either kind.

Knows: segments, on which sound a vocoder is judged, how it is shown and exported. Does not know: which sound is held in
memory (``sounds.py``), what a kind of vocoder is and what it minimises (``train_hifigan.py``, ``train_sinusoids.py``).

Shape legend: B batch, S audio samples, M mel bins, N mel steps.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from flowreel.codec.mel import log_mel
from flowreel.codec.registry import named_codec
from flowreel.codec.vocoder import Vocoder
from flowreel.config import VocoderTrainConfig
from flowreel.data.dataset import GlobalOrder
from flowreel.data.sources import Source, find_clips
from flowreel.errors import InputError
from flowreel.flow.noise import seeded
from flowreel.media import Clip, spectrogram, stack_pictures
from flowreel.training.audio_segments import JUDGED, STRETCH, mel_distance, read_sounds, stretch_steps, stretches
from flowreel.training.hifigan import HiFiGANTraining
from flowreel.training.loop import fit
from flowreel.training.sinusoids import SinusoidsTraining
from flowreel.training.task import NOISE, WEIGHTS, Batch, device_of, purpose_seed
from flowreel.utils.reporting import Report


def train_vocoder(clips: Path | str, out: Path | str, config: VocoderTrainConfig, report: Report = print) -> Path:
    """Train a vocoder of ``config.kind`` on the sound of the folder ``clips``; ``out`` becomes a vocoder's folder,
    which ``codec.vocoder.load`` reads, for ``prepare --vocoder``.

    Running the same command again goes on from the last checkpoint; see :func:`flowreel.training.loop.fit`.
    """
    out, config = Path(out), _with_settings_of(config)
    return fit(VocoderTask(find_clips(clips, out, report), config, report), out, config, report)


def _with_settings_of(config: VocoderTrainConfig) -> VocoderTrainConfig:
    """The settings with the log-mel, channel and peak of the codec that ``like`` names."""
    if not config.like:
        return config
    audio = named_codec(config.like)[0].audio
    if audio is None:
        raise InputError(
            f"--like {config.like} has no audio: give a folder that was prepared with audio, or leave it out"
        )
    return replace(config, like="", mel=audio.mel, channel=audio.channel, peak=audio.peak)


class Kind(Protocol):
    """How one kind of vocoder is trained. ``module``, ``averaged``, ``players`` and ``losses`` are those of a
    :class:`~flowreel.training.task.Task`."""

    module: nn.Module
    averaged: nn.Module
    players: tuple[str, ...]

    def sample(self, log_mel: Tensor, sound: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The log-mel (M, N) and the sound (S,) to learn from instead of these, of the same shapes."""
        ...

    def losses(self, module: nn.Module, batch: Batch, player: str = "") -> dict[str, Tensor]: ...

    def plain(self, module: nn.Module) -> Vocoder:
        """The vocoder that is in a copy of ``averaged``, as it is used and exported, in evaluation mode."""
        ...


KINDS: dict[str, Callable[[VocoderTrainConfig], Kind]] = {"hifigan": HiFiGANTraining, "sinusoids": SinusoidsTraining}


class VocoderTask:
    """Training a vocoder on segments drawn from everywhere in the sound of the clips. It is judged on the test clips,
    and on stretches of what it is trained on."""

    def __init__(self, sources: Sequence[Source], config: VocoderTrainConfig, report: Report) -> None:
        self.config, self.report = config, report
        torch.manual_seed(purpose_seed(config.seed, WEIGHTS, 0))
        self.kind: Kind = KINDS[config.kind](config)
        self.module, self.averaged, self.players = self.kind.module, self.kind.averaged, self.kind.players
        self.sounds, self.clips = read_sounds(_of(sources, "train"), config, config.seconds, report, config.segment)
        if not self.sounds:
            raise InputError("none of the clips for training has sound that can be read")
        held_out, _ = read_sounds(_of(sources, "test"), config, JUDGED * STRETCH, report, stretch_steps(config))
        self.judged = {"training": stretches(self.sounds, config)}
        if held_out:
            self.judged["held-out"] = stretches(held_out, config)
        else:
            report("no sound in test/: the vocoder is judged on stretches of what it is trained on")
        self.mels = [log_mel(sound[None], config.mel)[0] for sound in self.sounds]
        starts = [mel.shape[1] - config.segment + 1 for mel in self.mels]
        self._before = list(itertools.accumulate(starts, initial=0))  # places to start at, before each sound
        digest = hashlib.sha256()
        for sound in self.sounds:
            digest.update(sound.numpy().tobytes())
        self.data = {"sound": digest.hexdigest()[:16]}
        seconds = sum(len(sound) for sound in self.sounds) / config.mel.sample_rate
        wait = self.kind.plain(self.averaged).context[1] * config.mel.hop / config.mel.sample_rate
        report(
            f"{seconds:.1f} s of sound of {len(set(self.clips))} clips; "
            f"a sample follows {1000 * wait:.0f} ms after the mel step that it belongs to"
        )

    def batches(self, start: int, rank: int, world: int) -> Iterator[Batch]:
        config = self.config
        for positions in GlobalOrder(config.batch, start, config.steps, rank, world, config.optim.accumulate):
            generators = seeded([purpose_seed(config.seed, NOISE, n) for n in positions])
            places = [self._place(generator) for generator in generators]
            parts = [self._part(*place) for place in places]
            drawn = [self.kind.sample(*part, generator) for part, generator in zip(parts, generators, strict=True)]
            log_mels, sounds = (torch.stack(tensors) for tensors in zip(*drawn, strict=True))
            yield {"log_mel": log_mels, "sound": sounds, "clip": torch.tensor([self.clips[k] for k, _ in places])}

    def _part(self, k: int, first: int) -> tuple[Tensor, Tensor]:
        """The log-mel (M, N) and the sound (N * hop,) of a segment."""
        hop, last = self.config.mel.hop, first + self.config.segment
        return self.mels[k][:, first:last], self.sounds[k][first * hop : last * hop]

    def _place(self, generator: torch.Generator) -> tuple[int, int]:
        """A sound and the mel step of it that a sample starts at, every place as likely."""
        place = int(torch.randint(self._before[-1], (), generator=generator))
        k = int(np.searchsorted(self._before, place, side="right")) - 1
        return k, place - self._before[k]

    def losses(self, module: nn.Module, batch: Batch, player: str = "") -> dict[str, Tensor]:
        return self.kind.losses(module, batch, player)

    @torch.no_grad()
    def validate(self, module: nn.Module) -> dict[str, float]:
        """``log_mel``: the distance of held-out sound from its re-synthesis, in nats; ``training_log_mel``: of sound
        that was trained on."""
        vocoder = self.kind.plain(module)
        names = {"held-out": "log_mel", "training": "training_log_mel"}
        return {names[name]: _distance(vocoder, sounds, self.config) for name, sounds in self.judged.items()}

    def preview(self, module: nn.Module, folder: Path, step: int) -> None:
        """Spectrograms, each original above its re-synthesis, and both as sound: of training and of held-out sound."""
        vocoder, rate = self.kind.plain(module), self.config.mel.sample_rate
        rows: list[np.ndarray] = []
        told: list[str] = []
        for name, sounds in self.judged.items():
            again = [_again(vocoder, sound, self.config) for sound in sounds]
            told.append(f"{_distance(vocoder, sounds, self.config):.3f} of {name} sound")
            for kind, parts in (("original", sounds), ("resynthesis", again)):
                sound = torch.cat(parts).numpy()
                _save_wav(sound, rate, folder / f"{name} {kind}.wav")
                rows.append(_spectrogram(sound, rate, folder / f"{name} {kind}.png"))
        self.report(f"step {step}: log-mel distance in nats {', '.join(told)}")
        stack_pictures(rows, folder / "spectrograms.png")

    def export(self, module: nn.Module, folder: Path, step: int) -> None:  # noqa: ARG002
        self.kind.plain(module).save(folder)


@torch.no_grad()
def _again(vocoder: Vocoder, sound: Tensor, config: VocoderTrainConfig) -> Tensor:
    """The sound (S,) from its own log-mel, on the CPU."""
    mel = log_mel(sound[None], config.mel)
    return vocoder(mel.to(device_of(vocoder)))[0].float().cpu()


def _distance(vocoder: Vocoder, sounds: Sequence[Tensor], config: VocoderTrainConfig) -> float:
    """The mean over all mel steps of the sounds."""
    far = [mel_distance(_again(vocoder, sound, config)[None], sound[None], config.mel).item() for sound in sounds]
    return float(np.average(far, weights=[len(sound) for sound in sounds]))


# --- sound --------------------------------------------------------------------------------------------------------


def _of(sources: Sequence[Source], split: str) -> list[Source]:
    return [source for source in sources if source.split == split]


def _save_wav(sound: np.ndarray, rate: int, path: Path) -> None:
    Clip(np.zeros((1, 1, 1, 3), np.uint8), sound, rate / len(sound), rate).save(path)


def _spectrogram(sound: np.ndarray, rate: int, path: Path) -> np.ndarray:
    """Write the picture of the sound, and give its pixels (H, W, 3)."""
    from PIL import Image

    with Image.open(spectrogram(sound, rate, path)) as picture:
        return np.array(picture.convert("RGB"))
