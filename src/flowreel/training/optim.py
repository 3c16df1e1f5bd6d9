"""The optimizers of every training run, their parameter groups, and the learning rate schedule."""

from __future__ import annotations

import math

import torch
from torch import nn

from flowreel.config import OptimConfig
from flowreel.errors import InputError

_MATRICES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def optimizers(module: nn.Module, config: OptimConfig) -> list[torch.optim.Optimizer]:
    """AdamW (arXiv 1711.05101) over ``module``, and with ``config.kind`` "muon" Muon for the matrices of its blocks.

    Muon orthogonalises the momentum of a matrix; scaled to the size of AdamW's steps it uses the same learning rate
    and decay (arXiv 2502.16982). Modulation layers stay with AdamW.

    Raises:
        InputError: Muon for a module without blocks, or with a torch that doesn't have it.
    """
    if config.kind == "adamw":
        return [_adamw(module, config, set())]
    hidden = {
        id(layer.weight): layer.weight
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and ".blocks." in f".{name}" and "modulation" not in name
    }
    if not hidden:
        raise InputError("optim.kind muon is for flows, whose blocks hold matrices: leave it at adamw here")
    if not hasattr(torch.optim, "Muon"):
        raise InputError(f"optim.kind muon needs torch 2.9 or newer, this is {torch.__version__}: use adamw")
    muon = torch.optim.Muon(
        list(hidden.values()), lr=config.lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return [_adamw(module, config, set(hidden)), muon]


def _adamw(module: nn.Module, config: OptimConfig, without: set[int]) -> torch.optim.AdamW:
    """Two groups: the weights of linear and convolution layers decay; biases, norms, embeddings and position tables
    don't. Leaves out the weights whose ``id`` is in ``without``."""
    decaying = {id(layer.weight) for layer in module.modules() if isinstance(layer, _MATRICES)}
    weights = [weight for weight in module.parameters() if weight.requires_grad and id(weight) not in without]
    groups = [
        {"params": [w for w in weights if id(w) in decaying], "weight_decay": config.weight_decay},
        {"params": [w for w in weights if id(w) not in decaying], "weight_decay": 0.0},
    ]
    fused = all(weight.device.type in ("cpu", "cuda") for weight in weights)
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        fused=fused,
    )


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """The learning rate of the step after ``step`` of ``steps`` steps: a linear warm-up over ``config.warmup`` steps,
    then constant, or a half cosine that is ``final * lr`` at the end."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.lr
    progress = min(1.0, (step - config.warmup) / max(1, steps - config.warmup))
    return config.lr * (config.final + (1 - config.final) * (1 + math.cos(math.pi * progress)) / 2)
