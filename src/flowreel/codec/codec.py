"""The codec: media <-> stored latents <-> model latents. The only home of scales.

*Media* are uint8 frames and float samples (``Clip``); *stored* latents are what shards hold: raw latents of the
autoencoder and log-mel; *model* latents are shifted and scaled to about unit variance by numbers in the config.
Decoding goes chunk by chunk, whole decoding is a consumer of that.

Shape legend: B batch, T frames, C channels, H W rows and columns, M mel bins, F mel steps per video frame, S samples.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowreel.checkpoint import write_json
from flowreel.codec import mel
from flowreel.codec.video import VideoAutoencoder
from flowreel.codec.vocoder import GriffinLim, StreamingVocoder
from flowreel.codec.vocoder import load as load_vocoder
from flowreel.config import AudioCodecConfig, CodecConfig, Timing, from_dict, read_json, to_dict
from flowreel.errors import InputError
from flowreel.media import Clip

Latents = dict[str, Tensor]
AUTOENCODER, VOCODER = "autoencoder", "vocoder"


class Codec:
    """What turns clips into latents and back.

    Args:
        config: which networks, and the scales.
        timing: the clocks.
        folder: where our own weights lie; None for networks from a hub, given ones, or fresh random ones.
        video_module, vocoder: networks that are there already.
        seed: of posterior samples.
    """

    def __init__(
        self,
        config: CodecConfig,
        timing: Timing,
        folder: Path | None = None,
        video_module: nn.Module | None = None,
        vocoder: nn.Module | None = None,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        if config.audio is not None and timing.has_audio:
            mel_config = config.audio.mel
            if (mel_config.sample_rate, mel_config.hop) != (timing.sample_rate, timing.hop):
                raise InputError(
                    f"the codec's mel runs at {mel_config.sample_rate} Hz with hop {mel_config.hop}, the timing at "
                    f"{timing.sample_rate} Hz with hop {timing.hop}: they must be the same"
                )
        self.config, self.timing, self.folder = config, timing, folder
        self.device = torch.device(device)
        own = folder / AUTOENCODER if folder is not None else None
        self.video = VideoAutoencoder(config.video, own, video_module, device)
        self._vocoder = vocoder
        self._generator = torch.Generator().manual_seed(seed)

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

    def save(self, folder: str | Path) -> Path:
        """Write ``config.json``, ``autoencoder/`` if it is ours, and ``vocoder/`` if there is one."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if self.config.video.kind == "tiny":
            self.video.module.save(folder / AUTOENCODER)
        if self.config.audio is not None and self.config.audio.vocoder:
            self.vocoder.save(folder / VOCODER)
        write_json(folder / "config.json", {"codec": to_dict(self.config), "timing": to_dict(self.timing)})
        return folder

    def with_config(self, config: CodecConfig) -> Codec:
        """The same networks under other settings (scales, posterior, source)."""
        same = config.video.kind == self.config.video.kind and config.video.source == self.config.video.source
        return Codec(config, self.timing, self.folder, self.video._module if same else None, self._vocoder, self.device)

    def at(self, timing: Timing) -> Codec:
        """The same networks with other clocks."""
        return Codec(self.config, timing, self.folder, self.video._module, self._vocoder, self.device)

    def to(self, device: torch.device | str) -> Codec:
        """Move to ``device``, in place like a module."""
        self.device = torch.device(device)
        self.video = self.video.to(self.device)
        if self._vocoder is not None:
            self._vocoder.to(self.device)
        return self

    @property
    def vocoder(self) -> Any:
        """What inverts log-mel: the HiFi-GAN of the codec's folder, or Griffin-Lim."""
        if self._vocoder is None:
            audio = self._audio()
            if audio.vocoder and self.folder is None:
                raise InputError("the codec has a vocoder in its config but no folder that holds it")
            if audio.vocoder and self.folder is not None:
                self._vocoder = load_vocoder(self.folder / VOCODER).to(self.device)
            else:
                self._vocoder = GriffinLim(audio.mel)
        return self._vocoder

    # --- media -> stored --------------------------------------------------------------------------------------------

    def encode(self, clip: Clip) -> Latents:
        """Stored latents of one clip: ``{"video": (T, C, h, w), "audio": (T, 1, M, F)}`` float32.

        Sound only if the codec has it and the clip too.
        """
        stored = {"video": self.encode_video(clip.frames)}
        if self.config.audio is not None and self.timing.has_audio and clip.audio is not None:
            samples = self.timing.samples(len(clip.frames))
            stored["audio"] = self.encode_audio(np.pad(clip.audio[:samples], (0, max(0, samples - len(clip.audio)))))
        return stored

    def encode_video(self, frames: np.ndarray) -> Tensor:
        """uint8 frames (T, H, W, 3) -> stored latents (T, C, h, w)."""
        factor, (height, width) = self.config.video.factor, frames.shape[1:3]
        if height % factor or width % factor:
            raise InputError(f"frames of {height} x {width} can't be encoded: both must be multiples of {factor}")
        return self.video.encode(torch.from_numpy(np.ascontiguousarray(frames)), self._generator)

    @torch.no_grad()
    def encode_audio(self, samples: np.ndarray) -> Tensor:
        """Samples (S,) of whole video frames -> log-mel (T, 1, M, F); peak-normalised if the config says so."""
        audio, per_frame = self._audio(), self.timing.samples(1)
        if len(samples) == 0 or len(samples) % per_frame:
            raise InputError(f"{len(samples)} samples are not whole video frames of {per_frame} samples")
        waveform = torch.from_numpy(np.ascontiguousarray(samples))[None]
        if audio.peak:
            waveform = mel.peak_normalise(waveform, audio.peak)
        log_mel = mel.log_mel(waveform, audio.mel)[0]  # (M, T * F)
        return log_mel.unflatten(1, (-1, self.timing.mel_steps)).transpose(0, 1).unsqueeze(1).contiguous()

    # --- stored <-> model -------------------------------------------------------------------------------------------

    def to_model(self, stored: Latents) -> Latents:
        """Stored latents, with a batch axis or without, to model latents of about unit variance."""
        latents = {}
        if "video" in stored:
            shift, scale = self._video_affine(stored["video"])
            latents["video"] = (stored["video"] - shift) * scale
        if "audio" in stored:
            audio = self._audio()
            latents["audio"] = (mel.unit(stored["audio"], audio.mel) - audio.shift) * self._audio_scale()
        return latents

    def from_model(self, latents: Latents) -> Latents:
        """The inverse of :meth:`to_model`; log-mel is kept between its floor and ceiling."""
        stored = {}
        if "video" in latents:
            shift, scale = self._video_affine(latents["video"])
            stored["video"] = latents["video"] / scale + shift
        if "audio" in latents:
            audio = self._audio()
            unit = latents["audio"] / self._audio_scale() + audio.shift
            stored["audio"] = mel.from_unit(unit.clamp(-1, 1), audio.mel)
        return stored

    def _video_affine(self, like: Tensor) -> tuple[Tensor, Tensor]:
        video = self.config.video
        shift, scale = (like.new_tensor(values)[:, None, None] for values in (video.shift, video.scale))
        return shift, scale

    def _audio(self) -> AudioCodecConfig:
        if self.config.audio is None:
            raise InputError("this codec has no sound")
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
        decoder = self.decoder(len(latents["video"]))
        parts = [chunks for chunks in (decoder.push(latents), decoder.finish()) if chunks]
        return [Clip.join(chunks) for chunks in zip(*parts, strict=True)]


class StreamDecoder:
    """Decodes blocks of model latents that follow each other; pictures wait until their sound is final.

    What comes out, joined, is what decoding everything together would give.
    """

    def __init__(self, codec: Codec, batch: int) -> None:
        self.codec, self.batch = codec, batch
        self._sound = StreamingVocoder(codec.vocoder, batch) if codec.config.audio is not None else None
        self._frames: list[np.ndarray] = []  # waiting, each (B, H, W, 3)
        self._samples = np.zeros((batch, 0), np.float32)  # final, of the waiting frames

    @torch.no_grad()
    def push(self, latents: Latents) -> list[Clip]:
        """Model latents (B, k, ...) -> a clip per sample of all that is final now, or an empty list."""
        stored = self.codec.from_model(latents)
        batch, count = stored["video"].shape[:2]
        frames = self.codec.video.decode(stored["video"].flatten(0, 1)).unflatten(0, (batch, count)).numpy()
        self._frames += list(frames.swapaxes(0, 1))
        if self._sound is not None:
            log_mel = stored["audio"].squeeze(2).transpose(1, 2).flatten(2)  # (B, k, M, F) -> (B, M, k * F)
            self._take(self._sound.push(log_mel.to(self.codec.device)))
        return self._ready()

    @torch.no_grad()
    def finish(self) -> list[Clip]:
        """What still waited; the decoder is used up."""
        if self._sound is not None and self._frames:
            self._take(self._sound.finish())
        return self._ready()

    def _take(self, samples: Tensor) -> None:
        fresh = samples.float().clamp(-1, 1).cpu().numpy()
        self._samples = np.concatenate([self._samples, fresh], axis=1)

    def _ready(self) -> list[Clip]:
        timing = self.codec.timing
        count = len(self._frames)
        if self._sound is not None:
            count = min(count, self._samples.shape[1] // timing.samples(1))
        if count == 0:
            return []
        frames, self._frames = np.stack(self._frames[:count], axis=1), self._frames[count:]
        rate = timing.sample_rate or 16000
        if self._sound is None:
            return [Clip(picture, None, timing.fps, rate) for picture in frames]
        length = timing.samples(count)
        sound, self._samples = self._samples[:, :length], self._samples[:, length:]
        return [Clip(f, np.ascontiguousarray(s), timing.fps, rate) for f, s in zip(frames, sound, strict=True)]
