"""Codecs by name: a folder of ours, a pipeline's, a known autoencoder of a hub, or another of its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from flowreel.codec import Codec
from flowreel.config import CodecConfig, VideoCodecConfig, VideoKind
from flowreel.config.presets import AUTOENCODERS
from flowreel.errors import InputError
from flowreel.utils.files import read_json

CODEC = "codec"
"""The folder of a codec within that of a pipeline or of prepared data."""
TRAINING = "training"
"""The folder with the state of the training that made a codec or a pipeline, within its own."""


KINDS = tuple(kind for kind in get_args(VideoKind) if kind != "tiny")
"""The classes of diffusers that can be a codec."""


def named_codec(name: str) -> tuple[CodecConfig, Path | None]:
    """Settings and, where the weights are our own, folder of a codec: a known hub id, a folder of a codec or of a
    pipeline, or another hub id."""
    if name in AUTOENCODERS:
        return CodecConfig(AUTOENCODERS[name]), None
    folder = codec_folder(name)
    if folder is None:
        return CodecConfig(_diffusers(name, read_json(_from_hub(name)))), None
    if (folder / "config.json").is_file() and "_class_name" in (values := read_json(folder / "config.json")):
        return CodecConfig(_diffusers(str(folder.resolve()), values)), None
    return Codec.load(folder).config, folder


def codec_folder(name: str) -> Path | None:
    """The folder that holds the codec ``name``, if that is the path of a folder: itself, or ``codec/`` in a pipeline's
    or in a prepared one."""
    folder = Path(name)
    if not name or name in AUTOENCODERS or not folder.is_dir():
        return None
    return folder / CODEC if (folder / CODEC / "config.json").is_file() else folder


def _from_hub(name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, "config.json"))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"codec {name!r} is neither a folder nor an autoencoder that the hub gives: {str(error).splitlines()[0]}"
        ) from error


def _diffusers(source: str, values: dict[str, Any]) -> VideoCodecConfig:
    """The settings of a diffusers autoencoder, with the shift and scale that it was published with."""
    kind: Any = values.get("_class_name")
    if kind not in KINDS:
        raise InputError(f"{source} is of the class {kind}, which is no codec here: known are {', '.join(KINDS)}")
    levels = values.get("encoder_block_out_channels") or values["block_out_channels"]
    return VideoCodecConfig(
        kind=kind,
        source=source,
        channels=values["latent_channels"],
        factor=2 ** (len(levels) - 1),
        shift=(float(values.get("shift_factor") or 0),),
        scale=(float(values.get("scaling_factor") or 1),),
    )


def autoencoder_for(channels: int, variant: str = "ema") -> VideoCodecConfig:
    """The published autoencoder with that many latent channels; an unnamed one where none has."""
    names = {4: f"stabilityai/sd-vae-ft-{variant}", 32: "mit-han-lab/dc-ae-f32c32-sana-1.0-diffusers"}
    return AUTOENCODERS.get(names.get(channels, ""), VideoCodecConfig(kind="AutoencoderKL", channels=channels))
