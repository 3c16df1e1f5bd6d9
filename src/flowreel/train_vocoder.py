"""Training our vocoder on the sound of clips: what :mod:`flowreel.loop` needs to know about sound.

Knows: which sound is held in memory, what a good re-synthesis is, how a HiFi-GAN (arXiv 2010.05646) and its judges take
turns. Does not know: how the networks are built (``codec/vocoder.py``, ``adversaries.py``), how a turn becomes a step.

Shape legend: B batch, S audio samples, M mel bins, N mel steps.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from flowreel import adversaries
from flowreel.adversaries import SoundJudges
from flowreel.codec.mel import log_mel, peak_normalise
from flowreel.codec.vocoder import HiFiGAN, VocoderConfig, fuse_weight_norm
from flowreel.config import MelConfig, VocoderTrainConfig
from flowreel.dataset import GlobalOrder
from flowreel.errors import InputError
from flowreel.evenly import shares, spread
from flowreel.loop import fit
from flowreel.media import Clip, iterate, read_sound, spectrogram, stack_pictures
from flowreel.report import Report
from flowreel.sources import Source, find_clips, probed
from flowreel.task import NOISE, WEIGHTS, Batch, device_of, purpose_seed

JUDGED, STRETCH = 8, 2.0
"""Over how many stretches of sound the distance is, and how many seconds long each is at most."""
PIECE = 10.0
"""Seconds that are read in one go of a file that is longer than what is taken of it."""
_NO_FLOOR = 1e-9  # in training: below a floor there is no gradient, and what has fallen silent would stay so
DILATIONS = (1, 3)
"""Of the residual blocks' convolutions, one each (the published "2"): a third of the work of pairs of them, and in
minutes of training nearer to the sound."""


def train_vocoder(clips: Path | str, out: Path | str, config: VocoderTrainConfig, report: Report = print) -> Path:
    """Train a HiFi-GAN on the sound of the folder ``clips``; ``out`` becomes a vocoder's folder, which
    ``codec.vocoder.load`` reads, for ``prepare --vocoder``.

    Running the same command again goes on from the last checkpoint; see :func:`flowreel.loop.fit`.
    """
    out = Path(out)
    return fit(VocoderTask(find_clips(clips, leave_out=out), config, report), out, config, report)


class Contest(nn.Module):
    """The generator and those that judge it, as one module with a forward pass for each of them."""

    def __init__(self, generator: HiFiGAN, discriminator: SoundJudges) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, discriminator

    def forward(
        self, mel: Tensor, sound: Tensor, player: str, judged: bool
    ) -> tuple[Tensor, list[adversaries.Judgement], list[adversaries.Judgement]]:
        """Log-mel (B, M, N) and its sound (B, N * hop) -> the re-synthesis, and what the judges say of the sound and of
        the re-synthesis: nothing unless ``judged``. In the discriminator's turn the generator only plays."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and player == "generator"):
            made = self.generator(mel)
        if not judged:
            return made, [], []
        return made, self.discriminator(sound), self.discriminator(made)


class VocoderTask:
    """Training a vocoder on segments drawn from everywhere in the sound of the clips. It is judged on the test clips,
    and on stretches of what it is trained on."""

    players: tuple[str, ...] = ("discriminator", "generator")

    def __init__(self, sources: Sequence[Source], config: VocoderTrainConfig, report: Report) -> None:
        _check(config)
        self.config, self.report = config, report
        self.sounds, self.clips = read_sounds(_of(sources, "train"), config, config.seconds, report, config.segment)
        if not self.sounds:
            raise InputError("none of the clips for training has sound that can be read")
        held_out, _ = read_sounds(_of(sources, "test"), config, JUDGED * STRETCH, report, _stretch(config))
        self.judged = {"training": stretches(self.sounds, config)}
        if held_out:
            self.judged["held-out"] = stretches(held_out, config)
        else:
            report("no sound in test/: the vocoder is judged on stretches of what it is trained on")
        self.mels = [log_mel(sound[None], config.mel)[0] for sound in self.sounds]
        starts = [mel.shape[1] - config.segment + 1 for mel in self.mels]
        self._before = list(itertools.accumulate(starts, initial=0))  # places to start at, before each sound
        torch.manual_seed(purpose_seed(config.seed, WEIGHTS, 0))
        generator = HiFiGAN(architecture(config))
        self.averaged: nn.Module = with_weight_norm(generator)
        self.module: nn.Module = Contest(generator, SoundJudges(config.discriminator))
        digest = hashlib.sha256()
        for sound in self.sounds:
            digest.update(sound.numpy().tobytes())
        self.data = {"sound": digest.hexdigest()[:16]}
        seconds = sum(len(sound) for sound in self.sounds) / config.mel.sample_rate
        wait = generator.context[1] * config.mel.hop / config.mel.sample_rate
        report(
            f"{seconds:.1f} s of sound of {len(set(self.clips))} clips; "
            f"a sample follows {1000 * wait:.0f} ms after the mel step that it belongs to"
        )

    def batches(self, start: int, rank: int, world: int) -> Iterator[Batch]:
        config = self.config
        for positions in GlobalOrder(config.batch, start, config.steps, rank, world, config.optim.accumulate):
            places = [self._place(n) for n in positions]
            mels = [self.mels[k][:, first : first + config.segment] for k, first in places]
            hop, length = config.mel.hop, config.segment * config.mel.hop
            sounds = [self.sounds[k][first * hop : first * hop + length] for k, first in places]
            clips = torch.tensor([self.clips[k] for k, _ in places])
            yield {"log_mel": torch.stack(mels), "sound": torch.stack(sounds), "clip": clips}

    def _place(self, n: int) -> tuple[int, int]:
        """The sound that sample ``n`` is from and the mel step that it starts at, every place as likely."""
        generator = torch.Generator().manual_seed(purpose_seed(self.config.seed, NOISE, n))
        place = int(torch.randint(self._before[-1], (), generator=generator))
        k = int(np.searchsorted(self._before, place, side="right")) - 1
        return k, place - self._before[k]

    def losses(self, module: nn.Module, batch: Batch, player: str = "") -> dict[str, Tensor]:
        """Nothing for the discriminator until step ``adversarial_start``: the generator has its mel loss alone."""
        config = self.config
        judged = int(batch["step"]) >= config.adversarial_start
        if player == "discriminator" and not judged:
            return {}
        made, real_judged, made_judged = module(batch["log_mel"], batch["sound"], player, judged)
        if player == "discriminator":
            return {"discriminator": adversaries.least_squares(real_judged, made_judged)}
        distance = mel_distance(made.float(), batch["sound"], replace(config.mel, floor=_NO_FLOOR))
        feature = passing = distance.new_zeros(())
        if judged:
            feature = adversaries.feature_distance(real_judged, made_judged)
            passing = adversaries.least_squares_to_pass(made_judged)
        return {
            "mel": config.mel_weight * distance,
            "feature": config.feature_weight * feature,
            "adversarial": config.adversarial * passing,
        }

    @torch.no_grad()
    def validate(self, module: nn.Module) -> dict[str, float]:
        """``log_mel``: the distance of held-out sound from its re-synthesis, in nats; ``training_log_mel``: of sound
        that was trained on."""
        vocoder = fused(module)
        names = {"held-out": "log_mel", "training": "training_log_mel"}
        return {names[name]: _distance(vocoder, sounds, self.config) for name, sounds in self.judged.items()}

    def preview(self, module: nn.Module, folder: Path, step: int) -> None:
        """Spectrograms, each original above its re-synthesis, and both as sound: of training and of held-out sound."""
        vocoder, rate = fused(module), self.config.mel.sample_rate
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
        fused(module).save(folder)


# --- networks -----------------------------------------------------------------------------------------------------


def architecture(config: VocoderTrainConfig) -> VocoderConfig:
    """The generator that the settings ask for."""
    return VocoderConfig(
        num_mels=config.mel.bins,
        upsample_initial_channel=config.width,
        upsample_rates=config.rates,
        upsample_kernel_sizes=config.kernels,
        resblock_kernel_sizes=config.resblock_kernels,
        resblock_dilation_sizes=(DILATIONS,) * len(config.resblock_kernels),
        resblock="2",
        mel=config.mel,
    )


def _check(config: VocoderTrainConfig) -> None:
    rates, hop = config.rates, config.mel.hop
    if math.prod(rates) != hop:
        raise InputError(f"rates {list(rates)} make {math.prod(rates)} samples of a mel step, but mel.hop is {hop}")
    if config.width % 2 ** len(rates):
        raise InputError(
            f"width {config.width} must be a multiple of {2 ** len(rates)}: it is halved for each of rates"
        )
    if config.discriminator < 8 or config.discriminator % 8:
        raise InputError(f"discriminator must be a multiple of 8, not {config.discriminator}")
    if config.segment < 1:
        raise InputError(f"segment must be at least 1 mel step, not {config.segment}")
    if config.seconds <= 0:
        raise InputError(f"seconds must be above 0, not {config.seconds}")
    if config.checkpointing:
        raise InputError("checkpointing is for flows: a vocoder has no blocks to recompute")


def with_weight_norm(vocoder: HiFiGAN) -> HiFiGAN:
    """The same network, its convolutions under weight norm (arXiv 1602.07868), which is how it trains."""
    for layer in [layer for layer in vocoder.modules() if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d)]:
        weight_norm(layer)
    return vocoder


def fused(vocoder: nn.Module) -> HiFiGAN:
    """The same with plain weights, in evaluation mode: what is used and exported."""
    assert isinstance(vocoder, HiFiGAN)
    plain = HiFiGAN(vocoder.config).to(device_of(vocoder))
    plain.load_state_dict(fuse_weight_norm(vocoder.state_dict()))
    return plain.eval()


# --- distances ----------------------------------------------------------------------------------------------------


def mel_distance(made: Tensor, sound: Tensor, config: MelConfig) -> Tensor:
    """The mean absolute difference of the log-mels of two sounds (B, S), in nats."""
    return (log_mel(made, config) - log_mel(sound, config)).abs().mean()


@torch.no_grad()
def _again(vocoder: HiFiGAN, sound: Tensor, config: VocoderTrainConfig) -> Tensor:
    """The sound (S,) from its own log-mel, on the CPU."""
    mel = log_mel(sound[None], config.mel)
    return vocoder(mel.to(device_of(vocoder)))[0].float().cpu()


def _distance(vocoder: HiFiGAN, sounds: Sequence[Tensor], config: VocoderTrainConfig) -> float:
    """The mean over all mel steps of the sounds."""
    far = [mel_distance(_again(vocoder, sound, config)[None], sound[None], config.mel).item() for sound in sounds]
    return float(np.average(far, weights=[len(sound) for sound in sounds]))


# --- sound --------------------------------------------------------------------------------------------------------


def read_sounds(
    sources: Sequence[Source], config: VocoderTrainConfig, limit: float, report: Report, least: int
) -> tuple[list[Tensor], list[int]]:
    """At most ``limit`` seconds of sound, drawn evenly over the clips, and over the time of those that are longer; of a
    clip ``least`` mel steps or nothing, or all that it has.

    Returns pieces (S,) float32 of a whole number of mel steps, at least a segment long (silence fills up what is
    shorter), and the number among ``sources`` of the clip that each is from. Clips without sound are passed over, those
    that can't be read are told.
    """

    def mel_steps(seconds: float) -> int:
        return math.ceil(seconds * config.mel.sample_rate / config.mel.hop)

    infos = probed(sources, report)
    lengths = [mel_steps(info.seconds) if info and info.has_audio else 0 for info in infos]
    steps = mel_steps(limit)
    sounds: list[Tensor] = []
    clips: list[int] = []
    for number, (source, length, share) in enumerate(zip(sources, lengths, shares(lengths, steps, least), strict=True)):
        if share == 0:
            continue
        try:
            pieces = list(_pieces(source.path, length, share, config))
        except InputError as error:
            report(f"left out {source.name}: {error}")
            continue
        joined = peak_normalise(torch.cat(pieces), config.peak) if config.peak else torch.cat(pieces)
        sounds += [_whole_steps(piece, config) for piece in joined.split([len(piece) for piece in pieces])]
        clips += [number] * len(pieces)
    return sounds, clips


def _pieces(path: Path, length: int, share: int, config: VocoderTrainConfig) -> Iterator[Tensor]:
    """``share`` of the ``length`` mel steps of a file: all of its sound, or pieces from everywhere in it, so that a
    file of hours is not read whole."""
    rate, hop = config.mel.sample_rate, config.mel.hop
    if share >= length:
        sound = read_sound(path, rate, config.channel)
        yield torch.from_numpy(sound[: length * hop])
        return
    count = math.ceil(share * hop / rate / PIECE)
    samples = share * hop // count
    seconds = math.ceil(samples / rate)
    for middle in spread(length, count).tolist():
        start = min(max(0.0, middle * hop / rate - seconds / 2), max(0.0, length * hop / rate - seconds))
        # A picture a second, and small, as it is not looked at.
        chunks = iterate(path, fps=1.0, sample_rate=rate, size=8, start=start, seconds=seconds, channel=config.channel)
        parts = [chunk.audio for chunk in chunks if chunk.audio is not None]
        yield torch.from_numpy(np.concatenate(parts)[:samples])


def _whole_steps(sound: Tensor, config: VocoderTrainConfig) -> Tensor:
    hop = config.mel.hop
    length = max(config.segment, len(sound) // hop) * hop
    return nn.functional.pad(sound, (0, max(0, length - len(sound))))[:length].clone()


def stretches(sounds: Sequence[Tensor], config: VocoderTrainConfig) -> list[Tensor]:
    """Up to ``JUDGED`` stretches of ``STRETCH`` seconds at most, spread evenly over the sounds."""
    length = _stretch(config) * config.mel.hop
    cut = [part for sound in sounds for part in sound.split(length) if len(part) >= min(length, len(sound))]
    return [cut[i] for i in spread(len(cut), JUDGED).tolist()]


def _stretch(config: VocoderTrainConfig) -> int:
    """The mel steps of a stretch."""
    return round(STRETCH * config.mel.sample_rate / config.mel.hop)


def _of(sources: Sequence[Source], split: str) -> list[Source]:
    return [source for source in sources if source.split == split]


def _save_wav(sound: np.ndarray, rate: int, path: Path) -> None:
    Clip(np.zeros((1, 1, 1, 3), np.uint8), sound, rate / len(sound), rate).save(path)


def _spectrogram(sound: np.ndarray, rate: int, path: Path) -> np.ndarray:
    """Write the picture of the sound, and give its pixels (H, W, 3)."""
    from PIL import Image

    with Image.open(spectrogram(sound, rate, path)) as picture:
        return np.array(picture.convert("RGB"))
