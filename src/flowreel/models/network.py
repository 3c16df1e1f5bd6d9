"""The base of both networks: shapes, classes, and a forward pass in two parts.

The first part computes the modulation of every layer, which depends on times and labels but not on the latents. A
rolling stream repeats the same few times turn after turn, so :class:`CachedModulation` keeps their modulation.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from flowreel.config import LatentShape, ModelConfig
from flowreel.errors import InputError
from flowreel.flow.types import Latents, Times

Label: TypeAlias = Tensor | dict[str, Tensor] | None


class Network(nn.Module):
    """A velocity network over windows of frames.

    Attributes:
        num_classes: also the index of the null class; 0 means no classes.
        window: frames it was built for.
        fps: the frame rate that its clock runs at (rotary positions may be given another).
        gradient_checkpointing: recompute blocks in the backward pass to save memory.
    """

    def __init__(self, config: ModelConfig, shape: LatentShape, num_classes: int, window: int) -> None:
        super().__init__()
        if shape.height % config.patch or shape.width % config.patch:
            raise InputError(
                f"latents of {shape.height} x {shape.width} can't be cut into patches of {config.patch}: "
                f"choose model.patch from the common divisors of both"
            )
        self.config, self.shape, self.num_classes, self.window = config, shape, num_classes, window
        self.streams = tuple(shape.streams)
        self.grid = (shape.height // config.patch, shape.width // config.patch)
        self.fps = shape.fps
        self.gradient_checkpointing = False

    @abstractmethod
    def compute_modulation(self, t: Times, label: Label = None) -> Any:
        """The modulation of every layer, from times and labels."""

    @abstractmethod
    def run(self, x: Latents, modulations: Any) -> Latents:
        """Velocities of ``x`` with this modulation of every layer."""

    def forward(self, x: Latents, t: Times, label: Label = None) -> Latents:
        """Velocities of all streams.

        Args:
            x: ``{"video": (B, T, C, H, W), "audio": (B, T, 1, M, F)}``.
            t: the same keys, (B, T) in [0, 1].
            label: (B,) class indices (``num_classes`` is the null class), or (B, T) where they change within the
                window, or one such tensor per stream, or None for the null class.

        Raises:
            InputError: the window, frame rate or size is one that learned positions do not have.
        """
        self._check(x)
        return self.run(x, self.compute_modulation(t, label))

    def drop_label(self, label: Tensor, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """Replace labels by the null class with probability ``class_dropout``, drawn per sample and per stream.

        Args:
            label: (B,) or (B, T).
            generators: one per sample.
        """
        draws = torch.stack([torch.rand(len(self.streams), generator=g) for g in generators]).to(label.device)
        dropped = (draws < self.config.class_dropout).reshape(len(label), len(self.streams), *(1,) * (label.ndim - 1))
        return {stream: torch.where(dropped[:, i], self.num_classes, label) for i, stream in enumerate(self.streams)}

    def _labels(self, label: Label, like: Times) -> dict[str, Tensor]:
        """Per stream (B, T), or (B, 1) where all frames have the same."""
        if label is None:
            first = next(iter(like.values()))
            label = torch.full((first.shape[0],), self.num_classes, device=first.device)
        labels = label if isinstance(label, dict) else dict.fromkeys(self.streams, label)
        return {stream: given.unsqueeze(1) if given.ndim == 1 else given for stream, given in labels.items()}

    def _check(self, x: Latents) -> None:
        if set(x) != set(self.streams):
            raise InputError(f"this model has the streams {', '.join(self.streams)}, but was given {', '.join(x)}")
        height, width = x["video"].shape[-2:]
        if height % self.config.patch or width % self.config.patch:
            raise InputError(
                f"latents of {height} x {width} were given, which can't be cut into this model's patches of "
                f"{self.config.patch}"
            )
        if self.config.positions != "learned":
            return
        frames = x["video"].shape[1]
        if self.config.kind == "flav" and frames != self.window:
            raise InputError(
                f"a window of {frames} frames was asked for, but this model has one learned position for each of "
                f"its {self.window} training frames and none for others: use {self.window}, or train with "
                "model.positions=rope"
            )
        want, got = self.shape.streams, {k: tuple(v.shape[2:]) for k, v in x.items()}
        if any(got[k] != want[k] for k in want):
            raise InputError(
                f"latents of shape {got} were given, but this model has learned positions for {want} (another size or "
                "frame rate needs model.positions=rope)"
            )

    def _run_block(self, block: nn.Module, *args: Any) -> Any:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return torch.utils.checkpoint.checkpoint(block, *args, use_reentrant=False)
        return block(*args)


def init_linear(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases (of a patch embedding too, read as a linear map)."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight.view(module.weight.shape[0], -1))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def init_zero(*layers: nn.Linear) -> None:
    for layer in layers:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
