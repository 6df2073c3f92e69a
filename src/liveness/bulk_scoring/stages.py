"""What the machines of a cluster do with a block of a manifest: fetch, decode and cut, score. Ray Data's operators.

    dataset.map_batches(fetch_block).map_batches(BlockDecoder, ...).map_batches(BlockScorer, ...)

A block is a pyarrow table, a row per video: ``shard`` and ``position`` say whose row it is, ``place`` (bytes) is a path
or URI. The work itself is that of predict.sh (prediction/engine.py): the decoders are processes that may die, and
a video's score depends on nothing but the video.
"""

import contextlib
import os
import pickle
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from liveness.base.errors import UserError
from liveness.base.files import IMAGE_ENDINGS, VIDEO_ENDINGS
from liveness.bulk_scoring.manifest import Slice
from liveness.bulk_scoring.places import fetch_bytes, name_of, scheme_of
from liveness.bulk_scoring.shards import NOT_FETCHED, to_table
from liveness.frames.views import VideoViews, ViewRequest
from liveness.prediction.engine import EnsembleDescription, decode_kept, load_weights, score_prepared, start_decoder
from liveness.prediction.partial import describe_scoring, library_versions

BLOCK = 16  # videos; what is lost with a process is done again, block by block
_FETCHES = 4  # at a time in one task
_FOLDER = "liveness-bulk-"  # of the videos that a process has fetched, in the folder for temporary files


def to_blocks(piece: Slice) -> list[pa.Table]:
    """A slice's rows as blocks."""
    places = [os.fsencode(place) for place in piece.places]
    return [
        pa.table(
            {
                "shard": pa.array([piece.index] * len(part), pa.int64()),
                "position": pa.array(range(start, start + len(part)), pa.int64()),
                "place": pa.array(part, pa.binary()),
            }
        )
        for start in range(0, len(places), BLOCK)
        if (part := places[start : start + BLOCK])
    ]


def fetch_block(block: pa.Table) -> Iterator[pa.Table]:
    """The same rows with ``content``, the bytes of what has a URI, and ``trouble``, why there are none."""
    places = [os.fsdecode(place) for place in block["place"].to_pylist()]
    with ThreadPoolExecutor(_FETCHES) as pool:
        for number, (content, trouble) in enumerate(pool.map(_fetch, places)):
            row = block.slice(number, 1)
            row = row.append_column("content", pa.array([content], pa.large_binary()))
            yield row.append_column("trouble", pa.array([trouble], pa.string()))


def _fetch(place: str) -> tuple[bytes | None, str]:
    if not scheme_of(place):
        return None, ""
    try:
        return fetch_bytes(place), ""
    except OSError as error:
        return None, str(error)


class BlockDecoder:
    """An actor that decodes and cuts: blocks in, ``views`` out (each a VideoViews, pickled), as they get done.

    No task: Ray ends processes of tasks that it has no use for at the moment, and a new one takes seconds to start.
    """

    def __init__(self, wanted: list[ViewRequest]) -> None:
        self._wanted, self._decoder = wanted, start_decoder()

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        rows: dict[Path, list[tuple[int, int]]] = {}
        with _folder_of_this_process() as folder:
            for number, row in enumerate(block.to_pylist()):
                place, at = os.fsdecode(row["place"]), (row["shard"], row["position"])
                if row.get("trouble"):
                    yield _to_views(VideoViews(Path("none"), "unreadable", NOT_FETCHED + row["trouble"]), [at])
                    continue
                path = Path(place)
                if row.get("content") is not None:
                    path = folder / f"{number}{_known_ending(place)}"  # a name from elsewhere is not taken for a file's
                    path.write_bytes(row["content"])
                rows.setdefault(path, []).append(at)
            for views in decode_kept(list(rows), self._wanted, self._decoder):
                yield _to_views(views, rows[views.path])


def _to_views(views: VideoViews, rows: list[tuple[int, int]]) -> pa.Table:
    data = pickle.dumps(views, protocol=5)
    return pa.table(
        {
            "shard": pa.array([shard for shard, _ in rows], pa.int64()),
            "position": pa.array([position for _, position in rows], pa.int64()),
            "views": pa.array([data] * len(rows), pa.large_binary()),
        }
    )


def _known_ending(place: str) -> str:
    ending = os.path.splitext(name_of(place))[1].lower()
    return ending if ending in (*VIDEO_ENDINGS, *IMAGE_ENDINGS) else ""


@contextlib.contextmanager
def _folder_of_this_process() -> Iterator[Path]:
    """A folder for fetched videos; those of processes that were killed are removed."""
    above = Path(tempfile.gettempdir())
    for other in above.glob(f"{_FOLDER}*"):
        if not Path("/proc", other.name.removeprefix(_FOLDER)).exists():
            shutil.rmtree(other, ignore_errors=True)
    folder = above / f"{_FOLDER}{os.getpid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class BlockScorer:
    """An actor that has the ensemble loaded: views in, rows out."""

    def __init__(
        self, described: EnsembleDescription, scoring: dict[str, Any], libraries: list[str], threads: int
    ) -> None:
        """scoring and libraries: as they are where the run was started; threads: side by side on a CPU."""
        os.environ["OMP_NUM_THREADS"] = str(threads)  # before torch is imported; the engine asks for it
        if trouble := find_difference(described, scoring, libraries):
            raise UserError(trouble)
        self._loaded = load_weights(described, "auto")

    def __call__(self, block: pa.Table) -> pa.Table:
        """A row for each row of the block, as they get done."""
        under_way: dict[int, tuple[int, int]] = {}

        def read() -> Iterator[VideoViews]:
            for row in zip(*(block[name] for name in ("shard", "position", "views")), strict=True):
                views = pickle.loads(memoryview(row[2].as_buffer()))
                under_way[id(views)] = row[0].as_py(), row[1].as_py()
                yield views

        scored = [(under_way.pop(id(views)), asdict(row)) for views, row in score_prepared(read(), self._loaded)]
        return to_table([at for at, _ in scored], [values for _, values in scored])


def find_difference(described: EnsembleDescription, scoring: dict[str, Any], libraries: list[str]) -> str:
    """How this machine's files and libraries are not those of the machine that started the run; "" where they are."""
    odd = [f"{here.rstrip()} (there {there})" for here, there in zip(library_versions(), libraries, strict=True)
           if here != there]  # fmt: skip
    if odd:
        return f"has {', '.join(odd)}; expected the same versions on every machine"
    try:
        here = describe_scoring(described)
    except OSError as error:
        return f"{error.filename}: {error.strerror}; expected weights/ under the same path on every machine"
    if here != scoring:
        return "other weights, or another version of liveness; expected the same on every machine"
    return ""
