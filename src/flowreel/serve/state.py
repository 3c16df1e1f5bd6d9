"""The state that all answers of the server share."""

from __future__ import annotations

from dataclasses import dataclass

from flowreel.pipeline.pipeline import Pipeline
from flowreel.serve.errors import RequestError
from flowreel.serve.live_stream import StreamRequest
from flowreel.serve.messages import ROLES
from flowreel.serve.sessions import SessionManager
from flowreel.serve.uploads import Reader, Upload

LONGEST_MESSAGE = 4096
"""Characters of a message of a viewer, bytes of a request's parameters."""
RETRY = 3
"""Seconds after which someone who found all places taken may ask again."""


@dataclass(frozen=True)
class ServerState:
    """The sessions, the reader of uploads, the pipeline's name, and the longest clip in seconds."""

    sessions: SessionManager
    reader: Reader
    name: str
    longest: float

    @property
    def pipeline(self) -> Pipeline:
        return self.sessions.pipeline


def with_defaults(wanted: StreamRequest, default: StreamRequest) -> StreamRequest:
    """The request, with what it leaves open from ``default``."""
    values = {k: v if v is not None else getattr(default, k) for k, v in vars(wanted).items()}
    return StreamRequest(**values)


def as_conditioning(upload: Upload | None, role: object) -> Upload:
    """The upload, if it can be used as ``role``.

    Raises:
        RequestError: it can't, or there is none.
    """
    if role not in ROLES:
        raise RequestError(400, f"as must be one of {', '.join(ROLES)}")
    if upload is None:
        raise RequestError(404, "there is no such upload, or it was too long ago: send it again")
    if role != "audio" and not upload.has_video:
        raise RequestError(400, f"audio alone can't be used as {role}")
    if role == "audio" and upload.clip.audio is None:
        raise RequestError(400, "this clip has no audio")
    return upload
