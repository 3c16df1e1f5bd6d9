"""What every answer of the server is made of, and what the answers share."""

from __future__ import annotations

from dataclasses import dataclass

from flowreel.pipeline.pipeline import Pipeline
from flowreel.serve.errors import Refused
from flowreel.serve.live_stream import Wish
from flowreel.serve.messages import ROLES
from flowreel.serve.sessions import Studio
from flowreel.serve.uploads import Reader, Upload

LONGEST_MESSAGE = 4096
"""Characters of a message of a viewer, bytes of a request's parameters."""
RETRY = 3
"""Seconds after which someone who found all places taken may ask again."""


@dataclass(frozen=True)
class House:
    """The studio, who reads uploads, the pipeline's name, and the seconds of a clip that may be asked for."""

    studio: Studio
    reader: Reader
    name: str
    longest: float

    @property
    def pipeline(self) -> Pipeline:
        return self.studio.pipeline


def with_defaults(wish: Wish, default: Wish) -> Wish:
    """``wish``, and what it leaves open from ``default``."""
    values = {k: v if v is not None else getattr(default, k) for k, v in vars(wish).items()}
    return Wish(**values)


def as_given(upload: Upload | None, role: object) -> Upload:
    """The upload, if it can be given as ``role``.

    Raises:
        Refused: it can't, or there is none.
    """
    if role not in ROLES:
        raise Refused(400, f"as must be one of {', '.join(ROLES)}")
    if upload is None:
        raise Refused(404, "there is no such upload, or it was too long ago: send it again")
    if role != "audio" and not upload.picture:
        raise Refused(400, f"a sound alone can't be used as {role}")
    if role == "audio" and upload.clip.audio is None:
        raise Refused(400, "this clip has no sound")
    return upload
