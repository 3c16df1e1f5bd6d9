"""The codec: media <-> stored latents <-> model latents. The only home of scales.

*Media* are uint8 frames and float samples (``Clip``); *stored* latents are what shards hold: raw latents of the
autoencoder and log-mel; *model* latents are shifted and scaled to about unit variance by numbers in the config.
Decoding goes chunk by chunk, whole decoding is a consumer of that.

Shape legend: B batch, T frames, C channels, H W rows and columns, M mel bins, F mel steps per video frame, S samples.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowreel.codec import mel
from flowreel.codec.autoencoder import VideoAutoencoder
from flowreel.codec.decoder import StreamDecoder
from flowreel.codec.vocoder import GriffinLim, load_for
from flowreel.config import AudioCodecConfig, CodecConfig, Timing, from_dict, to_dict
from flowreel.errors import InputError
from flowreel.flow.types import Latents
from flowreel.media import Clip
from flowreel.utils.files import read_json, write_json

AUTOENCODER, VOCODER = "autoencoder", "vocoder"
_CHUNK = 32  # frames that decoding a whole clip takes at once


class Codec:
    """What turns clips into latents and back.

    Args:
        config: which networks, and the scales.
        timing: the clocks.
        folder: where our own weights lie (``autoencoder/``, ``vocoder/``); None for networks from a hub, passed ones,
            or a small autoencoder that was never trained.
        video_module, vocoder: networks that are there already.

    Raises:
        InputError: the mel's clocks are not those of ``timing``, or shift and scale don't fit the channels.
    """

    def __init__(
        self,
        config: CodecConfig,
        timing: Timing,
        folder: Path | None = None,
        video_module: nn.Module | None = None,
        vocoder: nn.Module | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        _check(config, timing)
        self.config, self.timing, self.folder = config, timing, folder
        self.device = torch.device(device)
        own = folder / AUTOENCODER if folder is not None else None
        self.video = VideoAutoencoder(config.video, own, video_module, device)
        self._vocoder = vocoder.eval().to(self.device) if vocoder is not None else None

    @classmethod
    def load(cls, folder: str | Path, timing: Timing | None = None) -> Codec:
        """Read what :meth:`save` wrote; networks are loaded at first use.

        Raises:
            InputError: the folder is no codec.
        """
        folder = Path(folder)
        path = folder / "config.json"
        if not path.is_file():
            raise InputError(f"{folder} is not a codec (it has no config.json): give a folder that train-codec made")
        values = read_json(path)
        if set(values) != {"codec", "timing"}:
            raise InputError(
                f"{path} is not a codec's config: it has {', '.join(sorted(values))}, not codec and timing"
            )
        config = from_dict(CodecConfig, values["codec"], "codec")
        return cls(config, timing or from_dict(Timing, values["timing"], "timing"), folder)

    def save(self, folder: str | Path, whole: bool = False) -> Codec:
        """Write ``config.json``, ``autoencoder/`` if it is ours, and ``vocoder/`` if there is one.

        ``whole`` also copies an autoencoder that the config names by a path. Returns the codec as it was written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if whole and self.config.video.source and Path(self.config.video.source).is_dir():
            video = replace(self.config.video, source="")
            vocoder = self.vocoder if self._named_vocoder else None
            copied = Codec(
                replace(self.config, video=video), self.timing, None, self.video.module, vocoder, self.device
            )
            return copied.save(folder)
        self.video.save(folder / AUTOENCODER)
        if self._named_vocoder:
            self.vocoder.save(folder / VOCODER)
        write_json(folder / "config.json", {"codec": to_dict(self.config), "timing": to_dict(self.timing)})
        return self

    def with_config(self, config: CodecConfig) -> Codec:
        """The same networks under other settings (scales, posterior); those that ``config`` names otherwise are loaded
        anew."""
        named = config.audio.vocoder if config.audio is not None else ""
        vocoder = self._vocoder if named and named == self._named_vocoder else None
        return self._copy(config, self.timing, self.video.with_config(config.video), vocoder)

    def at(self, timing: Timing) -> Codec:
        """The same networks with other clocks."""
        return self._copy(self.config, timing, self.video, self._vocoder)

    def to(self, device: torch.device | str) -> Codec:
        """Move to ``device``, in place like a module."""
        self.device = torch.device(device)
        self.video = self.video.to(self.device)
        if self._vocoder is not None:
            self._vocoder.to(self.device)
        return self

    def with_vocoder(self, folder: str | Path) -> Codec:
        """The same codec, its audio made by the vocoder in ``folder`` (of train-vocoder, or a published HiFi-GAN).

        Raises:
            InputError: the codec has no audio, or the vocoder was made for another log-mel.
        """
        audio = self._audio()
        vocoder = load_for(folder, audio.mel)
        config = replace(self.config, audio=replace(audio, vocoder=vocoder.kind))
        return self._copy(config, self.timing, self.video, vocoder)

    def _copy(self, config: CodecConfig, timing: Timing, video: VideoAutoencoder, vocoder: nn.Module | None) -> Codec:
        codec = Codec(config, timing, self.folder, None, vocoder, self.device)
        codec.video = video
        return codec

    @property
    def has_audio(self) -> bool:
        """Whether clips are encoded with their audio."""
        return self.config.audio is not None and self.timing.has_audio

    @property
    def vocoder(self) -> Any:
        """Inverts log-mel: a vocoder, passed or from the codec's folder, or Griffin-Lim if the config names none.

        Raises:
            InputError: the codec has no audio, or its vocoder is not there or made for another log-mel.
        """
        if self._vocoder is None:
            self._vocoder = self._load_vocoder().to(self.device)
        return self._vocoder

    @property
    def _named_vocoder(self) -> str:
        return self.config.audio.vocoder if self.config.audio is not None else ""

    def _load_vocoder(self) -> nn.Module:
        audio = self._audio()
        if not audio.vocoder:
            return GriffinLim(audio.mel)
        if self.folder is None:
            raise InputError("the codec's config names a vocoder, but there is no folder that holds it")
        return load_for(self.folder / VOCODER, audio.mel)

    # --- media -> stored --------------------------------------------------------------------------------------------

    def encode(self, clip: Clip, generator: torch.Generator | None = None) -> Latents:
        """Stored latents of one clip: ``{"video": (T, C, h, w), "audio": (T, 1, M, F)}`` float32 on the CPU.

        Audio only if the codec has it and the clip too; audio that is up to one frame too short or too long is filled
        with silence or cut. ``generator``: see :meth:`encode_video`.

        Raises:
            InputError: the clip's rates or size don't suit, or its audio does not last as long as its frames.
        """
        if abs(clip.fps - self.timing.fps) > 1e-3 * self.timing.fps:
            raise InputError(f"the clip has {clip.fps:g} frames a second, the codec {self.timing.fps:g}")
        stored = {"video": self.encode_video(clip.frames, generator)}
        if self.has_audio and clip.audio is not None:
            stored["audio"] = self.encode_audio(self._sound(clip, clip.audio))
        return stored

    def _sound(self, clip: Clip, audio: np.ndarray) -> np.ndarray:
        if clip.sample_rate != self.timing.sample_rate:
            raise InputError(f"the clip's audio has {clip.sample_rate} Hz, the codec's {self.timing.sample_rate}")
        samples = self.timing.samples(len(clip.frames))
        if abs(len(audio) - samples) > self.timing.samples(1):
            raise InputError(
                f"the clip's audio has {len(audio)} samples, but its {len(clip.frames)} frames last {samples} samples"
            )
        return np.pad(audio[:samples], (0, max(0, samples - len(audio))))

    def encode_video(self, frames: np.ndarray, generator: torch.Generator | None = None) -> Tensor:
        """uint8 frames (T, H, W, 3) -> stored latents (T, C, h, w).

        ``generator`` draws from the posterior where the config says so; without one, the draws are those of seed 0.

        Raises:
            InputError: H or W is no multiple of the autoencoder's factor.
        """
        generator = generator or torch.Generator().manual_seed(0)
        return self.video.encode(torch.from_numpy(np.ascontiguousarray(frames)), generator)

    @torch.no_grad()
    def encode_audio(self, samples: np.ndarray) -> Tensor:
        """Samples (S,) of whole video frames -> log-mel (T, 1, M, F); peak-normalised if the config says so."""
        audio, per_frame = self._audio(), self.timing.samples(1)
        if not per_frame or not len(samples) or len(samples) % per_frame:
            raise InputError(f"{len(samples)} samples are not whole video frames of {per_frame} samples")
        waveform = torch.from_numpy(np.ascontiguousarray(samples))[None]
        if audio.peak:
            waveform = mel.peak_normalise(waveform, audio.peak)
        log_mel = mel.log_mel(waveform, audio.mel)[0]  # (M, T * F)
        return log_mel.unflatten(1, (-1, self.timing.mel_steps)).transpose(0, 1).unsqueeze(1).contiguous()

    # --- stored <-> model -------------------------------------------------------------------------------------------

    def to_model(self, stored: Latents) -> Latents:
        """Stored latents, with a batch axis or without, to float32 model latents of about unit variance.

        Raises:
            InputError: there is audio, but the codec has none or does not know its scale.
        """
        latents = {}
        if "video" in stored:
            shift, scale = self._video_affine(stored["video"])
            latents["video"] = (stored["video"].float() - shift) * scale
        if "audio" in stored:
            audio = self._audio()
            latents["audio"] = (mel.unit(stored["audio"].float(), audio.mel) - audio.shift) * self._audio_scale()
        return latents

    def from_model(self, latents: Latents) -> Latents:
        """The inverse of :meth:`to_model`; log-mel is kept between its floor and its ceiling."""
        stored = {}
        if "video" in latents:
            shift, scale = self._video_affine(latents["video"])
            stored["video"] = latents["video"].float() / scale + shift
        if "audio" in latents:
            audio = self._audio()
            unit = latents["audio"].float() / self._audio_scale() + audio.shift
            stored["audio"] = mel.from_unit(unit.clamp(-1, 1), audio.mel)
        return stored

    def _video_affine(self, like: Tensor) -> tuple[Tensor, Tensor]:
        video = self.config.video
        shift, scale = (
            torch.tensor(values, device=like.device)[:, None, None] for values in (video.shift, video.scale)
        )
        return shift, scale

    def _audio(self) -> AudioCodecConfig:
        if self.config.audio is None:
            raise InputError("this codec has no audio")
        return self.config.audio

    def _audio_scale(self) -> float:
        scale = self._audio().scale
        if scale == 0:
            raise InputError(
                "the scale of this checkpoint's audio latents is not known: pass audio_scale= to flowreel.load "
                "(--audio_scale on the command line; R-FLAV's AIST++ has 3.50097, Landscape 3.09511)"
            )
        return scale

    # --- model -> media ---------------------------------------------------------------------------------------------

    def decoder(self, batch: int) -> StreamDecoder:
        """A decoder of ``batch`` samples in step, chunk by chunk."""
        return StreamDecoder(self, batch)

    def decode(self, latents: Latents) -> list[Clip]:
        """Model latents ``{"video": (B, T, C, h, w), "audio": (B, T, 1, M, F)}`` to B whole clips."""
        batch, frames = latents["video"].shape[:2]
        decoder = self.decoder(batch)
        starts = range(0, frames, _CHUNK)
        chunks = [decoder.push({k: v[:, start : start + _CHUNK] for k, v in latents.items()}) for start in starts]
        parts = [clips for clips in (*chunks, decoder.finish()) if clips]
        return [Clip.join(clips) for clips in zip(*parts, strict=True)]


def _check(config: CodecConfig, timing: Timing) -> None:
    video = config.video
    for name, values in (("shift", video.shift), ("scale", video.scale)):
        if len(values) not in (1, video.channels):
            raise InputError(
                f"codec.video.{name} has {len(values)} numbers for {video.channels} channels: give that many, or 1"
            )
    if config.audio is not None and timing.has_audio:
        mel_config = config.audio.mel
        if (mel_config.sample_rate, mel_config.hop) != (timing.sample_rate, timing.hop):
            raise InputError(
                f"the codec's mel runs at {mel_config.sample_rate} Hz with hop {mel_config.hop}, the timing at "
                f"{timing.sample_rate} Hz with hop {timing.hop}: they must be the same"
            )
