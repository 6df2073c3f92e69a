"""Score every video of a folder with an ensemble.

    python -m liveness.predict [INPUT] [OUTPUT] --ensemble demo

Reads   the videos in INPUT (flat, INPUT/videos or INPUT/<set>/videos), weights/<set>/; the order of a
        sample_submission.csv, if there is one.
Writes  OUTPUT/submission.csv (fname,liveness_score) and OUTPUT/predictions.csv (status, reason, ...), both
        when every video has its row; until then the finished rows are in OUTPUT/predictions.partial.csv,
        and the same command continues from them.

Started by torchrun (predict.sh does that for several GPUs) the processes share the videos.

Exit code 0: a row for every video. With --strict any video without a score of its own is an error
(after both files are written). 130 and 143 after ctrl-C and SIGTERM.

In Python: ``table = liveness.predict.score_videos(paths, "demo")``.
"""

import argparse
import contextlib
import fcntl
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from liveness.base import launch
from liveness.base.compose import load_ensemble
from liveness.base.config import Ensemble, EnsembleMember
from liveness.base.errors import UserError, run
from liveness.base.files import plain_name
from liveness.members.names import member_name, parse_recipe_fold
from liveness.prediction.inputs import default_input, default_output, note, videos_below, warn
from liveness.prediction.ready import WeightsMissing
from liveness.prediction.rows import SCORED, Row

RANK, RANKS = launch.rank(), launch.world()
PATIENCE = 30 * 24 * 3600.0  # seconds that a process may wait for the others to finish their videos


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m liveness.predict", description="Score videos.")
    parser.add_argument("input", type=Path, nargs="?", help="a folder of videos (default: /data or data/)")
    parser.add_argument("output", type=Path, nargs="?", help="where the csv files go (default: /result or result/)")
    parser.add_argument("--ensemble", default="zalo2022", metavar="NAME", help="a name in configs/ensemble")
    parser.add_argument("--members", nargs="+", default=[], metavar="RECIPE:FOLD", help="only these members")
    parser.add_argument("--data", default="", metavar="SET", help="weights/<SET> (default: the ensemble's)")
    parser.add_argument(
        "--point", default="eer", metavar="NAME", help="the operating point that decides: eer, apcer5, ..."
    )
    parser.add_argument("--sample", type=Path, metavar="FILE", help="a sample submission: its order (default: found)")
    parser.add_argument(
        "--strict", action="store_true", help="a video without a score, or lost thresholds, is an error"
    )
    parser.add_argument("--workers", type=int, default=0, help="decoding processes (default: one per core)")
    parser.add_argument(
        "--memory",
        choices=("auto", "resident", "turns"),
        default="auto",
        help="all members at once, or one after the other (default: by what is free)",
    )
    return parser.parse_args()


def main() -> int:
    arguments = parse()
    started = time.perf_counter()
    if arguments.data:
        plain_name(arguments.data, "DATA")
    if arguments.workers < 0:
        raise UserError(f"--workers {arguments.workers}: expected 0 (one per core) or more")
    ensemble = _chosen(arguments.ensemble, arguments.members, arguments.data)
    source = arguments.input or default_input()
    output = arguments.output or default_output(source)
    videos = videos_below(source)

    from liveness.prediction.submission_order import arrange, order_of

    names = order_of(source, videos, arguments.sample)
    _require_writable(output)
    _require_room_for_sockets(output)
    with _alone_in(output):
        try:
            found = score_folder(videos, ensemble, output, arguments, started)
        except WeightsMissing as error:
            given = [str(path) for path in (arguments.input, arguments.output) if path]
            raise error.for_videos(shlex.join(given)) from error
        if isinstance(found, int):
            return found
        rows = arrange(found, videos, names)
        if names:
            _tell_of_the_sample(videos, names)
        return _finish(rows, output, arguments.strict)


@contextlib.contextmanager
def _alone_in(output: Path) -> Iterator[None]:
    """Hold OUTPUT against a second prediction into it, whose rows would get between ours. Ends with the process."""
    folder = -1
    try:
        if RANK == 0:
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


def score_videos(paths: list[Path], ensemble: str = "zalo2022", data: str = "", workers: int = 0) -> Any:
    """Score videos from Python: a DataFrame with the columns of predictions.csv, a row per path, in that order.

    ``ensemble``: a name in configs/ensemble, whose weights lie in weights/<data>/ (default: the
    ensemble's own). For a loop over videos with one loading: prediction/engine.py.
    """
    from liveness.prediction import engine
    from liveness.prediction.rows import table

    loaded = engine.load_members(load_ensemble(ensemble), data, "auto")
    try:
        return table(engine.score_videos([Path(path) for path in paths], loaded, workers))
    finally:
        loaded.close()


class Terminated(BaseException):
    """SIGTERM came."""


def score_folder(
    videos: list[Path], ensemble: Ensemble, output: Path, arguments: argparse.Namespace, started: float
) -> dict[str, Row] | int:
    """Every video's row by file name; or the exit code where this process has nothing more to say."""
    from liveness.prediction.engine import read_ensemble
    from liveness.prediction.partial import Partial, fingerprint_of

    loaded = read_ensemble(ensemble, arguments.data, arguments.point)
    _tell_of_what_is_lost(loaded, arguments.data or ensemble.data, arguments.strict)
    partial = Partial(output, fingerprint_of(loaded, {}))
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        with _process_group():
            _begin(partial, videos)
            left = [path for path in videos if path.name not in partial.rows]
            _say(f"{len(videos)} videos in {_where(videos)}; ensemble {loaded.name}, {len(loaded.members)} members")
            if mine := left[RANK::RANKS]:
                _score(mine, loaded, partial, arguments, started)
            _wait_for_all(partial)
            if RANK:
                return 0
            rows = partial.finished()
            lost = [path.name for path in videos if path.name not in rows]
            if lost:
                raise UserError(f"{output}: no row of {len(lost)} videos ({lost[0]}, ...); {partial.where()}")
            _say(f"threshold {loaded.operating.threshold:.4f}: {loaded.operating.source}")
            return rows
    except (KeyboardInterrupt, Terminated) as error:
        partial.close()
        code, word = (143, "terminated") if isinstance(error, Terminated) else (130, "interrupted")
        if RANK == 0:
            print(f"{word}; {partial.where()}", file=sys.stderr, flush=True)
        return code
    finally:
        signal.signal(signal.SIGTERM, before)


def _tell_of_what_is_lost(loaded: Any, data: str, strict: bool) -> None:
    """Weights whose calibration and thresholds are not beside them: other scores than those evaluated."""
    if loaded.operating.lost:
        line = (
            f"{loaded.operating.lost}; copy it there from where the weights are from, or make it where they were "
            f"trained: python -m liveness.evaluate {loaded.name} --data {data}"
        )
        if strict:
            raise UserError(f"{line} (without --strict this is a warning)")
        warn(line)


def _terminated(*_: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: what follows must not be cut short
    raise Terminated


@contextlib.contextmanager
def _process_group() -> Iterator[None]:
    """Join the other processes, if torchrun started several. They exchange nothing but their presence."""
    if RANKS == 1:
        yield
        return
    from liveness.base import distributed

    distributed.start("gloo", PATIENCE)
    try:
        yield
    finally:
        if sys.exc_info()[0] is None:
            distributed.stop()


def _begin(partial: Any, videos: list[Path]) -> None:
    """Rank 0 sorts out what an earlier start has left; then all know which videos are done."""
    if RANK == 0:
        line = partial.begin(videos)
        if line:
            note(line)
        _put_aside(partial.path.parent)
    if RANKS > 1:
        from liveness.base import distributed

        distributed.barrier()
        partial.join()


def _put_aside(output: Path) -> None:
    """An earlier run's results get another name: a submission that is there is always this run's."""
    from liveness.prediction.rows import FILES, PREVIOUS

    names = [name for name in FILES if (output / name).exists()]
    for name in names:
        (output / name).replace(output / f"{PREVIOUS}{name}")
    if names:
        note(f"{output}: the results of an earlier run are now {', '.join(PREVIOUS + name for name in names)}")


def _score(paths: list[Path], loaded: Any, partial: Any, arguments: argparse.Namespace, started: float) -> None:
    """Score this process's share; each row is on the disk as soon as it is there."""
    from liveness.base.machine import cores
    from liveness.prediction.engine import decode_ahead, load_weights, score_prepared

    workers = arguments.workers or max(1, cores() // RANKS)
    decoded = decode_ahead(paths, loaded.wanted(), workers)  # the workers begin while the models are loaded
    try:
        load_weights(loaded, arguments.memory)
        _say(f"load time: {time.perf_counter() - started:.2f} s")
        if RANK == 0 and loaded.device.type == "cpu":
            print(
                f"warning: no GPU here: the models run on the CPU, {loaded.threads} threads",
                file=sys.stderr,
                flush=True,
            )
        if not loaded.resident:
            why = "as --memory says" if arguments.memory == "turns" else "they do not fit into memory together"
            _say(f"the members take turns: {why}")
        started = time.perf_counter()
        for prepared, row in _with_progress(score_prepared(decoded, loaded), len(paths)):
            partial.add(row, prepared.path, prepared.state or "crashed")
        seconds = time.perf_counter() - started
        _say(f"prediction time: {seconds:.2f} s, {1000 * seconds / max(1, len(paths)):.0f} ms per video")
    finally:
        decoded.close()
        loaded.close()


def _wait_for_all(partial: Any) -> None:
    if RANKS == 1:
        return
    from liveness.base import distributed

    try:
        distributed.barrier()
    except RuntimeError as error:
        if not distributed.lost_another(error):
            raise
        time.sleep(5)  # whoever ended may have been told to, and so will this process be
        raise UserError(f"another process ended early; {partial.where()}") from error


def _say(text: str) -> None:
    if RANK == 0:
        print(text, flush=True)


def _where(videos: list[Path]) -> str:
    return ", ".join(str(folder) for folder in dict.fromkeys(path.parent for path in videos))


def _tell_of_the_sample(videos: list[Path], names: list[str]) -> None:
    from liveness.prediction.submission_order import unnamed

    others = unnamed(videos, names)
    if others:
        print(
            f"warning: {len(others)} videos are not in the sample submission ({others[0]}, ...): "
            "their rows come after its own",
            file=sys.stderr,
        )


def _finish(rows: list[Row], output: Path, strict: bool) -> int:
    """Write the results, drop the partial file, tell what happened; the exit code."""
    from liveness.frames.notes import count_notes
    from liveness.prediction.partial import NAME
    from liveness.prediction.rows import write

    try:
        path = write(rows, output)
    except OSError as error:
        raise UserError(
            f"{output}: {error.strerror}; all rows are in {NAME} there, the same command ends it"
        ) from error
    (output / NAME).unlink(missing_ok=True)
    for row in rows:
        if row.status != "ok":
            print(f"warning: {row.fname}: {row.status}: {row.reason}", file=sys.stderr)
    if all(row.status == "failed" for row in rows):
        raise UserError(f"{path}: no member gave any video a finite score; {rows[0].reason}")
    if noted := count_notes(row.reason for row in rows):
        note(noted)
    counts = {kind: sum(row.decision == kind for row in rows) for kind in ("live", "attack", "abstain")}
    print(f"{counts['live']} live, {counts['attack']} attack, {counts['abstain']} abstain")
    print(path)
    return 1 if strict and any(row.status not in SCORED for row in rows) else 0


def _chosen(name: str, members: list[str], data: str) -> Ensemble:
    """The named ensemble, or an ad-hoc one of the members given as recipe:fold."""
    if not members:
        return load_ensemble(name)
    chosen = []
    for text in members:
        chosen.append(EnsembleMember(*parse_recipe_fold(text)))
    return Ensemble("+".join(member_name(m.recipe, m.fold) for m in chosen), data or load_ensemble(name).data, chosen)


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


def _with_progress(rows: Iterator, total: int) -> Iterator:
    """A bar on a terminal, a line now and then elsewhere."""
    if RANK:
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


if __name__ == "__main__":
    run(main)
