"""A cache of the modulation that a network computes from times and labels alone."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
import torch.utils.checkpoint

from flowreel.flow.types import Latents, Times
from flowreel.models.network import Label, Network


class CachedModulation:
    """A network that caches its modulation for the last ``entries`` distinct pairs of times and label.

    For sampling with fixed weights on the CPU, where reading the key costs nothing; on other devices every call is
    passed through. Same outputs, to the bit.
    """

    def __init__(self, model: Network, entries: int) -> None:
        self.model = model
        self.num_classes = model.num_classes
        self.entries = entries
        self._cache: OrderedDict[tuple[Any, ...], Any] = OrderedDict()

    def __call__(self, x: Latents, t: Times, label: Label = None) -> Latents:
        labels = label if isinstance(label, dict) else {"": label}
        named = [*sorted(t.items()), *sorted(labels.items())]
        if any(v is not None and v.device.type != "cpu" for _, v in named) or torch.is_grad_enabled():
            return self.model(x, t, label)
        self.model._check(x)
        key = tuple((k, None if v is None else (*v.shape, v.numpy().tobytes())) for k, v in named)
        if key not in self._cache:
            self._cache[key] = self.model.compute_modulation(t, label)
            if len(self._cache) > self.entries:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self.model.run(x, self._cache[key])
