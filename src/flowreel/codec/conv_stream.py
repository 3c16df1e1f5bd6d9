"""Convolutions on a whole sequence or on one that comes in pieces, with the same result.

Shapes: B batch, C channels, n samples, of whatever rate a layer has.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Layer: TypeAlias = nn.Conv1d | nn.ConvTranspose1d


class Run(Protocol):
    """How a network of convolutions is run."""

    def layer(self, layer: Layer, x: Tensor) -> Tensor:
        """The layer's output, (B, C, n)."""

    def add(self, place: nn.Module, *parts: Tensor) -> Tensor:
        """The sum of what is for the same instants; ``place`` says which sum of the network it is."""


class Whole:
    """The whole sequence at once."""

    def layer(self, layer: Layer, x: Tensor) -> Tensor:
        return layer(x)

    def add(self, place: nn.Module, *parts: Tensor) -> Tensor:  # noqa: ARG002
        return sum(parts[1:], start=parts[0])


class Pieces:
    """One sequence, piece by piece. Every layer gives what no later piece can change, as soon as it can: as many
    samples as are final, perhaps none. With ``last`` set, the piece is the end of the sequence."""

    def __init__(self) -> None:
        self.last = False
        self._before: dict[nn.Module, Tensor] = {}  # what a layer still has in sight
        self._skip: dict[nn.Module, int] = {}  # outputs that lie before the sequence, and were not passed over yet
        self._waiting: dict[nn.Module, list[Tensor]] = {}  # parts of a sum whose counterparts are still to come

    def layer(self, layer: Layer, x: Tensor) -> Tensor:
        """Zeros lie around the sequence, as the layer's padding has it: in front as its first history, behind as a
        last piece. What they alone make is cut off."""
        history, rate, skip = _geometry(layer)
        x = torch.cat((self._before.get(layer, x.new_zeros(*x.shape[:2], history)), x), -1)
        if self.last:
            x = torch.cat((x, x.new_zeros(*x.shape[:2], history)), -1)
        fresh = x.shape[-1] - history
        self._before[layer] = x[..., fresh:].clone()  # a view would keep the whole piece
        if fresh == 0:
            return x.new_zeros(len(x), layer.out_channels, 0)
        if isinstance(layer, nn.ConvTranspose1d):
            y = F.conv_transpose1d(x, layer.weight, layer.bias, layer.stride)[..., history * rate : x.shape[-1] * rate]
        else:
            y = F.conv1d(x, layer.weight, layer.bias, dilation=layer.dilation)
        early = min(y.shape[-1], self._skip.get(layer, skip))
        self._skip[layer] = self._skip.get(layer, skip) - early
        return y[..., early : y.shape[-1] - (history * rate - skip if self.last else 0)]

    def add(self, place: nn.Module, *parts: Tensor) -> Tensor:
        before = self._waiting.get(place, [part[..., :0] for part in parts])
        joined = [torch.cat(pair, -1) for pair in zip(before, parts, strict=True)]
        ready = min(part.shape[-1] for part in joined)
        self._waiting[place] = [part[..., ready:].clone() for part in joined]
        return sum((part[..., :ready] for part in joined[1:]), start=joined[0][..., :ready])


def _geometry(layer: Layer) -> tuple[int, int, int]:
    """How many inputs before the newest a layer looks back to, how many outputs an input adds, and how many outputs
    lie before the sequence once the first input is there."""
    (kernel,), (rate,), (dilation,) = layer.kernel_size, layer.stride, layer.dilation
    (padding,) = layer.padding if isinstance(layer.padding, tuple) else (0,)
    if isinstance(layer, nn.ConvTranspose1d):
        return (kernel - 1) // rate, rate, padding
    history = (kernel - 1) * dilation
    return history, 1, history - padding
