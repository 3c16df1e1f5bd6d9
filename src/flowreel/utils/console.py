"""Lines of text on the standard output and the standard error, whatever these can show and whoever reads them.

A name that the encoding lacks is printed with escapes. Where the reader has left, as ``| head`` does, further lines are
dropped and work goes on. Where they can't be written for another reason, as on a full disk, that is an OSError.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO


def settle() -> None:
    """Let the process's two streams print with escapes what their encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # a notebook's have none
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def put(line: str, stream: TextIO | None) -> None:
    """Print a line on ``sys.stdout`` or ``sys.stderr`` at once; None, a stream that was closed at start, takes nothing.

    Raises:
        OSError: the stream can't be written, other than because its reader has left.
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
    """Print a last line on the standard error, if that is possible."""
    with contextlib.suppress(OSError):
        put(line, sys.stderr)


def finish() -> bool:
    """Write what is left in both streams; False where that can't be done. Then Python's own end has nothing to do."""
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
    """Let what is written from now on, and what is in the stream already, go nowhere."""
    with contextlib.suppress(OSError):  # a stream without a file drops it by itself
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, stream.fileno())
        finally:
            os.close(nowhere)
