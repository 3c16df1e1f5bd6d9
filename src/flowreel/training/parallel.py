"""A network spread over processes: copies (DDP), shards (FSDP2), or adversarial networks that are updated alternately.

Also how a sharded tensor becomes whole and back.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from flowreel.errors import InputError
from flowreel.utils.distributed import Processes


class Parallel:
    """``module`` on the devices of all processes; call it through :attr:`call`.

    Args:
        kind: "copies": every process has the whole module, and gradients are averaged during the backward pass.
            "shards": weights, gradients and the optimizer's moments are spread over the processes, block by block.
            "adversarial": every process has the whole module, and :meth:`exchange` averages the gradients of the
            network that is updated.
    """

    def __init__(
        self, processes: Processes, module: nn.Module, kind: Literal["copies", "shards", "adversarial"]
    ) -> None:
        self.processes, self.module, self.kind = processes, module.to(processes.device), kind
        self.call: nn.Module = module
        if kind == "shards":
            shard(module, processes)
        if kind == "copies" and processes.world > 1:
            ids = [processes.device] if processes.device.type == "cuda" else None
            self.call = DistributedDataParallel(module, device_ids=ids)

    def accumulating(self, last: bool) -> AbstractContextManager[Any]:
        """Context of one micro-batch: gradients are exchanged only with the ``last`` one of a step."""
        if isinstance(self.call, DistributedDataParallel) and not last:
            return self.call.no_sync()
        if self.kind == "shards":
            self.module.set_requires_gradient_sync(last)
        return nullcontext()

    def exchange(self, weights: Iterable[Tensor]) -> None:
        """Average the gradients of ``weights`` over the processes, where the backward pass has not done so."""
        if self.kind != "adversarial" or self.processes.world == 1:
            return
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        averaged = self.processes.reduce(flat)
        for gradient, part in zip(gradients, averaged.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def shard(module: nn.Module, processes: Processes) -> None:
    """Shard the weights of ``module`` over all processes in place: each block of ``module.blocks`` by itself, then
    the rest. Afterwards its parameters are DTensors.

    Raises:
        InputError: the module has no blocks.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    blocks = getattr(module, "blocks", None)
    if blocks is None:
        raise InputError(f"a {type(module).__name__} can't be sharded: leave --sharding at none")
    # The modulation is a view of a layer's output, and nothing is done to it in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(processes.device.type, (processes.world,))
    for block in blocks:
        fully_shard(block, mesh=mesh)
        register_fsdp_forward_method(block, "compute_modulation")  # it uses the block's weights before its forward pass
    fully_shard(module, mesh=mesh)


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor. Does not import that class, which takes longer than starting to train."""
    return hasattr(tensor, "full_tensor")


def gathered(tensors: Mapping[str, Tensor], lead: bool) -> dict[str, Tensor]:
    """The whole tensors in the process that leads, nothing in the others. All processes have to call it."""
    whole = {}
    for name, tensor in tensors.items():
        value = tensor.full_tensor().cpu() if is_sharded(tensor) else tensor
        if lead:
            whole[name] = value
    return whole


def load_whole(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a whole ``state`` into ``module``, of which each process may hold a shard."""
    own = module.state_dict()
    module.load_state_dict({name: laid_out_like(own[name], state[name]) for name in own})


def laid_out_like(like: Tensor, value: Tensor) -> Tensor:
    """A copy of the whole ``value`` in the layout of ``like``: its strides (for fused optimizers), or its shard."""
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
