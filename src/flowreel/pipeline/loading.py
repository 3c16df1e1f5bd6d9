"""Loads a pipeline: from a folder of ours, a hub repo, or a checkpoint of a published system."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from flowreel.codec import Codec
from flowreel.codec.vocoder import load as load_vocoder
from flowreel.config import FORMAT_VERSION, ConvertConfig, PipelineConfig, from_dict
from flowreel.errors import InputError
from flowreel.models import build
from flowreel.pipeline.pipeline import Pipeline
from flowreel.pipeline.published import Published, plain, read_published
from flowreel.pipeline.resolve import check_guidance
from flowreel.utils.files import read_json, undo
from flowreel.utils.locking import contents, held
from flowreel.utils.reporting import Report, say

SHIPPED = Path(__file__).parents[1] / "weights"


def load(
    where: str | Path,
    *,
    device: str | torch.device | None = None,
    audio_scale: float | None = None,
    autoencoder: str | None = None,
    vocoder: str | None = None,
) -> Pipeline:
    """Load a pipeline.

    Args:
        where: a shipped name (a folder of that name is ``./name``), a folder of ours, a Hugging Face repo id of one, an
            R-FLAV checkpoint folder, repo or training save (``final.pt``, ``ema.pth``), or GenerativeFlow's
            ``content.pt``. Compiled or not.
        device: by default CUDA where there is one, else the CPU.
        audio_scale: scale of the audio latents, for R-FLAV checkpoints other than the published two.
        autoencoder: hub id or path of the autoencoder, where the checkpoint does not name the right one.
        vocoder: folder of a vocoder (of ``train-vocoder``, or a published HiFi-GAN) to make audio with.

    Raises:
        InputError: there is no such thing, or it is broken or of a kind that is not known.
    """
    path = _find(where)
    config_path = path / "config.json"
    ours = path.is_dir() and config_path.is_file() and "format_version" in read_json(config_path)
    if path.is_dir() and not config_path.is_file():
        kind = "prepared data: train on it" if (path / "index.json").is_file() else "not a pipeline"
        raise InputError(f"{path} has no config.json, it is {kind} (a run saves a pipeline with its first checkpoint)")
    if path.is_dir() and {"codec", "timing"} == set(read_json(config_path)):
        raise InputError(f"{path} is a codec, not a pipeline: give it to flowreel prepare --codec")
    pipeline = _load_ours(path) if ours else _load_published(read_published(path, source=_source(where, path)))
    if audio_scale is not None or autoencoder is not None:
        pipeline = _adjusted(pipeline, audio_scale, autoencoder)
    if vocoder is not None:
        codec = pipeline.codec.with_vocoder(vocoder)
        pipeline = Pipeline(pipeline.model, codec, replace(pipeline.config, codec=codec.config))
    chosen = _device(device)
    pipeline.model.to(chosen)
    pipeline.codec.to(chosen)
    return pipeline


def _device(device: str | torch.device | None) -> torch.device:
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device {device!r} can't be used here: {str(error).splitlines()[0]}") from error
    return chosen


def shipped() -> list[str]:
    """Names of the pipelines that come with the package."""
    return sorted(p.name for p in SHIPPED.iterdir() if (p / "config.json").is_file()) if SHIPPED.is_dir() else []


def _find(where: str | Path) -> Path:
    if isinstance(where, str) and where in shipped():
        if (Path(where) / "config.json").is_file():
            raise InputError(
                f"{where} comes with flowreel, and there is a folder {where} here: for that, say ./{where}"
            )
        return SHIPPED / where
    path = Path(where).expanduser()
    if path.exists():
        return path
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(where)) and not str(where).startswith("."):
        return _download(str(where))
    names = f" or a shipped name ({', '.join(shipped())})" if shipped() else ""
    raise InputError(f"there is nothing at {where}, and it is not a hub repo id (owner/name){names}")


def _download(repo: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    say(f"looking for {repo} on the hub, and downloading what is not here yet")
    try:
        return Path(snapshot_download(repo, allow_patterns=["*.json", "*.safetensors", "vocoder/*", "codec/**"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"there is no folder {repo}, and the hub repo {repo} could not be fetched: {str(error).splitlines()[0]}"
        ) from error


def _source(where: str | Path, path: Path) -> str:
    return str(where) if str(where) != str(path) and not path.is_file() else path.name


def _load_ours(folder: Path) -> Pipeline:
    values = read_json(folder / "config.json")
    if values["format_version"] != FORMAT_VERSION:
        raise InputError(
            f"{folder} was written in format {values['format_version']}, this flowreel reads {FORMAT_VERSION}"
        )
    config = from_dict(PipelineConfig, values, "config.json")
    model = build(config.model, config.shape, config.num_classes, config.trained.window)
    try:
        model.load_state_dict(plain(load_file(folder / "model.safetensors")))
    except (FileNotFoundError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{folder}/model.safetensors can't be used: {str(error).splitlines()[0]}") from error
    return Pipeline(model.eval(), Codec.load(folder / "codec", config.timing), config)


def _load_published(published: Published) -> Pipeline:
    config = published.config
    model = build(config.model, config.shape, config.num_classes, config.trained.window)
    try:
        model.load_state_dict(published.state)
    except RuntimeError as error:
        raise InputError(
            f"{config.source} does not hold a whole network: {str(error).splitlines()[-1].strip()}"
        ) from error
    vocoder = load_vocoder(published.vocoder) if published.vocoder else None
    return Pipeline(model.eval(), Codec(config.codec, config.timing, vocoder=vocoder), config)


def _adjusted(pipeline: Pipeline, audio_scale: float | None, autoencoder: str | None) -> Pipeline:
    codec, folder = pipeline.config.codec, None
    if audio_scale is not None:
        if codec.audio is None:
            raise InputError("audio_scale was given, but this model makes no audio")
        codec = replace(codec, audio=replace(codec.audio, scale=audio_scale))
    if autoencoder is not None:
        from flowreel.codec.registry import named_codec

        named, folder = named_codec(autoencoder)
        video = named.video
        if video.channels != pipeline.config.shape.channels:
            raise InputError(
                f"the autoencoder {autoencoder} has {video.channels} latent channels, this model needs "
                f"{pipeline.config.shape.channels}: give the one that it was trained with"
            )
        if (codec.video.source == "" and codec.video.kind == "tiny") or len(codec.video.scale) > 1:
            video = replace(video, shift=codec.video.shift, scale=codec.video.scale)  # measured on the training data
        codec = replace(codec, video=replace(video, fit=codec.video.fit))
    config = replace(pipeline.config, codec=codec)
    changed = pipeline.codec.with_config(codec)
    if folder is not None:
        vocoder = changed.vocoder if codec.audio is not None else None
        changed = Codec(codec, config.timing, folder, vocoder=vocoder)
    return Pipeline(pipeline.model, changed, config)


def convert(src: str | Path, out: Path, config: ConvertConfig, report: Report) -> Path:
    """Load whatever ``src`` is and save it as a folder of ours. What an earlier call left that was killed is replaced.

    Raises :class:`InputError` where ``out`` is not a new or an empty folder, or in use by another process.
    """
    with held(out, report):
        undo(out)
        if contents(out):
            raise InputError(f"{out} is there already and not an empty folder: choose another OUT")
        pipeline = _converted(src, config)
        pipeline.save(out, half=config.dtype == "float16")
    report(f"{out}  {pipeline.config.model.kind}, {sum(p.numel() for p in pipeline.model.parameters()):,} parameters")
    return out


def _converted(src: str | Path, config: ConvertConfig) -> Pipeline:
    pipeline = load(
        src,
        device="cpu",
        audio_scale=config.audio_scale,
        autoencoder=config.autoencoder,
        vocoder=config.vocoder,
    )
    if config.guidance is not None:
        check_guidance(config.guidance, pipeline.config)
    chosen = {name: getattr(config, name) for name in ("steps", "guidance") if getattr(config, name) is not None}
    return Pipeline(pipeline.model, pipeline.codec, replace(pipeline.config, **chosen))
