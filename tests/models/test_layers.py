"""Building blocks against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from flowreel.models import layers
from flowreel.models.layers import (
    MLP,
    DropPath,
    GatedMLP,
    Modulation,
    PatchEmbed,
    SelfAttention,
    TimeEmbed,
    chunk,
    modulate,
    unpatchify,
)
from flowreel.models.positions import rope_table, rotate, sincos_2d, sinusoid


@pytest.mark.parametrize("causal", [False, True])
def test_attention_against_its_definition(causal: bool) -> None:
    attention, x = SelfAttention(12, 3, causal=causal), torch.randn(2, 5, 7, 12)
    q, k, v = (part.unflatten(-1, (3, 4)).transpose(-2, -3) for part in attention.qkv(x).chunk(3, dim=-1))
    scores = q @ k.transpose(-1, -2) / 2
    if causal:
        scores = scores.masked_fill(torch.ones(7, 7, dtype=torch.bool).triu(1), -torch.inf)
    wanted = attention.proj((scores.softmax(-1) @ v).transpose(-2, -3).flatten(-2))
    torch.testing.assert_close(attention(x), wanted)


def test_attention_works_in_half_precision_without_autocast() -> None:
    attention = SelfAttention(16, 2, qk_norm=True).to(torch.bfloat16)
    assert attention(torch.randn(2, 5, 16).to(torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("length", [5, layers.SHORT, layers.SHORT + 1])
def test_attention_that_is_trained_on_a_cpu_is_attention(length: int) -> None:
    q, k, v = (torch.randn(3, 2, length, 8, generator=torch.Generator().manual_seed(i)) for i in range(3))
    expected = F.scaled_dot_product_attention(q, k, v)
    trained = [x.clone().requires_grad_() for x in (q, k, v)]
    assert torch.allclose(layers.attend(*trained, causal=False), expected, atol=1e-6)
    causal = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.allclose(layers.attend(*trained, causal=True), causal, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):  # stays in the type that it is given
        assert layers.attend(*trained, causal=False).dtype == torch.float32


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("most", [1, 4, 5])
def test_many_sequences_are_attended_in_parts(monkeypatch: pytest.MonkeyPatch, most: int, causal: bool) -> None:
    attention, x = SelfAttention(12, 3, causal=causal).requires_grad_(False), torch.randn(2, 5, 7, 12)
    whole = attention(x)
    sizes, kernel = [], F.scaled_dot_product_attention
    monkeypatch.setattr(layers, "MOST_SEQUENCES", most)
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda q, *a, **k: (sizes.append(len(q)), kernel(q, *a, **k))[1]
    )
    torch.testing.assert_close(attention(x), whole)
    assert sum(sizes) == 10
    assert max(sizes) == most


def test_causal_attention_does_not_look_ahead() -> None:
    attention, x = SelfAttention(8, 2, causal=True), torch.randn(1, 6, 8)
    later = x.clone()
    later[:, 4:] += 1
    assert torch.equal(attention(x)[:, :4], attention(later)[:, :4])
    assert not torch.isclose(attention(x)[:, 4:], attention(later)[:, 4:]).all()


def test_qk_norm_takes_the_size_out_of_queries_and_keys() -> None:
    attention, x = SelfAttention(8, 2, qk_norm=True), torch.randn(1, 6, 8)
    before = attention(x)
    with torch.no_grad():
        attention.qkv.weight[:16] *= 50
        attention.qkv.bias[:16] *= 50
    torch.testing.assert_close(attention(x), before, atol=1e-4, rtol=1e-4)
    assert attention.q_norm.weight.shape == (4,)


def test_rotary_positions_are_relative() -> None:
    attention, x, seconds = SelfAttention(32, 2), torch.randn(2, 9, 32), torch.arange(9) / 10
    at = lambda shift: attention(x, rope_table(seconds + shift, 16))  # noqa: E731
    torch.testing.assert_close(at(0.0), at(7.3), atol=1e-5, rtol=1e-5)
    assert (at(0.0) - attention(x)).abs().max() > 1e-3
    stretched = attention(x, rope_table(2 * seconds, 16))
    assert (at(0.0) - stretched).abs().max() > 1e-3


def test_rotary_periods() -> None:
    seconds = torch.tensor([0.0, 0.04, 20.0])
    cos, sin = rope_table(seconds, 8, shortest=0.04, longest=20.0)
    assert cos.shape == sin.shape == (3, 8)
    torch.testing.assert_close(cos[0], torch.ones(8))
    torch.testing.assert_close(cos[1, 0], torch.tensor(1.0))  # the fastest has turned once
    torch.testing.assert_close(cos[2, 3], torch.tensor(1.0))  # the slowest has turned once
    torch.testing.assert_close(cos**2 + sin**2, torch.ones(3, 8))
    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(rotate(x, (cos, sin)).norm(dim=-1), x.norm(dim=-1))


def test_modulation_is_per_frame() -> None:
    x, m = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 24)
    shift, scale, gate = chunk(m, 3)
    assert shift.shape == (2, 3, 1, 8)
    wanted = x * (1 + m[:, :, None, 8:16]) + m[:, :, None, :8]
    torch.testing.assert_close(modulate(x, Modulation(shift, scale, gate)), wanted)
    assert torch.equal(gate, m[:, :, None, 16:])


def test_mlps() -> None:
    x, mlp, gated = torch.randn(2, 5, 8), MLP(8, 20), GatedMLP(8, 20)
    torch.testing.assert_close(mlp(x), mlp.fc2(F.gelu(mlp.fc1(x), approximate="tanh")))
    a, b = gated.fc1(x)[..., :20], gated.fc1(x)[..., 20:]
    torch.testing.assert_close(gated(x), gated.fc2(a * torch.sigmoid(a) * b))


@pytest.mark.parametrize("patch", [1, 2])
def test_unpatchify_undoes_patches(patch: int) -> None:
    x = torch.randn(2, 3, 5, 4, 6)
    embed = PatchEmbed(5, patch * patch * 5, patch)
    with torch.no_grad():  # each output picks one value of the patch, in the order (row, column, channel)
        picks = torch.eye(patch * patch * 5).reshape(-1, patch, patch, 5)
        embed.proj.weight.copy_(picks.permute(0, 3, 1, 2))
        embed.proj.bias.zero_()
    tokens = embed(x)
    assert tokens.shape == (2, 3, 24 // patch**2, patch * patch * 5)
    torch.testing.assert_close(unpatchify(tokens, (4 // patch, 6 // patch), patch), x)


def test_sinusoid() -> None:
    x = torch.tensor([[0.0, 1.0], [2.5, 100.0]])
    table = sinusoid(x, 8)
    assert table.shape == (2, 2, 8)
    for i in range(4):
        angle = x / 10000 ** (i / 4)
        torch.testing.assert_close(table[..., i], angle.cos())
        torch.testing.assert_close(table[..., 4 + i], angle.sin())
    assert sinusoid(x, 7).shape == (2, 2, 7)
    assert (sinusoid(x, 7)[..., -1] == 0).all()


def test_sincos_2d() -> None:
    table = sincos_2d(16, 3, 5).reshape(3, 5, 16)
    assert torch.equal(table[:, 0, :8], table[:, 4, :8])  # the first half holds the row
    assert torch.equal(table[0, :, 8:], table[2, :, 8:])  # the second the column
    row = 2 / 3 * 16
    wanted = torch.tensor([f(row / 10000 ** (i / 4)) for f in (math.sin, math.cos) for i in range(4)])
    torch.testing.assert_close(table[2, 0, :8], wanted)
    # the same place in a finer picture reads alike
    torch.testing.assert_close(sincos_2d(16, 6, 10).reshape(6, 10, 16)[::2, ::2], table)
    with pytest.raises(ValueError, match="multiple of 4"):
        sincos_2d(10, 2, 2)


def test_time_embedding_is_per_frame_and_scaled() -> None:
    plain, published = TimeEmbed(8), TimeEmbed(8, 999, 1)
    published.load_state_dict(plain.state_dict())
    t = torch.rand(2, 3)
    assert plain(t).shape == (2, 3, 8)
    torch.testing.assert_close(published(t), plain(999 * t + 1))
    torch.testing.assert_close(plain(t)[1, 2], plain(t[1:, 2:])[0, 0])


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean() -> None:
    drop, x = DropPath(0.25).train(), torch.ones(4000, 2, 3)
    dropped = drop(x)
    per_sample = dropped.flatten(1)
    assert ((per_sample == 0).all(1) | torch.isclose(per_sample, torch.tensor(4 / 3)).all(1)).all()
    assert abs(float((per_sample[:, 0] == 0).float().mean()) - 0.25) < 0.03
    assert torch.equal(drop.eval()(x), x)
    assert torch.equal(DropPath(0.0).train()(x), x)
