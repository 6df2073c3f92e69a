"""One video -> the views that each member wants, in a worker process.

The frames are decoded once, for the union of all members' plans; faces are looked for only where a
member needs one. Nothing here imports torch, so a worker starts quickly and stays small.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from liveness.base.config import Detector, FramePlan, View, to_dict
from liveness.base.files import digest_of
from liveness.frames.contract import cut_views
from liveness.frames.rules import NEWEST


@dataclass(frozen=True)
class ViewRequest:
    """What a member needs of a video. Members with equal needs share one ``key``."""

    key: str
    plan: FramePlan
    view: View
    detector: Detector
    jpeg_quality: int
    version: int = NEWEST  # of the contract


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
    state: str = ""  # of the file, as ``state_of`` gives it


def prepare_task(task: tuple[Path, list[ViewRequest]]) -> VideoViews:
    """``prepare`` for a pool of workers. What no one foresaw costs this video, not all others."""
    try:
        state = state_of(task[0])  # before: what is replaced from here on is told by it
        prepared = prepare(*task)
        prepared.state = state
        return prepared
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  (its row says what it was)
        return VideoViews(task[0], "crashed", " ".join(f"{type(error).__name__}: {error}".split()))


def state_of(path: Path) -> str:
    """What changes when a video is replaced, whatever its time of change says: the digest of its file."""
    try:
        return digest_of(path) if path.is_file() else "gone"
    except OSError:
        return "gone"


def prepare(path: Path, wanted: list[ViewRequest]) -> VideoViews:
    """Decode a video and cut every member's views. Never raises for the video's own faults."""
    from liveness.frames.video import VideoError, read_frames

    started = time.perf_counter()
    prepared, plans = VideoViews(path), [item.plan for item in wanted]
    try:
        for decoded, items in decode_by_version(
            wanted, lambda version: read_frames(path, plans, None, version=version)
        ):
            if prepared.status == "ok":
                prepared.status, prepared.reason = decoded.status, decoded.reason
            prepared.frames = max(prepared.frames, len(decoded.frames))
            cut_requests(decoded, items, prepared)
    except VideoError as error:
        prepared.status, prepared.reason = "unreadable", str(error)
    prepared.milliseconds = 1000 * (time.perf_counter() - started)
    return prepared


def decode_by_version(wanted: list[ViewRequest], read: Callable[[int], Any]) -> Iterator[tuple[Any, list[ViewRequest]]]:
    """A video decoded by the rules of each contract version that is wanted, with the needs of that version.

    ``read``: version -> video.Decoded. It is called once for a video that looks the same by all rules.
    """
    decoded = None
    for version in sorted({item.version for item in wanted}, reverse=True):
        if decoded is None or not decoded.same_by_all_rules:
            decoded = read(version)
        yield decoded, [item for item in wanted if item.version == version]


def cut_requests(decoded: Any, wanted: list[ViewRequest], prepared: VideoViews) -> None:
    """Cut the views of some members from a decoded video, into ``prepared``; count its faces, take over its notes."""
    from liveness.frames.boxes import choose_face
    from liveness.frames.faces import find_faces
    from liveness.frames.video import choose_frames, jpeg_round_trip

    stored: dict[tuple, np.ndarray] = {}
    found: dict[tuple, list] = {}
    with_face: set[int] = set()
    before = prepared.faces if prepared.frames_of else -1  # by the members of another contract version
    for item in wanted:
        views, frames_of = [], []
        for index in choose_frames(item.plan, decoded.info.times, decoded.info.duration):
            at = (index, item.jpeg_quality)
            if at not in stored:
                stored[at] = jpeg_round_trip(decoded.frames[index], item.jpeg_quality)
            face = None
            if item.view.kind == "face":
                sight = (*at, repr(item.detector))
                if sight not in found:
                    found[sight] = find_faces(stored[at], item.detector)
                height, width = stored[at].shape[:2]
                face = choose_face(found[sight], width, height, item.version)
                if face is not None:
                    with_face.add(index)
            pieces = cut_views(stored[at], face, item.view)
            if pieces:
                views += pieces
                frames_of.append(index)
        prepared.frames_of[item.key] = frames_of
        if views:
            prepared.views[item.key] = np.stack(views)
    asked = any(item.view.kind == "face" for item in wanted)
    prepared.faces = max(before, len(with_face)) if asked else before
    if asked:
        prepared.most_faces = max(prepared.most_faces, *map(len, found.values()), 0)
    prepared.notes += decoded.notes


def make_request(
    plan: FramePlan, view: View, detector: Detector, jpeg_quality: int, version: int = NEWEST
) -> ViewRequest:
    """A member's needs under a key that is equal for equal needs."""
    needs = [version, to_dict(plan), to_dict(view), jpeg_quality]
    if view.kind == "face":
        needs.append(to_dict(detector))
    return ViewRequest(repr(needs), plan, view, detector, jpeg_quality, version)
