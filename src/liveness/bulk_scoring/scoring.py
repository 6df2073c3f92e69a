"""A manifest -> Parquet files and summary.json in OUT, on a Ray cluster; started again, it goes on.

    summary = score_manifest(open_manifest("clips.csv"), Store(out), described, BulkOptions())

The driver lists the manifest and alone writes into OUT; the machines fetch, decode and score (stages.py). Rounds bound
what the driver holds. A process or machine that dies costs its blocks, which Ray does again; a round that breaks is
begun again with what is left of it and with what the cluster then has.
"""

import contextlib
import hashlib
import itertools
import json
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from liveness.base.errors import UserError, first_line
from liveness.bulk_scoring import cluster
from liveness.bulk_scoring.manifest import Manifest, Slice, check_manifest, deal
from liveness.bulk_scoring.places import Store, scheme_of
from liveness.bulk_scoring.shards import Shards, write_json_to
from liveness.bulk_scoring.summary import SUMMARY, summarise_parts
from liveness.models.backend import TORCH
from liveness.prediction.engine import EnsembleDescription
from liveness.prediction.folder import alone_writing
from liveness.prediction.inputs import note
from liveness.prediction.partial import describe_scoring, library_versions

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_PER_CORE = 4000  # of a round
# Of a core, what Ray reckons a decoding process and each thread of a scoring process to take. Both are less than they
# take: on a CPU they share the cores, as in predict.sh, and those of machines that are gone find room on the others.
# Fetching is reckoned to take none, so that nothing can keep it from beginning.
_DECODER, _THREAD = 0.5, 0.1
GPU_BATCH = 64  # videos that a scoring process on a GPU gets at once, so that few batches are padded
STUCK_SECONDS = 1800.0  # without any block done, before a round is begun again
TRIES = 3  # rounds in a row that may break without a single slice finished


@dataclass(frozen=True)
class BulkOptions:
    """How a manifest is scored. again: slices with rows that might succeed now are done again."""

    address: str = ""
    rows: int = 500
    again: bool = False


def score_manifest(
    manifest: Manifest, store: Store, described: EnsembleDescription, options: BulkOptions
) -> dict[str, Any]:
    """Score what of the manifest has no row yet; what summary.json holds.

    A UserError where nothing can be scored or written, or where OUT is of another manifest or ensemble.
    """
    scoring, libraries = describe_scoring(described), library_versions()
    identity = hashlib.sha256(json.dumps([scoring, libraries], sort_keys=True).encode()).hexdigest()
    shards = Shards(store)
    expected: set[str] = set()
    count = 0 if manifest.folder else check_manifest(manifest)
    with _held(store):
        shards.begin(
            {"format": 1, "ensemble": described.name, "data": described.data, "rows_per_shard": options.rows,
             "scoring": hashlib.sha256(json.dumps(scoring, sort_keys=True).encode()).hexdigest(),
             "libraries": libraries, "manifest": manifest.name}
        )  # fmt: skip
        if not manifest.folder:
            shards.require_no_others({piece.name for piece in deal(manifest, options.rows, identity)})
        left = _unfinished(deal(manifest, options.rows, identity), shards, options.again, expected)
        if (first := next(left, None)) is not None:
            with cluster.joined(options.address), _ended_by_sigterm():
                job = _Job(described, scoring, libraries, shards, count)
                job.check_machines()
                job.run(itertools.chain([first], left))
        shards.require_no_others(expected)
        if not expected:
            raise UserError(f"{manifest.name}: no videos in it or below it; expected mp4, mov, avi, ... (--images)")
        summary = summarise_parts(shards, sorted(expected), described)
        write_json_to(store, SUMMARY, summary)
    return summary


def _unfinished(pieces: Iterator[Slice], shards: Shards, again: bool, expected: set[str]) -> Iterator[Slice]:
    """The slices that are still to be done; adds the names of all to ``expected``."""
    if shards.there:
        note(f"{len(shards.there)} finished parts are in {shards.store.place}; those that are whole are kept")
    with ThreadPoolExecutor(16) as pool:
        while some := list(itertools.islice(pieces, 64)):
            expected.update(piece.name for piece in some)
            held = pool.map(lambda one: shards.holds(one, again), some)
            yield from (piece for piece, there in zip(some, held, strict=True) if not there)


class _Job:
    """One run on a cluster."""

    def __init__(
        self, described: EnsembleDescription, scoring: dict[str, Any], libraries: list[str], shards: Shards, count: int
    ) -> None:
        self._described, self._scoring, self._libraries = described, scoring, libraries
        self._shards, self._count = shards, count
        self._written: set[int] = set()  # numbers of slices
        self._rows = 0
        self._started = self._told = time.monotonic()

    def check_machines(self) -> None:
        """A UserError where a machine lacks the weights or has other libraries."""
        from liveness.bulk_scoring.stages import find_difference

        asked = cluster.ask_machines(find_difference, self._described, self._scoring, self._libraries)
        for machine, trouble in asked.items():
            if trouble:
                raise UserError(f"{machine}: {trouble}")

    def run(self, pieces: Iterator[Slice]) -> None:
        """All slices, round by round."""
        capacity = self._measure()
        cores, gpus = f"{capacity.cores} cores", f", {capacity.gpus} GPUs" if capacity.gpus else ""
        print(
            f"{capacity.machines} {'machine' if capacity.machines == 1 else 'machines'}, {cores}{gpus}; ensemble "
            f"{self._described.name}, {len(self._described.members)} members", flush=True,
        )  # fmt: skip
        while round_of := _take_round(pieces, ROWS_PER_CORE * capacity.cores):
            self._run_round(round_of)
            capacity = self._measure()

    def _measure(self) -> cluster.Capacity:
        return cluster.measure_capacity(self._described.runtime == TORCH)

    def _run_round(self, pieces: list[Slice]) -> None:
        """A round, until all its slices are written."""
        import ray
        from ray.data import exceptions

        fruitless = 0
        while pieces:
            broken: Exception | None = None
            try:
                self._score(pieces, self._measure())
            except (ray.exceptions.RayError, exceptions.RayDataUserCodeException, exceptions.SystemException,
                    exceptions.ExecutionTimeoutError) as error:  # fmt: skip
                _raise_users(error)
                broken = error
            left = [piece for piece in pieces if piece.index not in self._written]
            fruitless = fruitless + 1 if len(left) == len(pieces) else 0
            if fruitless == TRIES:
                if broken is not None and not isinstance(broken, exceptions.ExecutionTimeoutError):
                    raise broken
                raise UserError(
                    f"nothing was finished in {TRIES} tries ({first_line(broken) if broken else 'rows are missing'}); "
                    "what is finished stays, and the same command goes on when the cluster works again"
                )
            if left:
                why = first_line(broken) if broken else "some rows did not come"
                note(f"a round broke ({why}); {len(left)} of its {len(pieces)} slices are begun again")
            pieces = left

    def _score(self, pieces: list[Slice], capacity: cluster.Capacity) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        by_index = {piece.index: piece for piece in pieces}
        pending: dict[int, list[pa.Table]] = {}
        for table in self._stream(pieces, capacity):
            for index in set(table["shard"].to_pylist()):
                pending.setdefault(index, []).append(table.filter(pc.equal(table["shard"], index)))
                piece = by_index[index]
                if sum(map(len, pending[index])) >= len(piece.keys):
                    self._shards.write(piece, pa.concat_tables(pending.pop(index)))
                    self._written.add(index)
                    self._tell(len(piece.keys))

    def _stream(self, pieces: list[Slice], capacity: cluster.Capacity) -> Iterator["pa.Table"]:
        """The rows of some slices as they come from the cluster."""
        import ray

        from liveness.bulk_scoring.stages import BlockDecoder, BlockScorer, fetch_block, to_blocks

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        context.execution_no_progress_timeout_s = STUCK_SECONDS
        context.max_consecutive_actor_init_deaths = 5  # a scoring process that is killed while it loads
        rows = ray.data.from_arrow([block for piece in pieces for block in to_blocks(piece)])
        as_tables: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": None}
        if any(scheme_of(place) for piece in pieces for place in piece.places):
            rows = rows.map_batches(
                fetch_block, num_cpus=0, compute=ray.data.TaskPoolStrategy(2 * capacity.cores), **as_tables
            )
        rows = rows.map_batches(
            BlockDecoder,
            fn_constructor_args=[self._described.wanted()],
            num_cpus=_DECODER,
            compute=ray.data.ActorPoolStrategy(size=capacity.cores),
            **as_tables,
        )
        on_gpu = {"num_gpus": 1, "num_cpus": 0, "batch_size": GPU_BATCH}
        rows = rows.map_batches(
            BlockScorer,
            fn_constructor_args=[self._described, self._scoring, self._libraries, capacity.threads],
            compute=ray.data.ActorPoolStrategy(size=capacity.scorers, max_tasks_in_flight_per_actor=4),
            **(as_tables | (on_gpu if capacity.gpus else {"num_cpus": _THREAD * capacity.threads})),
        )
        yield from rows.iter_batches(prefetch_batches=1, **as_tables)

    def _tell(self, rows: int) -> None:
        """A line on stderr now and then."""
        self._rows += rows
        if time.monotonic() - self._told > 30:
            self._told = time.monotonic()
            rate = self._rows / (self._told - self._started)
            of = f" of {self._count}" if self._count else ""
            print(f"  {self._rows} rows{of} in this start, {rate:.1f} a second", file=sys.stderr, flush=True)


def _take_round(pieces: Iterator[Slice], rows: int) -> list[Slice]:
    """The next slices, until they have so many rows."""
    taken, count = [], 0
    for piece in pieces:
        taken.append(piece)
        count += len(piece.keys)
        if count >= rows:
            break
    return taken


def _raise_users(error: BaseException) -> None:
    """Raise the UserError that a process of the cluster has raised, if that is what broke the round."""
    seen: BaseException | None = error
    while seen is not None:
        cause = getattr(seen, "cause", None)
        for one in (seen, cause):
            if isinstance(one, UserError):
                raise UserError(first_line(cause or one)) from error
        seen = seen.__cause__ or seen.__context__


def _held(store: Store) -> contextlib.AbstractContextManager[None]:
    """A local OUT is held against a second run into it."""
    if store.scheme:
        return contextlib.nullcontext()
    folder = Path(store.place)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror}); expected a folder for the results") from error
    return alone_writing(folder)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the run as ctrl-C does, with exit code 143; Ray has a handler of its own, which is taken back."""

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("terminated; the finished parts stay, and the same command goes on", file=sys.stderr, flush=True)
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
