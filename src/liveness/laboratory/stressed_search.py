"""The other thing that a search can minimise: the worst HTER of the inner fold under stress.

    inner = StressedFold(prepared, filenames, space)            once for all trials of a study
    hter, stress = inner.measure(model, recipe, device)         the worst, and under which stress

The threshold is the equal-error one of the fold's unstressed scores, and is kept under every stress, as a threshold
that was chosen at home is used abroad. Stresses and scores are those of the shift laboratory, uncalibrated. Reads
data/<set>/videos/; writes nothing but what ``liveness.shift`` writes of the final members.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from liveness.base.config import Recipe
from liveness.base.errors import UserError
from liveness.base.experiments import SearchSpace
from liveness.base.files import natural_key
from liveness.evaluation import intervals
from liveness.evaluation.intervals import FEW_GROUPS
from liveness.laboratory.shift import StressPlan, choose_systems, measure_shift, shift_path
from liveness.laboratory.shift_figures import find_threshold, measure_hter, order_by_seed, sample_videos
from liveness.simulation.stress import CLEAN, STRESSORS, Stress, list_stresses

if TYPE_CHECKING:
    import torch

    from liveness.laboratory.stressed import Stressed
    from liveness.prediction.engine import Member
    from liveness.sets.dataset import PreparedSet

_NAME = "trial"
_REPLICATES = 2000


def list_of_space(space: SearchSpace) -> list[Stress]:
    """The stresses of a search; a UserError for a stressor or a severity that there is not."""
    return list_stresses(space.stressors or list(STRESSORS), space.severities)


def check_stressed(prepared: "PreparedSet", space: SearchSpace) -> None:
    """A UserError where the search asks for a stress or a video that is not there."""
    if space.objective != "stressed_hter":
        return
    list_of_space(space)
    folder = prepared.folder / "videos"
    missing = [name for name in prepared.videos.index if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder}: {min(missing, key=natural_key)} is missing ({len(missing)} such videos), which "
            "objective=stressed_hter has to stress; restore it, or take objective=log_loss"
        )


class StressedFold:
    """Videos of an inner fold under each stress. They are stressed once for each way of cutting views."""

    def __init__(self, prepared: "PreparedSet", filenames: list[str], space: SearchSpace) -> None:
        """filenames: the fold's, of which ``stressed_videos`` are drawn, each class in proportion."""
        self.prepared, self.seed = prepared, space.seed
        self.stresses = list_of_space(space)
        videos = prepared.videos.loc[filenames]
        self.videos = sample_videos(videos, space.stressed_videos, order_by_seed(videos.index, space.seed))
        if self.videos.label.nunique() < 2:
            raise UserError(f"data/{prepared.name}: the inner fold's videos are of one class; an HTER needs both")
        self._key, self._kept = "", []  # type: str, list[Stressed]

    def measure(self, model: "torch.nn.Module", recipe: Recipe, device: "torch.device") -> tuple[float, str]:
        """The worst HTER of a trained model, and the stress in words. A video without a score is not accepted."""
        from liveness.laboratory.stressed import score_stressed
        from liveness.models.batches import batches_for
        from liveness.models.device import share_of_cores

        member = self._make_member(model, recipe, device)
        scores: dict[Stress, dict[str, float]] = {stress: {} for stress in (CLEAN, *self.stresses)}
        with batches_for(device, share_of_cores(1)) as batches:
            for name, stress, found in score_stressed(self._stress(member), lambda _: [member], batches):
                scores[stress][name] = found[_NAME]
        clean = self._tabulate(scores[CLEAN], CLEAN)
        if clean.score.notna().sum() == 0:
            raise UserError("no video of the inner fold has a score; its HTER says nothing")
        threshold = find_threshold(clean)
        errors = [(measure_hter(clean, self._tabulate(scores[s], s), threshold), s) for s in self.stresses]
        hter, worst = max(errors, key=lambda pair: pair[0])
        return hter, f"{worst.name} {worst.severity}"

    def _make_member(self, model: "torch.nn.Module", recipe: Recipe, device: "torch.device") -> "Member":
        """The model as prediction would have it, from its contract on."""
        from liveness.frames.contract import make_contract, read_contract
        from liveness.frames.views import make_request
        from liveness.models.backend import TorchBackend
        from liveness.prediction.engine import Member

        data, version = self.prepared.data, self.prepared.version
        plan, view, detector = read_contract(make_contract(recipe, data, self.prepared.detector_sha256, version), _NAME)
        wanted = make_request(plan, view, detector, data.jpeg_quality, version)
        backend = TorchBackend(model, device, recipe.train.amp)
        return Member(_NAME, 1.0, wanted, recipe.combine, self.prepared.folder, recipe.train.amp, backend=backend)

    def _stress(self, member: "Member") -> "list[Stressed]":
        """All stressed views of all videos: kept, as the next trial most often wants the same."""
        from liveness.laboratory.stressed import StressTask, stress_videos

        if self._key != member.wanted.key:
            tasks: list[StressTask] = []
            for name, video in self.videos.iterrows():
                mine = [stress for stress in self.stresses if stress.kind != "attack" or video.label == 1]
                path = self.prepared.folder / "videos" / str(name)
                tasks.append(StressTask(path, (member.wanted,), (CLEAN, *mine), self.seed))
            self._kept, self._key = list(stress_videos(tasks)), member.wanted.key
        return self._kept

    def _tabulate(self, scores: dict[str, float], stress: Stress) -> pd.DataFrame:
        """label, group and score of the videos that a stress presents, as ``shift_figures`` takes them: a simulated
        attack makes attacks of the live ones."""
        table = self.videos.loc[self.videos.index.isin(scores), ["label", "group"]]
        labels = 0 if stress.kind == "attack" else table.label.astype(int)
        return table.assign(label=labels, score=pd.Series(scores, dtype=float))


# --- the final members ------------------------------------------------------------------------------


def estimate_stressed(default: str, tuned: str, data: str, folds: list[int], space: SearchSpace) -> dict[str, Any]:
    """The worst stressed HTER of the outer folds by the default's members and by the tuned ones, and their difference
    (tuned less default) with its paired interval."""
    plan = StressPlan(data, list_of_space(space), space.seed, space.stressed_videos * len(folds))
    wanted = [f"{name}:{fold}" for name in (default, tuned) for fold in folds]
    systems, members = choose_systems(None, data, wanted, each=True)
    found: dict[str, dict[str, Any]] = {}
    tables = []
    for summary in measure_shift(systems, members, plan):
        rows = [((r["apcer"] + r["bpcer"]) / 2, f"{r['stressor']} {r['severity']}") for r in summary["rows"]]
        worst, stress = max(rows, key=lambda pair: pair[0])
        name, threshold = summary["ensemble"], summary["clean"]["threshold"]
        found[name] = {"hter": worst, "stress": stress, "threshold": threshold}
        table = pd.read_csv(shift_path(data, name, "csv"), dtype={"filename": str, "group": str})
        tables.append(_count_errors(table, threshold))
    low, high = _bootstrap_difference(*tables)
    difference = found[tuned]["hter"] - found[default]["hter"]
    return {"default": found[default], "tuned": found[tuned], "difference": difference, "interval": [low, high]}


def _count_errors(table: pd.DataFrame, threshold: float) -> np.ndarray:
    """stresses x clusters x (attacks accepted, attacks, live rejected, live) of a shift.csv; a cluster is a group, or a
    video where groups are few. Under a simulated attack the clean live videos stand beside the attacks."""
    by = "group" if table.group.nunique() >= FEW_GROUPS else "filename"
    clusters = sorted(set(table[by]))
    clean = table[table.stressor == CLEAN.name]
    counts = []
    for (name, _), rows in table[table.stressor != CLEAN.name].groupby(["stressor", "severity"], sort=True):
        if STRESSORS[str(name)].kind == "attack":
            rows = pd.concat([rows, clean[clean.label == 1]])
        accepted, live = rows.score >= threshold, rows.label == 1
        parts = {"a": accepted & ~live, "b": ~live, "c": ~accepted & live, "d": live}
        counts.append(pd.DataFrame(parts).groupby(rows[by].to_numpy()).sum().reindex(clusters, fill_value=0).to_numpy())
    return np.stack(counts).astype(float)


def _bootstrap_difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """The 95 % percentile interval of the difference of the worst HTERs (second less first): clusters are drawn with
    replacement, the same for both; the thresholds stay, and the worst stress is that of each draw."""
    rng, n = np.random.default_rng(intervals.SEED), first.shape[1]
    drawn = rng.multinomial(n, np.full(n, 1 / n), _REPLICATES).astype(float)
    worst = []
    for counts in (first, second):
        sums = np.einsum("rc,sck->rsk", drawn, counts)
        with np.errstate(invalid="ignore", divide="ignore"):
            rates = sums[..., 0] / sums[..., 1] + sums[..., 2] / sums[..., 3]
        worst.append(rates.max(axis=1) / 2)
    change = (worst[1] - worst[0])[np.isfinite(worst[1] - worst[0])]
    if not change.size:
        return float("nan"), float("nan")
    tail = intervals.expanded_tail(n, 0.025)
    low, high = np.quantile(change, [tail, 1 - tail])
    return float(low), float(high)
