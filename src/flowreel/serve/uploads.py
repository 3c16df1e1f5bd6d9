"""Uploads of viewers, read by a process of its own, which is killed when it takes too much.

The process gets a file under a name of ours, never one from a request, and only containers that hold their media
themselves: playlists, which name other files, are refused by their first bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import sys
import tempfile
import zipfile
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flowreel.media import Clip
from flowreel.serve.errors import RequestError

PASSED_ON = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR")
"""Of the environment, to the process that reads: it has no use for anybody's secrets."""
AT_ONCE = 4
"""Uploads that are taken at a time, of which one is read while the others wait: live viewers need the processors."""
START = (
    "import os; getattr(os, 'nice', int)(10); from flowreel.serve.decode_worker import main; raise SystemExit(main())"
)
"""What the process that reads does: leave others the processors, from its first moment on."""


@dataclass(frozen=True)
class Limits:
    """Of one upload: bytes, seconds of media, pixels of a frame; seconds, processor seconds and MB to read it with."""

    size: int = 32 * 2**20
    media_seconds: float = 60.0
    pixels: int = 4096 * 2304
    seconds: float = 20.0
    cpu_seconds: int = 20
    memory_mb: int = 2048


@dataclass(frozen=True)
class Form:
    """What a clip is made to be: that of the model."""

    fps: float
    height: int
    width: int
    fit: str
    sample_rate: int | None
    channel: str


@dataclass(frozen=True)
class Upload:
    """A clip; without video (``has_video``) its frames are black."""

    clip: Clip
    has_video: bool


class Reader:
    """Reads uploads as clips of one form."""

    def __init__(self, form: Form, limits: Limits) -> None:
        self.form, self.limits = form, limits
        self._turn, self._asking = asyncio.Lock(), 0

    async def read(self, body: AsyncIterator[bytes], length: str | None) -> Upload:
        """What is in the body of a request.

        Raises:
            RequestError: too large, too long, or nothing that can be read.
        """
        if length is not None and length.isdecimal() and int(length[:20]) > self.limits.size:
            raise self._too_large()
        if self._asking >= AT_ONCE:
            raise RequestError(503, "too many uploads at once: try again in a few seconds")
        self._asking += 1
        try:
            return await self._taken(body)
        finally:
            self._asking -= 1

    async def _taken(self, body: AsyncIterator[bytes]) -> Upload:
        handle, name = tempfile.mkstemp(prefix="flowreel-upload-")
        path = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                await self._receive(body, file)
            async with self._turn:
                return await self._decoded(path)
        finally:
            path.unlink(missing_ok=True)

    async def _receive(self, body: AsyncIterator[bytes], file: Any) -> None:
        received = 0
        try:
            async with asyncio.timeout(self.limits.seconds):
                async for part in body:
                    received += len(part)
                    if received > self.limits.size:
                        raise self._too_large()
                    file.write(part)
        except TimeoutError as error:
            raise RequestError(408, f"the upload took longer than {self.limits.seconds:g} s") from error
        if not received:
            raise RequestError(400, "the body is empty: send the file as the body of the request")

    def _too_large(self) -> RequestError:
        return RequestError(413, f"an upload may have at most {self.limits.size / 2**20:g} MB")

    async def _decoded(self, path: Path) -> Upload:
        task = json.dumps({"form": asdict(self.form), "limits": asdict(self.limits)})
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", START, str(path), task),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={name: os.environ[name] for name in PASSED_ON if name in os.environ} | {"OMP_NUM_THREADS": "1"},
        )
        try:
            async with asyncio.timeout(self.limits.seconds):
                output, _ = await process.communicate()
        except TimeoutError as error:
            raise RequestError(422, f"reading the file took longer than {self.limits.seconds:g} s") from error
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        return await asyncio.to_thread(self._upload, process.returncode, output)

    def _upload(self, code: int | None, output: bytes) -> Upload:
        if code == 2:
            raise RequestError(422, output.decode(errors="replace")[:300])
        broken = RequestError(422, "the file can't be read: it is damaged, or takes too much to read")
        if code != 0:
            raise broken
        try:
            with np.load(io.BytesIO(output), allow_pickle=False) as arrays:
                audio = dict(arrays).get("audio")
                frames, has_video = arrays["frames"], bool(arrays["video"])
            return Upload(Clip(frames, audio, self.form.fps, self.form.sample_rate or Clip.sample_rate), has_video)
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise broken from error
