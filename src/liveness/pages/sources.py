"""What the report is made of: everything that the stages left about an ensemble, read and checked.

``read_sources`` needs the two files of ``python -m liveness.evaluate``; all else is optional, and what is
absent or belongs to another state of the data is named with the command that makes it.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from liveness.base.errors import UserError
from liveness.base.files import workspace
from liveness.base.tables import read_table
from liveness.evaluation import grouping, metrics
from liveness.members.names import operating_path
from liveness.pages.page import read_written_time
from liveness.sets.labelled import read_conditions

_LABORATORY_VERSION = 1  # of shift.json and search.json
_NEEDED = ("counts", "pooled", "at_eer_threshold", "operating_points", "non_response", "folds", "members", "data_hash")
_SCORE_COLUMNS = ["filename", "label", "group", "fold", "score", "status"]


@dataclass
class Sources:
    """Everything that is known of an ensemble on a set.

    ``table``: oof_video.csv with label and fold as numbers, score and members' columns as floats, and the
    column species ("" where none is named). ``absent``: part -> why it is not there and what makes it.
    """

    ensemble: str
    data: str
    summary: dict
    table: pd.DataFrame
    members: list[str]
    conditions: pd.DataFrame  # of read_conditions, rows as in table
    thresholds: dict | None = None
    shift: dict | None = None
    search: dict | None = None
    runs: list[dict] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def evaluated(self) -> str:
        """When the evaluation was made. For the page alone: equal figures make an equal report.json on any day."""
        return read_written_time(workspace() / "runs" / self.data / self.ensemble / "report.json")

    @property
    def data_folder(self) -> Path:
        return workspace() / "data" / self.data


def read_sources(ensemble: str, data: str) -> Sources:
    """Read runs/<data>/<ensemble>/ and what lies around it."""
    folder = workspace() / "runs" / data / ensemble
    again = _evaluation_command(ensemble, data)
    for name in ("report.json", "oof_video.csv"):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: no such file, so there is nothing to report; make it with: {again}")
    summary = _read_json(folder / "report.json")
    table = _read_video_scores(folder / "oof_video.csv")
    members = [name for name in table.columns if name not in (*_SCORE_COLUMNS, "species")]
    lacking = [key for key in _NEEDED if key not in summary]
    if lacking:
        raise UserError(f"{folder / 'report.json'}: has no {', '.join(lacking)}; make it anew with: {again}")
    summary.setdefault("grouping", dict(grouping.UNKNOWN_GROUPS))  # of an evaluation that did not say yet
    table["species"] = _read_species(workspace() / "data" / data / "labels_video.csv", table)
    conditions = read_conditions(workspace() / "data" / data, table["filename"].tolist())
    found = Sources(ensemble, data, summary, table, members, conditions)
    _require_agreement(found, folder, again)
    found.thresholds = _read_thresholds(found)
    whole = ensemble.removesuffix("-subset")
    found.shift = _read_laboratory(found, folder / "shift.json", "rows", f"python -m liveness.shift {whole}")
    found.search = _read_laboratory(found, folder / "search.json", "subsets", f"python -m liveness.search {whole}")
    found.runs = [_read_run(workspace() / "runs" / data / member, member) for member in members]
    return found


def _evaluation_command(ensemble: str, data: str) -> str:
    """The command that evaluates; what ``--members`` wrote has a name of its own."""
    name = ensemble.removesuffix("-subset")
    return f"python -m liveness.evaluate {name} --data {data}" + (" --members …" if name != ensemble else "")


def _read_json(path: Path) -> dict:
    """A JSON object; a UserError for anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read as JSON ({type(error).__name__}); remove it and make it anew"
        ) from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object; remove it and make it anew")
    return value


def _read_video_scores(path: Path) -> pd.DataFrame:
    """oof_video.csv with numbers as numbers; empty scores are nan."""
    table = read_table(path, _SCORE_COLUMNS)
    for column in table.columns.difference(["filename", "group", "status", "species"]):
        values = pd.to_numeric(table[column], errors="coerce")
        bad = values.isna() & (table[column] != "")
        if bad.any():
            raise UserError(f"{path}: {column} {table[column][bad].iloc[0]!r}; expected a number; evaluate again")
        table[column] = values
    if table["label"].isna().any() or table["fold"].isna().any():
        raise UserError(f"{path}: a row without label or fold; evaluate again")
    scores = table["score"]
    if ((scores < 0) | (scores > 1)).any() or not table["label"].isin((0, 1)).all():
        raise UserError(f"{path}: expected labels 0 and 1 and scores from 0 to 1; evaluate again")
    return table.astype({"label": int, "fold": int, "score": float})


def _read_species(path: Path, table: pd.DataFrame) -> list[str]:
    """The species of every row's video; "" where none is named."""
    if not path.is_file():
        return [""] * len(table)
    videos = read_table(path, ["filename"])
    named = dict(zip(videos["filename"], videos["species"], strict=True)) if "species" in videos else {}
    return [named.get(name, "") for name in table["filename"]]


def select_out_of_fold(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that the members' own folds cover, with a score; fold -1 is the holdout, which no member saw."""
    return table[(table["fold"] >= 0) & np.isfinite(table["score"])]


def select_holdout(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that no member was trained on, with a score."""
    return table[(table["fold"] < 0) & np.isfinite(table["score"])]


def _require_agreement(sources: Sources, folder: Path, again: str) -> None:
    """A UserError unless report.json's figures are those of oof_video.csv: half-replaced files show nonsense."""
    parts = [(select_out_of_fold(sources.table), sources.summary)]
    if sources.summary.get("holdout"):
        parts.append((select_holdout(sources.table), sources.summary["holdout"]))
    found = [metrics.eer(rows["label"], rows["score"]).value for rows, _ in parts]
    told = [part["pooled"].get("eer") for _, part in parts]
    # A holdout of one class has no error rate: null there, nan here.
    if not all(math.isnan(a) if b is None else abs(a - b) < 1e-9 for a, b in zip(found, told, strict=True)):
        raise UserError(f"{folder}: report.json and oof_video.csv disagree on the EER; make them anew with: {again}")


def _read_thresholds(sources: Sources) -> dict | None:
    """weights/<set>/<ensemble>.json, if it is about this evaluation."""
    path = operating_path(sources.data, sources.ensemble)
    again = _evaluation_command(sources.ensemble.removesuffix("-subset"), sources.data)
    if not path.is_file():
        sources.absent["thresholds"] = (
            f"No thresholds are shipped for these members. For the ensemble they are: {again}"
        )
        return None
    value = _read_json(path)
    if value.get("data_hash") != sources.summary["data_hash"] or not isinstance(value.get("thresholds"), list):
        sources.absent["thresholds"] = (
            f"The thresholds beside the weights are of another state of the data. Anew: {again}"
        )
        return None
    return value


def _read_laboratory(sources: Sources, path: Path, rows: str, command: str) -> dict | None:
    """shift.json or search.json; None with a reason in ``sources.absent`` where it is not there or not ours."""
    part, command = path.stem, f"{command} --data {sources.data}"
    if not path.is_file():
        chosen = sources.ensemble.endswith("-subset")  # no configuration of its own, so neither can be run on it
        why = "Not measured for chosen members. For the whole ensemble" if chosen else "Not measured yet. To measure"
        sources.absent[part] = f"{why}: {command}"
        return None
    value = _read_json(path)
    if value.get("version") != _LABORATORY_VERSION or not isinstance(value.get(rows), list):
        sources.absent[part] = f"{path.name} has a form that this report does not know. Anew: {command}"
        return None
    ours = {"ensemble": sources.ensemble, "data": sources.data, "data_hash": sources.summary["data_hash"]}
    timed = {row.get("name") for row in value.get("members") or [] if isinstance(row, dict)} or set(sources.members)
    same = all(value.get(key) == mine for key, mine in ours.items()) and timed == set(sources.members)
    if not same or (value.get("weights_sha256") or {}) != (sources.summary.get("weights_sha256") or {}):
        sources.absent[part] = f"{path.name} is of another ensemble, state of the data or training. Anew: {command}"
        return None
    return value


def _read_run(folder: Path, member: str) -> dict:
    """What a member was: its config.json and the last start in runs.json; {} for what is not there."""
    config = _read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    starts = []
    if (folder / "runs.json").is_file():
        try:
            starts = json.loads((folder / "runs.json").read_text(encoding="utf-8"))
        except ValueError:
            starts = []  # only for the record; the config is what counts
    last = starts[-1] if isinstance(starts, list) and starts and isinstance(starts[-1], dict) else {}
    return {"member": member, "config": config, "start": last, "starts": len(starts) if isinstance(starts, list) else 0}


def read_frame_scores(sources: Sources, filenames: list[str]) -> dict[str, dict[str, float]]:
    """video -> frame_id -> the members' mean score, raw, for the videos named."""
    parts = []
    for member in sources.members:
        path = workspace() / "runs" / sources.data / member / "oof.csv"
        if path.is_file():
            frames = read_table(path, ["filename", "frame_id", "score"])
            parts.append(frames[frames["filename"].isin(filenames)])
    if not parts:
        return {}
    frames = pd.concat(parts)
    frames["score"] = pd.to_numeric(frames["score"], errors="coerce")
    frames = frames[frames["score"].notna() & (frames["frame_id"] != "")]
    means = frames.groupby(["filename", "frame_id"], sort=False)["score"].mean()
    found: dict[str, dict[str, float]] = {}
    for (filename, frame), score in means.items():
        found.setdefault(filename, {})[frame] = float(score)
    return found
