"""How many training samples one core makes, from JPEG frames and from decoded ones, and where the time goes.

    python benchmarks/loader.py [--models NAME:SIZE ...] [--frames WxH ...] [--count N] [--repeat N] [--out FILE]

`jpeg` decodes the frame for every sample (the reference), `decoded` reads the memory-mapped pixels of
sets/decoded.py; both give the same samples, which is checked. The augmentation is configs/augment/zalo2022. One
process, one thread. Prints JSON: images per second of processor time (the best repetition; the two take turns, so
that a busy machine hurts both alike), the ratio to `jpeg`, milliseconds per sample by step, and the cores that an H100
needs (NEEDED).
"""

import argparse
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import prepare  # benchmarks/prepare.py: a realistic picture, how a report is told
import train  # benchmarks/train.py: the machine

SEED = 69
MODELS = ["convnext_large:224", "convnext_xlarge:128"]
# Images per second of an H100 at 45 % of its bf16 peak (989 TFLOP/s), a training step counted as 3 forward passes.
NEEDED = {128: 3000, 224: 1700}


def main() -> int:
    args = arguments()
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for size in args.frames:
        with tempfile.TemporaryDirectory(prefix="bench-loader-", dir=args.work) as folder:
            names = make_frames(Path(folder), size, args.pictures)
            found[size] = {model: measure(args, Path(folder), names, int(model.split(":")[1])) for model in args.models}
    report = {
        "benchmark": "loader",
        "command": " ".join(["python", "benchmarks/loader.py", *sys.argv[1:]]),
        "machine": train.machine(),
        "needed_images_per_second": NEEDED,
        "frames": found,
    }
    prepare.tell(report, args.out)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/loader.py", description="Training samples per core.")
    parser.add_argument(
        "--models", nargs="+", default=["convnext_large:224", "convnext_xlarge:128"], metavar="NAME:SIZE"
    )
    parser.add_argument("--frames", nargs="+", default=["720x1280", "1080x1920"], metavar="WxH")
    parser.add_argument("--pictures", type=int, default=12, metavar="N", help="different frames (default 12)")
    parser.add_argument("--count", type=int, default=96, metavar="N", help="samples per repetition (default 96)")
    parser.add_argument("--repeat", type=int, default=3, metavar="N")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="for the frames (default: the system's)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON there too")
    return parser.parse_args()


def make_frames(folder: Path, size: str, count: int) -> list[str]:
    import cv2
    import numpy as np

    width, height = map(int, size.split("x"))
    rng = np.random.default_rng(SEED)
    (folder / "frames").mkdir()
    names = [f"{number}-0.jpg" for number in range(count)]
    for name in names:
        picture: Any = prepare.picture(rng, width, height)
        cv2.imwrite(str(folder / "frames" / name), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    return names


def measure(args: argparse.Namespace, folder: Path, names: list[str], size: int) -> dict:
    """Both ways in turns, for the recipe of the 1st place at ``size`` pixels."""
    import torch

    from liveness.base.compose import load_recipe
    from liveness.sets.decoded import open_decoded
    from liveness.training.augment import Policy
    from liveness.training.samples import TrainingFrames

    recipe = load_recipe("convnext_xlarge", [f"view.size={size}"])
    policy, table = Policy(recipe.augment, recipe.view), train.rows(len(names))
    ways = {
        "jpeg": TrainingFrames(folder, table, policy, SEED),
        "decoded": TrainingFrames(folder, table, policy, SEED, open_decoded(folder, names, 64 << 30)),
    }
    keys = [(n // len(names), n % len(names)) for n in range(args.count)]
    first, second = ([frames[key] for key in keys[:24]] for frames in ways.values())
    assert all(torch.equal(a[0], b[0]) and a[1] == b[1] for a, b in zip(first, second, strict=True)), "samples differ"
    best = dict.fromkeys(ways, 0.0)
    for _ in range(args.repeat):
        for name, frames in ways.items():
            started = time.process_time()
            for key in keys:
                frames[key]
            best[name] = max(best[name], args.count / (time.process_time() - started))
    return {
        "images_per_second_per_core": {name: round(rate, 1) for name, rate in best.items()},
        "ratio_to_jpeg": round(best["decoded"] / best["jpeg"], 2),
        "cores_for_an_h100": {name: round(NEEDED[size] / rate, 1) for name, rate in best.items() if size in NEEDED},
        "milliseconds_per_sample": {name: steps(frames, keys) for name, frames in ways.items()},
    }


def steps(frames: Any, keys: list) -> dict[str, float]:
    """Where the time of a sample goes, in processor milliseconds; `other` is what no step covers."""
    from liveness.sets import dataset
    from liveness.training import augment, samples

    policy = frames.policy
    spent: dict[str, float] = defaultdict(float)
    places: list[tuple[Any, str, str]] = [
        (dataset, "jpeg_decode", "decode"),
        (samples, "read_frame", "read"),
        (policy, "_crop", "crop"),
        (augment, "resize", "resize"),
        (policy, "rand_augment", "rand_augment"),
        (augment, "to_tensor", "to_tensor"),
        (policy, "erase", "erase"),
    ]
    with watched(places, spent):
        started = time.process_time()
        for key in keys:
            frames[key]
        total = time.process_time() - started
    spent["read"] -= spent["decode"]
    spent["other"] = total - sum(spent.values())
    return {name: round(1000 * seconds / len(keys), 3) for name, seconds in spent.items()} | {
        "all": round(1000 * total / len(keys), 3)
    }


@contextmanager
def watched(places: list[tuple[Any, str, str]], spent: dict[str, float]) -> Iterator[None]:
    def watch(function: Callable, name: str) -> Callable:
        def run(*arguments: Any, **named: Any) -> Any:
            started = time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                spent[name] += time.process_time() - started

        return run

    kept = [(owner, attribute, getattr(owner, attribute)) for owner, attribute, _ in places]
    for (owner, attribute, name), (_, _, function) in zip(places, kept, strict=True):
        setattr(owner, attribute, watch(function, name))
    try:
        yield
    finally:
        for owner, attribute, function in kept:
            setattr(owner, attribute, function)


if __name__ == "__main__":
    sys.exit(main())
