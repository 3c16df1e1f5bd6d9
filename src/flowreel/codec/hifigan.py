"""HiFi-GAN (arXiv 2010.05646): the convolutional vocoder of R-FLAV."""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowreel.codec import folder as weights
from flowreel.codec.conv_stream import Pieces, Run, Whole
from flowreel.codec.griffin_lim import Stream
from flowreel.config import MelConfig, from_dict
from flowreel.errors import InputError
from flowreel.utils.tensors import described, load_pickle, mapping, numbers, require

PUBLISHED_WEIGHTS = "vocoder.pt"


_SLOPE = 0.1


_LAST_SLOPE = 0.01  # the published code leaves torch's default before the last convolution


_PRE_KERNEL = _POST_KERNEL = 7


@dataclass(frozen=True)
class VocoderConfig:
    """A HiFi-GAN generator, with the names of its published config.json. Kernels of the residual blocks are odd.
    ``mel`` is the log-mel that it was trained on, where that is known."""

    num_mels: int
    upsample_initial_channel: int
    upsample_rates: tuple[int, ...]
    upsample_kernel_sizes: tuple[int, ...]
    resblock_kernel_sizes: tuple[int, ...]
    resblock_dilation_sizes: tuple[tuple[int, ...], ...]
    resblock: str = "1"
    mel: MelConfig | None = None

    def __post_init__(self) -> None:
        if self.resblock not in ("1", "2"):
            raise InputError(f"resblock must be '1' or '2', not {self.resblock!r}")
        if len(self.upsample_rates) != len(self.upsample_kernel_sizes):
            raise InputError(
                f"{len(self.upsample_rates)} upsample_rates, {len(self.upsample_kernel_sizes)} upsample_kernel_sizes"
            )
        if any(kernel < rate for rate, kernel in zip(self.upsample_rates, self.upsample_kernel_sizes, strict=True)):
            raise InputError(
                f"upsample_kernel_sizes {self.upsample_kernel_sizes} below the rates {self.upsample_rates}"
            )
        if len(self.resblock_kernel_sizes) != len(self.resblock_dilation_sizes):
            raise InputError("resblock_kernel_sizes and resblock_dilation_sizes differ in length")
        if any(kernel % 2 == 0 for kernel in self.resblock_kernel_sizes):
            raise InputError(f"resblock_kernel_sizes must be odd, not {self.resblock_kernel_sizes}")

    @classmethod
    def from_json(cls, values: dict[str, Any], where: Path) -> VocoderConfig:
        """Read a published config.json, whose settings of training are passed over."""
        names = [f.name for f in dataclasses.fields(cls)]
        missing = [name for name in names if name not in values and name not in ("resblock", "mel")]
        if missing:
            raise InputError(f"{where} is not the config of a HiFi-GAN: it lacks {', '.join(missing)}")
        known = {name: _tuples(values[name]) for name in names if name in values}
        mel = from_dict(MelConfig, values["mel"], f"{where}: mel") if values.get("mel") else None
        return cls(**{**known, "resblock": str(values.get("resblock", "1")), "mel": mel})

    @property
    def hop(self) -> int:
        """Samples per mel step."""
        return math.prod(self.upsample_rates)


class HiFiGAN(nn.Module):
    """The HiFi-GAN generator, weight norm already fused: log_mel (B, M, N) -> waveform (B, N * hop) in [-1, 1]."""

    kind: Literal["hifigan"] = "hifigan"

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.upsample_initial_channel
        self.conv_pre = nn.Conv1d(config.num_mels, width, _PRE_KERNEL, padding=_PRE_KERNEL // 2)
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        for rate, kernel in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True):
            odd = (kernel - rate) % 2
            padding = (kernel - rate) // 2 + odd
            self.ups.append(nn.ConvTranspose1d(width, width // 2, kernel, rate, padding=padding, output_padding=odd))
            width //= 2
            for size, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True):
                self.resblocks.append(_ResBlock(width, size, dilations, paired=config.resblock == "1"))
        self.conv_post = nn.Conv1d(width, 1, _POST_KERNEL, padding=_POST_KERNEL // 2)

    @property
    def hop(self) -> int:
        """Samples per mel step."""
        return self.config.hop

    def forward(self, log_mel: Tensor) -> Tensor:
        """log_mel (B, M, N) -> (B, N * hop). Raises InputError for another number of mel bins."""
        self._check(log_mel)
        return self.run(log_mel, Whole())

    def run(self, log_mel: Tensor, run: Run) -> Tensor:
        """The forward pass, on the whole or on a piece of it."""
        x = run.layer(self.conv_pre, log_mel)
        kernels = len(self.config.resblock_kernel_sizes)
        for stage, up in enumerate(self.ups):
            x = run.layer(up, F.leaky_relu(x, _SLOPE))
            branches = self.resblocks[stage * kernels : (stage + 1) * kernels]
            x = run.add(up, *(branch(x, run) for branch in branches)) / kernels
        return torch.tanh(run.layer(self.conv_post, F.leaky_relu(x, _LAST_SLOPE))).squeeze(1)

    def _check(self, log_mel: Tensor) -> None:
        if log_mel.ndim != 3 or log_mel.shape[1] != self.config.num_mels:
            raise InputError(
                f"this vocoder takes a log-mel (B, {self.config.num_mels}, N), not shape {tuple(log_mel.shape)}"
            )

    @property
    def context(self) -> tuple[int, int]:
        """How many mel steps before and after its own the samples of one mel step depend on: exact.

        The first and the last sample of step 0 are followed back through the layers; the rest lies between.
        """
        first, last = -(_POST_KERNEL // 2), self.hop - 1 + _POST_KERNEL // 2
        reach = max(block.reach for block in self.resblocks)
        for up in reversed(self.ups):
            (kernel,), (rate,), (padding,) = up.kernel_size, up.stride, up.padding
            first = -((kernel - 1 - padding - first + reach) // rate)
            last = (last + reach + padding) // rate
        return _PRE_KERNEL // 2 - first, last + _PRE_KERNEL // 2

    def stream(self) -> Stream:
        """For :class:`StreamingVocoder`."""
        return functools.partial(self._continue, Pieces())

    def _continue(self, pieces: Pieces, log_mel: Tensor, last: bool) -> Tensor:
        self._check(log_mel)
        pieces.last = last
        return self.run(log_mel, pieces)

    def save(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors, which :func:`load` reads."""
        weights.write(Path(folder), dataclasses.asdict(self.config), self)


class _ResBlock(nn.Module):
    """Dilated convolutions, each added to its input; ``paired`` puts an undilated one after each."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...], paired: bool) -> None:
        super().__init__()
        dilated = nn.ModuleList(_same(channels, kernel, dilation) for dilation in dilations)
        self.paired = paired
        if paired:
            self.convs1, self.convs2 = dilated, nn.ModuleList(_same(channels, kernel, 1) for _ in dilations)
        else:
            self.convs = dilated
        self.reach = kernel // 2 * (sum(dilations) + paired * len(dilations))

    def forward(self, x: Tensor, run: Run) -> Tensor:
        for number, dilated in enumerate(self.convs1 if self.paired else self.convs):
            y = run.layer(dilated, F.leaky_relu(x, _SLOPE))
            if self.paired:
                y = run.layer(self.convs2[number], F.leaky_relu(y, _SLOPE))
            x = run.add(dilated, x, y)
        return x


def read_published_weights(path: Path) -> dict[str, Tensor]:
    saved = mapping(load_pickle(path), str(path))
    require(path, saved, ["generator"])
    return {
        name: numbers(value, f"{path}: generator's {name}")
        for name, value in mapping(saved["generator"], f"{path}: generator").items()
    }


def fuse_weight_norm(state: dict[str, Tensor], where: str = "this vocoder") -> dict[str, Tensor]:
    """weight = g * v / |v| (arXiv 1602.07868), under torch's old names and under its new ones."""
    fused = dict(state)
    for g_name, v_name in (
        ("weight_g", "weight_v"),
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ):
        for key in [key for key in state if key.endswith(g_name)]:
            layer = key.removesuffix(g_name)
            require(where, fused, [layer + v_name])
            g, v = fused.pop(key), fused.pop(layer + v_name)
            if v.dim() != 3 or g.shape != (len(v), 1, 1):
                both = f"{key} ({described(g)}) and {layer}{v_name} ({described(v)})"
                raise InputError(f"{where}: {both} are no weight of a convolution and its norm")
            fused[layer + "weight"] = g * v / v.flatten(1).norm(dim=1).view(-1, 1, 1)
    return fused


def _same(channels: int, kernel: int, dilation: int) -> nn.Conv1d:
    return nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=kernel // 2 * dilation)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
