"""embeddings.csv of a prepared set: the face of each video as numbers, for folds.identities=auto.

Reads the stored frames and the boxes in the videos' records. Writes data/<set>/embeddings.csv (filename, made_from,
e0 …): a row per video with a face, the mean over up to FRAMES_EMBEDDED of its frames, of length 1. made_from is the
digest of these frames, their boxes and the embedder: a row that still fits is kept, so a run that was stopped goes on.
"""

import csv
import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from liveness.base.config import Data
from liveness.base.errors import UserError
from liveness.base.files import write_text
from liveness.base.tables import table_text
from liveness.frames.boxes import Face
from liveness.frames.embedder import EMBEDDER, embed_face, require_embedder
from liveness.frames.video import jpeg_decode
from liveness.frames.workers import Failed, run_tasks
from liveness.sets.identities import EMBEDDINGS, MADE_FROM
from liveness.sets.records import Records

FRAMES_EMBEDDED = 3  # of a video, spread over those with a face; each takes 0.1 s
_KEPT_EACH = 200  # videos after which the table is written, so that a kill costs no more


@dataclass(frozen=True)
class EmbedTask:
    """What a worker needs to know of a video: the stored frames and the face of each."""

    filename: str
    faces: list[tuple[Path, Face]]
    made_from: str


def embed_set(records: Records, data: Data, folder: Path) -> None:
    """Bring embeddings.csv of data/<set> up to date; a UserError where the extra is lacking or no video has a face."""
    tasks = make_embed_tasks(records, folder)
    if not tasks:
        raise UserError(
            f"{folder.name}: folds.identities=auto finds no face in any stored frame, so it cannot tell who is who; "
            f"without it: bash prepare_data.sh {folder.name}"
        )
    path = folder / EMBEDDINGS
    rows = _read_rows(path, tasks)
    todo = [task for task in tasks if task.filename not in rows]
    if todo:
        require_embedder()
        print(f"{folder.name}: faces to embed: {len(todo)} of {len(tasks)} videos")
        _work(todo, tasks, rows, data, path)
    else:
        _write_rows(tasks, rows, path)


def find_unembedded(records: Records, folder: Path) -> list[str]:
    """The videos with a face whose row of embeddings.csv is missing or was made from other frames or boxes."""
    tasks = make_embed_tasks(records, folder)
    rows = _read_rows(folder / EMBEDDINGS, tasks)
    return [task.filename for task in tasks if task.filename not in rows]


def make_embed_tasks(records: Records, folder: Path) -> list[EmbedTask]:
    """A task for each video with a face in a stored frame, in the order of the records."""
    tasks = []
    seen = records.frames[records.frames["face"]]
    for video, rows in seen.groupby("video", sort=True):
        places = np.linspace(0, len(rows) - 1, min(FRAMES_EMBEDDED, len(rows)))
        chosen = [rows.iloc[place] for place in sorted({round(float(place)) for place in places})]
        sums = [[int(row["size"]), int(row["checksum"])] for row in chosen]
        boxes = [{key: float(row[key]) for key in ("x", "y", "w", "h", "confidence")} for row in chosen]
        digest = hashlib.sha256(repr((EMBEDDER, sums, [sorted(box.items()) for box in boxes])).encode()).hexdigest()
        faces = [(folder / row["stored"], Face(**box)) for row, box in zip(chosen, boxes, strict=True)]
        tasks.append(EmbedTask(records.videos["filename"][video], faces, digest[:16]))
    return tasks


def embed_video(task: EmbedTask) -> list[float]:
    """The mean of the embeddings of a video's faces, of length 1."""
    mean = np.mean([embed_face(jpeg_decode(path.read_bytes()), face) for path, face in task.faces], axis=0)
    return (mean / np.linalg.norm(mean)).tolist()


def _work(todo: list[EmbedTask], tasks: list[EmbedTask], rows: dict[str, str], data: Data, path: Path) -> None:
    """Embed, write the table now and then and at the end; a video that fails has no row and is tried again later."""
    failed: list[str] = []
    bar = tqdm(total=len(todo), desc="faces", unit="video", disable=None)
    try:
        results = run_tasks(embed_video, todo, data.workers, data.video_seconds, data.video_gib)
        for number, (task, result) in enumerate(results, start=1):
            if isinstance(result, Failed):
                failed.append(f"{task.filename}: {result.reason}")
            else:
                rows[task.filename] = ",".join([task.made_from, *(f"{value:.5f}" for value in result)])
            bar.update()
            if number % _KEPT_EACH == 0:
                _write_rows(tasks, rows, path)
    finally:
        bar.close()
        if rows:
            _write_rows(tasks, rows, path)
    if failed:
        text = f"{len(failed)} of {len(todo)} videos could not be embedded; the first: {failed[0]}"
        if not rows:
            raise UserError(f"{path}: {text}")
        tqdm.write(f"warning: {text}", file=sys.stderr)


def _read_rows(path: Path, tasks: list[EmbedTask]) -> dict[str, str]:
    """The rows that are still right: filename -> the rest of its line, made_from and the numbers as they stand."""
    wanted = {task.filename: task.made_from for task in tasks}
    found = {}
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            head = next(rows, [])
            if head[:2] != ["filename", MADE_FROM]:
                return {}
            for row in rows:
                if len(row) == len(head) and all(row) and wanted.get(row[0]) == row[1]:
                    found[row[0]] = ",".join(row[1:])
    except (OSError, UnicodeDecodeError, csv.Error):  # none, or not one of ours
        return {}
    return found


def _write_rows(tasks: list[EmbedTask], rows: dict[str, str], path: Path) -> None:
    """In the set's order; nothing is written where nothing changed."""
    there = [task.filename for task in tasks if task.filename in rows]
    names = table_text(pd.DataFrame({"filename": there})).splitlines()  # with a comma in it in quotation marks
    numbers = rows[there[0]].count(",")
    lines = [",".join([names[0], MADE_FROM, *(f"e{i}" for i in range(numbers))])]
    lines += [f"{name},{rows[filename]}" for name, filename in zip(names[1:], there, strict=True)]
    text = "\n".join(lines) + "\n"
    if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
        write_text(path, text)
