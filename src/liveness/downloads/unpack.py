"""A set's zip file into its folder: whole or not at all, and nothing outside that folder."""

import os
import shutil
import stat
import zipfile
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from liveness.base.errors import UserError
from liveness.base.files import IMAGE_ENDINGS, IMAGES_FOLDER, VIDEO_ENDINGS
from liveness.downloads.disk import CHUNK, describe_disk_error

RATIO = 100  # videos hardly shrink in an archive: one that grows by more than this is an attack


def unpack_set(archive: Path, folder: Path) -> int:
    """Unpack a set's zip file into ``folder`` (which must not hold anything yet); return the number of files.

    One folder that encloses everything is left out. Nothing is written outside a side folder, which
    gets its name when all is there; an archive that would, or that is no set, is a UserError.
    """
    side = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(side, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as source:
            plan = _plan_files(archive, source)
            free = shutil.disk_usage(archive.parent).free
            need = sum(entry.file_size for entry in plan.values())
            if need > free:
                raise UserError(f"{archive}: becomes {need} bytes, {free} are free in {archive.parent}; make room")
            for path, entry in tqdm(plan.items(), desc=f"unpacking {archive.name}", disable=None):
                target = side / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with source.open(entry) as inside, open(target, "xb") as out:
                    shutil.copyfileobj(inside, out, CHUNK)
        os.replace(side, folder)
    except (zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{archive}: damaged ({error}); remove it and run this again") from error
    except OSError as error:
        raise UserError(describe_disk_error(error, side)) from error
    finally:
        shutil.rmtree(side, ignore_errors=True)
    return len(plan)


def _plan_files(archive: Path, source: zipfile.ZipFile) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """Where each file of the archive goes, below the set's folder; a UserError for anything unsafe."""
    plan: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for entry in source.infolist():
        path = _require_safe_path(archive, entry)
        if entry.filename.endswith(("/", "\\")) or path.parts[0] == "__MACOSX" or path.name == ".DS_Store":
            continue
        if path in plan:
            raise UserError(f"{archive}: has {str(path)!r} twice; nothing was unpacked")
        plan[path] = entry
    need, packed = sum(entry.file_size for entry in plan.values()), archive.stat().st_size
    if need > RATIO * packed + CHUNK:
        raise UserError(f"{archive}: {packed} bytes that would become {need}; refused, nothing was unpacked")
    tops = {path.parts[0] for path in plan}
    inner = ("videos", IMAGES_FOLDER)
    if len(tops) == 1 and not tops & set(inner) and all(len(path.parts) > 1 for path in plan):
        plan = {PurePosixPath(*path.parts[1:]): entry for path, entry in plan.items()}
    endings = (*VIDEO_ENDINGS, *IMAGE_ENDINGS)
    videos = [p for p in plan if p.suffix.lower() in endings and p.parts[:-1] in ((), *((name,) for name in inner))]
    if not videos:
        raise UserError(f"{archive}: no video in it; expected videos/*.mp4, and label.csv for a labelled set")
    return plan


def _require_safe_path(archive: Path, entry: zipfile.ZipInfo) -> PurePosixPath:
    """The entry's path if it stays inside and is a plain file or a folder."""
    # Archives made on Windows may part folders by backslashes.
    path, mode = PurePosixPath(entry.filename.replace("\\", "/")), entry.external_attr >> 16
    bad = ""
    if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0]:
        bad = "would leave its folder"
    elif stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        bad = "is a link or a device, not a plain file"
    elif entry.flag_bits & 1:
        bad = "is encrypted"
    if bad:
        raise UserError(f"{archive}: {entry.filename!r} {bad}; refused, nothing was unpacked")
    return path
