"""Draws the role of a training sample and its times; the roles' shares are options (``config.training``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from flowreel.flow.schedule import ramp, roll

ROLES = ("joint", "independent", "audio_clean", "video_clean", "context")


WHOLE = frozenset({"audio_clean", "video_clean"})
"""Roles in which a whole stream is clean."""


EDGE = 1e-6
"""Times are kept this far from 0 and 1, where the logit-normal weight is not defined; t = 1 itself means held."""


def draw_times(
    generator: torch.Generator,
    frames: int,
    streams: Sequence[str],
    *,
    shares: Mapping[str, float],
    warmup: float = 0.2,
    blocks: Sequence[int] = (1,),
    contexts: Sequence[int] = (),
    lookaheads: Sequence[int] = (),
) -> dict[str, Tensor]:
    """Draw the role of one sample and from it the time of every frame.

    Args:
        generator: the sample's own.
        frames: length of the window.
        streams: of the model; with one stream only the roles ``joint`` and ``context`` can be drawn.
        shares: role -> relative share (see :data:`ROLES`).
        warmup: share of ``ramp``, the rest is ``roll`` (0.2 as published).
        blocks, contexts, lookaheads: drawn evenly; contexts for the role ``context`` alone, lookaheads (how many frames
            at the end stay noise) for the roles with a clean stream, and with none as one more of them for
            ``joint``, which guidance by the conditioning compares those with.

    Returns:
        stream -> (frames,) times in [0, 1]; exactly 1 where a frame is clean, exactly 0 where it stays noise.
    """
    role = _draw_role(generator, shares, streams)
    block = _choose(generator, blocks)
    context = _choose(generator, contexts) if role == "context" else 0
    whole = role in WHOLE
    ahead = lookaheads if whole else (0, *lookaheads) if role == "joint" else ()
    lookahead = _choose(generator, ahead) if lookaheads and ahead else 0
    schedule = ramp if uniform(generator) < warmup else roll

    def times() -> Tensor:
        u = torch.rand(1, generator=generator)
        t = schedule(u, frames, block, context, lookahead)[0]
        end = frames - lookahead
        return torch.cat([t[:context], t[context:end].clamp(EDGE, 1 - EDGE), t[end:]])

    shared = times()
    drawn = {stream: times() if role == "independent" and i else shared for i, stream in enumerate(streams)}
    if whole:
        drawn[role.removesuffix("_clean")] = torch.ones(frames)
    return drawn


def _draw_role(generator: torch.Generator, shares: Mapping[str, float], streams: Sequence[str]) -> str:
    possible = ROLES if len(streams) > 1 else ("joint", "context")
    weights = [shares.get(role, 0.0) for role in possible]
    unknown = set(shares) - set(ROLES)
    if unknown or sum(weights) <= 0:
        raise ValueError(
            f"shares {dict(shares)} for {list(streams)}: give at least one of {', '.join(possible)} a share above 0"
        )
    mark = uniform(generator) * sum(weights)
    for role, share in zip(possible, weights, strict=True):
        mark -= share
        if mark < 0:
            return role
    return [role for role, share in zip(possible, weights, strict=True) if share][-1]


def uniform(generator: torch.Generator) -> float:
    return float(torch.rand(1, generator=generator))


def _choose(generator: torch.Generator, options: Sequence[int]) -> int:
    return options[int(torch.randint(len(options), (1,), generator=generator))]
