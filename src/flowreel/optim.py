"""AdamW as every training run uses it: which weights decay, and the learning rate of each step."""

from __future__ import annotations

import math

import torch
from torch import nn

from flowreel.config import OptimConfig

_MATRICES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def adamw(module: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW (arXiv 1711.05101) over ``module`` in two groups: the weights of linear and convolution layers decay;
    biases, norms, embeddings and position tables don't."""
    decaying = {id(layer.weight) for layer in module.modules() if isinstance(layer, _MATRICES)}
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    groups = [
        {"params": [w for w in weights if id(w) in decaying], "weight_decay": config.weight_decay},
        {"params": [w for w in weights if id(w) not in decaying], "weight_decay": 0.0},
    ]
    fused = all(weight.device.type in ("cpu", "cuda") for weight in weights)
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=fused,
    )


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """The learning rate of the step after ``step`` steps of ``steps``: a linear warm-up over ``config.warmup`` steps,
    then constant, or a half cosine that is ``final * lr`` at the end."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.lr
    progress = min(1.0, (step - config.warmup) / max(1, steps - config.warmup))
    return config.lr * (config.final + (1 - config.final) * (1 + math.cos(math.pi * progress)) / 2)
