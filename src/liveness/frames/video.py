"""Videos to frames: which frames a plan asks for, and exactly those frames, upright, as RGB.

Reads one video file through PyAV (FFmpeg's libraries), writes nothing. Frames are numbered by
presentation order, from 0. Preparation and prediction both come through ``read_frames``. A still
image (image.py) is a video of one frame at time 0, which every plan takes, without duration and rate.

Pixels are those of OpenCV's VideoCapture for ordinary 8-bit clips: swscale's default conversion.
What else a file may ask for (tone curve, shape of the pixels, turn, another track) is in display.py
and container.py, under the rules of a contract's ``version`` (rules.py).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import av.error
import cv2
import numpy as np

from liveness.base.config import FramePlan
from liveness.frames.container import VideoError, opened, video_track, why
from liveness.frames.display import Look, read_matrix, turned
from liveness.frames.image import StillImage, decode_image, is_image
from liveness.frames.notes import IMAGE
from liveness.frames.rules import NEWEST

KEPT_BYTES = 64 * 1024 * 1024  # files up to this size are demuxed once and decoded from memory
DEFAULT_FPS = 25.0  # for a file without any usable timing
TIE = 1e-9  # seconds: two frames as near as this to a position are a tie, the earlier wins
SLACK = 0.75  # seconds by which packets may end before the container's own duration


@dataclass(frozen=True)
class VideoInfo:
    """What a video holds: ``frames`` frames at ``times`` (seconds from 0, presentation order).

    ``width`` and ``height`` are those of the frames as displayed: with square pixels (contract version 1: as
    coded), and after ``rotation`` (clockwise degrees that the metadata ask for: 0, 90, 180 or 270).
    """

    frames: int
    fps: float
    width: int
    height: int
    duration: float
    times: np.ndarray
    codec: str
    rotation: int


@dataclass
class Decoded:
    """The wanted frames of a video.

    ``info`` describes the frames that decode; ``frames`` maps their index in ``info.times`` to
    pixels (uint8 RGB, height x width x 3), so ``choose_frames(plan, info.times, info.duration)``
    gives keys of it. ``status`` is "partial" when the file is damaged or breaks off; ``reason``
    then says how, else it is empty. ``notes`` (notes.py): what is unusual about it and no trouble.
    """

    info: VideoInfo
    frames: dict[int, Any]
    status: str
    reason: str
    notes: list[str] = field(default_factory=list)

    @property
    def same_by_all_rules(self) -> bool:
        """Whether every version of the contract gives these very frames."""
        return {note.partition("=")[0] for note in self.notes} <= {IMAGE, "interlaced", "pixel_aspect_ignored"}


@dataclass
class _Demuxed:
    """A file's packets: presentation stamps in order, and what was odd about them."""

    info: VideoInfo
    stamps: list[int] | None  # presentation time stamps, None where they cannot identify a frame
    trouble: str  # "" or why the file is known to be damaged
    packets: list[av.Packet] | None  # the video packets themselves, for small files


def probe(path: Path, version: int = NEWEST) -> VideoInfo:
    """Describe a video by walking through its packets; only the first frame is decoded, for its turn.

    A wrong or missing frame count, duration or rate in the header does not matter. Raises
    VideoError when the file cannot be opened or holds no video.
    """
    if is_image(path):
        return _describe_image(decode_image(path))
    with opened(path) as container:
        stream, _ = video_track(container, path, version)
        look, found = Look(stream, version), _demux(container, stream, keep=False)
        matrix = _first_matrix(path, version) if stream.codec_context.width else None
    return _shown(found.info, look, matrix)


def choose_frames(plan: FramePlan, times: np.ndarray, duration: float) -> list[int]:
    """Indices of the frames that ``plan`` asks for, in the plan's order, without repeats.

    A position is served by the frame whose presentation time is nearest to share * duration (at
    a constant rate: round(share * frames)); the earlier of two equally near ones. An empty video
    gives an empty list.
    """
    count = len(times)
    if count == 0:
        return []
    if plan.plan == "all":
        return list(range(count))
    if plan.plan == "every":
        return list(range(0, count, plan.step))
    if plan.plan == "positions":
        wanted = np.asarray(plan.positions, dtype=np.float64) * duration
    elif plan.plan == "even":
        shares = np.linspace(plan.margin, 1 - plan.margin, plan.count) if plan.count > 1 else np.array([0.5])
        wanted = shares * duration
    elif plan.plan == "rate":
        # The small excess keeps a clip of exactly k / rate seconds from gaining a frame by rounding.
        wanted = np.arange(max(1, int(np.ceil(duration * plan.per_second - 1e-6)))) / plan.per_second
    else:
        raise ValueError(f"unknown frame plan {plan.plan!r}")
    return list(dict.fromkeys(_nearest(np.asarray(times, dtype=np.float64), wanted)))


def read_frames(
    path: Path, plans: list[FramePlan], jpeg_quality: int | None = None, threads: int = 1, version: int = NEWEST
) -> Decoded:
    """Decode the union of the plans' frames: upright uint8 RGB arrays, each decoded once.

    With ``jpeg_quality`` every frame has passed the JPEG round trip of the stored frames.
    ``threads`` is the decoder's own number of threads; the pixels do not depend on it. ``version`` is that of the
    contract whose rules hold. Raises VideoError when no frame can be had.
    """
    if jpeg_quality is None:
        return _guarded(path, plans, lambda rgb: rgb, threads, version)
    return _guarded(path, plans, lambda rgb: jpeg_round_trip(rgb, jpeg_quality), threads, version)


def read_jpegs(
    path: Path, plans: list[FramePlan], jpeg_quality: int, threads: int = 1, version: int = NEWEST
) -> Decoded:
    """As ``read_frames``, but the frames are JPEG files' bytes: small enough to hold a long plan."""
    return _guarded(path, plans, lambda rgb: jpeg_encode(rgb, jpeg_quality), threads, version)


def take_frames(frames: np.ndarray, fps: float) -> Decoded:
    """Frames that someone else has decoded (uint8 RGB, T x H x W x 3, upright, a whole clip at ``fps`` a second) as a
    video's; a single one is a still image."""
    count, height, width = frames.shape[:3]
    if count == 1:
        return Decoded(VideoInfo(1, 0.0, width, height, 0.0, np.zeros(1), "", 0), {0: frames[0]}, "ok", "", [IMAGE])
    info = VideoInfo(count, fps, width, height, count / fps, np.arange(count) / fps, "", 0)
    return Decoded(info, dict(enumerate(frames)), "ok", "")


def jpeg_encode(rgb: np.ndarray, quality: int) -> bytes:
    """A JPEG file's bytes of an RGB image (OpenCV's encoder, its default chroma subsampling)."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    if not done:
        raise VideoError(f"a frame of {rgb.shape[1]}x{rgb.shape[0]} cannot be stored as JPEG")
    return data.tobytes()


def jpeg_decode(data: bytes) -> np.ndarray:
    """Pixels (uint8 RGB, height x width x 3) of a JPEG file's bytes; VideoError if it is damaged."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise VideoError("damaged JPEG")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def jpeg_round_trip(rgb: np.ndarray, quality: int) -> np.ndarray:
    """What is left of an RGB image after it has been stored as JPEG and read again."""
    return jpeg_decode(jpeg_encode(rgb, quality))


def _nearest(times: np.ndarray, wanted: np.ndarray) -> list[int]:
    """For each wanted time the index of the nearest of the ascending ``times``."""
    right = np.clip(np.searchsorted(times, wanted), 1, max(1, len(times) - 1))
    left = right - 1
    right = np.minimum(right, len(times) - 1)
    take_right = wanted - times[left] > times[right] - wanted + TIE
    return [int(i) for i in np.where(take_right, right, left)]


def _demux(container: av.container.InputContainer, stream: av.video.stream.VideoStream, keep: bool) -> _Demuxed:
    """Walk through the packets of every stream; keep those of the video if asked."""
    packets, stamps, ends, corrupt, hidden, trouble = [], [], [0.0], 0, 0, ""
    try:
        for packet in container.demux():
            if packet.size == 0:  # the mark of a stream's end
                continue
            stamp = packet.pts if packet.pts is not None else packet.dts
            if stamp is not None and packet.time_base:
                ends.append(float((stamp + (packet.duration or 0)) * packet.time_base))
            if packet.stream.index != stream.index:
                continue
            if keep:
                packets.append(packet)
            if packet.is_discard:  # an edit list hides it: decoded for what follows, never shown
                hidden += 1
            else:
                stamps.append((packet.pts, packet.dts))
                corrupt += packet.is_corrupt
    except (av.error.FFmpegError, OSError) as error:
        trouble = f"breaks off: {why(error)}"
    if not stamps:
        raise VideoError(trouble or "no video frame in the file")
    # A table there, elsewhere a guess. Under an edit list the index is as the packets come, the count need not be.
    listed = len(stream.index_entries) or stream.frames if container.format.name.startswith("mov") else 0
    listed = max(0, listed - hidden)
    length = container.duration / av.time_base if container.duration else 0.0
    if not trouble and (corrupt or listed > len(stamps)):
        trouble = f"breaks off: {len(stamps) - corrupt} of {max(listed, len(stamps))} frames are whole"
    elif not trouble and length - max(ends) > max(SLACK, 0.1 * length) and "matroska" in container.format.name:
        trouble = f"breaks off: {max(ends):.2f} of {length:.2f} s are there"
    ordered, usable = _presentation(stamps)
    info = _info(stream, _seconds(ordered, stream))
    return _Demuxed(info, ordered if usable else None, trouble, packets if keep else None)


def _presentation(stamps: list[tuple[int | None, int | None]]) -> tuple[list, bool]:
    """The stamps in presentation order, and whether each names one frame.

    Containers without presentation times (AVI) have decoding times: as a set, from 0, they are
    the same, but they do not name frames.
    """
    shown = [pts for pts, _ in stamps]
    if None not in shown:
        return sorted(shown), len(set(shown)) == len(shown)
    decoding = [dts for _, dts in stamps]
    if None not in decoding:
        return sorted(decoding), False
    return [None] * len(stamps), False


def _seconds(stamps: list, stream: av.video.stream.VideoStream) -> np.ndarray:
    """Presentation times in seconds from 0; evenly spaced where the file gives none."""
    rate = float(stream.average_rate or stream.guessed_rate or 0) or DEFAULT_FPS
    even = np.arange(len(stamps), dtype=np.float64) / rate
    if not stamps or stamps[0] is None or not stream.time_base:
        return even
    times = (np.asarray(stamps, dtype=np.float64) - stamps[0]) * float(stream.time_base)
    usable = len(times) == 1 or (times[-1] > 0 and np.isfinite(times).all())
    return times if usable else even


def _info(stream: av.video.stream.VideoStream, times: np.ndarray) -> VideoInfo:
    """A VideoInfo of the frames at ``times``, as coded; the last is shown for the median interval."""
    rate = float(stream.average_rate or stream.guessed_rate or 0) or DEFAULT_FPS
    last = float(np.median(np.diff(times))) if len(times) > 1 else 1 / rate
    duration = float(times[-1]) + last if len(times) else 0.0
    context = stream.codec_context
    return VideoInfo(
        frames=len(times),
        fps=len(times) / duration if duration > 0 else 0.0,
        width=context.width,
        height=context.height,
        duration=duration,
        times=times,
        codec=context.name,
        rotation=0,
    )


def _describe_image(image: StillImage) -> VideoInfo:
    height, width = image.rgb.shape[:2]
    return VideoInfo(1, 0.0, width, height, 0.0, np.zeros(1), image.codec, image.rotation)


def _shown(info: VideoInfo, look: Look, matrix: np.ndarray | None) -> VideoInfo:
    """The same video with its size as displayed."""
    width, height, turn = turned(*look.size(info.width, info.height), matrix)
    return replace(info, width=width, height=height, rotation=turn)


def _first_matrix(path: Path, version: int) -> np.ndarray | None:
    """The display matrix of the first frame that decodes."""
    with opened(path) as container:
        stream, _ = video_track(container, path, version)
        for frame in _frames(stream, container.demux(stream), []):
            return read_matrix(frame)
    return None


def _frames(
    stream: av.video.stream.VideoStream, packets: Iterator[av.Packet], errors: list[str]
) -> Iterator[av.VideoFrame]:
    """Every frame that decodes, in presentation order; what went wrong is appended to ``errors``."""
    while True:
        try:
            packet = next(packets, None)
        except (av.error.FFmpegError, OSError) as error:
            errors.append(f"breaks off: {why(error)}")
            packet = None
        try:
            if packet is None:
                yield from stream.codec_context.decode(None)
                return
            if packet.size:
                yield from packet.decode()
        except (av.error.FFmpegError, ValueError) as error:
            if isinstance(error, av.error.EOFError):
                return
            if isinstance(error, MemoryError):
                raise
            errors.append(f"a frame does not decode: {why(error)}")
            if packet is None:
                return


def _set_threads(stream: av.video.stream.VideoStream, threads: int) -> None:
    stream.codec_context.thread_count = threads
    stream.codec_context.thread_type = "AUTO" if threads != 1 else "NONE"


def _union(plans: list[FramePlan], info: VideoInfo) -> set[int]:
    return {index for plan in plans for index in choose_frames(plan, info.times, info.duration)}


def _guarded(path: Path, plans: list[FramePlan], convert: Callable, threads: int, version: int) -> Decoded:
    """``_read``, with whatever the libraries raise on a damaged file as a VideoError."""
    try:
        if is_image(path):
            image = decode_image(path)
            info = _describe_image(image)
            return Decoded(info, {index: convert(image.rgb) for index in _union(plans, info)}, "ok", "", [IMAGE])
        return _read(path, plans, convert, threads, version)
    except cv2.error as error:
        if getattr(error, "code", None) == cv2.Error.STS_NO_MEM:
            raise MemoryError from error
        raise VideoError(f"does not decode: {why(error)}") from error
    except MemoryError:  # FFmpeg's own is one too: the limit was reached, which says little about the file
        raise
    except (av.error.FFmpegError, OSError, ValueError, OverflowError) as error:
        raise VideoError(f"does not decode: {why(error)}") from error


def _read(path: Path, plans: list[FramePlan], convert: Callable, threads: int, version: int) -> Decoded:
    """Decode once up to the last wanted frame; a file that is not as its packets say is scanned."""
    with opened(path) as container:
        stream, notes = video_track(container, path, version)
        look = Look(stream, version)
        found = _demux(container, stream, keep=Path(path).stat().st_size <= KEPT_BYTES)
        wanted = _union(plans, found.info)
        errors: list[str] = []
        if found.packets is not None:
            _set_threads(stream, threads)
            source = _frames(stream, iter(found.packets), errors)
        else:
            source = _reopened(path, threads, errors, version)
        kept, matrix, same = _collect(source, wanted, found.stamps, convert, look)
        if same and not errors and not found.trouble and len(kept) == len(wanted):
            return Decoded(_shown(found.info, look, matrix), kept, "ok", "", [*notes, *look.notes])
    return _read_damaged(path, plans, convert, threads, found, version)


def _collect(
    frames: Iterator[av.VideoFrame], wanted: set[int], stamps: list[int] | None, convert: Callable, look: Look
) -> tuple[dict[int, Any], np.ndarray | None, bool]:
    """Convert the wanted frames; also the display matrix, and whether the stamps were as expected."""
    kept: dict[int, Any] = {}
    matrix = None
    last = max(wanted, default=-1)
    for index, frame in enumerate(frames):
        if stamps is not None and (index >= len(stamps) or frame.pts != stamps[index] or frame.is_corrupt):
            return kept, matrix, False
        if index in wanted:
            matrix = read_matrix(frame)
            kept[index] = convert(look.pixels(frame, matrix))
        if index >= last:
            break
    return kept, matrix, True


def _reopened(path: Path, threads: int, errors: list[str], version: int) -> Iterator[av.VideoFrame]:
    """The frames of a file from its beginning, from a container of its own."""
    with opened(path) as container:
        stream, _ = video_track(container, path, version)
        _set_threads(stream, threads)
        yield from _frames(stream, container.demux(stream), errors)


def _read_damaged(
    path: Path, plans: list[FramePlan], convert: Callable, threads: int, found: _Demuxed, version: int
) -> Decoded:
    """Decode everything to see which frames there are, choose among those, decode again."""
    errors: list[str] = []
    stamps, corrupt = [], 0
    for frame in _reopened(path, threads, errors, version):
        stamps.append(frame.pts)
        corrupt += frame.is_corrupt
    if not stamps:
        raise VideoError((errors or [found.trouble or "no frame decodes"])[0])
    with opened(path) as container:
        stream, notes = video_track(container, path, version)
        look = Look(stream, version)
        known = [stamp for stamp in stamps if stamp is not None]
        if len(known) == len(stamps) and all(a < b for a, b in pairwise(known)):
            times = _seconds(stamps, stream)
        elif len(stamps) == found.info.frames:
            times = found.info.times
        else:
            times = np.arange(len(stamps)) / (found.info.fps or DEFAULT_FPS)
        info = _info(stream, times)
    kept, matrix, _ = _collect(_reopened(path, threads, [], version), _union(plans, info), None, convert, look)
    info, notes = _shown(info, look, matrix), [*notes, *look.notes]
    if errors or corrupt or found.trouble:
        reason = (found.trouble or (errors or [f"{corrupt} frames are damaged"])[0]) + f"; {len(stamps)} frames decode"
        return Decoded(info, kept, "partial", reason, notes)
    return Decoded(info, kept, "ok", "", notes)
