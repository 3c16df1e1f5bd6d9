"""One of the processes that ``torchrun`` starts in the tests of sharded training."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from flowreel.training.flow import FlowTask
from flowreel.training.loop import fit
from tests.training.test_flow import config


class Watched(FlowTask):
    """Prints once how its weights are sharded."""

    seen = False

    def losses(self, module: nn.Module, batch: dict[str, Tensor], network: str = "") -> dict[str, Tensor]:
        if not self.seen:
            self.seen = True
            kinds = [isinstance(weight, DTensor) for weight in self.module.parameters()]
            held = sum((w.to_local() if isinstance(w, DTensor) else w).numel() for w in self.module.parameters())
            whole = sum(weight.numel() for weight in self.module.parameters())
            print(f"sharded {all(kinds)} of {len(kinds)}, {held / whole:.2f} of the weights here", flush=True)  # noqa: T201
        return super().losses(module, batch, network)


def main(data: str, run: str, steps: str, sharding: str) -> None:
    torch.set_num_threads(1)
    settings = config(steps=int(steps), preview=int(steps), sharding=sharding)
    fit(Watched(Path(data), settings, sys.stderr.write), Path(run), settings, sys.stderr.write)


if __name__ == "__main__":
    main(*sys.argv[1:])
