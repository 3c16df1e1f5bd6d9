"""Tells video files from others by their names and first bytes."""

from __future__ import annotations

from pathlib import Path

from flowreel.errors import InputError

_VIDEO_SUFFIXES = (
    ".264 .265 .3g2 .3gp .amv .asf .avi .divx .dv .f4v .flv .gxf .h261 .h263 .h264 .h265 .hevc .ivf .m1v .m2t .m2ts "
    ".m2v .m4v .mjpeg .mjpg .mk3d .mkv .mov .mp4 .mp4v .mpe .mpeg .mpg .mpv .mts .mxf .nut .obu .ogm .ogv .qt .rm "
    ".rmvb .tod .trp .ts .vob .vro .webm .wmv .wtv .xvid .y4m"
)
VIDEO_SUFFIXES = frozenset(_VIDEO_SUFFIXES.split())
"""Suffixes of files that are taken for films whatever they hold: what is wrong with them is worth a line."""

_OTHER_SUFFIXES = (
    ".aac .aiff .ass .bmp .c .cfg .ckpt .css .csv .db .doc .docx .flac .gz .h .h5 .hdf5 .htm .html .ini .ipynb "
    ".jpeg .jpg .js .json .jsonl .log .lrc .m3u .m3u8 .m4a .md .mid .mp3 .npy .npz .onnx .opus .parquet .pdf .pickle "
    ".pkl .pt .pth .py .rar .rst .safetensors .sh .sqlite .srt .sub .svg .tar .tfrecord .tif .tiff .toml .tsv .txt "
    ".vtt .wav .wma .xml .yaml .yml .zip .zst"
)
OTHER_SUFFIXES = frozenset(_OTHER_SUFFIXES.split())
"""Suffixes of files that are no films: these are not opened."""

_TEXT_TOO = {".ts", ".mts"}  # TypeScript has these as well
_HEAD = 4096
_STILLS = {b"avif", b"heic", b"heix", b"heim", b"heis", b"mif1"}  # brands of MP4's relatives with one picture
_STARTS = (
    (0, b"\x1aE\xdf\xa3"),  # Matroska, WebM
    (0, b"FLV\x01"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),  # ASF, WMV
    (0, b"\0\0\x01\xba"),  # MPEG program stream
    (4, b"ftyp"),
    (4, b"moov"),
    (4, b"styp"),
    (8, b"AVI "),
)


def is_video_file(path: Path) -> bool:
    """Whether the regular file ``path`` is a video file: one with a suffix of :data:`VIDEO_SUFFIXES`, or another that
    FFmpeg opens and finds moving video in, or that begins as video files do, so that it may be a damaged one.

    Still pictures, sound alone, text and empty files are none. Raises :class:`OSError` where it can't be read.
    """
    suffix = path.suffix.lower()
    if suffix in OTHER_SUFFIXES or (suffix in VIDEO_SUFFIXES and suffix not in _TEXT_TOO):
        return suffix in VIDEO_SUFFIXES
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if suffix in _TEXT_TOO:
        return not (head and _is_text(head))
    if not head or _is_text(head):
        return False
    moving = _has_moving_video(path, head)
    return _has_video(path, head) if moving is None else moving


def _is_text(head: bytes) -> bool:
    """Whether a file that begins so is text, as UTF-8 or one of its relatives with a byte for each letter."""
    printed = bytes({7, 8, 9, 10, 12, 13, 27} | (set(range(0x20, 0x100)) - {0x7F}))
    return not head.translate(None, printed)


def _has_moving_video(path: Path, head: bytes) -> bool | None:
    """Whether a picture's file moves; None for what is no picture's file."""
    if head.startswith(b"\xff\xd8\xff") or (head[4:8] == b"ftyp" and head[8:12] in _STILLS):
        return False
    if head.startswith(b"\x89PNG"):
        return b"acTL" in head
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return head[12:16] == b"VP8X" and bool(head[20] & 2)
    return _is_animated(path) if head.startswith(b"GIF8") else None


def _is_animated(path: Path) -> bool:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return bool(getattr(image, "is_animated", False))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return False


def _has_video(path: Path, head: bytes) -> bool:
    import av
    from av.format import Flags

    from flowreel.media.demux import opened, shown_streams

    try:
        with opened(path) as container:
            kind = container.format
            # A codec's stream without a container is known by its name alone: any bytes may look like one.
            if kind.name.endswith("_pipe") or Flags.no_timestamps in Flags(kind.flags):
                return False
            return bool(shown_streams(container))
    except (av.FFmpegError, InputError):
        return any(head[place:].startswith(start) for place, start in _STARTS)
