"""FlowField, the factorised space-time transformer of GenerativeFlow-Videos: video alone.

Per block: modulated spatial attention, temporal attention (left out in one published variant), gated SiLU MLP, with
stochastic depth. Times are per frame here; with one time for all frames it is the published network.

Shape legend: B batch, T frames, N tokens per frame, D width; video (B, T, C, H, W).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowreel.config import LatentShape, ModelConfig
from flowreel.errors import InputError
from flowreel.flow.types import Latents, Times
from flowreel.models.layers import (
    DropPath,
    FinalLayer,
    GatedMLP,
    Modulation,
    PatchEmbed,
    SelfAttention,
    TimeEmbed,
    chunk,
    modulate,
    unpatchify,
)
from flowreel.models.network import Label, Network, init_zero
from flowreel.models.positions import clock, patch_places, sincos_2d, sinusoid


class SpaceTimeBlock(nn.Module):
    """Spatial attention, temporal attention, MLP: each modulated, gated and droppable."""

    def __init__(self, config: ModelConfig, drop_path: float) -> None:
        super().__init__()
        branches: dict[str, nn.Module] = {"space": SelfAttention(config.dim, config.heads, config.qk_norm)}
        if config.temporal_attention:
            branches["time"] = SelfAttention(config.dim, config.heads, config.qk_norm)
        branches["mlp"] = GatedMLP(config.dim, round(config.dim * config.mlp_ratio))
        self.branches = nn.ModuleDict(branches)
        self.norms = nn.ModuleDict({k: nn.LayerNorm(config.dim) for k in branches})
        self.modulation = nn.Linear(config.dim, 3 * len(branches) * config.dim)
        self.drop_path = DropPath(drop_path)

    def compute_modulation(self, active: Tensor) -> list[Modulation]:
        parts = chunk(self.modulation(active), 3 * len(self.branches))
        triples = [parts[i : i + 3] for i in range(0, len(parts), 3)]
        return [Modulation(shift, scale, gate) for scale, gate, shift in triples]

    def forward(self, x: Tensor, modulations: list[Modulation], rope: tuple[Tensor, Tensor] | None) -> Tensor:
        """x (B, T, N, D)."""
        for (name, branch), m in zip(self.branches.items(), modulations, strict=True):
            h = modulate(self.norms[name](x), m)
            h = branch(h.transpose(1, 2), rope).transpose(1, 2) if name == "time" else branch(h)
            x = x + self.drop_path(m.gate * h)
        return x


class FlowFieldModulation(NamedTuple):
    blocks: list[list[Modulation]]
    final: Modulation


class FlowField(Network):
    """See the module. Positions: ``"sincos"`` (fixed over patches) or ``"learned"`` (over patches), both with a
    sinusoid over frames, so any length; or ``"rope"`` in seconds across frames."""

    def __init__(self, config: ModelConfig, shape: LatentShape, num_classes: int, window: int) -> None:
        super().__init__(config, shape, num_classes, window)
        if self.streams != ("video",):
            raise InputError(
                "FlowField is a model of video alone: prepare the data without audio, or use model.kind=flav"
            )
        self.video_embed = PatchEmbed(shape.channels, config.dim, config.patch)
        self.time_embed = TimeEmbed(config.dim)
        if num_classes:
            self.class_embed = nn.Embedding(num_classes + 1, config.dim)
        if config.positions == "learned":
            self.space = nn.Parameter(sincos_2d(config.dim, *self.grid)[None, None])
        rates = [config.drop_path * i / max(1, config.depth - 1) for i in range(config.depth)]
        self.blocks = nn.ModuleList(SpaceTimeBlock(config, rate) for rate in rates)
        self.final = FinalLayer(config.dim, config.patch**2 * shape.channels)
        self._init_weights()

    def _init_weights(self) -> None:
        residuals = (3 if self.config.temporal_attention else 2) * self.config.depth
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                into_residual = name.startswith("blocks") and name.endswith(("proj", "fc2"))
                nn.init.normal_(module.weight, std=0.02 * (residuals**-0.5 if into_residual else 1))
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.video_embed.proj.weight.view(self.config.dim, -1))
        init_zero(*(block.modulation for block in self.blocks), self.final.modulation, self.final.linear)

    def compute_modulation(self, t: Times, label: Label = None) -> FlowFieldModulation:
        c = self.time_embed(t["video"])
        if self.num_classes:
            c = c + self.class_embed(self._labels(label, t)["video"])
        active = F.silu(c)
        scale, shift = chunk(self.final.modulation(active), 2)
        return FlowFieldModulation(
            [block.compute_modulation(active) for block in self.blocks], Modulation(shift, scale, scale)
        )

    def run(self, x: Latents, modulations: FlowFieldModulation) -> Latents:
        video = x["video"]
        grid = (video.shape[-2] // self.config.patch, video.shape[-1] // self.config.patch)
        space = self.space if self.config.positions == "learned" else patch_places(self.config.dim, *grid, video.device)
        h = self.video_embed(video) + space.to(video)
        rope = None
        if self.config.positions == "rope":
            rope = clock(self.fps, video.shape[1], 1, self.config.dim // self.config.heads, video.device)
        else:
            frames = torch.arange(video.shape[1], device=video.device)
            h = h + sinusoid(frames.float(), self.config.dim)[:, None].to(video)
        for block, block_modulation in zip(self.blocks, modulations.blocks, strict=True):
            h = self._run_block(block, h, block_modulation, rope)
        return {"video": unpatchify(self.final(h, modulations.final), grid, self.config.patch)}
