"""Training a vocoder of either kind on the audio of clips: segments, validation, previews and export.

Shapes: B batch, S audio samples, M mel bins, N mel steps.
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
from flowreel.media import Clip, spectrogram, stack_images
from flowreel.training.audio_segments import EVALUATED, EXCERPT, excerpt_steps, excerpts, mel_distance, read_clip_audio
from flowreel.training.hifigan import HiFiGANTraining
from flowreel.training.loop import fit
from flowreel.training.sinusoids import SinusoidsTraining
from flowreel.training.task import NOISE, WEIGHTS, Batch, device_of, purpose_seed
from flowreel.utils.reporting import Report


def train_vocoder(clips: Path | str, out: Path | str, config: VocoderTrainConfig, report: Report = print) -> Path:
    """Train a vocoder of ``config.kind`` on the audio of the folder ``clips``; ``out`` becomes a vocoder's folder,
    which ``codec.vocoder.load`` reads, for ``prepare --vocoder``.

    Running the same command again resumes from the last checkpoint; see :func:`flowreel.training.loop.fit`.
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


class Objective(Protocol):
    """The training objective of one kind of vocoder. ``module``, ``averaged``, ``networks``, ``loss_names`` and
    ``losses`` are those of a :class:`~flowreel.training.task.Task`."""

    module: nn.Module
    averaged: nn.Module
    networks: tuple[str, ...]
    loss_names: tuple[str, ...]

    def sample(self, log_mel: Tensor, audio: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Augment a pair of log-mel (M, N) and audio (S,); shapes are kept."""
        ...

    def losses(self, module: nn.Module, batch: Batch, network: str = "") -> dict[str, Tensor]: ...

    def plain(self, module: nn.Module) -> Vocoder:
        """The vocoder of a copy of ``averaged``, for use and export, in evaluation mode."""
        ...


OBJECTIVES: dict[str, Callable[[VocoderTrainConfig], Objective]] = {
    "hifigan": HiFiGANTraining,
    "sinusoids": SinusoidsTraining,
}


class VocoderTask:
    """Training a vocoder on segments drawn evenly from the audio of the clips. It is validated on excerpts of that
    audio, and on the test clips if there are any."""

    kind = "vocoder"

    def __init__(self, sources: Sequence[Source], config: VocoderTrainConfig, report: Report) -> None:
        self.config, self.report = config, report
        torch.manual_seed(purpose_seed(config.seed, WEIGHTS, 0))
        self.objective: Objective = OBJECTIVES[config.kind](config)
        self.module, self.averaged = self.objective.module, self.objective.averaged
        self.networks, self.loss_names = self.objective.networks, self.objective.loss_names
        train, test = ([source for source in sources if source.split == split] for split in ("train", "test"))
        self.waveforms, self.clips = read_clip_audio(train, config, config.seconds, report, config.segment)
        if not self.waveforms:
            raise InputError("none of the clips for training has audio that can be read")
        held_out, _ = read_clip_audio(test, config, EVALUATED * EXCERPT, report, excerpt_steps(config))
        self.evaluated = {"training": excerpts(self.waveforms, config)}
        if held_out:
            self.evaluated["held-out"] = excerpts(held_out, config)
        else:
            report("no audio in test/: the vocoder is validated on its training audio")
        self.mels = [log_mel(audio[None], config.mel)[0] for audio in self.waveforms]
        starts = [mel.shape[1] - config.segment + 1 for mel in self.mels]
        self._before = list(itertools.accumulate(starts, initial=0))  # start positions before each waveform
        digest = hashlib.sha256()
        for audio in self.waveforms:
            digest.update(audio.numpy().tobytes())
        self.data = {"sound": digest.hexdigest()[:16]}
        seconds = sum(len(audio) for audio in self.waveforms) / config.mel.sample_rate
        latency = self.objective.plain(self.averaged).context[1] * config.mel.hop / config.mel.sample_rate
        report(
            f"{seconds:.1f} s of audio of {len(set(self.clips))} clips; latency of the vocoder: {1000 * latency:.0f} ms"
        )

    def batches(self, start: int, rank: int, world: int) -> Iterator[Batch]:
        config = self.config
        for positions in GlobalOrder(config.batch, start, config.steps, rank, world, config.optim.accumulate):
            generators = seeded([purpose_seed(config.seed, NOISE, n) for n in positions])
            places = [self._place(generator) for generator in generators]
            parts = [self._part(*place) for place in places]
            drawn = [self.objective.sample(*part, generator) for part, generator in zip(parts, generators, strict=True)]
            log_mels, waveforms = (torch.stack(tensors) for tensors in zip(*drawn, strict=True))
            yield {"log_mel": log_mels, "audio": waveforms, "clip": torch.tensor([self.clips[k] for k, _ in places])}

    def _part(self, k: int, first: int) -> tuple[Tensor, Tensor]:
        """The log-mel (M, N) and the audio (N * hop,) of a segment."""
        hop, last = self.config.mel.hop, first + self.config.segment
        return self.mels[k][:, first:last], self.waveforms[k][first * hop : last * hop]

    def _place(self, generator: torch.Generator) -> tuple[int, int]:
        """A waveform and the mel step at which a sample starts, uniform over all start positions."""
        place = int(torch.randint(self._before[-1], (), generator=generator))
        k = int(np.searchsorted(self._before, place, side="right")) - 1
        return k, place - self._before[k]

    def losses(self, module: nn.Module, batch: Batch, network: str = "") -> dict[str, Tensor]:
        return self.objective.losses(module, batch, network)

    @torch.no_grad()
    def validate(self, module: nn.Module) -> dict[str, float]:
        """``log_mel``: the distance of held-out audio from its re-synthesis, in nats; ``training_log_mel``: of training
        audio."""
        vocoder = self.objective.plain(module)
        names = {"held-out": "log_mel", "training": "training_log_mel"}
        return {names[name]: _distance(vocoder, waveforms, self.config) for name, waveforms in self.evaluated.items()}

    def preview(self, module: nn.Module, folder: Path, step: int) -> None:
        """Spectrograms, each original above its re-synthesis, and both as WAV files: of training and held-out audio."""
        vocoder, rate = self.objective.plain(module), self.config.mel.sample_rate
        rows: list[np.ndarray] = []
        distances: list[str] = []
        for name, waveforms in self.evaluated.items():
            again = [_resynthesise(vocoder, audio, self.config) for audio in waveforms]
            distances.append(f"{_distance(vocoder, waveforms, self.config):.3f} of {name} audio")
            for kind, parts in (("original", waveforms), ("resynthesis", again)):
                audio = torch.cat(parts).numpy()
                _save_wav(audio, rate, folder / f"{name} {kind}.wav")
                rows.append(_spectrogram(audio, rate, folder / f"{name} {kind}.png"))
        self.report(f"step {step}: log-mel distance in nats {', '.join(distances)}")
        stack_images(rows, folder / "spectrograms.png")

    def export(self, module: nn.Module, folder: Path, step: int) -> None:  # noqa: ARG002
        self.objective.plain(module).save(folder)


@torch.no_grad()
def _resynthesise(vocoder: Vocoder, audio: Tensor, config: VocoderTrainConfig) -> Tensor:
    """The audio (S,) re-synthesised from its own log-mel, on the CPU."""
    mel = log_mel(audio[None], config.mel)
    return vocoder(mel.to(device_of(vocoder)))[0].float().cpu()


def _distance(vocoder: Vocoder, waveforms: Sequence[Tensor], config: VocoderTrainConfig) -> float:
    """The mean over all mel steps of the waveforms."""
    each = [
        mel_distance(_resynthesise(vocoder, audio, config)[None], audio[None], config.mel).item() for audio in waveforms
    ]
    return float(np.average(each, weights=[len(audio) for audio in waveforms]))


# --- audio --------------------------------------------------------------------------------------------------------


def _save_wav(audio: np.ndarray, rate: int, path: Path) -> None:
    Clip(np.zeros((1, 1, 1, 3), np.uint8), audio, rate / len(audio), rate).save(path)


def _spectrogram(audio: np.ndarray, rate: int, path: Path) -> np.ndarray:
    """Write the spectrogram as an image, and return its pixels (H, W, 3)."""
    from PIL import Image

    with Image.open(spectrogram(audio, rate, path)) as image:
        return np.array(image.convert("RGB"))
