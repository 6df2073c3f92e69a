"""A video file opened for demuxing, and the track in it that counts; or what the file is instead of a video.

Reads the one file, writes nothing.
"""

import os
from itertools import islice
from pathlib import Path

import av
import av.error

from liveness.frames.display import MAX_PIXELS
from liveness.frames.rules import RULES

# Containers that hold their own data: a playlist in a video's clothes must not open other files.
CONTAINERS = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,h264,hevc,m4v,mjpeg,ivf,obu"
HEAD = 4096  # bytes of a file that tell what it is
PROBED = 5000  # packets in which a track must show up to count as one with frames
# How ffmpeg ranks video tracks for its output (map_auto_video in fftools/ffmpeg_mux_init.c): pixels, and these.
HAS_PACKETS, IS_DEFAULT = 100_000_000, 5_000_000
LOGIN = "what a download leaves that needed a login or a confirmation"
AS_IMAGE = "to have it read as a still image, give it the ending"
# First bytes -> what it is and how to go on.
MAGIC = (
    (b"GIF8", "a GIF image", "convert it: ffmpeg -i FILE -pix_fmt yuv420p clip.mp4"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image", f"{AS_IMAGE} .png"),
    (b"\xff\xd8\xff", "a JPEG image", f"{AS_IMAGE} .jpg"),
    (b"BM", "a BMP image", f"{AS_IMAGE} .bmp"),
    (b"II*\0", "a TIFF image or a raw photo", "convert it to PNG"),
    (b"MM\0*", "a TIFF image or a raw photo", "convert it to PNG"),
    (b"%PDF", "a PDF document", ""),
    (b"PK\3\4", "a zip archive", "unpack it"),
    (b"Rar!\x1a\x07", "a rar archive", "unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (b"\x1f\x8b", "a gzip archive", "unpack it"),
    (b"BZh", "a bzip2 archive", "unpack it"),
    (b"\xfd7zXZ\0", "an xz archive", "unpack it"),
    (b"ID3", "an MP3 sound file", ""),
    (b"fLaC", "a FLAC sound file", ""),
    (b"\0\x05\x16\x07", "the companion that macOS writes beside a file (._NAME)", "delete it"),
    (b"version https://git-lfs", "a Git LFS pointer", "fetch what it points to: git lfs pull"),
    (b"#EXTM3U", "a playlist", "save the video that it names"),
)
IMAGES = {b"avif": "an AVIF image", b"heic": "a HEIC image", b"heix": "a HEIC image", b"mif1": "a HEIF image"}


class VideoError(Exception):
    """This one video cannot be read; the text is the reason, one line."""


def why(error: BaseException) -> str:
    """One line from a decoder's exception, without its numbers and the file's path."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())


def opened(path: Path) -> av.container.InputContainer:
    """Open a file for demuxing: this file only, and of a known kind. A VideoError says what else it is."""
    options = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
        if instead := _not_to_open(head):
            raise VideoError(instead)
        # By its absolute path: FFmpeg takes what stands before a colon in a relative one for a protocol.
        return av.open(os.path.abspath(path), options=options)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        known = describe_kind(path) if isinstance(error, (av.error.InvalidDataError, ValueError)) else ""
        raise VideoError(known or f"cannot be opened: {why(error)}") from error


def _not_to_open(head: bytes) -> str:
    """What a file is that FFmpeg would make a video of, and that is none: by its first bytes; "" for all others."""
    if head[4:8] == b"ftyp" and head[8:12] in IMAGES:
        return f"{IMAGES[head[8:12]]}, not a video"
    return "a PDF document, not a video" if head.startswith(b"%PDF") else ""


def describe_kind(path: Path, wanted: str = "video") -> str:
    """What a file is that is not what was ``wanted``, and how to go on; "" where its bytes do not tell."""
    try:
        with open(path, "rb") as file:
            head, size = file.read(HEAD), os.fstat(file.fileno()).st_size
    except OSError:
        return ""
    if not head:
        return "an empty file (0 bytes); copy or download it again"
    if not head.strip(b"\0"):
        return "only zeros at its beginning: the copy or download did not end; fetch it again"
    if head[4:8] in (b"ftyp", b"mdat", b"wide", b"free", b"skip") and not _has_index(path, size):
        return "an mp4 without its index (moov): the recording or the copy broke off; fetch it again"
    kinds = ((what, how) for magic, what, how in MAGIC if head.startswith(magic))
    what, how = next(kinds, None) or _kind_by_shape(head)
    return f"{what}, not a {wanted}{'; ' + how if how else ''}" if what else ""


def _kind_by_shape(head: bytes) -> tuple[str, str]:
    """As an entry of MAGIC without its bytes: kinds that need more than a comparison. ("", "") for none."""
    if head[:4] == b"RIFF" and head[8:12] in (b"WEBP", b"WAVE"):
        return ("a WebP image", f"{AS_IMAGE} .webp") if head[8:12] == b"WEBP" else ("a WAV sound file", "")
    if head[257:262] == b"ustar":
        return "a tar archive", "unpack it"
    text = _text(head)
    if text is None:
        return "", ""
    start = text.lstrip("\ufeff \r\n\t").lower()
    if start.startswith(("<!doctype html", "<html")):
        return "an HTML page", f"{LOGIN}; fetch the file itself"
    if start.startswith(("<?xml", "{", "[")):
        return "a text (XML or JSON)", f"perhaps a server's error message, or {LOGIN}"
    return "a text", ""


def _text(head: bytes) -> str | None:
    """The bytes as text, or None where they are none."""
    for encoding in ("utf-16",) if head[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8",):
        try:
            text = head.decode(encoding)
        except UnicodeDecodeError as error:
            if error.start < len(head) - 4:  # a character may be cut at the end
                return None
            text = head[: error.start].decode(encoding)
        return text if all(char.isprintable() or char in "\r\n\t\ufeff" for char in text) else None
    return None


def _has_index(path: Path, size: int) -> bool:
    """Whether one of an mp4's top-level boxes is its index; True where the boxes cannot be followed."""
    with open(path, "rb") as file:
        at = 0
        while at + 8 <= size:
            file.seek(at)
            head = file.read(16)
            length, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if kind in (b"moov", b"moof"):
                return True
            length = int.from_bytes(head[8:16], "big") if length == 1 else length or size - at
            if length < 8:
                return True
            at += length
    return False


def video_track(
    container: av.container.InputContainer, path: Path, version: int
) -> tuple[av.video.stream.VideoStream, list[str]]:
    """The video track that counts under a contract's version, and a note where there are several.

    Cover pictures do not count. VideoError where there is none, or none that can be decoded.
    """
    tracks = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not tracks:
        kinds = sorted({stream.type for stream in container.streams})
        raise VideoError(f"no video stream ({'only ' + ', '.join(kinds) if kinds else 'no stream at all'})")
    stream = _best(tracks, path) if RULES[version].best_track and len(tracks) > 1 else tracks[0]
    context = stream.codec_context
    if context is None:
        raise VideoError("its codec is unknown to the decoder")
    if context.width * context.height > MAX_PIXELS:
        raise VideoError(f"frames of {context.width}x{context.height} are too large")
    context.options = {"max_pixels": str(MAX_PIXELS)}  # it may also grow on the way
    return stream, [f"track={tracks.index(stream) + 1}/{len(tracks)}"] if len(tracks) > 1 else []


def _best(tracks: list[av.video.stream.VideoStream], path: Path) -> av.video.stream.VideoStream:
    """The track that the program ffmpeg would take by itself: the first of the highest rank."""
    with opened(path) as container:  # of its own: what is read here must not be missing later
        there = {packet.stream.index for packet in islice(container.demux(), PROBED) if packet.size}

    def rank(stream: av.video.stream.VideoStream) -> int:
        context = stream.codec_context
        pixels = context.width * context.height if context is not None else 0
        default = bool(stream.disposition & av.stream.Disposition.default)
        return pixels + HAS_PACKETS * (stream.index in there) + IS_DEFAULT * default

    return max(tracks, key=rank)
