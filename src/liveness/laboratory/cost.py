"""What a video costs at the throughput that prediction has: milliseconds of decoding, of views and of each member.

    costs, device = measure_costs(load_ensemble("demo"), "demo")

Times clips of data/<set>/videos with the members' weights; writes nothing. Prediction decodes on all cores and
scores the views of many videos in full batches (models/batches.py), so a stage's cost is what a further video adds:
one core's time over the number of cores that work side by side, a forward pass's over the videos in its batch.
"""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from liveness.base.config import Ensemble
from liveness.base.errors import UserError
from liveness.base.files import find_videos, workspace
from liveness.frames.views import VideoViews, ViewRequest, prepare_video
from liveness.frames.workers import Failed, cores, run_tasks
from liveness.laboratory.candidates import Costs
from liveness.members.names import parse_member_name
from liveness.prediction.engine import DECODE_GIB, DECODE_SECONDS, LoadedEnsemble, Member, load_members

if TYPE_CHECKING:
    import torch

_CLIPS, REPEATS = 5, 3  # how many videos are timed, and how often each


def measure_costs(ensemble: Ensemble, data: str) -> tuple[Costs, str]:
    """(costs, the device in words); medians over a few clips. UserError where no clip can be timed."""
    import torch

    loaded = load_members(ensemble, data)
    folder = workspace() / "data" / data / "videos"
    videos = find_videos(folder)
    if not videos:
        raise UserError(f"{folder}: no videos to time; give --milliseconds FILE.json")
    chosen = [videos[round(i)] for i in np.linspace(0, len(videos) - 1, min(_CLIPS, len(videos)))]
    print(f"timing {len(loaded.members)} members on {len(chosen)} clips", flush=True)
    try:
        prepared = _prepare_times(chosen, loaded.wanted())
        forward = [_forward_times(clip, loaded) for clip, _ in prepared]
    finally:
        loaded.close()
    timed = [{**times, **more} for (_, times), more in zip(prepared, forward, strict=True)]
    keys: dict[str, list[str]] = {member.wanted.key: [] for member in loaded.members}
    for member in loaded.members:
        keys[member.wanted.key].append(parse_member_name(member.name)[0])
    recipes = {member.name: parse_member_name(member.name)[0] for member in loaded.members}
    members = {name: _middle([times[recipe] for times in timed], recipe) for name, recipe in recipes.items()}
    views = {tuple(dict.fromkeys(names)): _middle([t[key] for t in timed], "views") for key, names in keys.items()}
    costs = Costs(_middle([times["decode"] for times in timed], "decoding"), views, members)
    on_gpu = torch.cuda.is_available()
    return costs, torch.cuda.get_device_name() if on_gpu else f"CPU, {loaded.threads} passes side by side"


def _prepare_times(videos: list[Path], wanted: list[ViewRequest]) -> list[tuple[VideoViews, dict[str, float]]]:
    """Each clip as the members see it, and milliseconds of decoding ("decode") and of each view (by its key).

    As many processes as prediction has work at once, so that each has the memory's and the caches' share that it
    will have; a process's time is divided by their number.
    """
    workers = cores()
    rounds = math.ceil(workers / len(videos)) + 1  # the first of each process warms up
    tasks = [(path, wanted) for _ in range(rounds) for path in videos]
    found: dict[Path, list[tuple[VideoViews, dict[str, float]]]] = {path: [] for path in videos}
    for (path, _), result in run_tasks(_timed, tasks, workers, 10 * DECODE_SECONDS, DECODE_GIB):
        if not isinstance(result, Failed):
            found[path].append(result)
    nothing = dict.fromkeys(("decode", *(item.key for item in wanted)), math.nan)
    clips = []
    for path, results in found.items():
        best = {key: min((times[key] for _, times in results), default=math.nan) / workers for key in nothing}
        clips.append((results[0][0] if results else VideoViews(path, "crashed"), best))
    return clips


def _timed(task: tuple[Path, list[ViewRequest]]) -> tuple[VideoViews, dict[str, float]]:
    """In a worker: a clip's views, and the milliseconds of decoding and of each view; nan where it has none."""
    from liveness.frames.video import VideoError, read_frames

    path, wanted = task
    times = dict.fromkeys(("decode", *(item.key for item in wanted)), math.nan)
    prepared = prepare_video(path, wanted)  # which warms up
    try:
        times["decode"] = _fastest(read_frames, path, [item.plan for item in wanted], None)
        for item in wanted:
            decoding = _fastest(read_frames, path, [item.plan], None)
            times[item.key] = max(0.0, _fastest(prepare_video, path, [item]) - decoding)
    except VideoError:
        pass
    return prepared, times


def _forward_times(prepared: VideoViews, loaded: LoadedEnsemble) -> dict[str, float]:
    """Milliseconds that a member of each recipe takes for one further video like this one; nan where it has no view.

    Members of a recipe are one model with other weights, so that they share one time.
    """
    times = {}
    for recipe, member in {parse_member_name(member.name)[0]: member for member in loaded.members}.items():
        views = prepared.views.get(member.wanted.key)
        if views is None:
            times[recipe] = math.nan
            continue
        times[recipe] = measure_pass(member, member.loaded().to_batch(views, member.wanted.view), loaded)
    return times


def measure_pass(member: Member, views: "torch.Tensor", loaded: LoadedEnsemble) -> float:
    """Milliseconds a video, of many with these views (float32, V x 3 x H x W) in prediction's batches."""
    count = max(1, loaded.batches.capacity // 2)  # on a CPU a video for every thread, on a GPU several full batches

    def together() -> None:
        futures = [loaded.batches.submit([member.loaded()], views)[0] for _ in range(count)]
        for future in futures:
            loaded.batches.result(future)

    together()  # warms up
    return _fastest(together) / count


def _fastest(action: Callable[..., object], *arguments: object) -> float:
    """Milliseconds of the fastest of a few runs: what else the machine does only ever adds."""
    found = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        action(*arguments)
        found.append(1000 * (time.perf_counter() - started))
    return min(found)


def _middle(values: list[float], what: str) -> float:
    """The median of those clips that have a time, to the microsecond."""
    there = [value for value in values if math.isfinite(value)]
    if not there:
        raise UserError(f"{what}: none of {len(values)} clips could be timed; give --milliseconds FILE.json")
    return round(float(np.median(there)), 3)


def read_costs(path: Path, recipes: dict[str, str]) -> tuple[Costs, str]:
    """The file of --milliseconds, or the ``costs`` of a search.json, checked."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values = values.get("costs", values)
        costs = Costs(
            float(values["decode"]),
            {tuple(key.split()): float(value) for key, value in values.get("views", {}).items()},
            {name: float(values["members"][name]) for name in recipes},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f'{path}: expected {{"decode": 40, "views": {{...}}, "members": {{"RECIPE_fold0": 80, ...}}}} with every '
            f"member of the ensemble ({type(error).__name__}: {error})"
        ) from error
    if not all(math.isfinite(ms) and ms >= 0 for ms in (costs.decode, *costs.views.values(), *costs.members.values())):
        raise UserError(f"{path}: milliseconds that are no number from 0 up")
    return costs, str(values.get("device", "given"))
