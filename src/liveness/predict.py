"""Score every video of a folder with an ensemble.

    python -m liveness.predict [INPUT] [OUTPUT] --ensemble demo

Reads   the videos in INPUT (flat, INPUT/videos or INPUT/<set>/videos), weights/<set>/.
Writes  OUTPUT/submission.csv (fname,liveness_score) and OUTPUT/predictions.csv (status, reason, ...).

Exit code 0: a row for every video. With --strict any video without a score of its own is an error
(after both files are written).
"""

import argparse
import csv
import sys
import time
from pathlib import Path

from liveness.config import Ensemble, EnsembleMember, load_ensemble
from liveness.errors import UserError, run
from liveness.files import find_videos, natural_key, plain_name, require_distinct_stems, workspace


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m liveness.predict", description="Score videos.")
    parser.add_argument("input", type=Path, nargs="?", help="a folder of videos (default: /data or data/)")
    parser.add_argument("output", type=Path, nargs="?", help="where the csv files go (default: /result or result/)")
    parser.add_argument("--ensemble", default="zalo2022", metavar="NAME", help="a name in configs/ensemble")
    parser.add_argument("--members", nargs="+", default=[], metavar="RECIPE:FOLD", help="only these members")
    parser.add_argument("--data", default="", metavar="SET", help="weights/<SET> (default: the ensemble's)")
    parser.add_argument("--strict", action="store_true", help="a video without a score of its own is an error")
    parser.add_argument("--workers", type=int, default=0, help="decoding processes (default: by the cores)")
    return parser.parse_args()


def main() -> int:
    arguments = parse()
    started = time.perf_counter()
    if arguments.data:
        plain_name(arguments.data, "DATA")
    ensemble = _chosen(arguments.ensemble, arguments.members, arguments.data)
    source, output = arguments.input or default_input(), arguments.output or default_output()
    videos = videos_below(source)

    from liveness.prediction.engine import load_members, score_videos
    from liveness.prediction.results import SCORED, write

    _require_writable(output)
    loaded = load_members(ensemble, arguments.data)
    print(f"{len(videos)} videos in {source}; ensemble {loaded.name}, {len(loaded.members)} members", flush=True)
    print(f"load time: {time.perf_counter() - started:.2f} s", flush=True)
    started = time.perf_counter()
    rows = list(_with_progress(score_videos(videos, loaded, arguments.workers), len(videos)))
    seconds = time.perf_counter() - started
    path = write(rows, output)
    print(f"prediction time: {seconds:.2f} s, {1000 * seconds / len(rows):.0f} ms per video")
    troubled = [row for row in rows if row.status != "ok"]
    for row in troubled:
        print(f"warning: {row.fname}: {row.status}: {row.reason}", file=sys.stderr)
    counts = {kind: sum(row.decision == kind for row in rows) for kind in ("live", "attack", "abstain")}
    print(
        f"{counts['live']} live, {counts['attack']} attack, {counts['abstain']} abstain at the threshold "
        f"{loaded.threshold:.4f} ({loaded.threshold_source})"
    )
    print(path)
    return 1 if arguments.strict and any(row.status not in SCORED for row in rows) else 0


def _chosen(name: str, members: list[str], data: str) -> Ensemble:
    """The named ensemble, or an ad-hoc one of the members given as recipe:fold."""
    if not members:
        return load_ensemble(name)
    chosen = []
    for text in members:
        recipe, _, fold = text.rpartition(":")
        if not recipe or not fold.isdecimal():
            raise UserError(f"--members {text}: expected RECIPE:FOLD, for example convnext_large:0")
        chosen.append(EnsembleMember(recipe, int(fold)))
    return Ensemble("+".join(members).replace(":", "_fold"), data or load_ensemble(name).data, chosen)


class NoVideos(UserError):
    """A folder that is there and holds no video to score."""


def videos_below(folder: Path) -> list[Path]:
    """The videos of a folder in one of the layouts of the judging container, natural order.

    Flat, or in ``videos/``, or in ``<set>/videos/`` of one or several sets. Of those sets, one to
    train on (labelled or prepared) is passed over, with a note.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected a folder of videos")
    found = find_videos(folder)
    if not found and (folder / "videos").is_dir():
        found = find_videos(folder / "videos")
    if found:
        _note_what_is_left(folder, found)
        return found
    for candidate in sorted((p for p in folder.iterdir() if p.is_dir()), key=lambda p: natural_key(p.name)):
        if not (candidate / "videos").is_dir():
            continue
        if _is_to_train_on(candidate):
            print(f"note: {candidate} is a training set, its videos are not scored", file=sys.stderr)
        else:
            found += find_videos(candidate / "videos")
    if not found:
        raise NoVideos(f"{folder}: no videos in it, in its videos/ or in a <set>/videos/; expected mp4, mov, avi, ...")
    require_distinct_stems(found)
    return found


def _note_what_is_left(folder: Path, found: list[Path]) -> None:
    """Say which folders of videos inside ``folder`` are not scored, since there are videos above them."""
    top = found[0].parent
    inside = [folder / "videos", *(p / "videos" for p in folder.iterdir() if p.is_dir())]
    left = [str(p) for p in inside if p.is_dir() and p != top and not _is_to_train_on(p.parent) and any(p.iterdir())]
    if left:
        print(f"note: only the videos in {top} are scored, not those in {', '.join(sorted(left))}", file=sys.stderr)


def _is_to_train_on(folder: Path) -> bool:
    """Whether a set was made by prepare_data.sh, or has labels (0 or 1; a sample submission has neither)."""
    if (folder / "folds.csv").exists() or (folder / "prepare.json").exists():
        return True
    for name in ("label.csv", "labels.csv"):
        if (folder / name).is_file():
            with open(folder / name, encoding="utf-8-sig", errors="replace", newline="") as file:
                values = [row[1].strip() for row in csv.reader(file) if len(row) > 1]
            if set(values[1:]) & {"0", "1"}:
                return True
    return False


def default_input() -> Path:
    """/data where the judging container mounted videos there, else the workspace's data/."""
    if not Path("/data").is_dir():
        return workspace() / "data"
    try:
        videos_below(Path("/data"))
    except NoVideos:
        return workspace() / "data"
    return Path("/data")


def default_output() -> Path:
    """/result where the judging container has it, else the workspace's result/."""
    return Path("/result") if Path("/result").is_dir() else workspace() / "result"


def _require_writable(folder: Path) -> None:
    """Find out before the work, not after it, whether the results can be written."""
    from liveness.files import written_aside

    try:
        with written_aside(folder / ".writable"):
            pass
        (folder / ".writable").unlink()
    except OSError as error:
        raise UserError(
            f"{folder}: cannot write there ({error.strerror}); expected a folder for submission.csv"
        ) from error


def _with_progress(rows, total: int):
    """A bar on a terminal, a line now and then elsewhere."""
    from tqdm import tqdm

    if sys.stderr.isatty():
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
