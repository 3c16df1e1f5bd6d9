"""Prints lines of text to standard output and standard error, whatever their encoding.

Characters that the encoding lacks are escaped. If the reader has closed the pipe, as ``| head`` does, further lines are
dropped and the program continues. Any other failure to write, as on a full disk, is an OSError.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO


def settle() -> None:
    """Let standard output and standard error escape characters that their encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # the streams of a notebook have none
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def put(line: str, stream: TextIO | None) -> None:
    """Print a line to ``sys.stdout`` or ``sys.stderr`` and flush it; ignored if the stream was closed at start (None).

    Raises:
        OSError: the stream can't be written, for another reason than a closed pipe.
    """
    if stream is None:
        return
    encoding = stream.encoding or "utf-8"
    try:
        print(line.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except BrokenPipeError:
        _drop(stream)
    except OSError as error:
        name = "standard error" if stream is sys.stderr else "standard output"
        raise OSError(error.errno, error.strerror, f"the {name}") from error


def put_error(line: str) -> None:
    """Print a last line to standard error, if that is possible."""
    with contextlib.suppress(OSError):
        put(line, sys.stderr)


def finish() -> bool:
    """Flush both streams, so that Python need not at exit; False if that fails."""
    complete = True
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:
            complete = complete and isinstance(error, BrokenPipeError)
            _drop(stream)
    return complete


def _drop(stream: TextIO) -> None:
    """Discard everything that is in the stream or is written to it later."""
    with contextlib.suppress(OSError):  # a stream without a file descriptor
        devnull = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(devnull, stream.fileno())
        finally:
            os.close(devnull)
