"""Mean and variance per channel, accumulated over chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and sum of squared deviations per channel (C,), in float64.

    They are added by the method of Chan, Golub and LeVeque (Stanford STAN-CS-79-773, 1979).
    """

    count: int
    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, values: Tensor) -> Moments:
        """The moments of values (N, C), N at least 1."""
        numbers = values.double().cpu().numpy()
        mean = numbers.mean(axis=0)
        return cls(len(numbers), mean, np.square(numbers - mean).sum(axis=0))

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        delta = other.mean - self.mean
        between = np.square(delta) * (self.count * other.count / count)
        return Moments(count, self.mean + delta * (other.count / count), self.deviation + other.deviation + between)

    @property
    def std(self) -> np.ndarray:
        return np.sqrt(self.deviation / self.count)

    @property
    def scale(self) -> np.ndarray:
        """The factor that gives each channel unit variance: 1 / std.

        It is 1 for a channel that is nearly constant compared with the others, where it would only amplify noise.
        """
        constant = self.std <= 1e-3 * self.std.max()
        return 1 / np.where(constant, 1.0, self.std)

    def to_dict(self) -> dict[str, Any]:
        return {"count": self.count, "mean": self.mean.tolist(), "deviation": self.deviation.tolist()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Moments:
        return cls(values["count"], np.array(values["mean"]), np.array(values["deviation"]))
