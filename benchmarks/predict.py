"""How fast prediction is, against a plain script and against the floors that no code can beat, in one run.

    python benchmarks/predict.py [--small | --full-size] [--count 100] [--counts 10 1000 10000]
                                 [--size 720x1280] [--seconds 3] [--fps 25] [--repeat 2] [--out FILE]

Ensembles, with random weights: ``eight`` has the layout of the 1st place (five members at 128 px, three at
224 px, three frames each), ``one`` a single member at 128 px. --small (default without a GPU):
ConvNeXt-Atto; --full-size (default on one): ConvNeXt-XLarge and -Large.

Stages, each a process of its own:

    ours      python -m liveness.predict, from the start of the interpreter to submission.csv
    plain     a sequential script: OpenCV decodes, every frame is written as JPEG and read again, one model
              after the other in float32 with all cores (or the GPU)
    decode    floor: FFmpeg's decoder alone (PyAV, no conversion) up to the last frame needed, on all cores
    ffmpeg    the same with the ffmpeg program, where there is one
    prepared  the project's decoders alone: also JPEG there and back, and the resampling of every view
    forward   floor: the bare forward passes of the same models at the same shapes, nothing else. On the CPU the
              faster of one thread per core and all cores per pass; on a GPU batches of 32 views in mixed precision
    notebook  score_one in a loop after a warm-up: milliseconds per video as the notebook counts them

Prints JSON. ``milliseconds`` of ours, plain and decode is the cost of a further video: the run of all less
the run of 10, so no start-up is in it; on the CPU nothing overlaps on cores that are all busy, so its floor is
decode + forward, on a GPU the larger of the two. Repetitions take turns and the fastest counts.
``processor_milliseconds`` is the time of all cores: the figure to trust on a machine that does other work.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
SOURCE = FOLDER.parent / "src"
sys.path[:0] = [str(SOURCE), str(FOLDER)]
os.environ["PYTHONPATH"] = os.pathsep.join([str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])])
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the package sets it, for all stages

import prepare  # noqa: E402  (benchmarks/prepare.py: the clips and the watch over memory)
import train  # noqa: E402  (benchmarks/train.py: operations, the matrix product, the machine)

from liveness.base.machine import cores  # noqa: E402

say = prepare.say
MEMBERS = {
    "eight": [*(("convnext_xlarge", fold) for fold in range(5)), *(("convnext_large", fold) for fold in range(3))],
    "one": [("convnext_xlarge", 0)],
}
SIZES = {"convnext_xlarge": 128, "convnext_large": 224}
FRAMES = 3
BATCH = 32


def main() -> int:
    args = arguments()
    if args.stage:
        print(json.dumps(STAGES[args.stage](args)))
        return 0
    with tempfile.TemporaryDirectory(prefix="bench-predict-", dir=args.work) as folder:
        report = benchmark(args, Path(folder))
    prepare.tell(report, args.out)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/predict.py", description="Prediction against its floors.")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--small", action="store_true", help="ConvNeXt-Atto (default without a GPU)")
    size.add_argument("--full-size", action="store_true", help="ConvNeXt-XLarge and -Large (default on a GPU)")
    parser.add_argument("--ensembles", nargs="+", choices=MEMBERS, default=list(MEMBERS))
    parser.add_argument("--count", type=int, default=100, metavar="N", help="videos of a run (default 100)")
    parser.add_argument("--counts", type=int, nargs="+", default=[10, 1000], metavar="N", help="videos for the memory")
    parser.add_argument("--size", default="720x1280", metavar="WxH", help="of the clips (default 720x1280)")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--fps", type=int, default=25)
    parser.add_argument("--repeat", type=int, default=2, metavar="N")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="for the clips (default: the system's)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON there too")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.count <= 10:
        parser.error("--count: expected more than 10, as the run of 10 is subtracted")
    return args


def benchmark(args: argparse.Namespace, work: Path) -> dict:
    """Clips and weights, every stage of every ensemble in turns, start-up and memory."""
    import torch

    gpu = torch.cuda.is_available()
    full = args.full_size or (gpu and not args.small)
    say(f"making {args.count} clips of {args.size}, {args.seconds:g} s at {args.fps} fps")
    clips = prepare.make_clips(args, work / "all", cores())
    (work / "plan.json").write_text(json.dumps(prepare.last_frames(clips)), encoding="utf-8")
    put_members(work, full)
    for count in {10, *args.counts}:
        link(clips, work / str(count), count)
    machine = train.machine()
    ensembles = {name: compare(args, work, name, gpu) for name in args.ensembles}
    return {
        "benchmark": "predict",
        "command": " ".join(["python", "benchmarks/predict.py", *sys.argv[1:]]),
        "machine": machine,
        "clips": f"{args.count} of {args.size}, {args.seconds:g} s at {args.fps} fps, H.264",
        "models": {recipe: f"{model_of(recipe, full)} at {size} px" for recipe, size in SIZES.items()},
        "ensembles": ensembles,
        "start": start(work),
        "memory": {str(count): memory(work, count) for count in args.counts},
    }


def compare(args: argparse.Namespace, work: Path, name: str, gpu: bool) -> dict:
    """All stages of one ensemble, in turns."""
    stages = ("ours", "plain", "decode", "ffmpeg", "prepared")
    names = [stage for stage in stages if stage != "ffmpeg" or shutil.which("ffmpeg")]
    runs: dict[str, dict[int, list[dict]]] = {stage: {10: [], args.count: []} for stage in names}
    once: dict[str, list[dict]] = {"forward": [], "notebook": []}
    for turn in range(args.repeat):
        for stage in names:
            for count, folder in ((10, work / "10"), (args.count, work / "all")):
                command = ours(work, folder, name) if stage == "ours" else other(stage, work, folder, name)
                runs[stage][count].append(measured(command, work))
            say(f"{name}, turn {turn + 1}: {stage} {runs[stage][args.count][-1]['seconds']:.2f} s")
        for stage in once:
            done = measured(other(stage, work, work / "10", name), work)
            once[stage].append(json.loads(done["output"].splitlines()[-1]))
    found: dict[str, Any] = {stage: per_video(runs[stage], args.count) for stage in names}
    found["forward"] = min(once["forward"], key=lambda run: run["milliseconds"])
    found["notebook"] = min(once["notebook"], key=lambda run: run["median"])
    found["ratios"] = ratios(found, gpu)
    return found


def per_video(runs: dict[int, list[dict]], count: int) -> dict:
    """Of the fastest runs: the whole, and what a further video costs."""
    result: dict[str, Any] = {}
    for key, name in (("seconds", "milliseconds"), ("cpu_seconds", "processor_milliseconds")):
        few, many = (min(run[key] for run in runs[n]) for n in (10, count))
        result[name] = round(1000 * (many - few) / (count - 10), 2)
        result[f"{key}_of_all"] = many
    result["videos_per_second"] = round(count / result["seconds_of_all"], 2)
    result["all_seconds"] = [run["seconds"] for run in runs[count]]
    return result


def ratios(found: dict, gpu: bool) -> dict:
    """How many times faster than plain, and how many times the floor."""
    decode, forward = found["decode"], found["forward"]
    result = {}
    for key in ("milliseconds", "processor_milliseconds"):
        floor = max(decode[key], forward[key]) if gpu else decode[key] + forward[key]
        result[key] = {
            "plain_over_ours": round(found["plain"][key] / found["ours"][key], 2),
            "floor": round(floor, 2),
            "ours_over_floor": round(found["ours"][key] / floor, 3),
        }
    result["whole_run_plain_over_ours"] = round(found["plain"]["seconds_of_all"] / found["ours"]["seconds_of_all"], 2)
    return result


def start(work: Path) -> dict:
    """What passes before the first score: imports, loading, and a whole run of one video."""
    link(sorted((work / "10").iterdir())[:1], work / "1", 1)
    imports = {}
    for what in ("liveness.predict", "liveness.prediction.engine", "torch", "torch, timm"):
        done = measured([sys.executable, "-c", f"import {what}"], work)
        imports[what] = {"seconds": done["seconds"], "processor_seconds": processor_seconds(f"import {what}")}
    runs = {}
    for name in MEMBERS:
        done = measured(ours(work, work / "1", name), work)
        load = re.search(r"load time: ([\d.]+) s", done["output"])
        runs[name] = {"load_seconds": float(load.group(1)), "one_video_seconds": done["seconds"]}
    return {"imports": imports, "runs": runs}


def processor_seconds(code: str) -> float:
    after = f"{code}\nimport time\nprint(time.process_time())"
    done = subprocess.run([sys.executable, "-c", after], stdout=subprocess.PIPE, text=True, check=True)
    return round(float(done.stdout), 3)


def memory(work: Path, count: int) -> dict:
    """Peak memory of all processes of a run of ``count`` videos, by the small ensemble."""
    done = measured(ours(work, work / str(count), "one"), work)
    say(f"memory, {count} videos: {done['peak_pss_mib']} MiB")
    return {key: done[key] for key in ("peak_pss_mib", "peak_rss_mib", "seconds")}


# --- what is run -------------------------------------------------------------------------------


def ours(work: Path, folder: Path, name: str) -> list[str]:
    members = [f"{recipe}:{fold}" for recipe, fold in MEMBERS[name]]
    return [sys.executable, "-m", "liveness.predict", str(folder), str(work / "result"), "--members", *members]


def other(stage: str, work: Path, folder: Path, name: str) -> list[str]:
    return [
        sys.executable,
        __file__,
        "--stage",
        stage,
        "--folder",
        str(folder),
        "--work",
        str(work),
        "--ensembles",
        name,
    ]


def measured(command: list[str], work: Path) -> dict:
    """Run a command in a session of its own: seconds, processor seconds and peak memory of all its processes."""
    environment = {**os.environ, "LIVENESS_ROOT": str(work)}
    with open(work / "log", "w+", encoding="utf-8") as log, open(work / "errors", "w+", encoding="utf-8") as errors:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=log, stderr=errors, env=environment, start_new_session=True)
        watch = prepare.Watch(process.pid)
        code = process.wait()
        seconds = time.perf_counter() - began
        figures = watch.stop()
        log.seek(0)
        errors.seek(0)
        if code:
            raise SystemExit(f"{' '.join(command)} failed:\n{log.read()}{errors.read()}")
        return {"seconds": round(seconds, 3), **figures, "output": log.read()}


def link(clips: list[Path], folder: Path, count: int) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        os.link(clips[number % len(clips)], folder / f"{number}.mp4")


def model_of(recipe: str, full: bool) -> str:
    return recipe if full else "convnext_atto"


def put_members(work: Path, full: bool) -> None:
    """Random weights of every member under work/weights/train."""
    os.environ["LIVENESS_ROOT"] = str(work)
    import torch

    from liveness.base.compose import load_recipe
    from liveness.base.config import Data, to_dict
    from liveness.base.files import sha256_of
    from liveness.frames.contract import make_contract
    from liveness.frames.faces import detector_path
    from liveness.members.names import weights_path
    from liveness.members.weights import save_member
    from liveness.models.build import build

    for recipe, fold in MEMBERS["eight"]:
        size = SIZES[recipe]
        made = load_recipe(recipe, [f"model.name={model_of(recipe, full)}", "model.pretrained=", f"view.size={size}"])
        torch.manual_seed(fold)
        description = {"recipe": to_dict(made), "fold": fold, "data": "train", "data_hash": "", "held_out": {}}
        contract = make_contract(made, Data(), sha256_of(detector_path()))
        model = build(made.model, size)
        save_member(weights_path("train", recipe, fold), model.state_dict(), {**description, "contract": contract})


# --- the stages, each run as a process of its own ----------------------------------------------


def plain(args: argparse.Namespace) -> dict:
    """What one writes first: no workers, no batches over videos, a file per frame."""
    import cv2
    import torch
    from PIL import Image
    from torchvision import transforms

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    models = [(model.to(device), size) for model, size in loaded(args)]
    steps = {
        size: transforms.Compose(
            [
                transforms.Resize((size, size), transforms.InterpolationMode.BICUBIC),
                transforms.ToTensor(),
                transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        )
        for size in SIZES.values()
    }
    place = args.work / "frame.jpg"
    total = 0.0
    for path in sorted(args.folder.glob("*.mp4")):
        video = cv2.VideoCapture(str(path))
        frames = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        wanted = [round(share * frames) for share in (0.2, 0.4666667, 0.7333333)]
        images = []
        for index in range(max(wanted) + 1):
            _, frame = video.read()
            if index in wanted:
                cv2.imwrite(str(place), frame)
                images.append(Image.fromarray(cv2.cvtColor(cv2.imread(str(place)), cv2.COLOR_BGR2RGB)))
        with torch.no_grad():
            for model, size in models:
                batch = torch.stack([steps[size](image) for image in images]).to(device)
                total += torch.sigmoid(model(batch)).mean().item()
    return {"sum": total}


def loaded(args: argparse.Namespace) -> list[tuple[Any, int]]:
    """The ensemble's models (float32, on the CPU) and their input sizes."""
    from liveness.members.names import weights_path
    from liveness.members.weights import load_member

    return [
        (load_member(weights_path("train", recipe, fold))[0], SIZES[recipe])
        for recipe, fold in MEMBERS[args.ensembles[0]]
    ]


def decode(args: argparse.Namespace) -> dict:
    prepare.stage_decode(plan_of(args), cores(), args.work)
    return {}


def ffmpeg(args: argparse.Namespace) -> dict:
    prepare.stage_ffmpeg(plan_of(args), cores(), args.work)
    return {}


def prepared(args: argparse.Namespace) -> dict:
    from liveness.base.config import Ensemble, EnsembleMember
    from liveness.prediction.engine import decode_ahead, read_ensemble

    members = [EnsembleMember(*member) for member in MEMBERS[args.ensembles[0]]]
    wanted = read_ensemble(Ensemble("bench", "train", members)).wanted()
    return {"videos": sum(1 for _ in decode_ahead(sorted(args.folder.glob("*.mp4")), wanted))}


def plan_of(args: argparse.Namespace) -> list[list]:
    plan = json.loads((args.work / "plan.json").read_text(encoding="utf-8"))
    return plan[: len(list(args.folder.glob("*.mp4")))]


def forward(args: argparse.Namespace) -> dict:
    """Milliseconds per video of the bare forward passes, and the share of a matrix product's rate."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    models = [(model.to(device, memory_format=torch.channels_last), size) for model, size in loaded(args)]
    ways = on_gpu(models, device) if device.type == "cuda" else on_cpu(models)
    best = min(ways.values(), key=lambda way: way["milliseconds"])
    flops = sum(FRAMES * flops_of(model, size) for model, size in models)
    rate = train.matrix_rate(device)
    return {
        **best,
        "ways": ways,
        "gigaflops_per_video": round(flops / 1e9, 2),
        "matrix_product_teraflops": round(rate / 1e12, 3),
        "share_of_matrix_product": round(flops / (best["milliseconds"] / 1000) / rate, 4),
    }


def flops_of(model: Any, size: int) -> int:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    image = torch.empty(1, 3, size, size, device=next(model.parameters()).device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    return counter.get_total_flops()


def on_cpu(models: list[tuple[Any, int]]) -> dict[str, dict]:
    import torch

    most = cores()
    views = {size: channels_last(torch.randn(FRAMES, 3, size, size)) for _, size in models}

    def video() -> None:
        with torch.inference_mode():
            for model, size in models:
                model(views[size])

    def side_by_side(turns: int) -> None:
        with ThreadPoolExecutor(most, initializer=lambda: torch.set_num_threads(1)) as pool:
            for future in [pool.submit(video) for _ in range(turns)]:
                future.result()

    def one_by_one(turns: int) -> None:
        torch.set_num_threads(most)
        for _ in range(turns):
            video()

    ways = {"one thread per core": side_by_side, "all cores per pass": one_by_one}
    return {name: timed(way, 4 * most) for name, way in ways.items()}


def on_gpu(models: list[tuple[Any, int]], device: Any) -> dict[str, dict]:
    import torch

    from liveness.models.device import autocast, halve

    views = {size: channels_last(torch.randn(BATCH, 3, size, size, device=device)) for _, size in models}
    for model, _ in models:
        halve(model)

    def batches(turns: int) -> None:
        with torch.inference_mode(), autocast(device):
            for _ in range(turns):
                for model, size in models:
                    model(views[size])
        torch.cuda.synchronize()

    found = timed(batches, 10)
    return {"batches": {key: round(value * FRAMES / BATCH, 3) for key, value in found.items()}}


def channels_last(batch: Any) -> Any:
    import torch

    return batch.contiguous(memory_format=torch.channels_last)


def timed(call: Callable[[int], None], turns: int) -> dict[str, float]:
    """Milliseconds of a turn, the fastest of three, after a warm-up."""
    call(2)
    found = []
    for _ in range(3):
        wall, processor = time.perf_counter(), time.process_time()
        call(turns)
        found.append((time.perf_counter() - wall, time.process_time() - processor))
    values = [round(1000 * min(column) / turns, 3) for column in zip(*found, strict=True)]
    return {"milliseconds": values[0], "processor_milliseconds": values[1]}


def notebook(args: argparse.Namespace) -> dict:
    """Milliseconds per video: median and 95th percentile over three rounds."""
    import numpy as np

    from liveness.base.config import Ensemble, EnsembleMember
    from liveness.prediction.engine import load_members, score_one

    members = [EnsembleMember(*member) for member in MEMBERS[args.ensembles[0]]]
    ready = load_members(Ensemble("bench", "train", members))
    paths = sorted(args.folder.glob("*.mp4"))
    score_one(paths[0], ready)
    times = [score_one(path, ready).milliseconds for _ in range(3) for path in paths]
    ready.close()
    return {"median": round(float(np.median(times)), 1), "p95": round(float(np.percentile(times, 95)), 1)}


STAGES = {
    "plain": plain,
    "decode": decode,
    "ffmpeg": ffmpeg,
    "prepared": prepared,
    "forward": forward,
    "notebook": notebook,
}


if __name__ == "__main__":
    sys.exit(main())
