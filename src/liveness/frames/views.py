"""A video -> the views that each member asks for, in a worker process; ``cut_stored`` is every stored frame's way.

The frames are decoded once, for the union of all members' plans; faces are looked for only where a
member needs one. Nothing here imports torch, so a worker starts quickly and stays small.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from liveness.base.config import Detector, FramePlan, View, to_dict
from liveness.base.files import digest_file
from liveness.frames.contract import cut_scales, finish_views
from liveness.frames.rules import NEWEST

if TYPE_CHECKING:
    from liveness.frames.boxes import Face
    from liveness.frames.video import Decoded


@dataclass(frozen=True)
class ViewRequest:
    """What a member needs of a video. Members with equal needs share one ``key``."""

    key: str
    plan: FramePlan
    view: View
    detector: Detector
    jpeg_quality: int
    version: int = NEWEST  # of the contract
    # Not in ``key``, as the views are the same: whether the frames are measured (quality.py), whether they are kept for
    # people to look at, and the detector's file (default: the installed one).
    measured: bool = False
    shown: bool = False
    detector_file: Path | None = None


@dataclass
class SeenFrame:
    """A frame that was scored, for people to look at: its time (seconds), its size and the boxes in it (pixels)."""

    index: int
    time: float
    width: int
    height: int
    faces: list[Face] = field(default_factory=list)  # all of them, most confident first
    face: Face | None = None  # the one that counts; None where no member looks for faces, too
    picture: bytes = b""  # a JPEG file of the frame, its longer side at most SHOWN_SIDE
    turned: int = 0  # clockwise degrees by which it has to be turned for its face to be upright


@dataclass
class VideoViews:
    """A video as the members see it. ``views[key]``: uint8, views x H x W x 3, with the views of
    one frame one after the other; ``frames_of[key]``: the frames they stem from."""

    path: Path
    status: str = "ok"  # ok | partial | unreadable
    reason: str = ""
    frames: int = 0  # frames decoded for this
    faces: int = 0  # of those, frames with a face; -1 = nobody asked
    most_faces: int = -1  # the most faces in one of them; -1 = nobody asked
    notes: list[str] = field(default_factory=list)  # frames/notes.py
    views: dict[str, np.ndarray] = field(default_factory=dict)
    frames_of: dict[str, list[int]] = field(default_factory=dict)
    milliseconds: float = 0.0
    state: str = ""  # of the file, as ``find_state`` gives it
    measures: dict[str, float] | None = None  # quality.MEASURES, medians; None where nobody asked, or without a face
    seen: list[SeenFrame] = field(default_factory=list)  # in the order of time; empty where nobody asked


def prepare_task(task: tuple[Path, list[ViewRequest]]) -> VideoViews:
    """``prepare_video`` for a pool of workers. What no one foresaw costs this video, not all others."""
    try:
        state = find_state(task[0])  # before: what is replaced from here on is told by it
        video = prepare_video(*task)
        video.state = state
        return video
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  (its row says what it was)
        return VideoViews(task[0], "crashed", " ".join(f"{type(error).__name__}: {error}".split()))


def find_state(path: Path) -> str:
    """What changes when a video is replaced, whatever its time of change says: the digest of its file."""
    try:
        return digest_file(path) if path.is_file() else "gone"
    except OSError:
        return "gone"


def prepare_video(path: Path, requests: list[ViewRequest]) -> VideoViews:
    """Decode a video and cut every member's views. Never raises for the video's own faults."""
    from liveness.frames.video import read_frames

    plans = [item.plan for item in requests]
    return _prepare(path, requests, lambda version: read_frames(path, plans, version=version))


def prepare_frames(name: str, decoded: Decoded, requests: list[ViewRequest]) -> VideoViews:
    """As ``prepare_video``, of frames that are decoded already; ``name`` stands in the row."""
    return _prepare(Path(name), requests, lambda version: decoded)


def _prepare(path: Path, requests: list[ViewRequest], read: Callable[[int], Decoded]) -> VideoViews:
    from liveness.frames.video import VideoError

    started = time.perf_counter()
    video = VideoViews(path)
    try:
        for decoded, items in decode_by_version(requests, read):
            if video.status == "ok":
                video.status, video.reason = decoded.status, decoded.reason
            video.frames = max(video.frames, len(decoded.frames))
            cut_requests(decoded, items, video)
    except VideoError as error:
        video.status, video.reason = "unreadable", str(error)
    video.milliseconds = 1000 * (time.perf_counter() - started)
    return video


def decode_by_version(
    requests: list[ViewRequest], read: Callable[[int], Decoded]
) -> Iterator[tuple[Decoded, list[ViewRequest]]]:
    """A video decoded by the rules of each contract version that is asked for, with the requests of that version.

    ``read``: version -> Decoded. It is called once for a video that looks the same by all rules.
    """
    decoded = None
    for version in sorted({item.version for item in requests}, reverse=True):
        if decoded is None or not decoded.same_by_all_rules:
            decoded = read(version)
        yield decoded, [item for item in requests if item.version == version]


class StoredFrame:
    """A frame as all of the pipeline sees it: uint8 RGB (H x W x 3), what is left of it when it has been a JPEG file.

    Its faces are looked for once per detector. A VideoError for bytes that are no JPEG file.
    """

    def __init__(self, jpeg: bytes, detector_file: Path | None = None) -> None:
        from liveness.frames.video import jpeg_decode

        self.rgb = jpeg_decode(jpeg)
        self.detector_file = detector_file
        self._faces: dict[str, list[Face]] = {}

    def faces(self, detector: Detector) -> list[Face]:
        """All faces in it, most confident first."""
        from liveness.frames.faces import find_faces

        key = repr(detector)
        if key not in self._faces:
            self._faces[key] = find_faces(self.rgb, detector, self.detector_file)
        return self._faces[key]


@dataclass
class Cuts:
    """What is cut from one stored frame for a view; ``faces`` are all of them, ``face`` is the one that counts."""

    faces: list[Face]
    face: Face | None
    pieces: list[np.ndarray]  # uint8 RGB as large as the frame has them: one per scale, none without a face


def cut_stored(frame: StoredFrame, view: View, detector: Detector, version: int = NEWEST) -> Cuts:
    """A stored frame -> its faces -> the one that counts -> the whole frame, or a square around that face per scale.

    Preparation and prediction both go this way. Training and evaluation start from the stored frame and the face
    that preparation wrote down, and cut with the same ``contract.cut``.
    """
    from liveness.frames.boxes import choose_face

    if view.kind == "frame":
        return Cuts([], None, cut_scales(frame.rgb, None, view))
    faces = frame.faces(detector)
    face = choose_face(faces, frame.rgb.shape[1], frame.rgb.shape[0], version)
    return Cuts(faces, face, cut_scales(frame.rgb, face, view))


def cut_requests(decoded: Decoded, requests: list[ViewRequest], video: VideoViews) -> None:
    """Cut the views of some members from a decoded video, into ``video``; count its faces, take over its notes."""
    from liveness.frames.quality import measure_frame, median_measures
    from liveness.frames.video import choose_frames, jpeg_encode

    stored: dict[tuple[int, int], StoredFrame] = {}
    with_face: set[int] = set()
    measures: dict[tuple[int, int], dict[str, float]] = {}
    most = video.most_faces
    before = video.faces if video.frames_of else -1  # by the members of another contract version
    for item in requests:
        views: list[np.ndarray] = []
        video.frames_of[item.key] = []
        for index in choose_frames(item.plan, decoded.info.times, decoded.info.duration):
            at = (index, item.jpeg_quality)
            if at not in stored:
                stored[at] = StoredFrame(jpeg_encode(decoded.frames[index], item.jpeg_quality), item.detector_file)
            cuts = cut_stored(stored[at], item.view, item.detector, item.version)
            if item.view.kind == "face":
                most = max(most, len(cuts.faces))
            if item.shown:
                _show_frame(video, index, float(decoded.info.times[index]), stored[at], cuts, item)
            if cuts.face is not None:
                with_face.add(index)
                if item.measured and at not in measures:
                    measures[at] = measure_frame(stored[at].rgb, cuts.face, cuts.faces)
            if cuts.pieces:
                views += finish_views(cuts.pieces, item.view)
                video.frames_of[item.key].append(index)
        if views:
            video.views[item.key] = np.stack(views)
    asked = any(item.view.kind == "face" for item in requests)
    video.faces = max(before, len(with_face)) if asked else before
    video.most_faces = max(most, 0) if asked else most
    video.measures = median_measures(list(measures.values())) or video.measures
    video.notes += decoded.notes


SHOWN_SIDE = 320  # pixels
# A face that lies on its side or stands on its head is found too, but less surely: the detector gave 95 % of 60 webcam
# frames a confidence of at least 0.93 as they were, and turned most got less than 0.87.
_UPRIGHT, _SURER = 0.9, 0.05


def _show_frame(video: VideoViews, index: int, time: float, frame: StoredFrame, cuts: Cuts, item: ViewRequest) -> None:
    """Keep a frame in ``seen``, once; with its faces where a member looks for them."""
    import cv2

    from liveness.frames.video import jpeg_encode

    rgb = frame.rgb
    there = next((one for one in video.seen if one.index == index), None)
    if there is None:
        height, width = rgb.shape[:2]
        scale = min(1.0, SHOWN_SIDE / max(height, width))
        size = (max(1, round(scale * width)), max(1, round(scale * height)))
        picture = jpeg_encode(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), 85)
        there = SeenFrame(index, time, width, height, picture=picture)
        video.seen = sorted([*video.seen, there], key=lambda one: one.index)
    if cuts.faces:
        there.faces, there.face = cuts.faces, cuts.face
    if item.view.kind == "face" and not any(one.turned for one in video.seen):
        there.turned = _find_turn(rgb, cuts.face, item)


def _find_turn(rgb: np.ndarray, face: Face | None, item: ViewRequest) -> int:
    """The clockwise degrees by which a frame has to be turned for its face to be upright."""
    from liveness.frames.faces import find_faces

    found = {0: face.confidence + _SURER if face else 0.0}
    if found[0] < _UPRIGHT + _SURER:
        for turns in (1, 3, 2):  # clockwise quarters
            turned = np.ascontiguousarray(np.rot90(rgb, -turns))
            faces = find_faces(turned, item.detector, item.detector_file)
            found[90 * turns] = faces[0].confidence if faces else 0.0
    return max(found, key=lambda degrees: found[degrees])


def make_request(
    plan: FramePlan, view: View, detector: Detector, jpeg_quality: int, version: int = NEWEST
) -> ViewRequest:
    """A member's needs under a key that is equal for equal needs."""
    needs = [version, to_dict(plan), to_dict(view), jpeg_quality]
    if view.kind == "face":
        needs.append(to_dict(detector))
    return ViewRequest(repr(needs), plan, view, detector, jpeg_quality, version)
