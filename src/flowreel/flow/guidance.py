"""Guidance: wrappers that bind a label to a model and give a velocity."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from flowreel.flow.types import Latents, Model, Times, Velocity, mix, per_frame

Unconditional: TypeAlias = Callable[[Latents, Times], tuple[Latents, Times]]
"""Gives the inputs of the unconditional pass, in the place of x and t."""


def classifier_free(
    model: Model, label: Tensor | None, scale: float | Tensor = 1.0, unconditional: Unconditional | None = None
) -> Velocity:
    """Classifier-free guidance (arXiv 2207.12598): ``v_null + scale * (v_label - v_null)``.

    Args:
        model: has ``num_classes``, the index of the null class, where ``label`` is given.
        label: (B,) class indices, or None for a model without classes.
        scale: 1 is the model itself, in one pass; otherwise both passes run as one batch of 2B. A tensor (B,) gives
            each sample its own scale.
        unconditional: the inputs of the unconditional pass; by default the same x and t. With it, guidance works
            without classes.

    Raises:
        ValueError: guidance is asked for but there is neither a label nor ``unconditional``.
    """
    per_sample = isinstance(scale, Tensor)
    if not per_sample and scale == 1:
        return lambda x, t, t_next: model(x, t, label)  # noqa: ARG005
    if label is None and unconditional is None:
        raise ValueError(
            f"guidance {scale} needs a label: give one, or use guidance 1 (a model without classes has none)"
        )
    both_labels = None
    if label is not None:
        both_labels = torch.cat([label, torch.full_like(label, model.num_classes)])  # type: ignore[attr-defined]

    def velocity(x: Latents, t: Times, t_next: Times) -> Latents:  # noqa: ARG001
        other, times = unconditional(x, t) if unconditional else (x, t)
        both = model(
            {k: torch.cat([v, other[k]]) for k, v in x.items()},
            {k: torch.cat([v, times[k]]) for k, v in t.items()},
            both_labels,
        )
        guided = {}
        for k, v in both.items():
            with_label, without = v.chunk(2)
            weight = scale.reshape(-1, *(1,) * (v.ndim - 1)) if per_sample else scale  # type: ignore[union-attr]
            guided[k] = without + weight * (with_label - without)
        return guided

    return velocity


def renoise(x: Latents, t: Times, noise: Latents) -> tuple[Latents, Times]:
    """Re-noise the conditioning stream of a window to the noise level of the generated one.

    These are the inputs of the unconditional pass that guides by the conditioning: a model that was trained jointly
    sees such a window where there is no conditioning. Frames that are clean (t = 1) in all streams, history, stay.

    Args:
        x, t: of one window, (B, T, ...) and (B, T) per stream.
        noise: of the conditioning streams; stored once for the whole sample, so that it is the same at every step.
    """
    free = torch.stack(list(t.values())).amin(0)
    noisy, times = dict(x), dict(t)
    for k, fresh in noise.items():
        times[k] = torch.where(t[k] == 1, free, t[k])
        noisy[k] = torch.where(per_frame(t[k] == 1, x[k]), mix(x[k], fresh, times[k]), x[k])
    return noisy, times


def gradient(model: Model, label: Tensor | None, known: Latents, noise: Latents, scale: float) -> Velocity:
    """R-FLAV's gradient guidance (arXiv 2503.08307): one stream is known, the other follows through the network.

    The known stream is put at ``t * known + (1 - t) * noise``; the other stream's velocity is lowered by
    ``scale * d/dx mean((known - noise - predicted velocity of the known stream)^2)``, except for frames that arrive
    at 1. The mean is over one sample, so that a sample does not depend on its batch: the published scale s with a
    batch of B is s/B here.

    Args:
        model: ``model(x, t, label)``, or a guided velocity that takes a label in its place.
        label: (B,) or None.
        known: the known stream alone, of one window: ``{"audio": (B, T, 1, M, F)}`` or ``{"video": ...}``.
        noise: the same shape, stored once for the whole sample.
        scale: 0 switches the gradient off.

    Returns:
        A velocity; the known stream's is ``known - noise``.
    """
    if set(known) != set(noise) or not known:
        raise ValueError(f"known and noise must hold the same stream(s), not {sorted(known)} and {sorted(noise)}")

    def velocity(x: Latents, t: Times, t_next: Times) -> Latents:
        free = {k: v.detach().requires_grad_(True) for k, v in x.items() if k not in known}
        if not free:
            raise ValueError(f"every stream is known ({', '.join(sorted(known))}): nothing is left to generate")
        with torch.enable_grad():
            predicted = model({**free, **{k: mix(known[k], noise[k], t[k]) for k in known}}, t, label)
            # one sample's mean; the sum over the batch leaves each sample its own gradient
            misfit = torch.stack(
                [(known[k] - noise[k] - predicted[k]).square().flatten(1).mean(1).sum() for k in known]
            )
            slopes = torch.autograd.grad(misfit.sum(), list(free.values()))
        guided = {k: known[k] - noise[k] for k in known}
        for k, slope in zip(free, slopes, strict=True):
            guided[k] = predicted[k].detach() - scale * slope * per_frame(t_next[k] < 1, slope)
        return guided

    return velocity
