"""Where things lie, and how a file appears whole or not at all.

The workspace (raw/, data/, runs/, weights/, result/) is the repository's root unless the
environment variable LIVENESS_ROOT names another folder. configs/ always come from the code.
"""

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from liveness.errors import UserError

CODE = Path(__file__).resolve().parents[2]
CONFIGS = CODE / "configs"
VIDEO_ENDINGS = (
    *(".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".3gp", ".3g2"),
    *(".wmv", ".flv", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".ogv"),
)


def workspace() -> Path:
    """The folder that holds raw/, data/, runs/, weights/ and result/."""
    return Path(os.environ.get("LIVENESS_ROOT") or CODE).resolve()


def prepared_sets() -> list[str]:
    """The sets in data/ that prepare_data.sh has finished, natural order."""
    return sorted((path.parent.name for path in (workspace() / "data").glob("*/prepare.json")), key=natural_key)


def unprepared(name: str) -> str:
    """What to say where set ``name`` is not prepared: the command, and the sets that are."""
    there = [other for other in prepared_sets() if other != name]
    which = f"; prepared sets: {', '.join(there)} (to take one: DATA={there[0]} before the command)" if there else ""
    return f"{workspace() / 'data' / name}: not prepared; run: bash prepare_data.sh {name}{which}"


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a side path in the same folder; rename it onto ``path`` if the block succeeds.

    The data reaches the disk before the rename, so that after a crash ``path`` is the old file
    or the new one, never a part. The side file is removed when the block raises.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept, so that writers which look at it (images, torch) do as they should.
    handle, side = tempfile.mkstemp(prefix=".aside-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    side = Path(side)
    try:
        yield side
        with open(side, "rb+") as stream:
            os.fsync(stream.fileno())
        # mkstemp makes the file private; give it the mode that a plain open would have.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(side, 0o666 & ~umask)
        os.replace(side, path)
    finally:
        side.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole (UTF-8)."""
    with written_aside(path) as side:
        side.write_text(text, encoding="utf-8", newline="\n")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a binary file whole."""
    with written_aside(path) as side:
        side.write_bytes(data)


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def natural_key(name: str) -> tuple:
    """Sort key that puts 2.mp4 before 10.mp4, and orders equal numbers by the full name."""
    parts = re.split(r"(\d+)", name)
    return tuple((int(p), "") if p.isdecimal() else (-1, p.casefold()) for p in parts), name


def plain_name(name: str, where: str) -> str:
    """Return ``name`` if it is a bare file name; a UserError if it could leave its folder."""
    if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise UserError(f"{where}: {name!r} is not a plain file name (no folders are allowed in it)")
    return name


def find_videos(folder: Path) -> list[Path]:
    """The video files directly in ``folder``, by any known ending in any case, natural order.

    Hidden files are passed over; a link that leads nowhere counts, so that it gets its row as a video
    that cannot be read. Two files with one stem would share every derived name
    (frames, faces, table rows), so they are a UserError.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected a folder of videos (mp4, mov, avi, ...)")
    videos = [
        p
        for p in folder.iterdir()
        if p.suffix.lower() in VIDEO_ENDINGS
        and not p.name.startswith(".")
        and (p.is_file() or (p.is_symlink() and not p.exists()))
    ]
    videos.sort(key=lambda p: natural_key(p.name))
    require_distinct_stems(videos)
    return videos


def require_distinct_stems(videos: list[Path]) -> None:
    """A UserError that names the first two files whose names differ only in folder or ending."""
    seen: dict[str, Path] = {}
    for path in videos:
        if path.stem in seen:
            raise UserError(
                f"two videos with one name: {seen[path.stem]} and {path}; rename one, the name is the video's key"
            )
        seen[path.stem] = path
