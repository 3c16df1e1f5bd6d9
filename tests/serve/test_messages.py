"""What viewers say is understood or refused, never anything else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowreel.serve import messages
from flowreel.serve.errors import RequestError
from flowreel.serve.live_stream import StreamRequest
from tests.conftest import tiny_pipeline

CONFIG = tiny_pipeline().config


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ({"type": "played", "time": 1.5}, messages.Played(1.5)),
        ({"type": "steer", "label": "high"}, messages.Steer("high", None)),
        ({"type": "steer", "label": 1, "guidance": 3}, messages.Steer("high", 3.0)),
        ({"type": "restart"}, messages.Restart(StreamRequest())),
        ({"type": "restart", "seed": 7, "steps": 2}, messages.Restart(StreamRequest(None, 7, None, 2))),
        ({"type": "restart", "window": 4}, messages.Restart(StreamRequest(window=4))),
        ({"type": "pause", "paused": True}, messages.Pause(True)),
        ({"type": "use", "media": "abc", "as": "audio"}, messages.Use("abc", "audio")),
    ],
)
def test_what_there_is_to_say(said: dict[str, Any], meant: messages.Message) -> None:
    assert messages.message(json.dumps(said), CONFIG) == meant


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "must be JSON"),
        ("[" * 100_000, "must be JSON"),
        ("[]", "object, not list"),
        ("{}", "type must be one of"),
        ('{"type": ["played"]}', "type must be one of"),
        ('{"type": "played"}', "time must be a number"),
        ('{"type": "played", "time": true}', "time must be a number"),
        ('{"type": "played", "time": NaN}', "time must be a number"),
        ('{"type": "played", "time": 1e999}', "time must be a number"),
        ('{"type": "played", "time": -1}', "time must be a number"),
        ('{"type": "played", "time": 1, "more": 2}', "played has no more"),
        ('{"type": "steer"}', "needs a label or a guidance"),
        ('{"type": "steer", "label": "nothing"}', "no class is called"),
        ('{"type": "steer", "label": {"a": 1}}', "label must be"),
        ('{"type": "steer", "guidance": "much"}', "guidance must be a number"),
        ('{"type": "restart", "seed": 1.5}', "seed must be a whole number"),
        ('{"type": "restart", "seed": 99999999999999999999}', "seed must be a number"),
        ('{"type": "restart", "steps": 0}', "steps must be a number from 1"),
        ('{"type": "restart", "steps": 1000000}', "steps must be a number from 1"),
        ('{"type": "restart", "window": 25}', "window must be a number from 1 to 24"),
        ('{"type": "pause", "paused": 1}', "true or false"),
        ('{"type": "use", "media": "x", "as": "../../etc/passwd"}', "as, one of prefix"),
        ('{"type": "use", "media": 3, "as": "audio"}', "use needs media"),
    ],
)
def test_anything_else_is_refused(text: str, why: str) -> None:
    with pytest.raises(RequestError, match=why) as error:
        messages.message(text, CONFIG)
    assert error.value.status == 400
    assert len(error.value.message) < 500


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_subnormal=False) | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(["type", "time", "label", "seed", "guidance", "steps", "paused", "media", "as"])
KINDS = st.sampled_from(["played", "steer", "restart", "pause", "use"])


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(NAMES, JSON, max_size=5), KINDS | JSON)
def test_whatever_is_said_is_understood_or_refused(said: dict[str, Any], kind: Any) -> None:
    try:
        meant = messages.message(json.dumps({**said, "type": kind}), CONFIG)
    except RequestError:
        return
    assert isinstance(meant, messages.Message)


def test_guidance_of_a_model_that_has_none() -> None:
    plain = tiny_pipeline(classes=()).config
    with pytest.raises(RequestError, match="has none"):
        messages.message('{"type": "steer", "guidance": 2}', plain)
    with pytest.raises(RequestError, match="no classes"):
        messages.message('{"type": "steer", "label": "high"}', plain)


def test_a_window_that_blocks_do_not_fill_is_refused() -> None:
    config = tiny_pipeline(blocks=(2,)).config
    assert messages.stream_request({"window": "4"}, config).window == 4
    with pytest.raises(RequestError, match="block"):
        messages.stream_request({"window": 3}, config)
