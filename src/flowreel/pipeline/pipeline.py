"""The pipeline: a trained model with its codec, classes and clocks, which generates clips.

The folder holds ``config.json``, ``model.safetensors`` and ``codec/``. A clip is the first seconds of a stream.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from flowreel.codec import Codec
from flowreel.config import PipelineConfig, SamplingConfig, to_dict
from flowreel.errors import InputError
from flowreel.flow.noise import sample_seed, seeded
from flowreel.media import Clip
from flowreel.models import Network
from flowreel.pipeline.conditioning import Conditioning, Media, encode_conditioning
from flowreel.pipeline.published import plain
from flowreel.pipeline.resolve import class_index, makes_clips, resolve, sampling_config
from flowreel.pipeline.stream import GenerationStream
from flowreel.utils.files import replacing_files, write_json
from flowreel.utils.locking import held
from flowreel.utils.reporting import Progress
from flowreel.utils.tensors import store_as_half
from flowreel.utils.threads import flush_denormals

DEFAULT_SECONDS = 4.0
_LABELS = 0x1ABE1


class Stream(Iterator[Clip]):
    """An endless stream of chunks of one sample, which can be steered while it rolls. Made by ``Pipeline.stream``."""

    def __init__(self, generation: GenerationStream) -> None:
        self._generation = generation

    def __next__(self) -> Clip:
        return next(self._generation)[0]

    def steer(self, label: str | int | None = None, guidance: float | None = None) -> None:
        """Change the class (by name or index) or the guidance from the next solver step on.

        Raises:
            InputError: the model has no such class, or can't be guided.
        """
        self._generation.steer(label, guidance)


class Pipeline:
    """A trained model with its codec.

    Attributes:
        model: the network; works without the codec, and without a network connection.
        codec: media <-> model latents; autoencoders from a hub load at first use.
        config: see :class:`flowreel.config.PipelineConfig`.
    """

    def __init__(self, model: Network, codec: Codec, config: PipelineConfig) -> None:
        self.model, self.codec, self.config = model, codec, config
        self._flush_denormals()

    def _flush_denormals(self) -> None:
        if next(self.model.parameters()).device.type == "cpu":
            flush_denormals()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their indices; empty where there are none."""
        return self.config.classes

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def __repr__(self) -> str:
        made = f"{self.config.model.kind}, {len(self.classes)} classes, {' and '.join(self.model.streams)}"
        return f"Pipeline({made}, {self.config.timing.fps:g} frames a second, on {self.device})"

    def generate(
        self,
        *,
        label: str | int | None = None,
        seconds: float | None = None,
        seed: int = 0,
        audio: Media | None = None,
        video: Media | None = None,
        prefix: Media | None = None,
        fps: float | None = None,
        **settings: Any,
    ) -> Clip:
        """Generate one clip: a whole window, or as long a roll as asked for. A person at a terminal or in a notebook
        sees a bar meanwhile.

        Args:
            label: class name or index; without one a class is drawn from the seed.
            seconds: length; by default that of the conditioning, of a clip model's window, or 4 s of rolling.
            audio: audio to make video for; video: video to make audio for; prefix: a clip to continue (its frames
                are not in the result). Each a :class:`Clip` or a path.
            fps: another frame rate than the trained one; needs rotary positions.
            settings: the fields of :class:`flowreel.config.SamplingConfig` (guidance, steps, solver, block, ...).

        Raises:
            InputError: something that can't be done with this model.
        """
        pipeline = self if fps is None else self.at(fps)
        conditioning = pipeline.condition(audio, video, prefix, settings.get("context"), seconds)
        with Progress("generating", lines=False) as progress:
            chunks = pipeline.clips(
                [label],
                [sample_seed(seed, 0)],
                seconds=seconds,
                conditioning=conditioning,
                watch=lambda share: progress.update(share, ""),
                **settings,
            )
            return Clip.join(chunk[0] for chunk in chunks)

    def stream(
        self,
        *,
        label: str | int | None = None,
        seed: int = 0,
        audio: Media | None = None,
        video: Media | None = None,
        prefix: Media | None = None,
        fps: float | None = None,
        **settings: Any,
    ) -> Stream:
        """Roll on for ever: an iterator of chunks (:class:`Clip`) of constant memory, with ``.steer()``.

        Arguments as in :meth:`generate`. Where the conditioning ends, its stream is generated like the other
        (with ``method="gradient"`` everything ends there).

        Raises:
            InputError: the model makes clips of a fixed length, or something that it can't do.
        """
        pipeline = self if fps is None else self.at(fps)
        if makes_clips(pipeline.config) and settings.get("block") is None:
            raise InputError("this model makes clips of a fixed length and can't roll: use generate()")
        conditioning = pipeline.condition(audio, video, prefix, settings.get("context"))
        return Stream(pipeline._generation([label], [sample_seed(seed, 0)], sampling_config(settings), conditioning))

    def clips(
        self,
        labels: Sequence[str | int | None],
        seeds: Sequence[int],
        *,
        seconds: float | None = None,
        conditioning: Conditioning | None = None,
        watch: Callable[[float], None] | None = None,
        **settings: Any,
    ) -> Iterator[list[Clip]]:
        """Chunks of B samples in step, until ``seconds`` are made: what :meth:`generate` joins and a file writer takes.

        Sample k depends on its label and seed, not on the batch it is in.

        Args:
            labels: (B), each a name, an index, or None to draw one from the seed.
            seeds: (B).
            conditioning: see :meth:`condition`; shared by all samples, or one for each (``conditioning.stack``).
            watch: called with the share of the work that is done, 0 to 1, after every solver step.
        """
        conditioning = conditioning or Conditioning()
        frames = self._frames(seconds, conditioning)
        return self._generation(labels, seeds, sampling_config(settings), conditioning, frames).until(frames, watch)

    def at(self, fps: float) -> Pipeline:
        """The same pipeline at another frame rate; shares the weights.

        Raises:
            InputError: learned positions, which know one frame rate, or a rate that mel steps can't be cut into.
        """
        timing = replace(self.config.timing, fps=fps)
        if self.config.model.positions != "rope":
            raise InputError(
                f"{timing.fps:g} frames a second were asked for, but this model's {self.config.model.positions} "
                f"positions know only {self.config.timing.fps:g}: leave fps out, or train with model.positions=rope"
            )
        model = copy.copy(self.model)
        model.fps = timing.fps
        shape = replace(self.config.shape, fps=timing.fps, mel_steps=timing.mel_steps)
        codec = self.codec.at(timing)
        return Pipeline(model, codec, replace(self.config, timing=timing, shape=shape))

    def save(self, folder: str | Path, whole: bool = True, half: bool = False) -> Path:
        """Write ``config.json``, ``model.safetensors`` and ``codec/``, each file whole or not at all.

        An autoencoder that the config names by a path is copied into the folder if ``whole``, else named by its path;
        one from the hub is named by its id. ``half`` stores all weights as float16.

        Raises :class:`InputError` where ``folder`` is a file, or in use by another process.
        """
        folder = Path(folder)
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in plain(self.model.state_dict()).items()}
        with held(folder), replacing_files(folder) as aside:
            codec = self.codec.save(aside / "codec", whole)
            save_file(weights, aside / "model.safetensors", {"format": "pt"})
            for path in list(aside.rglob("*.safetensors")) if half else ():
                store_as_half(path)
            write_json(aside / "config.json", to_dict(replace(self.config, codec=codec.config)))
        return folder

    def push_to_hub(self, repo: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload the folder that :meth:`save` writes to the Hugging Face repo ``repo``, and return its address."""
        import tempfile

        from huggingface_hub import HfApi

        api = HfApi(token=token)
        with tempfile.TemporaryDirectory() as folder:
            self.save(folder)
            address = api.create_repo(repo, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo, folder_path=folder)
        return str(address)

    def condition(
        self,
        audio: Media | None = None,
        video: Media | None = None,
        prefix: Media | None = None,
        context: int | None = None,
        seconds: float | None = None,
    ) -> Conditioning:
        """Read and encode conditioning: see :func:`flowreel.pipeline.conditioning.encode_conditioning`."""
        if context is None:
            context = max(self.config.trained.contexts, default=0)
        return encode_conditioning(
            self.codec,
            self.config,
            context=context,
            audio=audio,
            video=video,
            prefix=prefix,
            seconds=seconds,
        )

    def class_name(self, label: str | int | None, seed: int) -> str | None:
        """The class of a sample: the one asked for by name or index, else drawn from its seed; None without classes.

        Raises:
            InputError: no such class.
        """
        if label is not None:
            return self.classes[class_index(label, self.config)]
        if not self.classes:
            return None
        (generator,) = seeded([sample_seed(seed, _LABELS)])
        return self.classes[int(torch.randint(len(self.classes), (1,), generator=generator))]

    def _frames(self, seconds: float | None, conditioning: Conditioning) -> int:
        timing, limit = self.config.timing, conditioning.length
        if seconds is not None:
            if not isinstance(seconds, Real):
                raise InputError(f"seconds must be a number, not {seconds!r}")
            if seconds <= 0:
                raise InputError(f"seconds must be above 0, not {seconds:g}")
            frames = timing.frames(seconds)
            if limit and limit < frames:
                warnings.warn(
                    f"{seconds:g} s were asked for, but the conditioning ends after {timing.seconds(limit):g} s",
                    stacklevel=4,
                )
            return min(frames, limit or frames)
        if limit:
            return limit
        return self.config.trained.window if makes_clips(self.config) else timing.frames(DEFAULT_SECONDS)

    def _generation(
        self,
        labels: Sequence[str | int | None],
        seeds: Sequence[int],
        settings: SamplingConfig,
        conditioning: Conditioning,
        frames: int | None = None,
    ) -> GenerationStream:
        if len(labels) != len(seeds) or not seeds:
            raise InputError(f"there are {len(labels)} labels and {len(seeds)} seeds: one of each per sample is needed")
        if len(conditioning.media) not in (1, len(seeds)):
            raise InputError(
                f"there is conditioning for {len(conditioning.media)} samples, but {len(seeds)} seeds were given"
            )
        resolved = resolve(settings, self.config, conditioning, frames)
        self._flush_denormals()  # this may be another thread than the one that loaded the pipeline
        names = [self.class_name(label, seed) for label, seed in zip(labels, seeds, strict=True)]
        indices = torch.tensor(
            [class_index(name, self.config) for name in names if name is not None], device=self.device
        )
        return GenerationStream(
            self.model.eval(), self.codec, self.config, resolved, conditioning, indices if self.classes else None, seeds
        )
