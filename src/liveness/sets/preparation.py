"""A set of videos becomes frames, faces and tables under data/<set>/.

``prepare_set`` is what `python -m liveness.prepare` and the sanity check's --fix run: it brings
every video's record up to date (sets/extract.py), then makes the tables, which are a function of
the records, the label file and the groups alone. labels_video.csv and prepare.json come last: where
they are, the preparation is whole.
"""

import contextlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from liveness.base.config import Data
from liveness.base.errors import UserError
from liveness.base.files import STILL, held, list_unscored, look_through, workspace, write_bytes, write_text
from liveness.base.names import few
from liveness.base.tables import table_text
from liveness.frames.embedder import require_embedder
from liveness.frames.notes import count_notes
from liveness.frames.workers import Failed, run_tasks
from liveness.sets.cameras import require_cameras
from liveness.sets.embedding import embed_set
from liveness.sets.extract import (
    ExtractTask,
    extract,
    failed_record,
    forget,
    known_records,
    make_extract_task,
    read_record,
    require_sources,
    settle_version,
    what_is_missing,
)
from liveness.sets.groups import column_notes, find_subjects, read_identities, read_links
from liveness.sets.identities import EMBEDDINGS
from liveness.sets.labels import RawSet, find_set
from liveness.sets.layout import has_subfolders
from liveness.sets.records import gather_records
from liveness.sets.set_tables import VIDEO_COLUMNS, TableSources, make_tables
from liveness.sets.settings import describe_settings

READABLE = ("ok", "partial")
_TABLES = ("duplicates", "identities", "labels_keyframes", "labels_bbox", "labels_video")  # the last is written last
LONGEST_NAME = 255  # bytes of a file name on every usual file system
WHY = {
    "new": "not prepared yet",
    "changed": "the file has changed",
    "frames": "frames missing or made under another plan or contract",
    "faces": "faces missing or made under another detector or crop scale",
}


def prepare_set(data: Data, strict: bool = False, renew: bool = False) -> None:
    """Prepare the set ``data.name`` as ``data`` says; a UserError where it cannot be done.

    ``strict``: a video of which no frame can be read is an error. One that breaks off ("partial") has frames, so
    it is a warning in either case. ``renew``: by the newest contract, not by that of an earlier preparation.
    """
    folder = workspace() / "data" / data.name
    try:
        _prepare(data, folder, strict, settle_version(folder, renew))
    except BrokenPipeError:  # of our own output, not of the folder
        raise
    except OSError as error:
        raise UserError(
            f"{error.filename2 or error.filename or folder}: cannot be read or written ({error.strerror or error})"
        ) from error


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a set's folder against a second preparation; those of different SHARDs work side by side."""
    shard = os.environ.get("SHARD", "")
    refusal = f"{folder}: another process prepares this set; wait for it, then run this again"
    with held(folder / ".lock", refusal, shared=bool(shard)):
        if not shard:
            for left in folder.glob(".lock-*"):  # of shards, none of which is at work now
                left.unlink(missing_ok=True)
            yield
            return
        first, count = _parse_shard(shard)
        with held(folder / f".lock-{first}-{count}", f"SHARD={shard}: {refusal}"):
            yield


def _prepare(data: Data, folder: Path, strict: bool, version: int) -> None:
    raw = find_set(data.name)
    for note in raw.notes:
        print(f"{raw.name}: {note}")
    for note in column_notes(raw, data.folds.group_column, VIDEO_COLUMNS):
        _warn(note)
    left_out, links = read_links(data, raw)
    if long := names_too_long(raw):
        _warn(f"{len(long)} videos are left out, {next(iter(long.values()))}: {few(list(long))}")
        left_out |= long
    identities = None
    if not data.folds.identities:
        identities = read_identities(data, raw, folder)
    elif not (folder / EMBEDDINGS).is_file():
        require_embedder()  # before the work, not after it
    videos = [path for path in raw.videos if path.name not in left_out]
    if data.folds.by == "camera" and raw.labels is not None:  # before hours of work, not after
        require_cameras(raw.labels[~raw.labels["filename"].isin(list(left_out))], "folds.by=camera")
    if raw.unlabelled:
        _warn(f"{len(raw.unlabelled)} videos are not in {raw.label_file} and are left aside: {few(raw.unlabelled)}")
    _note_unread(raw)
    with alone_in(folder):
        require_sources(videos, folder)
        sources = TableSources(raw, gather_records([]), left_out, links, identities, data.folds)
        _bring_up_to_date(sources, videos, data, folder, strict, version)


def _note_unread(raw: RawSet) -> None:
    """One note of what lies in the set's folders, may be meant as a video, and is none by its name or an image that
    the set is without."""
    inner = {folder.name for folder in raw.folders}
    known = {*(path.name for path in raw.videos), *raw.unlabelled}
    left = []
    for folder in raw.folders:
        files, others = look_through(folder, images=True)
        left += [one for one in others if one[0] not in inner]
        left += [(path.name, STILL) for path in files if path.name not in known]
    if left:
        how = "; images belong to it where a label file names them" if any(why == STILL for _, why in left) else ""
        tqdm.write(f"note: {len(left)} beside the videos are not read: {list_unscored(left)}{how}", file=sys.stderr)


def _bring_up_to_date(
    sources: TableSources, videos: list[Path], data: Data, folder: Path, strict: bool, version: int
) -> None:
    """Records of all ``videos`` (of this SHARD), then the tables."""
    shard = _shard(videos)
    spread = has_subfolders(folder, len(videos))
    tasks = [make_extract_task(path, folder, data, version, spread) for path in (videos if shard is None else shard)]
    _work(tasks, data, folder)
    if shard is not None:
        print(
            f"SHARD={os.environ['SHARD']}: {len(tasks)} of {len(videos)} videos; a run without SHARD writes the tables"
        )
        return
    for stem in known_records(folder) - {path.stem for path in videos}:
        forget(folder, stem)
    sources.records = gather_records(_read_records(tasks))
    _report(sources, strict)
    _link_videos(sources.raw, folder)
    if data.folds.identities:
        embed_set(sources.records, data, folder)
        sources.identities = read_identities(data, sources.raw, folder)
    _write_tables(sources, describe_settings(data, version), folder)


def _warn(text: str) -> None:
    tqdm.write(f"warning: {text}", file=sys.stderr)


def names_too_long(raw: RawSet) -> dict[str, str]:
    """Videos (file name -> why) whose frames' names would be longer than file names may be."""
    most = LONGEST_NAME - len("-1234567.jpg")
    why = f"the name is too long to be that of its frames too (at most {most} bytes without the ending); rename it"
    return {path.name: why for path in raw.videos if len(os.fsencode(path.stem)) > most}


def _shard(videos: list[Path]) -> list[Path] | None:
    """This machine's part of the videos, or None when it has them all."""
    text = os.environ.get("SHARD", "")
    if not text:
        return None
    first, count = _parse_shard(text)
    return videos[first - 1 :: count]


def _parse_shard(text: str) -> tuple[int, int]:
    """The numbers of SHARD=i/n."""
    first, _, count = text.partition("/")
    if not (first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
        raise UserError(f"SHARD={text}; expected i/n with 1 <= i <= n, for example SHARD=1/4")
    return int(first), int(count)


def _work(tasks: list[ExtractTask], data: Data, folder: Path) -> None:
    """Bring every video's record up to date, all cores, and say why."""
    reasons = {task.video.name: what_is_missing(task, read_record(folder, task.video)) for task in tasks}
    todo = [task for task in tasks if reasons[task.video.name]]
    counts = Counter(reason for reason in reasons.values() if reason)
    done = len(tasks) - len(todo)
    print(f"{data.name}: {len(tasks)} videos, {done} already done")
    for reason, count in counts.items():
        print(f"  {count} to do: {WHY[reason]}")
    if not todo:
        return
    if set(counts) != {"new"} or (folder / "prepare.json").exists():
        for name in ("prepare.json", *(f"{table}.csv" for table in _TABLES)):  # they describe what is about to change
            (folder / name).unlink(missing_ok=True)
    bar = tqdm(total=len(todo), desc="videos", unit="video", disable=None)
    steps = {max(1, round(len(todo) * share / 10)) for share in range(1, 11)}
    results = run_tasks(extract, todo, data.workers, data.video_seconds, data.video_gib)
    try:
        for number, (task, result) in enumerate(results, start=1):
            record = failed_record(task, result.reason) if isinstance(result, Failed) else result
            if record["status"] != "ok":
                _warn(f"{task.video.name}: {record['status']}: {record['reason']}")
            bar.update()
            if bar.disable and number in steps and len(todo) > 20:
                print(f"  {number} of {len(todo)} videos", flush=True)
    finally:
        bar.close()


def _read_records(tasks: list[ExtractTask]) -> Iterator[tuple[str, dict]]:
    for task in tasks:
        record = read_record(task.folder, task.video)
        if record is None:
            raise UserError(f"{task.folder}: the record of {task.video.name} is gone; another run at the same time?")
        yield task.video.name, record


def _report(sources: TableSources, strict: bool) -> None:
    """Print the counts; a UserError if nothing could be read, or with --strict if anything could not."""
    raw, videos, frames = sources.raw, sources.records.videos, sources.records.frames
    counts = Counter(videos["status"])
    print(
        f"{raw.name}: {', '.join(f'{n} {status}' for status, n in counts.most_common())}; "
        f"{len(frames)} frames, {frames['face'].sum()} of them with a face"
    )
    if noted := count_notes(videos["reason"]):
        print(f"  noted: {noted}")
    bad = videos[~videos["status"].isin(READABLE)]
    first = f"the first: {bad['filename'].iloc[0]}: {bad['reason'].iloc[0]}" if len(bad) else ""
    if len(bad) == len(videos):
        raise UserError(f"no video of {raw.name} can be read; {first}")
    if len(bad) and strict:
        raise UserError(f"--strict: {len(bad)} videos cannot be read; {first}")


def _link_videos(raw: RawSet, folder: Path) -> None:
    """data/<set>/videos/: relative links to the videos, copies where links are impossible."""
    here = folder / "videos"
    if raw.videos[0].parent == here:
        return
    here.mkdir(parents=True, exist_ok=True)
    wanted = {path.name for path in raw.videos}
    for path in here.iterdir():
        if path.is_symlink() and path.name not in wanted:
            path.unlink()
    base = here.resolve()
    for video in raw.videos:
        link = here / video.name
        target = os.path.relpath(video.parent.resolve() / video.name, base)
        if link.is_symlink() and os.readlink(link) == target:
            continue
        if link.exists() and not link.is_symlink():
            if link.is_file() and link.stat().st_size == video.stat().st_size:
                continue
            raise UserError(f"{link}: not a link to {video}, nor a copy of it; move it away, it is not overwritten")
        link.unlink(missing_ok=True)
        try:
            link.symlink_to(target)
        except OSError:
            write_bytes(link, video.read_bytes())


def _write_tables(sources: TableSources, made: dict, folder: Path) -> None:
    """labels.csv, the three tables and prepare.json, each whole."""
    content, path = sources.raw.labels_csv(), folder / "labels.csv"
    label_file = sources.raw.label_file
    if content is not None and not (label_file and label_file.resolve() == path.resolve()):
        write_bytes(path, content)
    tables = make_tables(sources)
    for name in _TABLES:
        if name in tables:
            write_text(folder / f"{name}.csv", table_text(tables[name]))
        else:
            (folder / f"{name}.csv").unlink(missing_ok=True)
    _report_groups(sources, tables["labels_video"])
    _report_duplicates(tables["duplicates"], folder)
    write_text(folder / "prepare.json", json.dumps(made, indent=1, ensure_ascii=False) + "\n")
    print(f"{folder}: {', '.join(f'{name}.csv' for name in tables)} written")


def _report_duplicates(table: pd.DataFrame, folder: Path) -> None:
    if table.empty:
        return
    joins, against = table[table["joins_groups"] == 1], table[table["contradiction"] == 1]
    print(f"near-duplicates: {len(table)} pairs, {len(joins)} of them join groups ({folder / 'duplicates.csv'})")
    if len(against):
        pairs = [f"{row.filename} = {row.other}" for row in against.itertuples()]
        _warn(f"{len(pairs)} pairs of near-duplicates have contradicting labels: {few(pairs)}")


def _report_groups(sources: TableSources, videos: pd.DataFrame) -> None:
    column, known = find_subjects(sources.raw, sources.folds.group_column)
    what = "no column for groups"
    if column:
        nobody = sum(not person for person in known.values())
        what = f"column {column}: {len(set(known.values()) - {''})} names" + (f", {nobody} without" if nobody else "")
    print(f"groups: {len(videos)} videos in {videos['group'].nunique()} groups ({what})")
