"""How good are trained weights on a set that they were not trained on? What ``liveness.evaluate --on`` does.

    summary, path = measure_on("demo", OtherSet("webcams"))

The set's labelled raw videos are scored by the engine of predict.sh, so that scores, statuses and decisions are its
rows. Reads data/<set>/{labels_video.csv,folds.csv,videos/,frames/,.records/} of the set, .records/ of the training's
set and weights/<data>/; writes runs/<data>/<ensemble>/on_<set>.{csv,json}.
"""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from liveness.base.config import Ensemble
from liveness.base.errors import UserError
from liveness.base.files import natural_key, plain_name, sha256_of, show_path, workspace, write_json, write_text
from liveness.base.progress import with_progress
from liveness.base.tables import table_text
from liveness.evaluation import decisions, grouping, metrics, report
from liveness.evaluation.format import counted
from liveness.evaluation.intervals import warn_of_few_groups
from liveness.evaluation.rates import rate
from liveness.members.ensembles import find_ensemble
from liveness.members.names import operating_path
from liveness.members.weights import describe_member
from liveness.prediction.engine import EnsembleDescription, load_weights, read_ensemble, score_paths
from liveness.prediction.operating import Operating, list_points
from liveness.prediction.rows import NO_SCORE, SCORED, Row
from liveness.sets.extract import known_records
from liveness.sets.folds import digest_of_set
from liveness.sets.grouping import read_grouping
from liveness.sets.labelled import raw_videos, read_conditions, read_labelled
from liveness.sets.shared_videos import find_shared
from liveness.training.start import find_seen

VERSION = 1  # of on_<set>.json
_COLUMNS = ("filename", "label", "group", "species", "camera", "score", "decision", "status", "reason", "frames")
TABLE_COLUMNS = (*_COLUMNS, "faces", "milliseconds", "faces_in_frame")
_MANY_FRAMES = 1 << 30


@dataclass(frozen=True)
class OtherSet:
    """What is asked. ``on``: the prepared set; data: weights/<data> (default: the ensemble's own); point: the operating
    point whose decisions are the headline; against: an earlier on_<set>.json; workers: decoding processes."""

    on: str
    data: str | None = None
    point: str = "eer"
    against: Path | None = None
    workers: int = 0


def on_path(data: str, ensemble: str, on: str, kind: str) -> Path:
    """runs/<data>/<ensemble>/on_<set>.<kind>: ``csv`` with a row per video, ``json`` with the figures and the rows."""
    return workspace() / "runs" / data / ensemble / f"on_{on}.{kind}"


def measure_on(name: str, asked: OtherSet) -> tuple[dict[str, Any], Path]:
    """Score the labelled videos of a set and judge the decisions; what on_<set>.json holds, and that file.

    Nothing is written where a UserError ends it: the set, its labels and videos, the weights and the earlier report are
    looked at first.
    """
    if asked.workers < 0:
        raise UserError(f"--workers {asked.workers}: expected 0 (one per core) or more")
    ensemble = find_ensemble(name, asked.data or "")
    data = plain_name(asked.data or ensemble.data, "--data")
    folder = workspace() / "data" / plain_name(asked.on, "--on")
    videos, unlabelled = read_labelled(folder)
    earlier = _read_earlier(asked.against, asked.on, videos) if asked.against else None
    points = read_points(ensemble, data, asked.point)
    described = read_ensemble(ensemble, data, asked.point)
    paths = raw_videos(folder, videos["filename"].tolist())
    origin = find_origin(described, folder)
    for line in filter(None, (described.operating.lost, "" if origin["independent"] else origin["line"])):
        print(f"warning: {line}", file=sys.stderr, flush=True)
    print(f"{counted(len(paths), 'labelled video')} of {asked.on}; {name}, {counted(len(described.members), 'member')}")
    rows, device = _score(described, paths, asked.workers)
    conditions = read_conditions(folder, videos["filename"].tolist())
    table = _join(videos, rows, conditions, points[asked.point])
    summary: dict[str, Any] = {
        "version": VERSION,
        "ensemble": name,
        "data": data,
        "on": asked.on,
        "on_sha256": sha256_of(folder / "labels_video.csv"),
        "point": asked.point,
        "threshold_source": described.operating.source,
        **_describe_weights(described),
        "origin": origin,
        "grouping": read_grouping(folder),
        **summarise_on(table, points, asked.point),
        "conditions": decisions.measure_conditions(table, conditions),
        "milliseconds": _measure_time(table, device),
    }
    summary["counts"]["unlabelled"] = unlabelled
    summary["against"] = _compare(earlier, table, asked.against) if earlier is not None and asked.against else None
    summary["videos"] = _list_videos(table, conditions)
    return summary, _write(summary, table)


def read_points(ensemble: Ensemble, data: str, point: str) -> dict[str, Operating]:
    """Every operating point that the weights ship, by name; with a cascade ``point`` alone."""
    names = [point] if ensemble.cascade.first else list_points(operating_path(data, ensemble.name))
    return {name: read_ensemble(ensemble, data, name).operating for name in dict.fromkeys([*names, point])}


def find_origin(described: EnsembleDescription, folder: Path) -> dict[str, Any]:
    """Whether the members may have seen the set's videos: ``independent`` (True, False, None: not known) and ``line``,
    which says why; ``trained_on``: the sets' names; ``shared``: how many videos are in one of them too."""
    told = [describe_member(member.path) for member in described.members]
    states = {(str(one.get("data") or ""), str(one.get("data_hash") or "")) for one in told}
    unlabelled = {(one["unlabelled"]["set"], one["unlabelled"]["digest"]) for one in told if one.get("unlabelled")}
    names = sorted({data for data, _ in states | unlabelled})
    found: dict[str, Any] = {"independent": True, "trained_on": names, "line": ""}
    unknown = []
    if folder.name in {data for data, _ in unlabelled - states}:
        why = f"{described.name} has learned from the videos of data/{folder.name}, without their labels"
        return found | {"independent": False, "line": f"not independent: {why}"}
    for data, data_hash in sorted(states | unlabelled):
        if data == folder.name or (data_hash and data_hash == digest_of_set(folder)):
            again = f"python -m liveness.evaluate {described.name} --data {data}"
            why = (
                f"not independent: {described.name} was trained on data/{data}, these very videos; out of fold: {again}"
            )
            return found | {"independent": False, "line": why}
        home = workspace() / "data" / data
        if not data or not data_hash or not (home / ".records").is_dir():
            unknown.append(f"data/{data} is not here" if data_hash else "the weights do not say")
            continue
        if twins := find_shared(folder, home):
            one = twins[0]
            as_it = "equal" if one.same else "nearly equal"
            found["line"] = (
                f"not independent: {counted(len(twins), 'video')} of {folder.name} (or a near-duplicate) "
                f"{'is' if len(twins) == 1 else 'are'} in data/{data} too, on which {described.name} was trained "
                f"({one.filename} is {as_it} to its {one.other})"
            )
            return found | {"independent": False, "shared": len(twins)}
    # By what the members themselves say, which tells of a set that is gone, and of members that they go on from.
    ids = sorted(known_records(folder), key=natural_key)
    if seen := list(dict.fromkeys(video_id for one in told for video_id in find_seen(one, folder, ids))):
        why = (
            f"not independent: {counted(len(seen), 'video')} of {folder.name} (first {seen[0]}) "
            f"{'is' if len(seen) == 1 else 'are'} among those that {described.name}, or a member that it goes on from, "
            "was trained on"
        )
        return found | {"independent": False, "shared": len(seen), "line": why}
    if unknown:
        line = f"not known whether {described.name} was trained on any of these videos: {unknown[0]}"
        return found | {"independent": None, "line": line}
    return found | {"line": f"no video of {folder.name} is in data/{', data/'.join(names)}, by digest or likeness"}


def _describe_weights(described: EnsembleDescription) -> dict[str, Any]:
    told = {member.name: describe_member(member.path) for member in described.members}
    hashes = {str(one.get("data_hash") or "") for one in told.values()}
    return {
        "data_hash": hashes.pop() if len(hashes) == 1 else "members of different data",
        "weights": {member.name: member.weight for member in described.members},
        "weights_sha256": {name: one["weights_sha256"] for name, one in told.items() if one.get("weights_sha256")},
    }


def _score(described: EnsembleDescription, paths: list[Path], workers: int) -> tuple[list[Row], str]:
    """A row per video in the given order, and the device. Their decisions abstain only for what is not the threshold:
    a status, too few frames; the points' own intervals come later (``decide_at``)."""
    threshold = described.operating.threshold
    described.operating = replace(described.operating, low=threshold, high=threshold)
    with load_weights(described, "auto") as loaded:
        rows = list(with_progress(score_paths(paths, loaded, workers), len(paths), "evaluate"))
        device = (
            f"{loaded.device.type}, {loaded.threads} threads" if loaded.device.type == "cpu" else str(loaded.device)
        )
    if all(row.status == "failed" for row in rows):
        raise UserError(f"no member gave any video a finite score; {rows[0].reason}")
    return rows, device


def decide_at(operating: Operating, scores: np.ndarray, answered: np.ndarray) -> list[str]:
    """Prediction's decisions at an operating point. answered: whether a video's score may be decided on at all."""
    return [
        operating.decide(float(score), "ok", _MANY_FRAMES) if may else "abstain"
        for score, may in zip(scores, answered, strict=True)
    ]


def _join(videos: pd.DataFrame, rows: list[Row], conditions: pd.DataFrame, operating: Operating) -> pd.DataFrame:
    """TABLE_COLUMNS and ``answered``, a row per video; score is nan where no member gave one."""
    table = videos.assign(camera=conditions["camera"].to_numpy())
    for name in ("status", "reason", "frames", "faces", "milliseconds", "faces_in_frame"):
        table[name] = pd.Series([getattr(row, name) for row in rows], dtype=object)
    own = [row.status in SCORED or row.score != NO_SCORE for row in rows]
    table["score"] = [round(row.score, 9) if there else np.nan for row, there in zip(rows, own, strict=True)]
    table["answered"] = [row.decision != "abstain" for row in rows]
    table["milliseconds"] = table["milliseconds"].astype(float)
    return table.assign(decision=decide_at(operating, table["score"].to_numpy(), table["answered"].to_numpy()))


def summarise_on(table: pd.DataFrame, points: dict[str, Operating], point: str) -> dict[str, Any]:
    """Everything that the scores and the shipped thresholds say, as plain dictionaries; table: of ``_join``."""
    scored = table[np.isfinite(table["score"].to_numpy(dtype=float))]
    labels, scores = scored["label"].to_numpy(dtype=int), scored["score"].to_numpy(dtype=float)
    silent = table[~np.isfinite(table["score"].to_numpy(dtype=float))]
    attack, live = metrics.non_response(table["label"], table["score"])
    groups = int(table["group"].nunique())
    all_points = []
    for name, operating in points.items():
        mine = table.assign(decision=decide_at(operating, table["score"].to_numpy(), table["answered"].to_numpy()))
        interval = [operating.low, operating.high]
        about = {"name": name, "threshold": operating.threshold, "threshold_interval": interval}
        all_points.append({**about, **decisions.measure_decisions(mine)})
    return {
        "counts": {
            "videos": len(table),
            "live": int(table["label"].sum()),
            "attack": int((1 - table["label"]).sum()),
            "groups": groups,
            "scored": len(scored),
        },
        "points": all_points,
        "headline": next(entry for entry in all_points if entry["name"] == point),
        "cameras": decisions.measure_cameras_apart(table),
        "pooled": report.measure_errors(labels, scores, scored["group"].to_numpy()),
        "non_response": {
            "apnrr": rate(attack),
            "bpnrr": rate(live),
            "videos": [{"filename": r.filename, "status": r.status} for r in silent.itertuples(index=False)],
        },
    }


def warn_on(summary: dict[str, Any]) -> list[str]:
    """What a reader must know before using a figure, the gravest first."""
    found, counts, groups_are = [], summary["counts"], summary["grouping"]
    if not summary["origin"]["independent"]:
        found.append(summary["origin"]["line"])
    if few := warn_of_few_groups(counts["groups"], grouping.noun(groups_are)):
        found.append(few)
    if not grouping.are_persons(groups_are):
        found.append("persons are not known: whoever is in several videos makes the intervals too narrow")
    if "no operating point" in summary["threshold_source"] or "is not there" in summary["threshold_source"]:
        found.append(f"the threshold is none that was chosen for these weights: {summary['threshold_source']}")
    if counts["unlabelled"]:
        found.append(f"{counted(counts['unlabelled'], 'video')} without a label, in no figure")
    if silent := len(summary["non_response"]["videos"]):
        found.append(f"{counted(silent, 'video')} got no score: abstained from, and not in the EER")
    if summary["on_sha256"] != (summary.get("against") or summary)["on_sha256"]:
        found.append("the set's table is not the one that the earlier report was made on")
    return found


def _measure_time(table: pd.DataFrame, device: str) -> dict[str, Any]:
    """Milliseconds per video, of decoding, preprocessing and models, as predictions.csv has them."""
    values = table["milliseconds"].to_numpy(dtype=float)
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    return {
        "median": float(middle),
        "p5": float(low),
        "p95": float(high),
        "mean": float(values.mean()),
        "device": device,
    }


def _list_videos(table: pd.DataFrame, conditions: pd.DataFrame) -> list[dict]:
    joined = pd.concat([table, conditions.drop(columns=["filename", "camera"])], axis=1)
    return joined.drop(columns=["answered"]).to_dict("records")


# --- an earlier report -----------------------------------------------------------------------------


def _read_earlier(path: Path, on: str, videos: pd.DataFrame) -> dict[str, Any]:
    """An earlier on_<set>.json; a UserError unless it is of this set and shares videos of both classes with it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        found["videos"] = [row for row in found["videos"] if {"score", "decision"} <= set(row)]
        there = {row["filename"]: int(row["label"]) for row in found["videos"]}
        scored = {row["filename"] for row in found["videos"] if row["score"] is not None and 0 <= row["score"] <= 1}
        if len(there) < len(found["videos"]):
            raise ValueError("a video is there twice")
        names = found["ensemble"], found["on"], found["point"], found["on_sha256"]
    except OSError as error:
        raise UserError(f"--against {path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--against {path}: not what evaluate --on has written; expected runs/SET/ENSEMBLE/on_{on}.json"
        ) from error
    if names[1] != on:
        raise UserError(f"--against {path}: is about the set {names[1]}, not {on}; a comparison needs the same videos")
    both = videos[videos["filename"].isin(there.keys())]
    other = [row.filename for row in both.itertuples() if there[row.filename] != row.label]
    if other:
        raise UserError(f"--against {path}: has another label for {other[0]}; evaluate that ensemble on {on} again")
    if both["label"][both["filename"].isin(scored)].nunique() < 2:
        raise UserError(
            f"--against {path}: {len(both)} videos in common, and not of both classes any with a score there; nothing "
            "to compare"
        )
    return found


def _compare(earlier: dict[str, Any], table: pd.DataFrame, path: Path) -> dict[str, Any] | None:
    """This evaluation less the earlier one, paired, over the videos of both; None, with a warning, where those that
    have a score in both are not of both classes."""
    before = pd.DataFrame(earlier["videos"]).set_index("filename")
    mine = table[table["filename"].isin(before.index)].set_index("filename")
    before = before.loc[mine.index].assign(group=mine["group"])
    before["score"] = pd.to_numeric(before["score"])
    both = before["score"].notna() & mine["score"].notna()
    if before["label"][both].nunique() < 2:
        print(f"warning: --against {path}: too few videos have a score now to be compared", file=sys.stderr, flush=True)
        return None
    (row,) = report.compare_ways(before.reset_index(), {"this": mine["score"]})
    return {
        "file": show_path(path),
        "ensemble": earlier["ensemble"],
        "data": earlier.get("data"),
        "point": earlier["point"],
        "on_sha256": earlier["on_sha256"],
        "common": len(mine),
        "eer_before": metrics.eer(before["label"][both], before["score"][both]).value,
        "auc_before": metrics.auc(before["label"][both], before["score"][both]),
        **{key: value for key, value in row.items() if key != "way"},
        "decisions": decisions.compare_decisions(before, mine),
    }


def _write(summary: dict[str, Any], table: pd.DataFrame) -> Path:
    shown = table.assign(milliseconds=table["milliseconds"].map("{:.1f}".format))
    where = [on_path(summary["data"], summary["ensemble"], summary["on"], kind) for kind in ("csv", "json")]
    write_text(where[0], table_text(shown[list(TABLE_COLUMNS)]))
    write_json(where[1], summary)
    return where[1]
