"""How fast the training loop is, against a plain loop over the same JPEG frames in one run.

    python benchmarks/train.py [--models NAME:SIZE ...] [--batch N] [--steps N] [--repeat N] [--workers N]
                               [--variants NAME ...] [--frame 480x852] [--profile] [--out FILE]

Variants, each a process of its own:

    plain                 timm model, torchvision ImageFolder and transforms, AdamW, autocast on a GPU: the
                          loop of a tutorial
    plain_channels_last   the same with the model and the images in that memory layout
    plain_compiled        that, with torch.compile (by default on a GPU only)
    ours                  training/loop.py with augment=zalo2022, EMA, drop path by sample, the check for
                          losses that are not finite
    ours_compiled         that, with train.compile=true (by default on a GPU only)

All have the same model with random weights, input size, batch, precision, number of loader processes and
kinds of augmentation (crop, flips, RandAugment, erasing). Makes its own frames. Prints JSON: images per
second (the fastest of the repetitions, which take turns, so that a busy machine hurts all alike), the
ratio to plain (also in processor time of the training process: the one to trust on a busy machine without
a GPU), the share of the time that the loop waits for its data, peak memory, and the share of the rate of
a matrix product that is measured here too (operations counted as 3 x the forward pass).
Without a GPU: small models, about 2 minutes on 2 cores; with one: ConvNeXt-Large 224 and XLarge 128.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[1] / "src"
sys.path.insert(0, str(SOURCE))
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
# As the package sets it, before torch is loaded, for all variants: threads that wait must not count as work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import prepare  # noqa: E402  (benchmarks/prepare.py: how a report is told)

from liveness.base.machine import cores  # noqa: E402

PLAIN = ("plain", "plain_channels_last", "plain_compiled")
VARIANTS = (*PLAIN, "ours", "ours_compiled")
WARM_UP = 3  # steps that are not counted; compiled: the compilation lies in them
DROP_PATH = 0.1
SEED = 69


def main() -> int:
    args = arguments()
    if args.stage:
        print(json.dumps(stage(args)))
        return 0
    with tempfile.TemporaryDirectory(prefix="bench-train-", dir=args.work) as folder:
        make_frames(args, Path(folder))
        report = benchmark(args, Path(folder))
    prepare.tell(report, args.out)
    return 0


def arguments() -> argparse.Namespace:
    import torch

    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(prog="benchmarks/train.py", description="The training loop against a plain one.")
    models = ["convnext_large:224", "convnext_xlarge:128"] if gpu else ["tf_efficientnet_lite0:160", "convnext_atto:96"]
    parser.add_argument("--models", nargs="+", default=models, metavar="NAME:SIZE")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, metavar="NAME", help=", ".join(VARIANTS))
    parser.add_argument("--batch", type=int, default=32, metavar="N", help="images a step, at once (default 32)")
    parser.add_argument("--steps", type=int, default=60 if gpu else 8, metavar="N", help="steps that are timed")
    parser.add_argument("--repeat", type=int, default=2, metavar="N")
    parser.add_argument("--workers", type=int, default=min(12, cores()), metavar="N")
    parser.add_argument("--frames", type=int, default=1024 if gpu else 128, metavar="N", help="different JPEG frames")
    parser.add_argument("--frame", default="480x852", metavar="WxH", help="their size (default 480x852)")
    parser.add_argument("--profile", action="store_true", help="also where the time of ours goes, by operator")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="for the frames (default: the system's)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON there too")
    parser.add_argument("--stage", nargs=3, metavar=("VARIANT", "MODEL", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.variants = args.variants or [name for name in VARIANTS if gpu or not name.endswith("compiled")]
    return args


def benchmark(args: argparse.Namespace, folder: Path) -> dict:
    """Every variant of every model, in turns."""
    models = {}
    for model in args.models:
        runs: dict[str, list[dict]] = {name: [] for name in args.variants}
        for turn in range(args.repeat):
            for name in args.variants:
                runs[name].append(in_process(args, name, model, folder))
                say(f"{model}, turn {turn + 1}: {name} {runs[name][-1]['images_per_second']:.1f} images/s")
        models[model] = summary(runs)
        if args.profile:
            models[model]["profile_of_ours"] = in_process(args, "ours", model, folder, "--profile")["profile"]
    return {
        "benchmark": "train",
        "command": " ".join(["python", "benchmarks/train.py", *sys.argv[1:]]),
        "machine": machine(),
        "frames": f"{args.frames} JPEG frames of {args.frame}, quality 95",
        "batch": args.batch,
        "steps": args.steps,
        "loader_processes": args.workers,
        "models": models,
    }


def in_process(args: argparse.Namespace, variant: str, model: str, folder: Path, *more: str) -> dict:
    numbers = {"--batch": args.batch, "--steps": args.steps, "--workers": args.workers, "--frames": args.frames}
    options = [str(word) for pair in numbers.items() for word in pair]
    command = [sys.executable, __file__, "--stage", variant, model, str(folder), *options, *more]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def summary(runs: dict[str, list[dict]]) -> dict:
    """The fastest run of each variant, and its rate over that of the plain loops."""
    best = {name: dict(max(figures, key=lambda run: run["images_per_second"])) for name, figures in runs.items()}
    for name, figures in runs.items():
        best[name].pop("profile", None)
        best[name]["all_images_per_second"] = [run["images_per_second"] for run in figures]
        best[name]["processor_milliseconds_per_step"] = min(run["processor_milliseconds_per_step"] for run in figures)
    for name in best if "plain" in best else ():
        best[name]["ratio_to_plain"] = ratio(best[name], best["plain"])
        times = [best[key]["processor_milliseconds_per_step"] for key in ("plain", name)]
        best[name]["ratio_to_plain_in_processor_time"] = round(times[0] / times[1], 3)
    ours = [best[name] for name in best if name not in PLAIN]
    plain = [best[name] for name in best if name in PLAIN]
    result: dict[str, Any] = {"variants": best}
    if ours and plain:
        fastest = [max(group, key=lambda run: run["images_per_second"]) for group in (ours, plain)]
        result["best_of_ours_to_best_of_plain"] = ratio(*fastest)
    return result


def ratio(one: dict, other: dict) -> float:
    return round(one["images_per_second"] / other["images_per_second"], 3)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# --- the frames --------------------------------------------------------------------------------


def make_frames(args: argparse.Namespace, folder: Path) -> None:
    """frames/<video>-0.jpg as a prepared set has them, and the same files as plain/<label>/<video>.jpg."""
    import cv2
    import numpy as np

    width, height = map(int, args.frame.split("x"))
    rng = np.random.default_rng(SEED)
    for name in ("frames", "plain/0", "plain/1"):
        (folder / name).mkdir(parents=True)
    say(f"making {args.frames} frames of {args.frame}")
    for number in range(args.frames):
        coarse = rng.integers(0, 256, (9, 6, 3), dtype=np.uint8)
        picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        picture += rng.integers(-6, 7, picture.shape, dtype=np.int16)
        path = folder / "frames" / f"{number}-0.jpg"
        cv2.imwrite(str(path), picture.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 95])
        os.link(path, folder / "plain" / str(number % 2) / f"{number}.jpg")


# --- one variant, in its own process --------------------------------------------------------------


class Clock:
    """Times the steps after the warm-up, and of that the waiting for data."""

    def __init__(self, steps: int, device: Any) -> None:
        self.steps, self.device = steps, device
        self.step, self.waited, self.started, self.seconds = 0, 0.0, 0.0, 0.0
        self.processor = 0.0  # seconds of all threads of this process

    def waiting(self, batches: Iterator) -> Iterator:
        """Hand the batches on, adding up the time until each is there."""
        while True:
            before = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.waited += time.perf_counter() - before
            yield batch

    def tick(self) -> bool:
        """To be called after each step. Whether it was the last."""
        self.step += 1
        if self.step in (WARM_UP, WARM_UP + self.steps):
            self._finish_work()
        if self.step == WARM_UP:
            self.waited, self.started, self.processor = 0.0, time.perf_counter(), time.process_time()
        if self.step == WARM_UP + self.steps:
            self.seconds, self.processor = time.perf_counter() - self.started, time.process_time() - self.processor
        return self.step >= WARM_UP + self.steps

    def _finish_work(self) -> None:
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize()


def stage(args: argparse.Namespace) -> dict:
    """Run one variant of one model; its figures."""
    import torch

    variant, model, folder = args.stage
    name, size = model.split(":")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(cores())
    torch.manual_seed(SEED)
    clock = Clock(args.steps, device)
    loop = plain_loop if variant in PLAIN else our_loop
    profile = loop(args, variant, name, int(size), clock)
    rate = args.steps * args.batch / clock.seconds
    flops = 3 * forward_flops(name, int(size))
    product = matrix_rate(device)
    figures = {
        "images_per_second": round(rate, 2),
        "milliseconds_per_step": round(1000 * clock.seconds / args.steps, 1),
        "processor_milliseconds_per_step": round(1000 * clock.processor / args.steps, 1),
        "waiting_for_data": round(clock.waited / clock.seconds, 4),
        "peak_memory_mib": peak_memory(device),
        "teraflops": round(rate * flops / 1e12, 4),
        "matrix_product_teraflops": round(product / 1e12, 4),
        "share_of_matrix_product": round(rate * flops / product, 4),
    }
    return figures | ({"profile": profile} if profile else {})


def plain_loop(args: argparse.Namespace, variant: str, name: str, size: int, clock: Clock) -> None:
    """What one writes first: no EMA, no checks, no accumulation."""
    import timm
    import torch

    layout = torch.contiguous_format if variant == "plain" else torch.channels_last
    model = timm.create_model(name, num_classes=1, drop_path_rate=DROP_PATH).to(clock.device, memory_format=layout)
    called = torch.compile(model) if variant == "plain_compiled" else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05)
    criterion = torch.nn.BCEWithLogitsLoss()
    gpu = clock.device.type == "cuda"
    model.train()
    for images, labels in clock.waiting(plain_batches(args, size)):
        images = images.to(clock.device, non_blocking=True, memory_format=layout)
        labels = labels.to(clock.device, torch.float32, non_blocking=True)
        with torch.autocast(clock.device.type, dtype=torch.bfloat16, enabled=gpu):
            loss = criterion(called(images).flatten(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if clock.tick():
            return


def plain_batches(args: argparse.Namespace, size: int) -> Iterator:
    """Shuffled batches of torchvision's ImageFolder, epoch after epoch."""
    import torch
    from torchvision import datasets
    from torchvision.transforms import InterpolationMode, v2

    steps = v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.08, 1.0), interpolation=InterpolationMode.BICUBIC),
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.RandAugment(magnitude=9),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            v2.RandomErasing(0.25),
        ]
    )
    frames = datasets.ImageFolder(Path(args.stage[2]) / "plain", steps)
    loader = torch.utils.data.DataLoader(
        frames,
        batch_size=args.batch,
        shuffle=True,
        drop_last=True,
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
    while True:
        yield from loader


def our_loop(args: argparse.Namespace, variant: str, name: str, size: int, clock: Clock) -> list[dict] | None:
    """The project's own: the frames, the policy and the loop that training uses."""
    from liveness.base.compose import load_recipe
    from liveness.models.build import build
    from liveness.training import loop
    from liveness.training.augment import Policy
    from liveness.training.samples import TrainingFrames
    from liveness.training.task import Supervised

    count = args.steps + WARM_UP
    recipe = load_recipe(
        "convnext_xlarge",
        [f"model.name={name}", "model.pretrained=", f"model.drop_path={DROP_PATH}", f"view.size={size}"]
        + [f"train.batch={args.batch}", f"train.batch_per_process={args.batch}", f"train.workers={args.workers}"]
        + [f"train.epochs={1 + count * args.batch // args.frames}", f"train.compile={variant == 'ours_compiled'}"],
    )
    frames = TrainingFrames(Path(args.stage[2]), rows(args.frames), Policy(recipe.augment, recipe.view), SEED)
    task = Supervised(recipe, build(recipe.model, size), frames)
    state = loop.start_state(task, clock.device, recipe.train.lr)
    stream = task.stream
    task.stream = lambda *arguments: clock.waiting(stream(*arguments))
    if args.profile:
        return profiled(lambda: loop.run_epochs(state, lambda row: None, clock.tick))
    loop.run_epochs(state, lambda row: None, clock.tick)
    return None


def rows(count: int) -> Any:
    """The table of frames that a prepared set would give."""
    import pandas as pd

    return pd.DataFrame({"video_id": range(count), "frame_id": 0, "label": [n % 2 for n in range(count)], "face": 0})


# --- measures ----------------------------------------------------------------------------------


def profiled(work: Callable[[], Any]) -> list[dict]:
    """The operators that take most of the time of ``work``, by their own time on the device."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    gpu = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * gpu) as record:
        work()
    own = "self_device_time_total" if gpu else "self_cpu_time_total"
    events = sorted(record.key_averages(), key=lambda event: getattr(event, own), reverse=True)
    # The loop's own process alone is seen: the loader's work is not in here.
    whole = sum(getattr(event, own) for event in events)
    return [
        {"operator": event.key[:120], "share": round(getattr(event, own) / whole, 4), "calls": event.count}
        for event in events[:25]
    ]


def forward_flops(name: str, size: int) -> int:
    """Floating-point operations of the forward pass of one image (two for a multiplication with its addition)."""
    import timm
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model, image = timm.create_model(name, num_classes=1).eval(), torch.empty(1, 3, size, size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    return counter.get_total_flops()


def matrix_rate(device: Any) -> float:
    """Floating-point operations per second of a large square matrix product: bf16 on a GPU, else float32."""
    import torch

    gpu = device.type == "cuda"
    n, turns = (8192, 20) if gpu else (1536, 4)
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16 if gpu else torch.float32)
    best = 0.0
    for _ in range(4):
        if gpu:
            torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(turns):
            a @ a
        if gpu:
            torch.cuda.synchronize()
        best = max(best, turns * 2 * n**3 / (time.perf_counter() - started))
    return best


def peak_memory(device: Any) -> dict[str, int]:
    """Of this process alone; the loader's processes are not in it."""
    import torch

    figures = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10}
    if device.type == "cuda":
        figures["gpu_allocated"] = torch.cuda.max_memory_allocated() >> 20
        figures["gpu_reserved"] = torch.cuda.max_memory_reserved() >> 20
    return figures


def machine() -> dict[str, Any]:
    import torch

    processor = platform.processor()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), processor)
    found = {
        "processor": processor,
        "cores": cores(),
        "load_at_start": round(os.getloadavg()[0], 2),
        "system": platform.system() + " " + platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


if __name__ == "__main__":
    sys.exit(main())
