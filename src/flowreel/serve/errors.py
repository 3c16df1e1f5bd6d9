"""The error that answers a request which can't be fulfilled."""

from __future__ import annotations


class RequestError(Exception):
    """Something can't be done as asked: an HTTP status and a sentence for whoever asked."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message
