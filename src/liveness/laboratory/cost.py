"""What a video costs at the throughput that prediction has: milliseconds of decoding, of views and of each member.

    costs, device = measure(load_ensemble("demo"), "demo")

Times clips of data/<set>/videos with the members' weights; writes nothing. Prediction decodes on all cores and
scores the views of many videos in full batches (models/score.py), so a stage's cost is what a further video adds:
one core's time over the number of cores that work side by side, a forward pass's over the videos in its batch.
"""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from liveness.base.config import Ensemble
from liveness.base.errors import UserError
from liveness.base.files import find_videos, workspace
from liveness.frames.views import Prepared, Wanted, prepare
from liveness.frames.workers import Failed, cores, run_tasks
from liveness.laboratory.search import Costs
from liveness.members.names import parse_member_name
from liveness.prediction.engine import GIB, SECONDS, LoadedEnsemble, Member, load_members

CLIPS, REPEATS = 5, 3  # how many videos are timed, and how often each


def measure(ensemble: Ensemble, data: str) -> tuple[Costs, str]:
    """(costs, the device in words); medians over a few clips. UserError where no clip can be timed."""
    import torch

    loaded = load_members(ensemble, data)
    folder = workspace() / "data" / data / "videos"
    videos = find_videos(folder)
    if not videos:
        raise UserError(f"{folder}: no videos to time; give --milliseconds FILE.json")
    chosen = [videos[round(i)] for i in np.linspace(0, len(videos) - 1, min(CLIPS, len(videos)))]
    print(f"timing {len(loaded.members)} members on {len(chosen)} clips", flush=True)
    try:
        prepared = prepare_times(chosen, loaded.wanted())
        forward = [forward_times(clip, loaded) for clip, _ in prepared]
    finally:
        loaded.close()
    timed = [{**times, **more} for (_, times), more in zip(prepared, forward, strict=True)]
    keys = {member.wanted.key: [] for member in loaded.members}
    for member in loaded.members:
        keys[member.wanted.key].append(parse_member_name(member.name)[0])
    recipes = {member.name: parse_member_name(member.name)[0] for member in loaded.members}
    members = {name: middle([times[recipe] for times in timed], recipe) for name, recipe in recipes.items()}
    views = {tuple(dict.fromkeys(names)): middle([t[key] for t in timed], "views") for key, names in keys.items()}
    costs = Costs(middle([times["decode"] for times in timed], "decoding"), views, members)
    on_gpu = torch.cuda.is_available()
    return costs, torch.cuda.get_device_name() if on_gpu else f"CPU, {loaded.threads} passes side by side"


def prepare_times(videos: list[Path], wanted: list[Wanted]) -> list[tuple[Prepared, dict[str, float]]]:
    """Each clip as the members see it, and milliseconds of decoding ("decode") and of each view (by its key).

    As many processes as prediction has work at once, so that each has the memory's and the caches' share that it
    will have; a process's time is divided by their number.
    """
    workers = cores()
    rounds = math.ceil(workers / len(videos)) + 1  # the first of each process warms up
    tasks = [(path, wanted) for _ in range(rounds) for path in videos]
    found: dict[Path, list[tuple[Prepared, dict[str, float]]]] = {path: [] for path in videos}
    for (path, _), result in run_tasks(_timed, tasks, workers, 10 * SECONDS, GIB):
        if not isinstance(result, Failed):
            found[path].append(result)
    nothing = dict.fromkeys(("decode", *(item.key for item in wanted)), math.nan)
    clips = []
    for path, results in found.items():
        best = {key: min((times[key] for _, times in results), default=math.nan) / workers for key in nothing}
        clips.append((results[0][0] if results else Prepared(path, "crashed"), best))
    return clips


def _timed(task: tuple[Path, list[Wanted]]) -> tuple[Prepared, dict[str, float]]:
    """In a worker: a clip's views, and the milliseconds of decoding and of each view; nan where it has none."""
    from liveness.frames.video import VideoError, read_frames

    path, wanted = task
    times = dict.fromkeys(("decode", *(item.key for item in wanted)), math.nan)
    prepared = prepare(path, wanted)  # which warms up
    try:
        times["decode"] = fastest(read_frames, path, [item.plan for item in wanted], None)
        for item in wanted:
            times[item.key] = max(0.0, fastest(prepare, path, [item]) - fastest(read_frames, path, [item.plan], None))
    except VideoError:
        pass
    return prepared, times


def forward_times(prepared: Prepared, loaded: LoadedEnsemble) -> dict[str, float]:
    """Milliseconds that a member of each recipe takes for one further video like this one; nan where it has no view.

    Members of a recipe are one model with other weights, so that they share one time.
    """
    from liveness.frames.contract import stack, to_tensor

    times = {}
    for recipe, member in {parse_member_name(member.name)[0]: member for member in loaded.members}.items():
        views = prepared.views.get(member.wanted.key)
        if views is None:
            times[recipe] = math.nan
            continue
        tensors = stack([to_tensor(view, member.wanted.view) for view in views])
        times[recipe] = throughput(member, tensors, loaded)
    return times


def throughput(member: Member, views: Any, loaded: LoadedEnsemble) -> float:
    """Milliseconds a video, of many with these views (float32, V x 3 x H x W) that go through prediction's lanes."""
    count = max(1, loaded.lanes.ahead // 2)  # on a CPU a video for every lane, on a GPU several full batches

    def together() -> None:
        futures = [loaded.lanes.submit([member.scorer], views)[0] for _ in range(count)]
        for future in futures:
            loaded.lanes.result(future)

    together()  # warms up
    return fastest(together) / count


def fastest(action: Any, *arguments: Any) -> float:
    """Milliseconds of the fastest of a few runs: what else the machine does only ever adds."""
    found = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        action(*arguments)
        found.append(1000 * (time.perf_counter() - started))
    return min(found)


def middle(values: list[float], what: str) -> float:
    """The median of those clips that have a time, to the microsecond."""
    there = [value for value in values if math.isfinite(value)]
    if not there:
        raise UserError(f"{what}: none of {len(values)} clips could be timed; give --milliseconds FILE.json")
    return round(float(np.median(there)), 3)
