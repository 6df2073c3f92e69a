"""Which videos are scored: those of a folder in one of the judging container's layouts, or one file.

    videos = videos_below(Path("/data"))

Notes on stderr say what is passed over, and why. Writes nothing.
"""

import csv
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from liveness.base import launch
from liveness.base.errors import UserError
from liveness.base.files import (
    FOLDER,
    IMAGE_FOLDER,
    IMAGES_FOLDER,
    STILL,
    is_still,
    list_unscored,
    look_through,
    natural_key,
    workspace,
)

FOLDERS = (FOLDER, IMAGE_FOLDER)


class NoVideos(UserError):
    """A folder that is there and holds no video to score."""


def videos_below(source: Path, images: bool = False) -> list[Path]:
    """The videos of a folder, natural order; of a file, itself, whatever its ending.

    A folder holds them flat, or in ``videos/``, or in ``<set>/videos/`` of one or several sets. Of those
    sets, one to train on is passed over, with a note: what was prepared, and what has labels if there are
    videos without (in the workspace's own data/, always). Where there is no video in any of these places,
    the still images there and in ``images/`` are taken; with ``images`` they are taken beside videos, too.
    One note counts and names what else is not scored. UserError where there is nothing to score, or two
    videos have one name.
    """
    if source.is_file():
        return [source]
    found = _find_input(source, images)
    for line in found.notes:
        note(line)
    if not found.videos:
        there = f"; there is {list_unscored(found.left)}" if found.left else ""
        raise NoVideos(
            f"{source}: no videos in it, in its videos/ or in a <set>/videos/; expected mp4, mov, avi, ... or still "
            f"images (jpg, png, webp, bmp; also in images/){there}"
        )
    _require_distinct_names(found.videos)
    if found.left:
        count = f"{len(found.left)} {'is' if len(found.left) == 1 else 'are'}"
        more = any(why in (STILL, IMAGE_FOLDER) for _, why in found.left) and not is_still(found.videos[0])
        how = "; --images scores the images too" if more and not images else ""
        note(f"{source}: {count} not scored beside the videos: {list_unscored(found.left)}{how}")
    return found.videos


@dataclass
class _Found:
    """A folder's videos, what else may be meant as one (name, why), and what is to be told of sets."""

    videos: list[Path]
    left: list[tuple[str, str]]
    notes: list[str]


def _find_input(source: Path, images: bool = False) -> _Found:
    """What is to be scored of a folder: its videos; where it has none, or where that is asked, its images."""
    found = _sorted_out(source, images)
    return found if found.videos or images else _sorted_out(source, True)


def _sorted_out(source: Path, images: bool) -> _Found:
    if not source.is_dir():
        raise UserError(f"{source}: no such folder; expected a folder of videos, or one video")
    videos, left = look_through(source, images)
    if videos:
        return _Found(videos, left + _sets_beside(source, images), [])
    inside: list[tuple[str, str]] = []
    for inner in _media(source, images):
        more, others = look_through(inner, images)
        videos += more
        inside += [(f"{inner.name}/{name}", why) for name, why in others]
    if videos:
        taken = {path.parent.name for path in videos}
        beside = [(name, why) for name, why in left if why in FOLDERS and name not in taken]
        return _Found(videos, inside + beside + _sets_beside(source, images), [])
    left += inside
    sets = _of_sets(source, images)
    if sets.videos:
        taken = {path.parent.parent.name for path in sets.videos}
        left = [(name, why) for name, why in left if why == FOLDER or (why == IMAGE_FOLDER and name not in taken)]
    return _Found(sets.videos, left + sets.left, sets.notes)


def _media(folder: Path, images: bool) -> list[Path]:
    """The folders in ``folder`` that may hold videos or, if they count, images."""
    names = ("videos", IMAGES_FOLDER) if images else ("videos",)
    return [folder / name for name in names if _is_folder(folder / name)]


def _of_sets(source: Path, images: bool) -> _Found:
    """The videos of the sets in a folder that are to be scored."""
    sets = [p for p in sorted(source.iterdir(), key=lambda p: natural_key(p.name)) if _media(p, images)]
    labelled = [p for p in sets if _has_labels(p) and not _is_prepared(p)]
    chosen = [p for p in sets if not _is_prepared(p) and p not in labelled]
    found = _Found([], [], [])
    if not chosen and source.resolve() != (workspace() / "data").resolve():
        chosen = labelled
        found.notes += [f"{p} has labels; there are no other videos, so its are scored" for p in labelled]
    for candidate in sets:
        if candidate in chosen:
            for folder in _media(candidate, images):
                videos, others = look_through(folder, images)
                found.videos += videos
                found.left += [(f"{candidate.name}/{folder.name}/{name}", why) for name, why in others]
        else:
            found.notes.append(f"{candidate} is a training set, its videos are not scored")
    return found


def _sets_beside(source: Path, images: bool) -> list[tuple[str, str]]:
    """Sets in a folder that are not scored, since there are videos above or beside them."""
    found = []
    for p in sorted(source.iterdir(), key=lambda p: natural_key(p.name)):
        inner = _media(p, images)
        if inner and not _is_prepared(p) and not _has_labels(p):
            found += [(f"{p.name}/{folder.name}", FOLDER) for folder in inner if any(folder.iterdir())]
    return found


def _require_distinct_names(videos: list[Path]) -> None:
    """A UserError for two videos that would share a row: rows go by the file's name."""
    seen: dict[str, Path] = {}
    for path in videos:
        if path.name in seen:
            first, second = seen[path.name].parent, path.parent
            raise UserError(
                f"{seen[path.name]} and {path} have one name, and a row of submission.csv has only that; score the "
                f"folders one by one: bash predict.sh {first} RESULT, then bash predict.sh {second} RESULT2"
            )
        seen[path.name] = path


def note(text: str) -> None:
    """A line on stderr, from one of several processes."""
    if launch.global_rank() == 0:
        print(f"note: {text}", file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """As ``note``, for what the user should act on."""
    if launch.global_rank() == 0:
        print(f"warning: {text}", file=sys.stderr, flush=True)


def _is_folder(path: Path) -> bool:
    """Whether a folder is there that this user may look into (lost+found of a mounted disk is none)."""
    return os.path.isdir(path) and os.access(path, os.R_OK | os.X_OK)


def _is_prepared(folder: Path) -> bool:
    """Whether a set was made by prepare_data.sh."""
    return (folder / "folds.csv").exists() or (folder / "prepare.json").exists()


def _has_labels(folder: Path) -> bool:
    """Whether a set has labels (0 or 1; a sample submission has neither)."""
    for name in ("label.csv", "labels.csv"):
        if (folder / name).is_file():
            with open(folder / name, encoding="utf-8-sig", errors="replace", newline="") as file:
                values = [row[1].strip() for row in csv.reader(file) if len(row) > 1]
            if set(values[1:]) & {"0", "1"}:
                return True
    return False


def default_input() -> Path:
    """/data where the judging container mounted videos there, else the workspace's data/."""
    mounted = Path("/data")
    return mounted if mounted.is_dir() and _find_input(mounted).videos else workspace() / "data"


def default_output(source: Path) -> Path:
    """/result in the judging container (it is there, or the videos are in /data), else the workspace's result/."""
    return Path("/result") if Path("/result").is_dir() or source == Path("/data") else workspace() / "result"
