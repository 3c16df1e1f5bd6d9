"""The moving average: its decay and its update."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flowreel.config import EMAConfig
from flowreel.training.ema import EMA, decay


def test_decay_of_power_starts_low_rises_and_is_capped():
    config = EMAConfig("power", power=0.75, decay=0.99)
    values = [decay(config, step) for step in range(1, 3000)]
    assert values[0] == pytest.approx(1 - 2**-0.75)
    assert values == sorted(values)
    assert values[-1] == 0.99


def test_decay_of_the_other_kinds_is_constant():
    assert decay(EMAConfig("fixed", decay=0.9), 1) == decay(EMAConfig("fixed", decay=0.9), 10**6) == 0.9
    assert decay(EMAConfig(decay=0.0), 5) == 0


def test_update_is_the_weighted_mean():
    network = nn.Linear(4, 3)
    ema = EMA(network, EMAConfig("fixed", decay=0.9))
    before = [weight.clone() for weight in ema.module.parameters()]
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn_like(weight))
    ema.update(network, 1)
    for old, new, average in zip(before, network.parameters(), ema.module.parameters(), strict=True):
        torch.testing.assert_close(average, 0.9 * old + 0.1 * new)


def test_average_of_constant_weights_is_those_weights():
    network = nn.Linear(4, 3)
    ema = EMA(network, EMAConfig())
    for step in range(1, 50):
        ema.update(network, step)
    torch.testing.assert_close(list(ema.module.parameters()), list(network.parameters()))


def test_none_follows_the_weights_exactly():
    network = nn.Linear(4, 3)
    ema = EMA(network, EMAConfig(decay=0.0))
    nn.init.normal_(network.weight)
    ema.update(network, 1)
    assert torch.equal(ema.module.weight, network.weight)


def test_average_is_float32_without_gradients_and_buffers_are_copied():
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).bfloat16()
    ema = EMA(network, EMAConfig())
    network(torch.randn(8, 4, dtype=torch.bfloat16))  # moves the running statistics
    ema.update(network, 1)
    assert all(weight.dtype == torch.float32 and not weight.requires_grad for weight in ema.module.parameters())
    assert not ema.module.training
    assert torch.equal(ema.module[1].running_mean, network[1].running_mean.float())
    assert ema.module[1].num_batches_tracked == 1
