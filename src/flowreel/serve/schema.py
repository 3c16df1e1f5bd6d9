"""Describes the server: an OpenAPI document and Prometheus text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowreel import __version__
from flowreel.serve.messages import MOST_GUIDANCE, MOST_STEPS, ROLES, SEED_LIMIT

METRICS = {
    "viewers": ("gauge", "viewers now"),
    "places": ("gauge", "viewers that there can be"),
    "frames": ("counter", "frames made"),
    "fragments": ("counter", "fragments made for viewers"),
    "sent_bytes": ("counter", "bytes of media sent"),
    "dropped_fragments": ("counter", "fragments that viewers of a broadcast were too slow for"),
    "refused": ("counter", "viewers and clips for which there was no place"),
    "clips": ("counter", "clips made on request"),
    "uploads": ("counter", "uploads read"),
    "speed": ("gauge", "real-time factor of the newest chunks"),
    "lead_seconds": ("gauge", "the farthest that a generation is before its viewer: what a change waits for"),
    "first_fragment_seconds": ("gauge", "from a viewer's coming to the first fragment, of the last one who came"),
}


def prometheus(values: Mapping[str, float]) -> str:
    """The values by name, as Prometheus reads them."""
    lines = []
    for name, (kind, text) in METRICS.items():
        full = f"flowreel_{name}_total" if kind == "counter" else f"flowreel_{name}"
        full = full.replace("speed", "realtime_factor")
        lines += [f"# HELP {full} {text}", f"# TYPE {full} {kind}", f"{full} {values[name]:.15g}"]
    return "\n".join([*lines, ""])


def openapi(name: str, classes: list[str], longest: float) -> dict[str, Any]:
    """The addresses that are for programs (OpenAPI 3.1). The WebSocket, which it can't describe, is in docs/live.md."""
    label = {"type": "string", "description": "a class, by name or index", **({"enum": classes} if classes else {})}
    wanted = {
        "label": label,
        "seed": {"type": "integer", "minimum": 0, "maximum": SEED_LIMIT - 1},
        "guidance": {"type": "number", "minimum": 0, "maximum": MOST_GUIDANCE},
        "steps": {"type": "integer", "minimum": 1, "maximum": MOST_STEPS},
        "window": {"type": "integer", "minimum": 1, "description": "frames that are generated together"},
    }
    clip = wanted | {"seconds": {"type": "number", "exclusiveMinimum": 0, "maximum": longest}}
    role = {"type": "string", "enum": list(ROLES), "description": "what the upload is used as"}
    binary = {"schema": {"type": "string", "format": "binary"}}
    mp4 = {"description": "an MP4 (H.264, AAC)", "content": {"video/mp4": binary}}
    error = {
        "description": "refused",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    text = {"description": "text", "content": {"text/plain": {"schema": {"type": "string"}}}}
    upload = {"media": {"type": "string", "description": "the id of an upload"}, "as": role}

    def query(properties: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"name": key, "in": "query", "schema": schema} for key, schema in properties.items()]

    def json_of(properties: dict[str, Any]) -> dict[str, Any]:
        return {"application/json": {"schema": {"type": "object", "properties": properties}}}

    return {
        "openapi": "3.1.0",
        "info": {"title": f"flowreel: {name}", "version": __version__},
        "paths": {
            "/stream.mp4": {
                "get": {
                    "summary": "The endless stream, for a player",
                    "parameters": query(wanted),
                    "responses": {"200": mp4, "default": error},
                }
            },
            "/api/generate": {
                "post": {
                    "summary": "A finished clip; from an upload, with its id or as the body beside the query",
                    "parameters": query(clip | {"as": role}),
                    "requestBody": {"content": json_of(clip | upload) | {"application/octet-stream": binary}},
                    "responses": {"200": mp4, "default": error},
                }
            },
            "/api/media": {
                "post": {
                    "summary": "Upload a clip or audio for later use",
                    "requestBody": {"required": True, "content": {"application/octet-stream": binary}},
                    "responses": {
                        "200": {
                            "description": "taken",
                            "content": json_of(
                                {
                                    "media": {"type": "string"},
                                    "video": {"type": "boolean"},
                                    "audio": {"type": "boolean"},
                                    "seconds": {"type": "number"},
                                }
                            ),
                        },
                        "default": error,
                    },
                }
            },
            "/api/info": {
                "get": {
                    "summary": "Model and limits",
                    "responses": {"200": {"description": "JSON", "content": json_of({})}},
                }
            },
            "/healthz": {"get": {"summary": "Whether the server is up", "responses": {"200": text}}},
            "/metrics": {"get": {"summary": "Counts, as Prometheus reads them", "responses": {"200": text}}},
        },
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Error": {
                    "type": "object",
                    "properties": {
                        "error": {
                            "type": "object",
                            "properties": {"status": {"type": "integer"}, "message": {"type": "string"}},
                        }
                    },
                }
            },
        },
    }
