"""A network among processes: whole copies (DDP), shards of it (FSDP2), or parts that are trained against each other.

Knows: when gradients are exchanged, and how a tensor of which each process holds a shard becomes whole and back. Does
not know: losses, optimizers' rules, files.

Sharding is torch's own ``fully_shard``: Accelerate with ``fsdp_version=2`` gives DDP on the CPU without a word.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowreel.errors import InputError


class Parallel:
    """``module`` as the processes of ``machine`` share it; ``module`` is called through :attr:`call`.

    Args:
        kind: "copies": every process has all of it and gradients are averaged during the backward pass. "shards":
            weights, gradients and the optimizer's moments are spread over the processes, block by block. "players":
            every process has all of it and :meth:`exchange` averages, because parts of it take turns.
    """

    def __init__(self, machine: Any, module: nn.Module, kind: Literal["copies", "shards", "players"]) -> None:
        self.machine, self.module, self.kind = machine, module, kind
        self.call: Any
        if kind == "copies":
            self.call = machine.prepare_model(module)
        else:
            self.call = module.to(machine.device)
        if kind == "shards":
            shard(module, machine)

    def accumulating(self, last: bool) -> AbstractContextManager[Any]:
        """Around the work on one micro-batch: gradients are exchanged with the ``last`` one of a step alone."""
        if self.kind == "copies" and not last:
            return self.machine.no_sync(self.call)
        if self.kind == "shards":
            self.module.set_requires_gradient_sync(last)
        return nullcontext()

    def exchange(self, weights: Iterable[Tensor]) -> None:
        """Average the gradients of ``weights`` over the processes, where the backward pass has not done so."""
        if self.kind != "players" or self.machine.num_processes == 1:
            return
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        averaged = self.machine.reduce(flat, reduction="mean")
        for gradient, part in zip(gradients, averaged.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def shard(module: nn.Module, machine: Any) -> None:
    """Spread the weights of ``module`` over all processes in place: each block of ``module.blocks`` by itself, then
    what is left. Afterwards its parameters are DTensors.

    Raises:
        InputError: the module has no blocks.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    blocks = getattr(module, "blocks", None)
    if blocks is None:
        raise InputError(f"a {type(module).__name__} can't be sharded: leave --sharding at none")
    # Plans are views of what a layer gave, and nothing is done to them in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(machine.device.type, (machine.num_processes,))
    for block in blocks:
        fully_shard(block, mesh=mesh)
        register_fsdp_forward_method(block, "plan")  # it is called before the block's forward pass, with its weights
    fully_shard(module, mesh=mesh)


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor; importing that class takes longer than starting to train."""
    return hasattr(tensor, "full_tensor")


def gathered(tensors: Mapping[str, Tensor], lead: bool) -> dict[str, Tensor]:
    """The whole tensors, in the process that leads; the others get nothing. All processes have to call it."""
    whole = {}
    for name, tensor in tensors.items():
        value = tensor.full_tensor().cpu() if is_sharded(tensor) else tensor
        if lead:
            whole[name] = value
    return whole


def spread(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a whole ``state`` into ``module``, of which each process may hold a shard."""
    own = module.state_dict()
    module.load_state_dict({name: laid_out_like(own[name], state[name]) for name in own})


def laid_out_like(like: Tensor, value: Tensor) -> Tensor:
    """A copy of the whole ``value`` as ``like`` is held: its strides (fused optimizers need them), or its shard."""
    if value.shape != like.shape:
        return value.clone()
    if is_sharded(like):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(value.to(device=like.device), like.device_mesh, like.placements)
    return torch.empty_like(like, dtype=value.dtype).copy_(value)


def local(tensor: Tensor) -> Tensor:
    """What this process holds of ``tensor``."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """A small result, such as a norm, of which each process may hold a part."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor
