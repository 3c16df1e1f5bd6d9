"""The OpenAPI document: its limits are those that messages are checked against, its placeholders are filled in."""

from __future__ import annotations

import json

from flowreel.serve import messages
from flowreel.serve.schema import openapi


def test_limits_are_those_of_the_messages() -> None:
    document = openapi("tiny", ["a", "b"], 5.0)
    assert "$" not in json.dumps(document).replace("$ref", "")
    query = document["paths"]["/api/generate"]["post"]["parameters"]
    schemas = {parameter["name"]: parameter["schema"] for parameter in query}
    assert schemas["label"]["enum"] == ["a", "b"]
    assert schemas["seconds"]["maximum"] == 5.0
    assert schemas["seed"]["maximum"] == messages.SEED_LIMIT - 1
    assert schemas["guidance"]["maximum"] == messages.MOST_GUIDANCE
    assert schemas["steps"]["maximum"] == messages.MOST_STEPS
    assert tuple(schemas["as"]["enum"]) == tuple(messages.ROLES)


def test_a_model_without_classes_has_no_choice_of_them() -> None:
    assert "enum" not in openapi("tiny", [], 5.0)["paths"]["/stream.mp4"]["get"]["parameters"][0]["schema"]
