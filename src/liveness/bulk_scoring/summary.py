"""summary.json: how many rows of what kind, how their scores lie, and how that compares with the held-out scores.

    summary = summarise_parts(shards, names, described); print(summary_text(summary))

Reads the parts, and runs/<set>/<ensemble>/oof_video.csv and weights/<set>/<ensemble>.json if they are there.
"""

from collections import Counter
from typing import Any

import numpy as np

from liveness.base.files import workspace
from liveness.base.tables import read_table
from liveness.bulk_scoring.shards import Shards
from liveness.evaluation.drift import SHIFTED, STABLE, count_in_bins, population_stability, quantile_edges
from liveness.members.names import operating_path
from liveness.prediction.engine import EnsembleDescription
from liveness.prediction.operating import read_points_file
from liveness.prediction.rows import SCORED

SUMMARY = "summary.json"
HISTOGRAM = np.arange(1, 20) / 20  # inner edges of twenty bins
_DECISIONS = ("live", "attack", "abstain")


class Tally:
    """Counts over the rows, which come table by table. ``edges``: inner edges of the bins of the drift."""

    def __init__(self, edges: np.ndarray, points: list[dict[str, Any]]) -> None:
        self.edges, self._points = edges, points
        self.rows = 0
        self.statuses: Counter[str] = Counter()
        self.decisions: Counter[str] = Counter()
        self.histogram = np.zeros(len(HISTOGRAM) + 1, int)
        self.bins = np.zeros(len(edges) + 1, int)
        self.by_point = np.zeros((len(points), 3), int)

    def add(self, scores: np.ndarray, statuses: list[str], decisions: list[str]) -> None:
        """Some rows. Of their scores only those of videos that were scored whole count."""
        self.rows += len(scores)
        self.statuses.update(statuses)
        self.decisions.update(decisions)
        scored = scores[[status in SCORED for status in statuses]] if len(scores) else scores
        self.histogram += count_in_bins(scored, HISTOGRAM)
        self.bins += count_in_bins(scored, self.edges)
        for number, point in enumerate(self._points):
            self.by_point[number] += decide_by_score(scored, point)


def decide_by_score(scores: np.ndarray, point: dict[str, Any]) -> np.ndarray:
    """How many scores are live, attack and too close to call at an operating point, by the score alone."""
    threshold = float(point["threshold"])
    low, high = (float(value) for value in point.get("threshold_interval") or (threshold, threshold))
    between = (scores > low) & (scores < high)
    live = (scores >= threshold) & ~between
    return np.array([live.sum(), (~live & ~between).sum(), between.sum()])


def summarise_parts(shards: Shards, names: list[str], described: EnsembleDescription) -> dict[str, Any]:
    """What summary.json holds of some parts, which are all there."""
    held_out, why = read_held_out(described)
    points = (read_points_file(operating_path(described.data, described.name)) or {}).get("thresholds", [])
    tally, home = (Tally(quantile_edges(held_out) if len(held_out) else np.empty(0), points) for _ in range(2))
    home.add(held_out, ["ok"] * len(held_out), [])
    for name in names:
        part = shards.read(name, ["score", "status", "decision"])
        tally.add(part["score"].to_numpy(), part["status"].to_pylist(), part["decision"].to_pylist())
    return describe_tally(tally, home, described, points, len(names), why)


def describe_tally(
    tally: Tally, home: Tally, described: EnsembleDescription, points: list[dict[str, Any]], parts: int, why: str
) -> dict[str, Any]:
    """The counts as summary.json has them; ``home``: those of the held-out scores, ``why``: there are none."""
    scored = int(tally.histogram.sum())
    index = population_stability(home.bins, tally.bins)
    verdict = "" if np.isnan(index) else "stable" if index < STABLE else "shifted" if index > SHIFTED else "some shift"
    return {
        "ensemble": described.name,
        "data": described.data,
        "point": described.operating.point,
        "threshold": described.operating.threshold,
        "threshold_interval": [described.operating.low, described.operating.high],
        "parts": parts,
        "rows": tally.rows,
        "scored": scored,
        "statuses": dict(sorted(tally.statuses.items())),
        "decisions": {kind: tally.decisions[kind] for kind in _DECISIONS},
        "histogram": {"edges": [0.0, *HISTOGRAM.tolist(), 1.0], "counts": tally.histogram.tolist()},
        "drift": {
            "index": index,
            "verdict": verdict,
            "without": why,
            "held_out": int(home.bins.sum()),
            "edges": tally.edges.tolist(),
            "counts": tally.bins.tolist(),
            "held_out_counts": home.bins.tolist(),
        },
        "operating_points": [
            {"name": point["name"], "threshold": point["threshold"], "here": _shares(here), "held_out": _shares(there)}
            for point, here, there in zip(points, tally.by_point, home.by_point, strict=True)
        ],
    }


def read_held_out(described: EnsembleDescription) -> tuple[np.ndarray, str]:
    """The scores of the videos that the ensemble's members held out; or none, and why."""
    path = workspace() / "runs" / described.data / described.name / "oof_video.csv"
    if not path.is_file():
        return np.empty(0), f"runs/{described.data}/{described.name}/oof_video.csv is not there"
    table = read_table(path, ["score", "status"])
    scores = table[table["status"].isin(SCORED) & (table["score"] != "")]["score"].astype(float).to_numpy()
    return scores, "" if len(scores) else f"runs/{described.data}/{described.name}/oof_video.csv has no score"


def summary_text(summary: dict[str, Any]) -> str:
    """The summary for people, some lines."""
    rows, drift = summary["rows"], summary["drift"]
    statuses = ", ".join(f"{count} {status}" for status, count in summary["statuses"].items())
    decisions = ", ".join(f"{count} {kind}" for kind, count in summary["decisions"].items())
    lines = [f"{rows} rows in {summary['parts']} parts: {statuses}", decisions]
    if drift["without"]:
        lines.append(f"drift: not known, {drift['without']}")
    elif drift["verdict"]:
        lines.append(
            f"drift: population stability index {drift['index']:.3f} against {drift['held_out']} held-out scores "
            f"({drift['verdict']}; below {STABLE} stable, above {SHIFTED} shifted)"
        )
    for point in summary["operating_points"]:
        here, there = (
            " / ".join(f"{100 * share:.1f}" for share in (point[side] or {}).values()) for side in ("here", "held_out")
        )
        if here:
            lines.append(f"  {point['name']}: live / attack / too close {here} %, held out {there or 'not known'} %")
    return "\n".join(lines)


def _shares(counts: np.ndarray) -> dict[str, float] | None:
    names, total = ("live", "attack", "too_close"), counts.sum()
    return dict(zip(names, (counts / total).tolist(), strict=True)) if total else None
