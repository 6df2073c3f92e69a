"""Bulk scoring on two nodes of a Ray cluster on this machine: against predict.sh, and while things are killed.

    python benchmarks/bulk.py [--clips 2000] [--every 20] [--rows 50] [--keep FOLDER] [--out FILE]

Needs liveness[bulk]. Draws short clips (360 x 480 to 360 x 640 px, 12 frames) and takes an ensemble of two narrow
networks with random weights. Runs, each from the start of the interpreter:

    predict   python -m liveness.predict, all cores
    calm      python -m liveness.bulk on the two nodes, nothing is killed
    killed    the same while a process of Ray that decodes or scores is killed every ``--every`` seconds, one node is
              killed once (and another is started), and the driver is killed once and started again

Prints JSON. ``same``: every key once, and score, decision, status and counts as predictions.csv has them.
``rate`` is videos a second and ``cpu_milliseconds`` the processor time of all processes a video, both from when a
quarter of the rows is finished to the end, so without any start; ``throughput`` and
``throughput_in_processor_time`` compare calm with predict. The two are run one after the other: on a machine that
does other work the second is the one to trust. ``memory``: of all processes together (PSS, MiB), sampled every
two seconds; ``growth``: the median of the last third over that of the second third.
"""

import argparse
import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
SOURCE = FOLDER.parent / "src"
sys.path[:0] = [str(SOURCE), str(FOLDER)]
os.environ["PYTHONPATH"] = os.pathsep.join([str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])])
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "NO_ALBUMENTATIONS_UPDATE": "1"}

import prepare  # noqa: E402  (benchmarks/prepare.py: the memory of a process)
import train  # noqa: E402  (benchmarks/train.py: the machine)

from liveness.base.machine import cores  # noqa: E402

RAY = Path(sys.executable).with_name("ray")
ENSEMBLE = ["--ensemble", "bench", "--data", "bench"]
NARROW = ["model.kwargs.depths=[1,1,1,1]", "model.kwargs.dims=[8,16,16,16]", "model.pretrained=", "model.drop_path=0"]
COLUMNS = ("fname", "score", "decision", "status", "reason", "frames", "faces", "faces_in_frame")
WORKERS = ("ray::MapWorker(MapBatches(BlockDecoder))", "ray::MapWorker(MapBatches(BlockScorer))")


def main() -> int:
    args = parse()
    with tempfile.TemporaryDirectory() as scratch:
        root = args.keep or Path(scratch)
        root.mkdir(parents=True, exist_ok=True)
        os.environ["LIVENESS_ROOT"] = str(root)
        make_clips(root / "clips", args.clips)
        make_ensemble(root)
        found = {"clips": args.clips, "machine": train.machine()}
        found["predict"] = predict(root, args)
        expected = read_predictions(root / "predicted" / "predictions.csv")
        with Nodes() as nodes:
            found["calm"] = watch(root, "calm", nodes, args, expected, kills=False)
        with Nodes() as nodes:
            found["killed"] = watch(root, "killed", nodes, args, expected, kills=True)
        calm, alone = found["calm"], found["predict"]
        found["throughput"] = round(calm["rate"] / alone["rate"], 3)
        found["throughput_in_processor_time"] = round(alone["cpu_milliseconds"] / calm["cpu_milliseconds"], 3)
        text = json.dumps(found, indent=2)
        print(text)
        if args.out:
            args.out.write_text(text + "\n")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--every", type=float, default=20, help="seconds between two kills of a process")
    parser.add_argument("--rows", type=int, default=50, help="rows of a part")
    parser.add_argument("--limit", type=float, default=3600, help="seconds that a run may take")
    parser.add_argument("--keep", type=Path, help="a folder for clips and results, kept")
    parser.add_argument("--out", type=Path, help="where the JSON goes too")
    return parser.parse_args()


# --- what is scored --------------------------------------------------------------------------------


def make_clips(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [folder / f"{n}.mp4" for n in range(count)]
    with ProcessPoolExecutor(cores()) as pool:
        list(pool.map(write_clip, (path for path in wanted if not path.exists()), chunksize=20))


def write_clip(path: Path) -> None:
    import av
    import numpy as np

    rng = np.random.default_rng(int(path.stem))
    width, height = ((360, 640), (480, 360), (360, 480))[int(path.stem) % 3]
    low = rng.integers(0, 255, (12, 6, 6, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for small in low:
            whole = np.repeat(np.repeat(small, -(-height // 6), 0), -(-width // 6), 1)[:height, :width]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(whole), format="rgb24")))
        container.mux(stream.encode())


def make_ensemble(root: Path) -> None:
    """Two members with random weights and an operating file, as training and evaluation leave them."""
    import torch

    from liveness.base.compose import load_recipe
    from liveness.base.config import Data, to_dict
    from liveness.base.files import sha256_of
    from liveness.frames.contract import make_contract
    from liveness.frames.faces import detector_path
    from liveness.members.names import weights_path
    from liveness.members.weights import save_member
    from liveness.models.build import build

    listed = []
    for recipe, fold, size in (("convnext_xlarge", 0, 96), ("convnext_large", 1, 64)):
        made = load_recipe(recipe, [*NARROW, f"view.size={size}"])
        torch.manual_seed(fold)
        model = build(made.model, made.view.size)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        description = {"recipe": to_dict(made), "fold": fold, "data": "bench", "data_hash": "", "held_out": {}}
        contract = make_contract(made, Data(), sha256_of(detector_path()))
        save_member(weights_path("bench", recipe, fold), model.state_dict(), {**description, "contract": contract})
        listed.append({"recipe": recipe, "fold": fold, "weight": 1.0})
    point = {"name": "eer", "threshold": 0.5, "threshold_interval": [0.45, 0.55]}
    (root / "weights" / "bench" / "bench.json").write_text(json.dumps({"ensemble": listed, "thresholds": [point]}))


# --- runs ------------------------------------------------------------------------------------------


def predict(root: Path, args: argparse.Namespace) -> dict[str, Any]:
    out = root / "predicted"
    command = [sys.executable, "-m", "liveness.predict", str(root / "clips"), str(out), *ENSEMBLE]
    done, partial = out / "predictions.csv", out / "predictions.partial.csv"

    def finished() -> int:
        path = done if done.exists() else partial
        try:
            return max(0, path.read_bytes().count(b"\n") - 2)
        except OSError:
            return 0

    with Meter() as meter, open(root / "predict.log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        while process.poll() is None:
            time.sleep(0.5)
            meter.mark(finished(), args.clips // 4)
        meter.mark(args.clips, args.clips // 4)
    if process.returncode:
        raise SystemExit((root / "predict.log").read_text()[-2000:])
    return meter.describe(args.clips)


def read_predictions(path: Path) -> dict[str, tuple]:
    from liveness.prediction.rows import parse_row

    with open(path, newline="") as file:
        rows = list(csv.reader(file))[1:]
    return {row.fname: tuple(getattr(row, name) for name in COLUMNS) for row in map(parse_row, rows)}


class Nodes:
    """A Ray cluster of two nodes on this machine, which share its cores; one of them can be killed."""

    def __enter__(self) -> "Nodes":
        from ray.cluster_utils import Cluster

        self.each = max(1, cores() // 2)
        shared = {"num_cpus": self.each, "object_store_memory": 300 << 20}
        self.cluster = Cluster(True, head_node_args={**shared, "include_dashboard": False})
        self.shared = shared
        self.second = self.cluster.add_node(**shared)
        return self

    def __exit__(self, *_: object) -> None:
        self.cluster.shutdown()

    @property
    def address(self) -> str:
        return self.cluster.address

    def replace(self) -> None:
        """Kill the second node, as a machine that loses its power, and start another."""
        self.cluster.remove_node(self.second, allow_graceful=False)
        self.second = self.cluster.add_node(**self.shared)


def watch(
    root: Path, name: str, nodes: Nodes, args: argparse.Namespace, expected: dict[str, tuple], kills: bool
) -> dict[str, Any]:
    """One run, and what became of it."""
    out = root / name
    command = [sys.executable, "-m", "liveness.bulk", str(root / "clips"), str(out), *ENSEMBLE]
    command += ["--address", nodes.address, "--rows", str(args.rows)]
    killed = {"processes": 0, "nodes": 0, "drivers": 0}
    next_kill = args.every
    with Meter() as meter, open(root / f"{name}.log", "w") as log:
        driver = subprocess.Popen(command, stdout=log, stderr=log)
        while driver.poll() is None:
            time.sleep(0.5)
            done = min(args.clips, len(list(out.glob("part-*.parquet"))) * args.rows)
            meter.mark(done, args.clips // 4)
            if meter.seconds() > args.limit:
                driver.kill()
                raise SystemExit(f"{name}: not done in {args.limit:g} s, {done} rows")
            if not kills or not done:
                continue
            if done > 0.3 * args.clips and not killed["drivers"]:
                driver.kill()
                driver.wait()
                killed["drivers"] = 1
                driver = subprocess.Popen(command, stdout=log, stderr=log)
            elif done > 0.6 * args.clips and not killed["nodes"]:
                nodes.replace()
                killed["nodes"] = 1
            elif meter.seconds() > next_kill and kill_one(killed["processes"]):
                killed["processes"] += 1
                next_kill = meter.seconds() + args.every
        meter.mark(args.clips, args.clips // 4)
    if driver.returncode:
        raise SystemExit(f"{name}: exit code {driver.returncode}: {(root / f'{name}.log').read_text()[-2000:]}")
    return judge(out, expected) | meter.describe(args.clips) | {"killed": killed}


def judge(out: Path, expected: dict[str, tuple]) -> dict[str, Any]:
    import pyarrow.parquet as pq

    rows = [row for path in sorted(out.glob("part-*.parquet")) for row in pq.read_table(path).to_pylist()]
    found = {row["key"]: tuple(row[name] for name in COLUMNS) for row in rows}
    rounded = {key: (row[0], round(row[1], 9), *row[2:]) for key, row in found.items()}
    wrong = [key for key in expected if rounded.get(key) != expected[key]]
    return {
        "rows": len(rows),
        "keys": len(found),
        "wrong": len(wrong),
        "same": not wrong and len(rows) == len(expected),
    }


# --- processes -------------------------------------------------------------------------------------


class Meter(threading.Thread):
    """Time, processor time and memory of all processes below this one, sampled every two seconds."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._memory: list[float] = []  # MiB
        self._ticks: dict[tuple[int, str], int] = {}  # by process and its start
        self._over = threading.Event()
        self._marks: list[tuple[int, float, float]] = []  # rows, seconds, processor seconds: at the first and the last
        self._begun = time.perf_counter()

    def __enter__(self) -> "Meter":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def run(self) -> None:
        while not self._over.wait(2):
            self._sample()

    def seconds(self) -> float:
        return time.perf_counter() - self._begun

    def mark(self, rows: int, least: int) -> None:
        """Note that so many rows are finished; ``least``: before that many the run has not begun."""
        if rows >= least and (not self._marks or rows > self._marks[-1][0]):
            self._sample()
            used = sum(self._ticks.values()) / os.sysconf("SC_CLK_TCK")
            self._marks = [*self._marks[:1], (rows, self.seconds(), used)]

    def describe(self, clips: int) -> dict[str, Any]:
        (before, begun, used), (rows, ended, all_used) = self._marks[0], self._marks[-1]
        return {
            "seconds": round(ended, 1),
            "cpu_seconds": round(all_used, 1),
            "rate": round((rows - before) / (ended - begun), 2),
            "cpu_milliseconds": round(1000 * (all_used - used) / (rows - before), 2),
            "memory": describe_memory(self._memory),
        }

    def _sample(self) -> None:
        memory = 0
        for pid, _ in below(os.getpid()):
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                self._ticks[pid, fields[19]] = int(fields[11]) + int(fields[12])
                memory += prepare.shared_memory(pid)
            except (OSError, IndexError):
                continue
        self._memory.append(memory / (1 << 20))


def below(above: int) -> list[tuple[int, str]]:
    """The processes that a process has started, and those that they have: their numbers and commands."""
    listed = subprocess.check_output(["ps", "-eo", "pid,ppid,args"], text=True).splitlines()[1:]
    rows = [(int(pid), int(parent), args) for pid, parent, args in (line.split(None, 2) for line in listed)]
    family, grown = {above}, True
    while grown:
        more = {pid for pid, parent, _ in rows if parent in family} - family
        family, grown = family | more, bool(more)
    return [(pid, args) for pid, _, args in rows if pid in family and pid != above]


def kill_one(turn: int) -> bool:
    """Kill a process of Ray that decodes, or that scores, in turns; whether there was one."""
    found = [pid for pid, args in below(os.getpid()) if args.startswith(WORKERS[turn % 2])]
    if found:
        os.kill(found[turn % len(found)], signal.SIGKILL)
    return bool(found)


def describe_memory(samples: list[float]) -> dict[str, float]:
    thirds = [samples[n * len(samples) // 3 : (n + 1) * len(samples) // 3] or samples for n in range(3)]
    medians = [statistics.median(third) for third in thirds]
    return {
        "median_mib": round(statistics.median(samples)),
        "peak_mib": round(max(samples)),
        "growth": round(medians[2] / medians[1], 3),
    }


if __name__ == "__main__":
    sys.exit(main())
