"""Whether this machine's GPUs do what training and prediction need, tried on random weights and generated clips.

    report = check_machine(narrow=False, say=print)

Each check stands alone: one that fails says why, and the others go on. Without a GPU the same code runs on the CPU
with narrow models, which is how it is tested. Works in a temporary folder; reads and writes nothing else.
"""

import csv
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from liveness.base import distributed
from liveness.base.compose import load_ensemble, load_recipe
from liveness.base.config import Data, Recipe, to_dict
from liveness.base.errors import UserError
from liveness.base.files import sha256_of
from liveness.base.machine import cores, free_memory, unusable_gpu
from liveness.frames.contract import make_contract
from liveness.frames.faces import detector_path
from liveness.frames.video import jpeg_encode
from liveness.members.names import member_name
from liveness.members.weights import save_member
from liveness.models.backend import MOST_VIEWS, TorchBackend
from liveness.models.batches import batches_for
from liveness.models.build import build
from liveness.models.device import half_type, halve, pick_device
from liveness.models.score import Job, Request, score_jobs
from liveness.training import loop
from liveness.training.augment import Policy
from liveness.training.passing import SHM
from liveness.training.samples import TrainingFrames
from liveness.training.task import Supervised

ENSEMBLE = "zalo2022"
_NARROW = ["model.kwargs.depths=[1,1,1,1]", "model.kwargs.dims=[8,16,24,32]", "view.size=48", "train.batch=8"]
_STEPS, _WARM_UP = 8, 3  # optimiser steps of a recipe; the first of them are not timed
_FRAMES = 64  # different frames that a step draws from
_CLIPS, _CLIP_FRAMES = 12, 20
_GRADIENTS = 198_000_000  # float32 values that one step of ConvNeXt-Large sums over the GPUs


@dataclass(frozen=True)
class Trial:
    """What all checks know: where they may write, on what they run, and whether the models are narrow."""

    folder: Path
    device: torch.device
    narrow: bool

    def recipe(self, name: str) -> Recipe:
        more = _NARROW if self.narrow else []
        return load_recipe(name, ["model.pretrained=", "train.epochs=1000", *more])

    def recipes(self) -> list[str]:
        return list(dict.fromkeys(member.recipe for member in load_ensemble(ENSEMBLE).members))


def check_machine(narrow: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Run every check. ``say`` gets a line for each. Returns {"ok", "machine", "checks": {name: figures}}; figures have
    "ok", "seconds" and, where a check failed, "error"."""
    if why := unusable_gpu():
        raise UserError(why)
    device = pick_device()
    checks: dict[str, Callable[[Trial], dict[str, Any]]] = {
        "shared_memory": check_shared_memory,
        "all_reduce": check_all_reduce,
        "training_step": check_training_steps,
        "same_bits": check_same_bits,
        "prediction": check_prediction,
    }
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="liveness-check-") as folder:
        trial = Trial(Path(folder), device, narrow or device.type != "cuda")
        for name, check in checks.items():
            started = time.perf_counter()
            try:
                figures = check(trial)
            except Exception as error:  # noqa: BLE001  (the next check may still tell something)
                figures = {"ok": False, "error": " ".join(f"{type(error).__name__}: {error}".split())[:500]}
            figures["seconds"] = round(time.perf_counter() - started, 1)
            found[name] = figures
            say(f"{'ok    ' if figures['ok'] else 'FAILED'} {name} ({figures['seconds']:.0f} s): {_summarise(figures)}")
    ok = all(figures["ok"] for figures in found.values())
    return {"ok": ok, "narrow": trial.narrow, "machine": describe_machine(), "checks": found}


def _summarise(figures: dict[str, Any]) -> str:
    shown = [f"{key} {value}" for key, value in figures.items() if key not in ("ok", "seconds", "recipes")]
    shown += [f"{name}: {text}" for name, text in figures.get("recipes", {}).items()]
    return ", ".join(shown).replace("'", "").replace("{", "(").replace("}", ")")


def describe_machine() -> dict[str, Any]:
    """GPUs, driver, processor and versions."""
    gpus = []
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        gpus.append({"name": about.name, "gib": round(about.total_memory / (1 << 30), 1)})
    tool, driver = shutil.which("nvidia-smi"), ""
    if gpus and tool:
        asked = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split("\n")[0].strip()
    return {
        "gpus": gpus,
        "driver": driver,
        "half_precision": str(half_type()).removeprefix("torch.") if gpus else "none",
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "",
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": cores(),
        "free_memory_gib": round(free_memory() / (1 << 30), 1),
    }


def check_shared_memory(trial: Trial) -> dict[str, Any]:
    """Room for the batches of loader processes; less costs speed and no result, so it fails nothing."""
    if not SHM.is_dir():
        return {"ok": True, "free_gib": 0.0}
    free = shutil.disk_usage(SHM).free / (1 << 30)
    return {"ok": True, "free_gib": round(free, 2)} | ({} if free >= 1 else {"advice": "docker run --shm-size=2g"})


def check_all_reduce(trial: Trial) -> dict[str, Any]:
    """The sum over all GPUs (two processes on the CPU) of as many values as a step's gradients."""
    processes = torch.cuda.device_count() if trial.device.type == "cuda" else 2
    command = [sys.executable, "-m", "liveness.torchrun", "--standalone", "--local_addr", "127.0.0.1"]
    command += ["--nproc_per_node", str(processes), "-m", "liveness.check_gpu", "--all-reduce"]
    command += ["--narrow"] if trial.narrow else []
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    if done.returncode:
        return {
            "ok": False,
            "processes": processes,
            "error": (done.stderr.strip() or done.stdout).splitlines()[-1][:300],
        }
    gb_per_second = float(done.stdout.split()[-1])
    return {"ok": True, "processes": processes, "gb_per_second": round(gb_per_second, 2)}


def sum_over_processes(narrow: bool) -> float:
    """One process's part of ``check_all_reduce``. Returns gigabytes per second; a UserError for a wrong sum."""
    rank, world, local = distributed.start(patience=60)
    try:
        device = pick_device(local)
        values = torch.full((10_000 if narrow else _GRADIENTS,), float(rank + 1), device=device)
        distributed.total(values)  # connects
        best = math.inf
        for _ in range(3):
            values.fill_(float(rank + 1))
            distributed.barrier()
            started = time.perf_counter()
            summed = distributed.total(values)
            best = min(best, time.perf_counter() - started) if _wait(device) else best
        if not bool((summed == world * (world + 1) / 2).all()):
            raise UserError(f"rank {rank}: the sum over {world} processes is wrong")
        return values.numel() * 4 / best / 1e9
    finally:
        distributed.stop()


def _wait(device: torch.device) -> bool:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return True


def check_training_steps(trial: Trial) -> dict[str, Any]:
    """Steps of each recipe's global batch at its real size on one GPU, with its augmentation and loader."""
    _make_frames(trial.folder / "set" / "frames")
    recipes = {name: _step_recipe(trial, name) for name in trial.recipes()}
    return {"ok": all(figures["finite"] for figures in recipes.values()), "recipes": recipes}


def _make_frames(folder: Path) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(7)
    for number in range(_FRAMES):
        (folder / f"{number}-0.jpg").write_bytes(jpeg_encode(_picture(rng, 852, 480), 95))


def _picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    from PIL import Image

    coarse = Image.fromarray(rng.integers(0, 256, (12, 8, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def _step_recipe(trial: Trial, name: str) -> dict[str, Any]:
    recipe = trial.recipe(name)
    recipe.train.workers = min(cores(), 4 if trial.narrow else 12)
    table = pd.DataFrame(
        {"video_id": range(_FRAMES), "frame_id": 0, "label": [number % 2 for number in range(_FRAMES)], "face": 0}
    )
    frames = TrainingFrames(trial.folder / "set", table, Policy(recipe.augment, recipe.view), recipe.train.seed)
    torch.manual_seed(recipe.train.seed)
    state = loop.start_state(Supervised(recipe, build(recipe.model, recipe.view.size), frames), trial.device, 1e-4)
    if trial.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(trial.device)
    networks, stream = loop.ready_networks(state), state.task.stream(0, trial.device)
    sums, started = [], 0.0
    for step in range(_WARM_UP + _STEPS):
        if step == _WARM_UP:
            _wait(trial.device)
            started = time.perf_counter()
        sums.append(loop.run_step(state, networks, stream, 1e-5))
    _wait(trial.device)
    rate = _STEPS * min(recipe.train.batch, _FRAMES) / (time.perf_counter() - started)
    most = torch.cuda.max_memory_allocated(trial.device) if trial.device.type == "cuda" else 0
    figures = {
        "finite": bool(torch.isfinite(torch.stack(sums)).all()),
        "images_per_second": round(rate, 1),
        "gpu_gib": round(most / (1 << 30), 2),
    }
    del state, networks, stream
    torch.cuda.empty_cache()
    return figures


def check_same_bits(trial: Trial) -> dict[str, Any]:
    """The same views get the same bits alone, in any company and at any place of a batch."""
    recipe = trial.recipe(trial.recipes()[-1])
    torch.manual_seed(3)
    model = build(recipe.model, recipe.view.size)
    _roughen(model)
    model = halve(model) if trial.device.type == "cuda" else model
    backend = TorchBackend(model.eval(), trial.device, amp=True)
    generator = torch.Generator().manual_seed(5)
    sizes = (1, 3, 2, MOST_VIEWS, 5, 4, MOST_VIEWS + 3, 2)
    size = recipe.view.size
    videos = [torch.randn((count, 3, size, size), generator=generator) for count in sizes]
    alone = [_score_together(trial, backend, [views])[0] for views in videos]
    together = _score_together(trial, backend, videos)
    turned = _score_together(trial, backend, videos[::-1])[::-1]
    pairs = [pair for others in (together, turned) for pair in zip(alone, others, strict=True)]
    same = all(np.array_equal(a, b) for a, b in pairs)
    spread = len({float(score) for scores in alone for score in scores})
    return {"ok": same and spread > 1, "views": sum(sizes), "different_scores": spread}


def _roughen(model: torch.nn.Module) -> None:
    """Random weights of a size that lets scores differ; layer scale and head start near 0."""
    for parameter in model.parameters():
        if parameter.ndim < 2 and parameter.abs().max() < 1e-3:
            torch.nn.init.normal_(parameter, std=0.2)


def _score_together(trial: Trial, backend: TorchBackend, videos: list[torch.Tensor]) -> list[np.ndarray]:
    jobs = (Job(number, [Request({"": backend}, views, len(views))]) for number, views in enumerate(videos))
    with batches_for(trial.device, cores()) as batches:
        found = {job.item: job.scores[""] for job in score_jobs(jobs, batches)}
    return [found[number] for number in range(len(videos))]


def check_prediction(trial: Trial) -> dict[str, Any]:
    """All members of the ensemble, with random weights, score generated clips by the real command: a row for each,
    and the same scores for a clip whichever others are there."""
    needed = 1 if trial.narrow else 12
    if shutil.disk_usage(trial.folder).free < needed << 30:
        return {"ok": True, "skipped": f"{needed} GiB free in the temporary folder are needed (set TMPDIR)"}
    members = load_ensemble(ENSEMBLE).members
    for number, member in enumerate(members):
        _put_member(trial, member.recipe, member.fold, number)
    _make_clips(trial.folder / "clips", _CLIPS)
    _make_clips(trial.folder / "few", 2)
    many, milliseconds = _predict(trial, "clips")
    few, _ = _predict(trial, "few")
    same = all(many[name]["score"] == row["score"] for name, row in few.items())
    whole = len(many) == _CLIPS and all(row["status"] == "ok" for row in many.values())
    return {
        "ok": same and whole,
        "members": len(members),
        "clips": len(many),
        "milliseconds_per_clip": milliseconds,
        "same_scores_in_other_company": same,
    }


def _put_member(trial: Trial, name: str, fold: int, seed: int) -> None:
    recipe = trial.recipe(name)
    torch.manual_seed(seed)
    model = build(recipe.model, recipe.view.size)
    _roughen(model)
    contract = make_contract(recipe, Data(), sha256_of(detector_path()))
    about = {"recipe": to_dict(recipe), "fold": fold, "data": "train", "data_hash": "", "held_out": {}}
    path = trial.folder / "weights" / "train" / f"{member_name(name, fold)}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_member(path, model.state_dict(), {**about, "contract": contract})


def _make_clips(folder: Path, count: int) -> None:
    """Short H.264 clips of a picture that moves; a number has the same clip in every folder."""
    import av

    folder.mkdir()
    for number in range(count):
        picture = _picture(np.random.default_rng(number), 520, 320)
        with av.open(folder / f"{number}.mp4", "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 240, 426, "yuv420p"
            for shift in range(_CLIP_FRAMES):
                part = np.ascontiguousarray(picture[2 * shift : 2 * shift + 426, shift : shift + 240])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(part, format="rgb24")))
            container.mux(stream.encode())


def _predict(trial: Trial, clips: str) -> tuple[dict[str, dict[str, str]], float]:
    """(rows of predictions.csv by name, milliseconds per clip) of the real command."""
    out = trial.folder / f"out_{clips}"
    environ = {key: value for key, value in os.environ.items() if key not in ("DATA", "ENSEMBLE")}
    command = [sys.executable, "-m", "liveness.predict", str(trial.folder / clips), str(out), "--ensemble", ENSEMBLE]
    environ["LIVENESS_ROOT"] = str(trial.folder)
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=280, check=False)
    if done.returncode:
        raise UserError((done.stderr.strip() or done.stdout.strip()).splitlines()[-1])
    with open(out / "predictions.csv", newline="", encoding="utf-8") as file:
        rows = {row["fname"]: row for row in csv.DictReader(file)}
    return rows, round(sum(float(row["milliseconds"]) for row in rows.values()) / max(1, len(rows)), 1)
