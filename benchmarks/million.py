"""What a set of a million videos costs: seconds and peak memory of each step that sees all rows at once, by size.

    python benchmarks/million.py --out benchmarks/results/million.json
    python benchmarks/million.py --rows 10000 100000 --code OTHER_CHECKOUT --label before --out FILE

The tables are made directly, without videos, by a seed: 3 frames a video, 1 to 7 videos a person, 5 species, 1 %
near-duplicates. Each step runs in a process of its own and is stopped after --limit processor seconds. ``input_mib``:
the peak before the step, of its input and the imports. ``growth``: what ten times the rows take, in processor seconds,
which a machine that does other work changes little; 10 is linear. FILE keeps the figures of other labels, steps and
sizes that it has. --code measures another checkout by the same script.
"""

import argparse
import contextlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent
SPECIES = ("print", "screen", "mask", "cutout", "replay")
FRAMES = 3
VARIANTS, BITS = 6, 144
DRIFT, NOISE = 0.08, 0.03  # shares of bits in which a frame differs from its scene, and a crop or a copy from its frame
CHUNK = 20_000


def main() -> int:
    args = arguments()
    if args.step:
        return run_step(args)
    made = json.loads(args.out.read_text(encoding="utf-8")) if args.out and args.out.is_file() else {}
    source = args.code.resolve() / "src"
    path = os.pathsep.join([str(source), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(args.threads), "CUDA_VISIBLE_DEVICES": ""}
    found = made.setdefault("figures", {}).setdefault(args.label, {})
    for rows in args.rows:
        with tempfile.TemporaryDirectory(dir=args.work) as work:
            for step in args.steps:
                command = [sys.executable, __file__, "--step", step, "--rows", str(rows), "--work", work]
                found.setdefault(step, {})[str(rows)] = figures = watch(command, environment, args.limit)
                print(f"{args.label} {step} {rows}: {figures}", file=sys.stderr, flush=True)
    made["machine"] = describe_machine(args.threads)
    made["growth"] = {label: {s: grow(sizes) for s, sizes in steps.items()} for label, steps in made["figures"].items()}
    text = json.dumps(made, indent=1) + "\n"
    print(text, end="")
    if args.out:
        args.out.write_text(text, encoding="utf-8")
    return 0


def watch(command: list[str], environment: dict[str, str], limit: float) -> dict[str, Any]:
    """The figures that a step prints as its last line; after ``limit`` processor seconds {"more_than": limit}."""
    command = ["bash", "-c", 'ulimit -t "$0"; exec "$@"', str(limit), *command]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return {"more_than": limit}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["killed"])[-1][:300]}
    return json.loads(done.stdout.splitlines()[-1])


def grow(sizes: dict[str, dict]) -> dict[str, float]:
    """Processor seconds at ten times the rows over processor seconds, for each such pair of sizes that was measured."""
    timed = {int(rows): figures["processor_seconds"] for rows, figures in sizes.items() if "seconds" in figures}
    return {
        f"{n} to {10 * n}": round(timed[10 * n] / timed[n], 1) for n in sorted(timed) if 10 * n in timed and timed[n]
    }


def run_step(args: argparse.Namespace) -> int:
    """Prepare, then measure one step; its figures are the last line on stdout."""
    ready = STEPS[args.step](args.rows[0], args.work)
    before = peak()
    started, processor = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        note = ready()
    figures = {
        "seconds": round(time.perf_counter() - started, 2),
        "processor_seconds": round(time.process_time() - processor, 2),
        "peak_mib": peak(),
        "input_mib": before,
    }
    print(json.dumps(figures | (note or {})))
    return 0


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


# --- the steps: each prepares its input and returns what is measured ----------------------------


def step_folds(rows: int, work: Path) -> Callable:
    from liveness.base.config import Folds
    from liveness.sets.folds import fold_set

    folder = make_tables(rows, work)
    return lambda: fold_set(folder, Folds(), force=True)


def step_check(rows: int, work: Path) -> Callable:
    """The sanity check of the tables among themselves: folds, labels, splits (no videos, no records)."""
    from liveness.base.config import Folds
    from liveness.sets.folds import fold_set
    from liveness.sets.sanity import _check_dealt, _print_counts

    folder = make_tables(rows, work)
    if not (folder / "folds.csv").is_file():
        with contextlib.redirect_stdout(io.StringIO()):
            fold_set(folder, Folds())

    def check() -> dict:
        troubles = _check_dealt(folder, Folds())
        _print_counts(folder, labelled=True)
        return {"troubles": len(troubles)}

    return check


def step_page(rows: int, work: Path) -> Callable:
    from liveness.pages.dataset import render_dataset_page
    from liveness.pages.dataset_tables import read_set_tables

    folder = make_tables(rows, work)
    return lambda: {"page_mb": round(len(render_dataset_page(read_set_tables(folder))) / 1e6, 2)}


def step_video_scores(rows: int, work: Path) -> Callable:
    import pandas as pd

    from liveness.evaluation.combine import video_scores

    rng = np.random.default_rng(3)
    names = np.repeat(np.array([f"{i}.mp4" for i in range(rows)], dtype=object), FRAMES)
    scores = rng.random(rows * FRAMES)
    scores[rng.random(rows * FRAMES) < 0.01] = np.nan
    label, fold = np.repeat(rng.integers(0, 2, rows), FRAMES), np.repeat(rng.integers(0, 5, rows), FRAMES)
    oof = pd.DataFrame({"filename": names, "label": label, "fold": fold, "score": scores, "status": "ok"})
    return lambda: {"videos": len(video_scores(oof, "logit_mean"))}


def step_order(rows: int, work: Path) -> Callable:
    """The submission's order: reading the sample, finding what it does not name, arranging, writing."""
    from liveness.prediction.rows import Row, write_results
    from liveness.prediction.submission_order import arrange_rows, list_unnamed, read_names

    rng = np.random.default_rng(4)
    videos = [work / f"{i}.mp4" for i in range(rows)]
    sample = work / "sample_submission.csv"
    named = rng.permutation(rows)[: int(0.9 * rows)]
    sample.write_text("fname,liveness_score\n" + "".join(f"{i}.mp4,0.5\n" for i in named) + "gone.mp4,0.5\n")
    found = {
        path.name: Row(path.name, float(x), "live", "ok", "", 3, 3, 80.0, 1)
        for path, x in zip(videos, rng.random(rows), strict=True)
    }

    def order() -> dict:
        names = read_names([sample])
        list_unnamed(videos, names)
        write_results(arrange_rows(found, videos, names), work / "result")
        return {"rows": len(names)}

    return order


def step_duplicates(rows: int, work: Path) -> Callable:
    """Near-duplicates among videos of three frames that resemble each other; 1 % of the videos are copies."""
    from liveness.sets import duplicates

    codes = make_codes(rows)
    if hasattr(duplicates, "pair_frames"):
        owner = np.repeat(np.arange(rows), FRAMES)
        return lambda: {"pairs": len(duplicates.pair_frames(owner, codes, 0.12))}
    hashes = {
        f"{v}.mp4": [[text.tobytes().hex() for text in codes[FRAMES * v + f]] for f in range(FRAMES)]
        for v in range(rows)
    }
    return lambda: {"pairs": len(duplicates.find_pairs(hashes, 0.12))}


def step_persons(rows: int, work: Path) -> Callable:
    """Who is who by embeddings of 128 numbers: strangers are alike by 0.83 in the median, one's own videos by 0.976."""
    from liveness.sets.identities import Embeddings, link_persons

    rng = np.random.default_rng(6)
    owner = make_persons(rows, rng)
    common = rng.normal(size=128)
    faces = common / np.linalg.norm(common) + 0.42 * rng.normal(size=(owner.max() + 1, 128)) / 128**0.5
    vectors = faces[owner] + 0.17 * rng.normal(size=(rows, 128)) / 128**0.5
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = Embeddings(work, [f"{i}.mp4" for i in range(rows)], vectors)

    def link() -> dict:
        links = link_persons(found, 0.95)
        number = dict(zip(found.filenames, owner.tolist(), strict=True))
        wrong = sum(number[link.one] != number[link.other] for link in links)
        return {"persons": int(owner.max()) + 1, "found": rows - len(links), "links_of_strangers": wrong}

    return link


def step_tables(rows: int, work: Path) -> Callable:
    """From the records (as json has them) to the tables of a prepared set, with the search for near-duplicates."""
    import pandas as pd

    from liveness.base.config import Folds
    from liveness.sets.labels import RawSet
    from liveness.sets.set_tables import TableSources, make_tables

    codes = make_codes(rows)
    owner = make_persons(rows, np.random.default_rng(1))
    names = [f"{number}.mp4" for number in range(rows)]
    labels = pd.DataFrame({"filename": names, "label": owner % 2, "subject": [f"p{person}" for person in owner]})
    raw = RawSet("million", [work / name for name in names], labels, None, [])

    def tabulate() -> dict:
        records = ((name, json.loads(write_record(number, codes))) for number, name in enumerate(names))
        try:
            from liveness.sets.records import gather_records

            gathered = gather_records(records)
        except ImportError:
            gathered = dict(records)
        tables = make_tables(TableSources(raw, gathered, {}, [], None, Folds()))
        return {"pairs": len(tables["duplicates"]), "frames": len(tables["labels_bbox"])}

    return tabulate


def write_record(number: int, codes: np.ndarray) -> str:
    """A video's record, as sets/extract.py writes it."""
    frames, files, faces = [], {}, {}
    for place in range(FRAMES):
        stem, hashes = f"{number}-{20 * place}", codes[FRAMES * number + place]
        box = {"x": 100.5, "y": 200.25, "w": 300.0 + place, "h": 400.0, "confidence": 0.9123}
        row = {"frame_id": 20 * place, "time": 0.8 * place, "n_faces": 1, "face": box}
        frames.append(row | {"hashes": [part.tobytes().hex() for part in hashes]})
        files[f"frames/{stem}.jpg"] = [90_000, number]
        faces |= {f"faces/bbox/{stem}.txt": [40, number], f"faces/crop/{stem}.jpg": [40_000, number]}
        faces[f"faces/viz/{stem}.jpg"] = [60_000, number]
    info = {"frames": 60, "fps": 25.0, "width": 720, "height": 1280, "duration": 2.4, "codec": "h264", "rotation": 0}
    about = {"version": 5, "filename": f"{number}.mp4", "contract": 2, "bytes": 900_000, "mtime_ns": number}
    about |= {"ctime_ns": number, "sha256": f"{number:064x}", "frames_key": "0" * 16, "faces_key": "0" * 16}
    about |= {"status": "ok", "reason": "", "info": info, "notes": []}
    return json.dumps(about | {"frames": frames, "files": {"frames": files, "faces": faces}})


STEPS: dict[str, Callable[[int, Path], Callable]] = {
    "folds": step_folds,
    "check": step_check,
    "page": step_page,
    "tables": step_tables,
    "video_scores": step_video_scores,
    "order": step_order,
    "duplicates": step_duplicates,
    "persons": step_persons,
}


# --- the synthetic set ---------------------------------------------------------------------------


def make_persons(rows: int, rng: np.random.Generator) -> np.ndarray:
    """A person's number for each row: 1 to 7 rows each, 4 on average."""
    return np.repeat(np.arange(rows), rng.integers(1, 8, rows))[:rows]


def make_codes(rows: int) -> np.ndarray:
    """Hashes (frames x VARIANTS x BITS / 8, uint8) as selfies have them.

    1 % of the videos are copies of the one before. A quarter of the bits is the same in 9 of 10 videos; the frames of a
    video differ in a few bits, and so do the crops of a frame; mirrored ones have nothing in common with the others.
    """
    rng = np.random.default_rng(5)
    common = rng.integers(0, 2, (2, BITS), dtype=np.uint8)
    made = np.empty((FRAMES * rows, VARIANTS, BITS // 8), np.uint8)
    for start in range(0, rows, CHUNK):
        count = min(CHUNK, rows - start)
        scene = rng.integers(0, 2, (count, 2, BITS), dtype=np.uint8)
        usual = rng.random((count, 2, BITS), dtype=np.float32) < 0.9
        usual[:, :, np.arange(BITS) % 4 > 0] = False
        scene = np.where(usual, common, scene)
        copies = np.flatnonzero(rng.random(count) < 0.01)
        copies = copies[copies > 0]
        scene[copies] = scene[copies - 1]
        for frame in range(FRAMES):
            drift = rng.random((count, 2, BITS), dtype=np.float32) < DRIFT
            drift[copies] = drift[copies - 1]
            for variant in range(VARIANTS):
                noise = rng.random((count, BITS), dtype=np.float32) < NOISE
                packed = np.packbits((scene ^ drift)[:, variant % 2] ^ noise, axis=-1)
                made[FRAMES * start + frame : FRAMES * (start + count) : FRAMES, variant] = packed
    return made


def make_shots(stem: Any, label: np.ndarray, rng: np.random.Generator) -> Any:
    """The stored frames of the videos ``stem``: a row each, with the columns of labels_keyframes and labels_bbox."""
    import pandas as pd

    rows = len(stem)
    frame = np.tile(np.arange(FRAMES) * 20, rows)
    owner = np.repeat(stem.to_numpy(), FRAMES)
    face = rng.random(rows * FRAMES) < 0.98
    sides = rng.uniform(100, 500, (rows * FRAMES, 4)).round(1)
    shots = pd.DataFrame({"video_id": owner, "frame_id": frame, "label": np.repeat(label, FRAMES)})
    shots["filename"] = shots["video_id"] + "-" + shots["frame_id"].astype(str) + ".jpg"
    shots["time"], shots["face"], shots["n_faces"] = (frame / 25).round(6), face.astype(int), face.astype(int)
    shots["confidence"] = rng.uniform(0.6, 1, rows * FRAMES).round(6)
    for place, column in enumerate("xywh"):
        shots[column] = sides[:, place]
    shots.loc[~face, ["confidence", *"xywh"]] = np.nan
    return shots


def make_tables(rows: int, work: Path) -> Path:
    """data/<set>/ with labels_video, labels_keyframes, labels_bbox, duplicates, labels and prepare.json."""
    folder = work / "data" / "million"
    if (folder / "prepare.json").is_file():
        return folder
    import pandas as pd

    from liveness.base.config import Data
    from liveness.sets.set_tables import BOX_COLUMNS, KEYFRAME_COLUMNS, VIDEO_COLUMNS
    from liveness.sets.settings import describe_settings

    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    number = np.arange(rows)
    stem = pd.Series(number).astype(str)
    label = rng.integers(0, 2, rows)
    person = "p" + pd.Series(make_persons(rows, rng)).astype(str)
    species = np.where(label == 1, "", np.array(SPECIES)[rng.integers(0, len(SPECIES), rows)])
    status = np.where(rng.random(rows) < 0.001, "partial", "ok")
    wide = rng.random(rows) < 0.3
    videos = pd.DataFrame(
        {
            "filename": stem + ".mp4", "label": label, "video_id": stem, "status": status,
            "reason": np.where(status == "ok", "", "the file breaks off"), "frames": rng.integers(60, 120, rows),
            "fps": rng.choice([25.0, 29.97, 30.0], rows), "width": np.where(wide, 1280, 720),
            "height": np.where(wide, 720, 1280), "duration": rng.uniform(2, 5, rows).round(3), "group": person,
            "species": species, "codec": rng.choice(["h264", "hevc"], rows), "rotation": rng.choice([0, 90], rows),
            "subject": person,
        }
    )  # fmt: skip
    shots = make_shots(stem, label, rng)
    one = np.flatnonzero(rng.random(rows - 1) < 0.01)
    pairs = pd.DataFrame({"filename": stem[one].to_numpy() + ".mp4", "other": stem[one + 1].to_numpy() + ".mp4"})
    pairs["distance"], pairs["mirrored"] = rng.uniform(0, 0.12, len(one)).round(4), 0
    pairs["label"], pairs["other_label"], pairs["joins_groups"] = label[one], label[one + 1], 1
    pairs["contradiction"] = (label[one] != label[one + 1]).astype(int)
    settings = describe_settings(Data(name="million"), 2)
    for name, table in (
        ("labels_video", videos[[*VIDEO_COLUMNS, "subject"]]), ("labels_keyframes", shots[KEYFRAME_COLUMNS]),
        ("labels_bbox", shots[BOX_COLUMNS]), ("duplicates", pairs),
        ("labels", videos[["filename", "label", "subject"]]),
    ):  # fmt: skip
        table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
    (folder / "prepare.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    return folder


def describe_machine(threads: int) -> dict[str, Any]:
    model = ""
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1)
    load = [round(value, 2) for value in os.getloadavg()]
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_gib": memory,
        "load_average_at_the_end": load,
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python benchmarks/million.py", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="videos of the set")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), help="default: all")
    parser.add_argument("--code", type=Path, default=FOLDER.parent, metavar="CHECKOUT", help="what is measured")
    parser.add_argument("--label", default="after", help="what the figures are called (default: after)")
    parser.add_argument(
        "--limit", type=int, default=1800, help="processor seconds after which a step is stopped (default 1800)"
    )
    parser.add_argument("--threads", type=int, default=1, help="of matrix products (default 1)")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="where to work (default: the temporary folder)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON there")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
