"""What a viewer is told where something can't be done."""

from __future__ import annotations


class Refused(Exception):  # noqa: N818
    """Something can't be done as asked: an HTTP status and a sentence for whoever asked."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message
