"""What exporting gains: torch against ONNX Runtime, OpenVINO and int8 on the CPU, in one run.

    python benchmarks/runtime.py ENSEMBLE --data SET --videos FOLDER [--exported DIR] [--int8 DIR]
                                 [--count 20] [--repeat 3] [--out FILE]

ENSEMBLE's members (weights/SET/) and what ``liveness export`` made of them (default: weights/SET/exported/). Per way:

    forward    all members' forward passes of a clip's views on one thread, from the same decoded views
    start      a process from its start to the score of one clip (liveness.predict), and what of it are imports
    further    what a further clip costs in such a process, decoding and all, on all cores: all clips less one

Repetitions take turns, and the fastest counts. ``ratio`` is torch's figure over the way's (2: twice as fast);
``processor`` figures are of all threads and child processes: those to trust on a machine that does other work. Prints
JSON, and writes it to FILE.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
SOURCE = FOLDER.parent / "src"
sys.path[:0] = [str(SOURCE), str(FOLDER)]
os.environ["PYTHONPATH"] = os.pathsep.join([str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])])
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import train  # noqa: E402  (benchmarks/train.py: the machine)

from liveness.base.compose import load_ensemble  # noqa: E402
from liveness.base.files import find_videos  # noqa: E402
from liveness.frames.views import VideoViews  # noqa: E402
from liveness.members.names import exported_path  # noqa: E402
from liveness.prediction.engine import EnsembleDescription, decode_ahead, load_weights, read_ensemble  # noqa: E402
from liveness.prediction.exported import read_exported  # noqa: E402

IMPORTS = {
    "torch": "import torch, timm, liveness.prediction.engine",
    "": "import sys, liveness.prediction.detector; sys.modules['openvino_telemetry'] = None",  # as models/exported.py
}
LIBRARY = {"onnxruntime": "onnxruntime", "openvino": "openvino", "int8": "onnxruntime", "int8 openvino": "openvino"}


def main() -> int:
    args = arguments()
    exported = args.exported or exported_path(args.data, args.ensemble)
    folders = {"onnxruntime": exported, "openvino": exported, "int8": args.int8, "int8 openvino": args.int8}
    ways = {way: folder for way, folder in folders.items() if folder and find_spec(LIBRARY[way])}
    clips = find_videos(args.videos)[: args.count]
    described = {"torch": read_ensemble(load_ensemble(args.ensemble), args.data)}
    described |= {way: read_exported(folder, runtime=LIBRARY[way]) for way, folder in ways.items()}
    found: dict[str, dict[str, Any]] = {way: {} for way in described}
    measure_forward(described, clips, args.repeat, found)
    measure_processes(args, ways, clips, found)
    for way, figures in found.items():
        figures["ratio"] = {
            name: round(found["torch"][name] / value, 2) for name, value in figures.items() if way != "torch"
        }
    report = {
        "benchmark": "runtime",
        "command": " ".join(["python", "benchmarks/runtime.py", *sys.argv[1:]]),
        "machine": train.machine(),
        "members": [member.name for member in described["torch"].members],
        "clips": len(clips),
        "ways": found,
    }
    print(json.dumps(report, indent=1))
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/runtime.py", description="torch against exported models.")
    parser.add_argument("ensemble")
    parser.add_argument("--data", required=True, metavar="SET")
    parser.add_argument("--videos", required=True, type=Path, metavar="FOLDER")
    parser.add_argument("--exported", type=Path, metavar="DIR")
    parser.add_argument("--int8", type=Path, metavar="DIR")
    parser.add_argument("--count", type=int, default=20, metavar="N", help="clips (default 20)")
    parser.add_argument("--repeat", type=int, default=3, metavar="N")
    parser.add_argument("--out", type=Path, metavar="FILE")
    return parser.parse_args()


def measure_forward(
    described: dict[str, EnsembleDescription], clips: list[Path], repeat: int, found: dict[str, dict[str, Any]]
) -> None:
    """Milliseconds a clip of all members' passes on this thread, and of the processor."""
    videos = list(decode_ahead(clips, described["torch"].wanted()))
    os.environ["OMP_NUM_THREADS"] = "1"
    loaded = {way: load_weights(replace(one)) for way, one in described.items()}
    runs: dict[str, list[tuple[float, float]]] = {way: [] for way in described}
    for turn in range(repeat + 1):
        for way, one in loaded.items():
            started, busy = time.perf_counter(), time.process_time()
            for video in videos:
                pass_once(one.members, video)
            if turn:  # the first warms up
                runs[way].append((time.perf_counter() - started, time.process_time() - busy))
    for way, timed in runs.items():
        found[way]["forward_ms"], found[way]["forward_processor_ms"] = (
            round(1000 * min(run[kind] for run in timed) / len(videos), 2) for kind in (0, 1)
        )
    del os.environ["OMP_NUM_THREADS"]


def pass_once(members: list, video: VideoViews) -> None:
    for member in members:
        if (views := video.views.get(member.wanted.key)) is not None:
            member.loaded().score_views(member.loaded().to_batch(views, member.wanted.view))


def measure_processes(
    args: argparse.Namespace, ways: dict[str, Path], clips: list[Path], found: dict[str, dict[str, Any]]
) -> None:
    """Start to the first score, imports, and a further clip, each of a process of its own."""
    options = {"torch": ["--ensemble", args.ensemble, "--data", args.data]}
    for way, folder in ways.items():
        backend = "openvino" if LIBRARY[way] == "openvino" else "onnx"
        options[way] = ["--exported", str(folder), "--backend", backend]
    with tempfile.TemporaryDirectory(prefix="bench-runtime-") as work:
        many = Path(work) / "many"
        many.mkdir()
        for clip in clips:
            (many / clip.name).symlink_to(clip.resolve())
        runs: dict[str, dict[str, list[tuple[float, float]]]] = {way: {} for way in options}
        for _ in range(args.repeat):
            for way, given in options.items():
                predict = [sys.executable, "-m", "liveness.predict"]
                output = str(Path(work) / "out")
                timed = {
                    "imports": [
                        sys.executable,
                        "-c",
                        IMPORTS.get(way, f"{IMPORTS['']}; import {LIBRARY.get(way, '')}"),
                    ],
                    "start": [*predict, str(clips[0]), output, *given],
                    "all": [*predict, str(many), output, *given],
                }
                for name, command in timed.items():
                    runs[way].setdefault(name, []).append(measured(command))
    for way, by_name in runs.items():
        best = {name: [min(run[kind] for run in timed) for kind in (0, 1)] for name, timed in by_name.items()}
        for name in ("start", "imports"):
            found[way][f"{name}_s"], found[way][f"{name}_processor_s"] = (round(value, 2) for value in best[name])
        further: Callable[[int], float] = lambda kind: (best["all"][kind] - best["start"][kind]) / (len(clips) - 1)  # noqa: B023, E731
        found[way]["further_ms"], found[way]["further_processor_ms"] = (round(1000 * further(k), 1) for k in (0, 1))


def measured(command: list[str]) -> tuple[float, float]:
    """Seconds of a process from start to end, and of the processor, its children's too."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - started, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    sys.exit(main())
