"""Where things lie, and how a file appears whole or not at all.

The workspace (raw/, data/, runs/, weights/, result/) is the folder that the environment variable
LIVENESS_ROOT names, else the repository, else (the package is installed) the current folder.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import math
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from liveness.base.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]
CODE = PACKAGE.parents[1]  # the repository, where the package lies in one
IN_REPOSITORY = (CODE / "pyproject.toml").is_file() and (CODE / "configs").is_dir()
# A wheel carries configs/ inside; the repository has it where a user edits it.
CONFIGS = CODE / "configs" if IN_REPOSITORY else PACKAGE / "configs"
# Of the containers that frames/video.py opens.
VIDEO_ENDINGS = (
    *(".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".3gp", ".3g2", ".qt", ".f4v", ".3gpp", ".mk3d", ".divx"),
    *(".wmv", ".asf", ".flv", ".mpg", ".mpeg", ".mpe", ".vob", ".ts", ".mts", ".m2ts", ".m2t", ".ogv"),
    *(".h264", ".264", ".hevc", ".h265", ".265", ".mjpeg", ".mjpg", ".ivf"),
)
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")  # still images, which frames/image.py reads
PICTURE_ENDINGS = (".gif", ".apng", ".tif", ".tiff", ".heic", ".heif", ".avif")  # which nothing here reads
TEXT_ENDINGS = (
    *(".csv", ".tsv", ".txt", ".md", ".rst", ".json", ".jsonl", ".yaml", ".yml", ".xml", ".html", ".log"),
    *(".srt", ".vtt", ".md5", ".sha256", ".py", ".sh", ".ipynb", ".ini"),
)
PIECES, PIECE = 64, 1 << 16  # of a large file, what ``digest_file`` looks at
# Why an entry of a folder is not scored.
FOLDER, IMAGE_FOLDER = "a folder with videos in it", "a folder with images in it"
STILL = "a still image"
IMAGES_FOLDER = "images"  # where a set may have its still images, as it may have its videos in videos/


def workspace() -> Path:
    """The folder that holds raw/, data/, runs/, weights/ and result/."""
    return Path(os.environ.get("LIVENESS_ROOT") or (CODE if IN_REPOSITORY else Path.cwd())).resolve()


# A side file's name: this mark, who wrote it (kernel and process namespace, then the process), a random part.
ASIDE = ".aside-"
ABANDONED = 3600.0  # seconds without a write after which a stranger's unlocked side file counts as left behind
LONGEST_ENDING = 16  # bytes of an ending that the side name keeps; a longer "ending" is part of the name
_swept: set[str] = set()  # folders in which this process has looked for what dead ones left


def prepared_sets() -> list[str]:
    """The sets in data/ that prepare_data.sh has finished, natural order."""
    return sorted((path.parent.name for path in (workspace() / "data").glob("*/prepare.json")), key=natural_key)


def unprepared(name: str) -> str:
    """What to say where set ``name`` is not prepared: the command, and the sets that are."""
    there = [other for other in prepared_sets() if other != name]
    which = f"; prepared sets: {', '.join(there)} (to take one: DATA={there[0]} before the command)" if there else ""
    return f"{workspace() / 'data' / name}: not prepared; run: bash prepare_data.sh {name}{which}"


@contextlib.contextmanager
def written_aside(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a side path in the same folder; rename it onto ``path`` if the block succeeds.

    The data reaches the disk before the rename (unless not ``durable``), so that after a crash ``path`` is the old
    file or the new one, never a part. The side file is removed when the block raises. A ``path`` that is a link
    stays one: the file that it leads to is written. What dead processes left in the folder is swept.
    """
    path = Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if (folder := str(path.parent)) not in _swept:
        sweep(path.parent)
        _swept.add(folder)
    held, side = _side_file(path)
    try:
        yield side
        if durable:
            with open(side, "rb+") as stream:
                os.fsync(stream.fileno())
        # mkstemp makes the file private; give it the mode that a plain open would have.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(side, 0o666 & ~umask)
        os.replace(side, path)
    finally:
        side.unlink(missing_ok=True)
        os.close(held)


def _side_file(path: Path) -> tuple[int, Path]:
    """A new side file for ``path``, and the descriptor that holds its lock: locked, it is a living process's."""
    # The ending is kept, so that writers which look at it (images, torch) do as they should.
    ending = path.suffix if len(os.fsencode(path.suffix)) <= LONGEST_ENDING else ""
    while True:
        held, name = tempfile.mkstemp(prefix=f"{ASIDE}{_here()}-{os.getpid()}-", suffix=ending, dir=path.parent)
        if _lock(held) is not False and _same_file(held, name):
            return held, Path(name)
        os.close(held)  # a sweep took it in the moment before it was locked


@functools.cache
def _here() -> str:
    """Eight digits for this kernel and process namespace, in which a process number has one meaning."""
    try:
        kernel = Path("/proc/sys/kernel/random/boot_id").read_text()
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        kernel, space = socket.gethostname(), ""
    return hashlib.sha256(f"{kernel} {space}".encode()).hexdigest()[:8]


def _lock(file: int) -> bool | None:
    """Whether the file could be locked; None on a file system without locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _same_file(file: int, name: str | Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(name))
    except OSError:
        return False


def sweep(folder: Path, patience: float = ABANDONED) -> None:
    """Remove the side files of dead processes in ``folder``.

    A locked one is a living process's. An unlocked one goes at once if it was written here by a process that is no
    more; one of another machine or container, or of no known writer, after ``patience`` seconds without a write
    (some shared file systems lock within one machine only).
    """
    for side in folder.glob(f"{ASIDE}*"):
        try:
            file = os.open(side, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:  # gone meanwhile, or another user's
            continue
        try:
            if _left_behind(file, side.name, patience) and _lock(file) is not False and _same_file(file, side):
                side.unlink(missing_ok=True)
        except OSError:  # a folder that may be written to, but not this file of it
            continue
        finally:
            os.close(file)


def _left_behind(file: int, name: str, patience: float) -> bool:
    where, _, rest = name.removeprefix(ASIDE).partition("-")
    process = rest.partition("-")[0]
    if where == _here() and process.isdecimal():
        return not _alive(int(process))
    return time.time() - os.fstat(file).st_mtime >= patience


def _alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in ("Z", "X")  # ended, and only not yet collected by its parent
    except (OSError, IndexError):
        pass  # another system, or gone
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


@contextlib.contextmanager
def held(path: Path, refusal: str, shared: bool = False) -> Iterator[None]:
    """Hold the lock file ``path`` while the block runs; a UserError (``refusal``) if another process holds it.

    ``shared``: together with others that share it. Ends with the process, however that ends; the file stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(refusal) from error
        except OSError:
            pass  # a file system without locks
        yield


def write_text(path: Path, text: str) -> None:
    """Write a text file whole (UTF-8)."""
    with written_aside(path) as side:
        side.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: object, indent: int = 2, sort_keys: bool = False) -> None:
    """Write a JSON file whole; a figure that does not exist (nan, an infinity) becomes null."""
    text = json.dumps(without_nan(value), indent=indent, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def without_nan(value: Any) -> Any:
    """The same value as JSON can say it: nan and infinities as None, numpy's numbers as Python's, tuples as lists."""
    if isinstance(value, dict):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    if not isinstance(value, (str, int, float)) and hasattr(value, "item"):
        value = value.item()  # of numpy, which is not imported here
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show_path(path: Path) -> str:
    """A path as a user types it: relative to the workspace where it lies inside."""
    try:
        return str(path.relative_to(workspace()))
    except ValueError:
        return str(path)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a binary file whole."""
    with written_aside(path) as side:
        side.write_bytes(data)


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_file(path: Path) -> str:
    """Hex SHA-256 by which a file is known again: of its bytes; of a large one's size, its first mebibyte at most,
    and pieces from all over it.

    Reading gigabytes twice would cost seconds, and neither training nor another video leaves any piece as it was.
    """
    size = path.stat().st_size
    if size <= PIECES * PIECE:
        return sha256_of(path)
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        digest.update(file.read(16 * PIECE))
        for piece in range(PIECES):
            file.seek(piece * (size - PIECE) // (PIECES - 1))
            digest.update(file.read(PIECE))
    return digest.hexdigest()


_DIGITS = re.compile(r"(\d+)")


def natural_key(name: str) -> tuple:
    """Sort key that puts 2.mp4 before 10.mp4, and orders equal numbers by the full name."""
    parts = _DIGITS.split(name)
    return tuple((int(p), "") if p.isdecimal() else (-1, p.casefold()) for p in parts), name


def plain_name(name: str, where: str) -> str:
    """Return ``name`` if it is a bare file name; a UserError if it could leave its folder."""
    if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise UserError(f"{where}: {name!r} is not a plain file name (no folders are allowed in it)")
    return name


def find_videos(folder: Path) -> list[Path]:
    """The video files directly in ``folder``, by any known ending in any case, natural order; where it has none, its
    still images.

    Hidden files are passed over; a link that leads nowhere counts, so that it gets its row as a video
    that cannot be read.
    """
    return look_through(folder)[0] or look_through(folder, images=True)[0]


def is_still(path: Path) -> bool:
    """Whether a file is a still image by its name."""
    return path.suffix.lower() in IMAGE_ENDINGS


NAMED_UNSCORED = 3  # examples in a note, of each kind


def list_unscored(left: list[tuple[str, str]]) -> str:
    """What is not scored, by its reason: ``a.gif (a picture), b, c, d and 4 more (no ending)``."""
    kinds: dict[str, list[str]] = {}
    for name, why in left:
        kinds.setdefault(why, []).append(repr(name) if name != name.strip() else name)
    parts = []
    for why, names in kinds.items():
        more = f" and {len(names) - NAMED_UNSCORED} more" if len(names) > NAMED_UNSCORED else ""
        parts.append(f"{', '.join(names[:NAMED_UNSCORED])}{more} ({why})")
    return ", ".join(parts)


def look_through(folder: Path, images: bool = False) -> tuple[list[Path], list[tuple[str, str]]]:
    """The videos directly in ``folder`` (with ``images``, its still images too), natural order; and what else may be
    meant as a video and is none by its name: (name, why).

    Text files, such as labels and notes, and hidden files are passed over.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected a folder of videos (mp4, mov, avi, ...)")
    endings = (*VIDEO_ENDINGS, *IMAGE_ENDINGS) if images else VIDEO_ENDINGS
    videos, others = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if os.path.splitext(entry.name)[1].lower() in endings and _may_be_read(entry):
                videos.append(folder / entry.name)
            elif why := _why_unscored(entry, images):
                others.append((entry.name, why))
    return sorted(videos, key=lambda path: natural_key(path.name)), sorted(others, key=lambda one: natural_key(one[0]))


def _may_be_read(entry: os.DirEntry) -> bool:
    return os.path.isfile(entry.path) or (entry.is_symlink() and not os.path.exists(entry.path))


def _why_unscored(entry: os.DirEntry, images: bool) -> str:
    """Why an entry is not scored; "" for what nobody would take for a video, or, with ``images``, for an image."""
    if os.path.isdir(entry.path):
        if _holds(entry.path, VIDEO_ENDINGS):
            return FOLDER
        meant = images or entry.name == IMAGES_FOLDER
        return IMAGE_FOLDER if meant and _holds(entry.path, IMAGE_ENDINGS) else ""
    ending = os.path.splitext(entry.name)[1].lower()
    if not os.path.isfile(entry.path) or ending in TEXT_ENDINGS:
        return ""
    if ending in IMAGE_ENDINGS:
        return STILL
    if ending in PICTURE_ENDINGS:
        return "a picture or animation"
    if ending.strip() in (*VIDEO_ENDINGS, *IMAGE_ENDINGS) or not ending.strip():
        if _is_text(entry.path):
            return ""
        return "a blank after the ending" if ending else "no ending"
    return "an unknown ending"


def _holds(folder: str, endings: tuple[str, ...]) -> bool:
    """Whether a file of one of the endings lies directly in a folder; False where this user may not look."""
    try:
        with os.scandir(folder) as entries:
            return any(
                os.path.splitext(entry.name)[1].lower() in endings and not entry.name.startswith(".")
                for entry in entries
            )
    except OSError:
        return False


def _is_text(path: str) -> bool:
    """Whether a file begins as text does, or cannot be read: README, LICENSE, Makefile have no ending either."""
    try:
        with open(path, "rb") as file:
            return b"\0" not in file.read(4096)
    except OSError:
        return True


def require_distinct_stems(videos: list[Path]) -> None:
    """A UserError that names the first two files whose names differ only in folder or ending.

    For a set that is prepared: two files with one stem would share every derived name (frames, faces, table rows).
    """
    seen: dict[str, Path] = {}
    for path in videos:
        if path.stem in seen:
            raise UserError(
                f"two videos with one name: {seen[path.stem]} and {path}; rename one, the name is the video's key"
            )
        seen[path.stem] = path
