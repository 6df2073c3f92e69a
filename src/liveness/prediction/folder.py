"""A folder of videos -> submission.csv and predictions.csv, whole or not at all; and ``score_videos`` for Python.

    code = predict_folder(Path("raw/demo_test"), Path("result"), load_ensemble("demo"), Options())
    table = score_videos(paths, "demo")

Reads the videos and weights/<set>/; writes OUTPUT/predictions.partial.csv, a row as soon as it is there, and at
the end OUTPUT/predictions.csv and OUTPUT/submission.csv. Several processes that torchrun started share the videos
(prediction/ranks.py). Modules that take long to import are imported where they are used: a mistake is told at once.
"""

import contextlib
import fcntl
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from liveness.base import launch
from liveness.base.compose import load_ensemble
from liveness.base.config import Ensemble, EnsembleMember
from liveness.base.errors import UserError
from liveness.members.ensembles import find_ensemble
from liveness.members.names import member_name, parse_recipe_fold, shipped_operating
from liveness.prediction.inputs import note, videos_below, warn
from liveness.prediction.ranks import is_first, join_ranks, wait_for_ranks
from liveness.prediction.ready import USUAL, default_ensemble
from liveness.prediction.rows import FILES, PREVIOUS, SCORED, Row, rows_to_table, write_results

if TYPE_CHECKING:
    import pandas as pd

    from liveness.frames.views import VideoViews
    from liveness.prediction.engine import EnsembleDescription
    from liveness.prediction.partial import Partial

    Scored = Iterable[tuple[VideoViews, Row]]


BACKENDS = {"onnx": "onnxruntime", "openvino": "openvino"}  # -> the library (models/exported.py)


@dataclass(frozen=True)
class Options:
    """How a folder is scored."""

    data: str = ""  # weights/<data>; default: the ensemble's own set
    point: str = "eer"  # the operating point that decides
    sample: Path | None = None  # a sample submission, whose order the rows take; default: one that lies there
    strict: bool = False  # a video without a score, or lost thresholds, is an error
    workers: int = 0  # decoding processes; 0: one per core
    memory: str = "auto"  # auto | resident | turns
    images: bool = False  # still images are scored beside videos, too
    exported: Path | None = None  # the folder of an exported ensemble, which scores instead of the members' own files
    backend: str = (
        "torch"  # what computes: torch, or one of BACKENDS, with what is exported (default: beside the weights)
    )


def score_videos(paths: Iterable[Path | str], ensemble: str = "", data: str = "", workers: int = 0) -> "pd.DataFrame":
    """Score videos from Python: a DataFrame with the columns of predictions.csv, a row per path, in that order.

    ``ensemble``: a name in configs/ensemble (default: as ``choose_ensemble`` takes it), whose weights lie in
    weights/<data>/ (default: the ensemble's own). For a loop over videos with one loading: prediction/engine.py.
    """
    from liveness.prediction import engine

    with engine.load_members(choose_ensemble(ensemble, [], data), data, "auto") as loaded:
        return rows_to_table(engine.score_paths([Path(path) for path in paths], loaded, workers))


def choose_ensemble(name: str, members: list[str], data: str) -> Ensemble:
    """The named ensemble, or an ad-hoc one of the members given as recipe:fold.

    Without a name it is the usual one, or that of the first day where no other is there, and a note says so
    (prediction/ready.py).
    """
    if not name:
        name = USUAL if members or data else default_ensemble()
        if name != USUAL:
            note(f"no ensemble was named, and {name} is the only one there: it scores (ENSEMBLE=NAME takes another)")
    if not members:
        return find_ensemble(name, data)
    chosen = [EnsembleMember(*parse_recipe_fold(text)) for text in members]
    return Ensemble("+".join(member_name(m.recipe, m.fold) for m in chosen), data or load_ensemble(name).data, chosen)


def predict_folder(source: Path, output: Path, ensemble: Ensemble | None, options: Options) -> int:
    """Score the videos of ``source`` (a folder, or one video) into ``output``; the exit code.

    ensemble: whose members score; None where ``options.exported`` names what does.

    0: a row for every video. 1: with ``strict``, a video without a score of its own. 130 and 143 after ctrl-C and
    SIGTERM. UserError where nothing can be scored, or the results cannot be written.
    """
    from liveness.prediction.submission_order import arrange_rows, find_order, list_unnamed

    started = time.perf_counter()
    videos = videos_below(source, options.images)
    names = find_order(source, videos, options.sample)
    _require_writable(output)
    _require_room_for_sockets(output)
    with alone_writing(output):
        found = _score_folder(videos, ensemble, output, options, started)
        if isinstance(found, int):
            return found
        rows = arrange_rows(found, videos, names)
        if others := list_unnamed(videos, names) if names else []:
            warn(
                f"{len(others)} videos are not in the sample submission ({others[0]}, ...): "
                "their rows come after its own"
            )
        return _finish(rows, output, options.strict)


# --- before --------------------------------------------------------------------------------------


def _require_writable(folder: Path) -> None:
    """Find out before the work, not after it, whether the results can be written."""
    from liveness.base.files import written_aside

    probe = folder / f".writable-{os.getpid()}"  # of this process alone: several may look at once
    try:
        with written_aside(probe):
            pass
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"{folder}: cannot write there ({error.strerror}); expected a folder for submission.csv"
        ) from error


def _require_room_for_sockets(output: Path) -> None:
    """The decoding processes are reached through sockets in the temporary folder; without one, in OUTPUT."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        tempfile.tempdir = str(output.resolve())


@contextlib.contextmanager
def alone_writing(output: Path) -> Iterator[None]:
    """Hold OUTPUT against a second prediction into it, whose rows would get between ours. Ends with the process."""
    folder = -1
    try:
        if is_first():
            folder = os.open(output, os.O_RDONLY)
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(folder)
        raise UserError(f"{output}: another prediction writes there; expected to be alone") from error
    except OSError:
        pass  # a file system that locks no folders
    try:
        yield
    finally:
        if folder >= 0:
            os.close(folder)


# --- scoring -------------------------------------------------------------------------------------


class _Terminated(BaseException):
    """SIGTERM came."""


def _score_folder(
    videos: list[Path], ensemble: Ensemble | None, output: Path, options: Options, started: float
) -> dict[str, Row] | int:
    """Every video's row by file name; or the exit code where this process has nothing more to say."""
    from liveness.prediction.partial import Partial, make_fingerprint

    described = describe_choice(ensemble, options)
    tell_of_what_is_lost(described, described.data, options.strict)
    partial = Partial(output, make_fingerprint(described, {}))
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        with join_ranks():
            _begin(partial, videos)
            left = [path for path in videos if path.name not in partial.rows]
            where = ", ".join(str(folder) for folder in dict.fromkeys(path.parent for path in videos))
            _say(f"{len(videos)} videos in {where}; ensemble {described.name}, {len(described.members)} members")
            if mine := left[launch.global_rank() :: launch.world()]:
                _score_share(mine, described, partial, options, started)
            elif is_first():
                _put_aside(output)
            wait_for_ranks(partial.where)
            if not is_first():
                return 0
            rows = partial.finished()
            lost = [path.name for path in videos if path.name not in rows]
            if lost:
                raise UserError(f"{output}: no row of {len(lost)} videos ({lost[0]}, ...); {partial.where()}")
            _say(f"threshold {described.operating.threshold:.4f}: {described.operating.source}")
            return rows
    except (KeyboardInterrupt, _Terminated) as error:
        partial.close()
        code, word = (143, "terminated") if isinstance(error, _Terminated) else (130, "interrupted")
        if is_first():
            print(f"{word}; {partial.where()}", file=sys.stderr, flush=True)
        return code
    finally:
        signal.signal(signal.SIGTERM, before)


def describe_choice(ensemble: Ensemble | None, options: Options) -> "EnsembleDescription":
    """What is to score, by its files' own descriptions: the ensemble, or what is exported of it."""
    from liveness.prediction.engine import read_ensemble
    from liveness.prediction.exported import read_beside, read_exported

    if options.exported is not None:
        return read_exported(options.exported, options.point, BACKENDS[options.backend])
    if ensemble is None:
        raise ValueError("neither an ensemble nor an exported one")
    if options.backend in BACKENDS:
        return read_beside(ensemble, options.data, options.point, BACKENDS[options.backend])
    return read_ensemble(ensemble, options.data, options.point)


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: what follows must not be cut short
    raise _Terminated


def tell_of_what_is_lost(described: "EnsembleDescription", data: str, strict: bool) -> None:
    """Weights whose calibration and thresholds are not beside them: other scores than those evaluated."""
    if described.operating.lost:
        way = (
            f"run: python -m liveness.convert {described.name}"
            if shipped_operating(data, described.name)
            else "copy it there from where the weights are from, or make it where they were trained: python -m "
            f"liveness.evaluate {described.name} --data {data}"
        )
        line = f"{described.operating.lost}; {way}"
        if strict:
            raise UserError(f"{line} (without --strict this is a warning)")
        warn(line)


def _begin(partial: "Partial", videos: list[Path]) -> None:
    """The first process sorts out what an earlier start has left; then all know which videos are done."""
    if is_first():
        line = partial.begin(videos)
        if line:
            note(line)
    if launch.world() > 1:
        wait_for_ranks(partial.where)
        partial.join()


def _put_aside(output: Path) -> None:
    """An earlier run's results get another name: a submission that is there is always this run's."""
    names = [name for name in FILES if (output / name).exists()]
    for name in names:
        (output / name).replace(output / f"{PREVIOUS}{name}")
    if names:
        note(f"{output}: the results of an earlier run are now {', '.join(PREVIOUS + name for name in names)}")


def _score_share(
    paths: list[Path], described: "EnsembleDescription", partial: "Partial", options: Options, started: float
) -> None:
    """Score this process's share; each row is on the disk as soon as it is there."""
    from liveness.base.machine import cores
    from liveness.prediction.engine import decode_ahead, load_weights, score_prepared

    workers = options.workers or max(1, cores() // launch.world())
    with (
        contextlib.closing(decode_ahead(paths, described.wanted(), workers)) as decoded,  # while the models are loaded
        load_weights(described, options.memory) as loaded,
    ):
        if is_first():  # not before: a run that cannot begin leaves what is there
            _put_aside(partial.path.parent)
        _say(f"load time: {time.perf_counter() - started:.2f} s")
        if loaded.runtime in BACKENDS.values():
            _say(f"the exported models run in {loaded.runtime} on the CPU, {loaded.threads} threads")
        elif loaded.device.type == "cpu":
            warn(f"no GPU here: the models run on the CPU, {loaded.threads} threads")
        if not loaded.resident:
            why = "as --memory says" if options.memory == "turns" else "they do not fit into memory together"
            _say(f"the members take turns: {why}")
        started = time.perf_counter()
        for views, row in _with_progress(score_prepared(decoded, loaded), len(paths)):
            partial.add(row, views.path, views.state or "crashed")
        seconds = time.perf_counter() - started
        _say(f"prediction time: {seconds:.2f} s, {1000 * seconds / max(1, len(paths)):.0f} ms per video")


def _with_progress(rows: "Scored", total: int) -> "Scored":
    """A bar on a terminal, a line now and then elsewhere."""
    if not is_first():
        yield from rows
        return
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(rows, total=total, unit="video", desc="predict")
        return
    told = time.monotonic()
    for done, row in enumerate(rows, 1):
        yield row
        if time.monotonic() - told > 30:
            told = time.monotonic()
            print(f"  {done}/{total} videos", file=sys.stderr, flush=True)


def _say(text: str) -> None:
    if is_first():
        print(text, flush=True)


# --- after ---------------------------------------------------------------------------------------


def _finish(rows: list[Row], output: Path, strict: bool) -> int:
    """Write the results, drop the partial file, tell what happened; the exit code."""
    from liveness.frames.notes import count_notes
    from liveness.prediction.partial import PARTIAL_FILE

    try:
        path = write_results(rows, output)
    except OSError as error:
        raise UserError(
            f"{output}: {error.strerror}; all rows are in {PARTIAL_FILE} there, the same command ends it"
        ) from error
    (output / PARTIAL_FILE).unlink(missing_ok=True)
    for row in rows:
        if row.status != "ok":
            warn(f"{row.fname}: {row.status}: {row.reason}")
    if all(row.status == "failed" for row in rows):
        raise UserError(f"{path}: no member gave any video a finite score; {rows[0].reason}")
    if noted := count_notes(row.reason for row in rows):
        note(noted)
    counts = {kind: sum(row.decision == kind for row in rows) for kind in ("live", "attack", "abstain")}
    print(f"{counts['live']} live, {counts['attack']} attack, {counts['abstain']} abstain")
    print(path)
    return 1 if strict and any(row.status not in SCORED for row in rows) else 0
