"""A training task of a second: a small network with dropout learns a line. For the tests of the loop."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from flowreel.config import EMAConfig, LoopConfig, OptimConfig
from flowreel.training.loop import fit
from flowreel.training.task import ROLE, purpose_seed


class Toy:
    """``at`` maps a step to what happens when its batch is fetched. Without ``dropout`` nothing is left to the global
    generator, so that processes can be compared."""

    kind = "toy"
    networks: tuple[str, ...] = ()
    loss_names: tuple[str, ...] = ("square", "absolute")

    def __init__(self, config: LoopConfig, at: dict[int, Callable[[], Any]] | None = None, dropout: float = 0.3):
        torch.manual_seed(config.seed)
        self.config, self.at = config, at or {}
        layers = [nn.Linear(3, 16), nn.LayerNorm(16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 1)]
        self.module = nn.Sequential(*layers)
        self.averaged: nn.Module = self.module
        self.data: dict[str, Any] = {"name": "line"}
        self.poison: set[int] = set()

    def batches(self, start: int, rank: int, world: int) -> Iterator[dict[str, Tensor]]:
        parts = self.config.optim.accumulate
        torch.rand(1)  # a DataLoader too draws from the global generator when it starts
        micro = self.config.batch // (world * parts)
        for step in range(start, self.config.steps):
            self.at.get(step, lambda: None)()
            for part in range(parts):
                first = step * self.config.batch + (rank * parts + part) * micro
                positions = range(first, first + micro)
                x = torch.stack([self.sample(n) for n in positions])
                yield {"x": x, "clip": torch.tensor([n % 7 for n in positions])}

    def sample(self, n: int) -> Tensor:
        generator = torch.Generator().manual_seed(purpose_seed(self.config.seed, ROLE, n))
        return torch.randn(3, generator=generator) * (float("nan") if n in self.poison else 1)

    def losses(self, module: nn.Module, batch: dict[str, Tensor], network: str = "") -> dict[str, Tensor]:  # noqa: ARG002
        error = module(batch["x"]).squeeze(1) - batch["x"].sum(1)
        return {"square": error.square().mean(), "absolute": 0.1 * error.abs().mean()}

    def validate(self, module: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            x = torch.stack([self.sample(n) for n in range(10_000, 10_016)])
            return {name: value.item() for name, value in Toy.losses(self, module, {"x": x}).items()}

    def preview(self, module: nn.Module, folder: Path, step: int) -> None:
        assert not module.training
        (folder / "seen.txt").write_text(str(step))

    def export(self, module: nn.Module, folder: Path, step: int) -> None:
        save_file(module.state_dict(), folder / "model.safetensors", {"step": str(step)})


def config(**changes: Any) -> LoopConfig:
    defaults: dict[str, Any] = {
        "steps": 4,
        "batch": 8,
        "log": 1,
        "save": 2,
        "preview": 0,
        "validate": 0,
        "optim": OptimConfig(lr=1e-2, warmup=2),
        "ema": EMAConfig(),
    }
    return LoopConfig(**{**defaults, **changes})


def main(run: str) -> None:
    """One of the processes that ``torchrun`` starts."""
    torch.set_num_threads(1)
    settings = config(optim=OptimConfig(lr=1e-2, warmup=2, accumulate=2))
    fit(Toy(settings, dropout=0.0), Path(run), settings, sys.stderr.write)
    sys.stdout.write(f"process {torch.distributed.get_rank()} of {torch.distributed.get_world_size()} is done\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
