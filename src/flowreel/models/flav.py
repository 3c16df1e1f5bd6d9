"""FLAV, the two-stream audio-video transformer of R-FLAV (arXiv 2503.08307).

Per block and stream: modulated attention (video: over the tokens of a frame, then across frames; audio: over all its
tokens), then fusion, then a modulated MLP. One class is a stream; a model has one or two of them.

Shape legend: B batch, T frames, N tokens per frame, D width; video (B, T, C, H, W), audio (B, T, 1, M, F).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowreel.config import LatentShape, ModelConfig
from flowreel.flow.types import Latents, Times
from flowreel.models import fusion
from flowreel.models.layers import (
    MLP,
    FinalLayer,
    Modulation,
    PatchEmbed,
    SelfAttention,
    TimeEmbed,
    chunk,
    modulate,
    unpatchify,
)
from flowreel.models.network import Label, Network, init_linear, init_zero
from flowreel.models.positions import clock, patch_places, sinusoid

AXES = {"video": ("space", "time"), "audio": ("all",)}
"""What each stream attends over, in order."""

Rope = tuple[Tensor, Tensor] | None


class StreamBlock(nn.Module):
    """One stream's part of a block: its attentions and its MLP."""

    def __init__(self, config: ModelConfig, axes: tuple[str, ...]) -> None:
        super().__init__()
        self.axes = axes
        self.attention = nn.ModuleList(
            SelfAttention(config.dim, config.heads, config.qk_norm, causal=config.causal and axis != "space")
            for axis in axes
        )
        self.norm = nn.LayerNorm(config.dim, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Linear(config.dim, 3 * len(axes) * config.dim)
        self.mlp = MLP(config.dim, round(config.dim * config.mlp_ratio))

    def compute_modulation(self, active: Tensor) -> list[Modulation]:
        """(B, T, D) -> one modulation per attention."""
        parts = chunk(self.modulation(active), 3 * len(self.axes))
        return [Modulation(*parts[i : i + 3]) for i in range(0, len(parts), 3)]

    def attend(self, x: Tensor, modulations: list[Modulation], rope: Rope) -> Tensor:
        """x (B, T, N, D)."""
        for axis, attention, m in zip(self.axes, self.attention, modulations, strict=True):
            h = modulate(self.norm(x), m)
            if axis == "space":
                h = attention(h)
            elif axis == "time":
                h = attention(h.transpose(1, 2), rope).transpose(1, 2)
            else:
                h = attention(h.flatten(1, 2), rope).unflatten(1, x.shape[1:3])
            x = torch.addcmul(x, m.gate, h)
        return x

    def feed(self, x: Tensor, m: Modulation) -> Tensor:
        return torch.addcmul(x, m.gate, self.mlp(modulate(self.norm(x), m)))


class Block(nn.Module):
    """All streams attend, fuse, and pass their MLPs."""

    def __init__(self, config: ModelConfig, streams: tuple[str, ...]) -> None:
        super().__init__()
        self.streams = nn.ModuleDict({k: StreamBlock(config, AXES[k]) for k in streams})
        self.fusion = fusion.build(config.fusion, config.dim, streams, config.heads, config.qk_norm, config.fusion_norm)

    def compute_modulation(self, c: dict[str, Tensor], active: dict[str, Tensor]) -> BlockModulation:
        return BlockModulation(
            {k: s.compute_modulation(active[k]) for k, s in self.streams.items()}, self.fusion.compute_modulation(c)
        )

    def forward(self, x: dict[str, Tensor], modulations: BlockModulation, ropes: dict[str, Rope]) -> dict[str, Tensor]:
        x = {k: s.attend(x[k], modulations.attention[k], ropes[k]) for k, s in self.streams.items()}
        x, of_mlp = self.fusion(x, modulations.fusion)
        return {k: s.feed(x[k], of_mlp[k]) for k, s in self.streams.items()}


class BlockModulation(NamedTuple):
    attention: dict[str, list[Modulation]]
    fusion: Any


class FLAVModulation(NamedTuple):
    blocks: list[BlockModulation]
    final: dict[str, Modulation]


class FLAV(Network):
    """See the module. Positions are ``"learned"`` (one per window frame, per patch and per mel step, as published) or
    ``"rope"``: rotary in seconds across time, fixed sinusoids for the place of a patch in the frame and of a mel
    step in its frame, so that window, frame rate and size may change."""

    def __init__(self, config: ModelConfig, shape: LatentShape, num_classes: int, window: int) -> None:
        super().__init__(config, shape, num_classes, window)
        dim, tokens = config.dim, {"video": self.grid[0] * self.grid[1], "audio": shape.mel_steps}
        values = {"video": config.patch**2 * shape.channels, "audio": shape.mel_bins}
        self.video_embed = PatchEmbed(shape.channels, dim, config.patch)
        if "audio" in self.streams:
            self.audio_embed = nn.Linear(shape.mel_bins, dim)
        self.time_embed = nn.ModuleDict({k: TimeEmbed(dim, 999, 1) for k in self.streams})
        if num_classes:
            self.class_embed = nn.ModuleDict({k: nn.Embedding(num_classes + 1, dim) for k in self.streams})
        if config.positions == "learned":
            self.space = nn.ParameterDict({k: nn.Parameter(torch.zeros(1, 1, tokens[k], dim)) for k in self.streams})
            self.time = nn.ParameterDict({k: nn.Parameter(torch.zeros(1, window, 1, dim)) for k in self.streams})
        self.blocks = nn.ModuleList(Block(config, self.streams) for _ in range(config.depth))
        self.final = nn.ModuleDict({k: FinalLayer(dim, values[k]) for k in self.streams})
        self._init_weights()

    def _init_weights(self) -> None:
        self.apply(init_linear)
        for name, parameter in self.named_parameters():
            if name.startswith(("time_embed", "class_embed", "space", "time.")) and parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)
        for block in self.blocks:
            init_zero(*(s.modulation for s in block.streams.values()))
            block.fusion.init_weights()
        for final in self.final.values():
            init_zero(final.modulation, final.linear)

    def compute_modulation(self, t: Times, label: Label = None) -> FLAVModulation:
        c = {k: self.time_embed[k](t[k]) for k in self.streams}
        if self.num_classes:
            labels = self._labels(label, t)
            c = {k: c[k] + self.class_embed[k](labels[k]) for k in self.streams}
        active = {k: F.silu(v) for k, v in c.items()}
        final = {}
        for k in self.streams:
            shift, scale = chunk(self.final[k].modulation(active[k]), 2)
            final[k] = Modulation(shift, scale, scale)
        return FLAVModulation([block.compute_modulation(c, active) for block in self.blocks], final)

    def run(self, x: Latents, modulations: FLAVModulation) -> Latents:
        h = self._embed(x)
        ropes = self._ropes(h)
        for block, block_modulation in zip(self.blocks, modulations.blocks, strict=True):
            h = self._run_block(block, h, block_modulation, ropes)
        out = {k: self.final[k](h[k], modulations.final[k]) for k in self.streams}
        velocity = {"video": unpatchify(out["video"], self._grid(x["video"]), self.config.patch)}
        if "audio" in out:
            velocity["audio"] = out["audio"].transpose(2, 3).unsqueeze(2)  # (B, T, F, M) -> (B, T, 1, M, F)
        return velocity

    def _embed(self, x: Latents) -> dict[str, Tensor]:
        h = {"video": self.video_embed(x["video"])}
        if "audio" in x:
            h["audio"] = self.audio_embed(x["audio"].squeeze(2).transpose(2, 3))
        if self.config.positions == "learned":
            return {k: v + (self.time[k] + self.space[k]) for k, v in h.items()}
        place = {"video": patch_places(self.config.dim, *self._grid(x["video"]), x["video"].device)}
        if "audio" in h:
            steps = h["audio"].shape[2]
            place["audio"] = sinusoid((torch.arange(steps) + 0.5) / steps * 16, self.config.dim)
        # of the weights' type, as learned positions are: under autocast the residual stream stays in float32
        return {k: v + place[k].to(self.video_embed.proj.weight) for k, v in h.items()}

    def _grid(self, video: Tensor) -> tuple[int, int]:
        return video.shape[-2] // self.config.patch, video.shape[-1] // self.config.patch

    def _ropes(self, h: dict[str, Tensor]) -> dict[str, Rope]:
        if self.config.positions == "learned":
            return dict.fromkeys(h)
        head = self.config.dim // self.config.heads
        frames, device = h["video"].shape[1], h["video"].device
        steps = {k: 1 if k == "video" else v.shape[2] for k, v in h.items()}
        return {k: clock(self.fps, frames, steps[k], head, device) for k in h}
