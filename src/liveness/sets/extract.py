"""One video of a set: its frames, faces and the record of both.

Writes, under data/<set>/: frames/<video>-<frame>.jpg, faces/bbox/<video>-<frame>.txt (a line
"face CONF X Y W H" per box, pixels), faces/crop/… and faces/viz/…jpg (where there is a face), and
last .records/<video>.json, which names them all: its presence means that the video is done. In a large set
they lie in subfolders (sets/layout.py). The tables are made of the records, so a later run (or one on
another machine) need not decode.
"""

import hashlib
import json
import os
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2

from liveness.base.config import Data, Detector, FramePlan, View, to_dict
from liveness.base.errors import UserError
from liveness.base.files import sha256_of, written_aside
from liveness.base.names import few
from liveness.frames.boxes import draw_faces
from liveness.frames.faces import detector_digest
from liveness.frames.notes import IMAGE
from liveness.frames.rules import NEWEST
from liveness.frames.video import VideoError, choose_frames, jpeg_decode, jpeg_encode, read_jpegs
from liveness.frames.views import StoredFrame, cut_stored
from liveness.sets.duplicates import frames_to_hash, hash_frame
from liveness.sets.layout import RECORDS, find_record, list_stored, name_stored
from liveness.sets.settings import read_version

RECORD_VERSION = 5  # of the records; another one makes every video anew
FIRST = 1  # the contract version of records that name none
VIZ_QUALITY = 85


@dataclass(frozen=True)
class ExtractTask:
    """What a worker needs to know: the video, where its output goes, and how to make it."""

    video: Path
    folder: Path  # data/<set>
    frames: FramePlan
    detector: Detector
    jpeg_quality: int
    crop_scale: float
    crop_size: int
    version: int = NEWEST  # of the contract whose rules hold in this set
    spread: bool = False  # into subfolders


def make_extract_task(
    video: Path, folder: Path, data: Data, version: int = NEWEST, spread: bool = False
) -> ExtractTask:
    return ExtractTask(
        video, folder, data.frames, data.detector, data.jpeg_quality, data.crop_scale, data.crop_size, version, spread
    )


def _make_keys(task: ExtractTask) -> dict[str, str]:
    """Hashes of everything that the stored frames, and the stored faces, depend on."""
    frames = {"version": RECORD_VERSION, "plan": to_dict(task.frames), "jpeg_quality": task.jpeg_quality}
    faces = {
        "version": RECORD_VERSION,
        "detector": to_dict(task.detector),
        "sha256": detector_digest(task.detector.name),
        "jpeg_quality": task.jpeg_quality,
        "crop_scale": task.crop_scale,
    }
    if task.crop_size:
        faces["crop_size"] = task.crop_size
    if task.version > FIRST:
        frames["contract"] = faces["contract"] = task.version
    return {"frames_key": _digest(frames), "faces_key": _digest(faces)}


def read_record(folder: Path, video: Path) -> dict | None:
    """A video's record, or None where there is none that can be read."""
    return _load(find_record(folder, video.stem))


def _load(path: Path) -> dict | None:
    """A record that is as it was written, without its seal; None for one that is damaged or not there."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        seal = record.pop("seal")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return record if seal == _digest(record) else None


def digest_sources(folder: Path, video_ids: list[str]) -> dict[str, str]:
    """SHA-256 of the files that videos of data/<set> were prepared from, video id -> hex; without those that no record
    tells of."""
    records = ((video_id, _load(find_record(folder, video_id))) for video_id in video_ids)
    return {video_id: record["sha256"] for video_id, record in records if record and "sha256" in record}


def known_records(folder: Path) -> set[str]:
    """The video ids that have a record in ``folder``."""
    names = (name.rpartition("/")[2] for name in list_stored(folder / RECORDS))
    return {name.removesuffix(".json") for name in names if name.endswith(".json")}


def notes_of_record(record: dict) -> list[str]:
    """What a video's row notes (frames/notes.py); nothing in sets of contract version 1."""
    most = max((row["n_faces"] for row in record.get("frames", ())), default=0)
    several = [f"several_faces={most}"] if most > 1 and "contract" in record else []
    return [*record.get("notes", ()), *several]


def find_version(folder: Path) -> int:
    """The contract version by whose rules data/<set> is, or was begun to be, prepared; the newest where nothing is.

    prepare.json says it of a whole set. Of one that is prepared in part its records do, and of two versions among
    them the newer holds: they come from preparing the set anew, which was interrupted.
    """
    try:
        return read_version(folder)
    except FileNotFoundError:
        records = (_load(find_record(folder, video_id)) for video_id in known_records(folder))
        return max((record.get("contract", FIRST) for record in records if record), default=NEWEST)


def settle_version(folder: Path, renew: bool) -> int:
    """``find_version``, or the newest if the set is to be made anew by it; an older one is said."""
    version = NEWEST if renew else find_version(folder)
    if version < NEWEST:
        anew = f"bash prepare_data.sh {folder.name} --renew"
        print(f"{folder.name}: prepared by contract version {version}, which stays; by version {NEWEST}: {anew}")
    return version


def require_sources(videos: list[Path], folder: Path) -> None:
    """A UserError where videos that have frames in ``folder`` are not there: to go on would delete what they gave."""
    gone = [path.name for path in videos if not path.exists() and (read_record(folder, path) or {}).get("frames")]
    if gone:
        raise UserError(
            f"{folder}: {len(gone)} prepared videos are not there any more ({few(gone)}); is a disk "
            f"not mounted? Nothing was changed; to leave them out, delete their links (also in {folder / 'videos'}) "
            "and their label rows"
        )


def forget(folder: Path, video_id: str) -> None:
    """Remove a record and the files it names."""
    path = find_record(folder, video_id)
    record = _load(path)
    files = record["files"] if record else {"frames": {}, "faces": {}}
    for name in {**files["frames"], **files["faces"]}:
        (folder / name).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def what_is_missing(task: ExtractTask, record: dict | None, again: bool = True) -> str:
    """Why a video has to be worked on: "" (it is done), "new", "changed", "frames" or "faces".

    "changed": another file under the same name; "frames", "faces": made under another
    configuration, or their files are missing or of another size. A video that was given up at a
    limit is "new" if it is to be tried ``again``.
    """
    if record is None or record["version"] != RECORD_VERSION or (again and record.get("gave_up")):
        return "new"
    try:
        stat = task.video.stat()
    except OSError:
        return "changed"
    if record["bytes"] != stat.st_size:
        return "changed"
    # A file may come with another's time of change (unpacked, copied with its times), never with its own ctime.
    # Records from before have none.
    times = (record["mtime_ns"], record.get("ctime_ns", stat.st_ctime_ns))
    if times != (stat.st_mtime_ns, stat.st_ctime_ns) and record["sha256"] != sha256_of(task.video):
        return "changed"
    wanted = _make_keys(task)
    if record["frames_key"] != wanted["frames_key"] or not _present(task.folder, record["files"]["frames"]):
        return "frames"
    if record["faces_key"] != wanted["faces_key"] or not _present(task.folder, record["files"]["faces"]):
        return "faces"
    return ""


def extract(task: ExtractTask) -> dict:
    """Do what is missing of one video and return its record. Only a full disk and the like raise."""
    old = read_record(task.folder, task.video)
    missing = what_is_missing(task, old)
    if old is not None and not missing:
        return old
    stored = _stored_frames(task, old) if old is not None and missing == "faces" else None
    if old is not None and stored is not None:
        return _finish(task, old, stored, old)
    record = _begin(task)
    if record.get("gave_up"):
        return _finish(task, record, {}, old)
    frames: dict[int, bytes] = {}
    try:
        decoded = read_jpegs(task.video, [task.frames], task.jpeg_quality, version=task.version)
    except VideoError as error:
        record |= {"status": "unreadable", "reason": str(error), "info": {}, "frames": []}
    else:
        info, frames = decoded.info, decoded.frames
        wanted = choose_frames(task.frames, info.times, info.duration)
        record |= {"status": decoded.status if wanted else "no_frames", "reason": decoded.reason}
        values = asdict(info)
        record["info"] = {key: values[key] for key in values if key != "times"}
        if task.version > FIRST or IMAGE in decoded.notes:
            record["notes"] = decoded.notes
        record["frames"] = [{"frame_id": i, "time": round(float(info.times[i]), 6)} for i in sorted(wanted)]
    return _finish(task, record, frames, old)


def failed_record(task: ExtractTask, reason: str) -> dict:
    """The record of a video whose worker gave up; the next run tries it again."""
    old = read_record(task.folder, task.video)
    return _finish(task, _begin(task) | _given_up(reason), {}, old)


def _given_up(reason: str) -> dict:
    return {"status": "unreadable", "reason": reason, "info": {}, "frames": [], "gave_up": True}


def _begin(task: ExtractTask) -> dict:
    """The part of a record that names the source file and the configuration; all of it for a file that is denied."""
    source = {"bytes": 0, "mtime_ns": 0, "sha256": ""}
    try:
        stat = task.video.stat()
        source |= {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, "ctime_ns": stat.st_ctime_ns}
        source["sha256"] = sha256_of(task.video)
    except OSError as error:
        source |= _given_up(f"cannot be read: {error.strerror}")
    rules = {"contract": task.version} if task.version > FIRST else {}
    return {"version": RECORD_VERSION, "filename": task.video.name, **rules, **source, **_make_keys(task)}


def _finish(task: ExtractTask, record: dict, frames: dict[int, bytes], old: dict | None) -> dict:
    """Write images, boxes and the record, and remove what an earlier plan left."""
    written: dict[str, dict[str, list[int]]] = {"frames": {}, "faces": {}}
    rows, hashed = [], frames_to_hash(len(record["frames"]))
    for place, row in enumerate(record["frames"]):
        name = name_stored(task.video.stem, f"-{row['frame_id']}", task.spread)
        data = frames[row["frame_id"]]
        frame = StoredFrame(data)
        written["frames"][f"frames/{name}.jpg"] = _put(task.folder / "frames" / f"{name}.jpg", data)
        rows.append(row | _write_faces(task, name, frame, written["faces"]))
        rows[-1]["hashes"] = hash_frame(frame.rgb) if place in hashed else []
    record = record | {"frames": rows, "files": written, **_make_keys(task)}
    if old:
        keep = {**written["frames"], **written["faces"]}
        for path in {**old["files"]["frames"], **old["files"]["faces"]}:
            if path not in keep:
                (task.folder / path).unlink(missing_ok=True)
    path = task.folder / RECORDS / name_stored(task.video.stem, ".json", task.spread)
    sealed = {**record, "seal": _digest(record)}
    _put(path, (json.dumps(sealed, ensure_ascii=False, indent=1) + "\n").encode())
    return record


def _write_faces(task: ExtractTask, name: str, frame: StoredFrame, written: dict[str, list[int]]) -> dict:
    """Find the faces of one stored frame, write its files; its columns of labels_bbox.csv."""
    cuts = cut_stored(frame, View("face", scales=[task.crop_scale]), task.detector, task.version)
    lines = [f"face {f.confidence} {f.x} {f.y} {f.w} {f.h}\n" for f in cuts.faces]
    files = {f"faces/bbox/{name}.txt": "".join(lines).encode()}
    for crop in cuts.pieces:
        if task.crop_size:
            way = cv2.INTER_AREA if len(crop) > task.crop_size else cv2.INTER_CUBIC
            crop = cv2.resize(crop, (task.crop_size, task.crop_size), interpolation=way)
        files[f"faces/crop/{name}.jpg"] = jpeg_encode(crop, task.jpeg_quality)
        files[f"faces/viz/{name}.jpg"] = jpeg_encode(draw_faces(frame.rgb, cuts.faces, cuts.face), VIZ_QUALITY)
    for path, content in files.items():
        written[path] = _put(task.folder / path, content)
    return {"n_faces": len(cuts.faces), "face": asdict(cuts.face) if cuts.face else None}


def _stored_frames(task: ExtractTask, record: dict) -> dict[int, bytes] | None:
    """The frames' files of an earlier run, or None if one of them is damaged."""
    frames = {}
    for row, name in zip(record["frames"], record["files"]["frames"], strict=True):
        data = (task.folder / name).read_bytes()
        try:
            jpeg_decode(data)
        except VideoError:
            return None
        frames[row["frame_id"]] = data
    return frames


def damaged_files(folder: Path, record: dict) -> list[str]:
    """The files of a record that are missing or whose content is not what was written."""
    bad = []
    for path, (_, checksum) in {**record["files"]["frames"], **record["files"]["faces"]}.items():
        try:
            if zlib.crc32((folder / path).read_bytes()) != checksum:
                bad.append(path)
        except OSError:
            bad.append(path)
    return bad


def _present(folder: Path, files: dict[str, list[int]]) -> bool:
    """Whether each file is there with the size it was written with."""
    for path, (size, _) in files.items():
        try:
            if os.stat(folder / path).st_size != size:
                return False
        except OSError:
            return False
    return True


def _put(path: Path, data: bytes) -> list[int]:
    """Write a file aside and rename it; its size and CRC-32. No fsync: the record's sizes show what a crash lost."""
    with written_aside(path, durable=False) as side:
        side.write_bytes(data)
    return [len(data), zlib.crc32(data)]


def _digest(value: dict) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
