"""The folder of a small network: ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from flowreel.errors import InputError
from flowreel.utils.files import read_json, write_json

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


def write(folder: Path, config: dict[str, Any], module: nn.Module) -> None:
    """Write ``config`` and the weights of ``module`` into ``folder``, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}, folder / WEIGHTS
    )
    write_json(folder / CONFIG, config)


def read_config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of ``folder``; :class:`InputError` where there is none."""
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder} is not the folder of a network: it has no {CONFIG}")
    return read_json(folder / CONFIG)


def fill(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load ``state``, read from ``path``, into ``module``; :class:`InputError` unless all names and shapes fit."""
    own = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    both = sorted(own.keys() & given.keys())
    wrong = [f"{name} is {given[name]}, not {own[name]}" for name in both if given[name] != own[name]]
    wrong += [f"{name} is missing" for name in sorted(own.keys() - given.keys())]
    wrong += [f"{name} is unknown" for name in sorted(given.keys() - own.keys())]
    if wrong:
        more = f"; and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise InputError(f"{path} does not fit the {CONFIG} beside it: {'; '.join(wrong[:4])}{more}")
    module.load_state_dict(state)
