"""Training with pseudo-labels: soft labels that other members gave to videos of a set without labels.

    rows, held_out = split_training(recipe, 0, prepared)      labelled frames, and those that the file labels for fold 0

A file of pseudo-labels (laboratory/pseudo_labelling.py makes it) has a row per (video, fold k), and the training of
fold k reads only its own. What is written beside it says on which videos each fold's labellers were trained and
calibrated: a file with any that fold k holds out is refused.

Reads runs/<set>/pseudo_labels/<name>.{csv,json} and data/<unlabelled set>/; writes nothing.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from liveness.base.config import Recipe
from liveness.base.errors import UserError
from liveness.base.files import plain_name, sha256_of, show_path, workspace
from liveness.base.tables import read_table, table_text
from liveness.sets.dataset import PreparedSet, split_set
from liveness.sets.soft_labels import SOFT, WEIGHT
from liveness.training.semi import find_apart
from liveness.training.start import list_provenance, merge_provenance, require_fold_safe
from liveness.training.unlabelled import load_apart, rows_of_view

KEY = "train.pseudo_labels"
COLUMNS = ["filename", "label", "weight", "fold", "labellers"]


@dataclass(frozen=True)
class PseudoLabels:
    """What a file says for one fold, once it may be learned from."""

    name: str
    unlabelled: PreparedSet
    table: pd.DataFrame  # filename (index), label: probability of live, weight
    about: dict[str, Any]  # of the fold: its labellers, what they were calibrated on
    digest: str  # over the fold's rows and what is written of them


def pseudo_path(data: str, name: str) -> Path:
    """runs/<set>/pseudo_labels/<name>.csv; beside it lies the json with what the labels come from."""
    return workspace() / "runs" / data / "pseudo_labels" / f"{plain_name(name, KEY)}.csv"


def read_pseudo(recipe: Recipe, fold: int, prepared: PreparedSet) -> PseudoLabels | None:
    """What the recipe's file says for a fold; None without one.

    A UserError where it is not there or not whole, is about another set or another state of the sets, or where its
    labellers, their calibration or the unlabelled set may have seen what the fold holds out.
    """
    if not recipe.train.pseudo_labels:
        return None
    path = pseudo_path(prepared.name, recipe.train.pseudo_labels)
    content, where, anew = _read_about(path), show_path(path), "label anew: python -m liveness.pseudo_label"
    if (content["data"], content["data_hash"]) != (prepared.name, prepared.digest):
        raise UserError(
            f"{where} was made for data/{content['data']}, or for another state of it than data/{prepared.name} has "
            f"now; {anew}"
        )
    about = content["folds"].get(str(fold))
    if about is None:
        raise UserError(f"{where} has nothing for fold {fold}, only for {', '.join(content['folds'])}; {anew}")
    for labeller in about["labellers"]:
        require_fold_safe({"trained_on": labeller["trained_on"]}, prepared, fold, f"{where}: its {labeller['member']}")
    calibrated = f"{where}: the calibration of its labellers for fold {fold}, which"
    require_fold_safe({"trained_on": about["calibrated_on"]}, prepared, fold, calibrated)
    name = plain_name(content["unlabelled"]["set"], where)
    unlabelled = load_apart(name, recipe, fold, prepared, KEY)
    if unlabelled.digest != content["unlabelled"]["digest"]:
        raise UserError(f"{where} was made for another state of data/{name}; {anew}")
    table = _read_rows(path, fold, about, unlabelled)
    text = json.dumps(about, sort_keys=True) + json.dumps(content["unlabelled"]) + table_text(table.reset_index())
    return PseudoLabels(path.stem, unlabelled, table, about, hashlib.sha256(text.encode()).hexdigest())


def _read_about(path: Path) -> dict[str, Any]:
    """The json beside a file of pseudo-labels; a UserError unless both are there and belong together."""
    where = show_path(path)
    if not path.is_file() or not path.with_suffix(".json").is_file():
        raise UserError(f"{KEY}: {where} is not there with its json; make it: python -m liveness.pseudo_label -h")
    try:
        content = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        for about in content["folds"].values():
            for part in (about["calibrated_on"], *(labeller["trained_on"] for labeller in about["labellers"])):
                if not part["videos"] or not part["groups"]:
                    raise ValueError("provenance")
        named = {key: content[key] for key in ("data", "data_hash", "unlabelled", "sha256", "folds")}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{show_path(path.with_suffix('.json'))}: does not say on what the labellers of {path.name} were trained "
            "and calibrated; make both anew: python -m liveness.pseudo_label"
        ) from error
    if named["sha256"] != sha256_of(path):
        raise UserError(f"{where}: was changed since it was made; make it anew: python -m liveness.pseudo_label")
    return named


def _read_rows(path: Path, fold: int, about: dict[str, Any], unlabelled: PreparedSet) -> pd.DataFrame:
    table, where = read_table(path, COLUMNS), show_path(path)
    table = table[table["fold"] == str(fold)]
    if (table["labellers"] != name_labellers(about["labellers"])).any():
        raise UserError(f"{where}: rows of fold {fold} are of other labellers than its json says")
    table = table.set_index("filename")[["label", "weight"]].apply(pd.to_numeric, errors="coerce").astype(float)
    sound = table.label.between(0, 1) & (table.weight > 0) & np.isfinite(table.weight)
    known = table.index.isin(unlabelled.videos.index)
    if table.index.duplicated().any() or not (sound & known).all():
        raise UserError(
            f"{where}: fold {fold}: expected one row for a video of {unlabelled.name}, with label and weight"
        )
    return table


def name_labellers(labellers: list[dict[str, Any]]) -> str:
    """What the column ``labellers`` says of a fold's labellers: the digests of their weights, shortened."""
    return "+".join(str(labeller["weights_sha256"])[:16] for labeller in labellers)


def describe_pseudo(recipe: Recipe, fold: int, prepared: PreparedSet) -> dict[str, Any] | None:
    """For config.json: the file and the digest of what it says for this fold; None without one. Raises as
    ``read_pseudo``."""
    pseudo = read_pseudo(recipe, fold, prepared)
    if pseudo is None:
        return None
    unlabelled = {"set": pseudo.unlabelled.name, "digest": pseudo.unlabelled.digest}
    return {"name": pseudo.name, "digest": pseudo.digest, "videos": len(pseudo.table), "unlabelled": unlabelled}


def list_pseudo_provenance(recipe: Recipe, fold: int, prepared: PreparedSet) -> dict[str, list[str]]:
    """What to write into a member of the videos that its pseudo-labels are of, and of those that they come from."""
    pseudo = read_pseudo(recipe, fold, prepared)
    if pseudo is None:
        return {}
    own = list_provenance(pseudo.unlabelled, pseudo.table.index) if len(pseudo.table) else {}
    labellers = [labeller["trained_on"] for labeller in pseudo.about["labellers"]]
    return merge_provenance([own, pseudo.about["calibrated_on"], *labellers])


def split_training(recipe: Recipe, fold: int, prepared: PreparedSet) -> tuple[pd.DataFrame, list[str]]:
    """``split_set`` as the recipe trains: without the videos that it keeps apart (but for mean_teacher, which
    calibrates on them as it trains), and with the frames that its pseudo-labels are of; these name their set's
    ``folder``."""
    rows, held_out = split_set(prepared, fold, recipe.view)
    if recipe.train.keep_apart and recipe.train.task != "mean_teacher":
        rows = rows[~rows.filename.isin(find_apart(recipe, prepared, rows))].reset_index(drop=True)
    pseudo = read_pseudo(recipe, fold, prepared)
    return (rows if pseudo is None else _add_pseudo(rows, pseudo, prepared, recipe)), held_out


def _add_pseudo(rows: pd.DataFrame, pseudo: PseudoLabels, prepared: PreparedSet, recipe: Recipe) -> pd.DataFrame:
    theirs = rows_of_view(pseudo.unlabelled, recipe.view)
    theirs = theirs[theirs.filename.isin(pseudo.table.index)].reset_index(drop=True)
    labels, weights = (theirs.filename.map(pseudo.table[name]) for name in ("label", "weight"))
    theirs = theirs.assign(label=(labels > 0.5).astype(int), folder=pseudo.unlabelled.folder)
    theirs = theirs.assign(**{SOFT: labels.where((labels > 0) & (labels < 1)), WEIGHT: weights})
    ours = rows.assign(folder=prepared.folder)
    if WEIGHT not in ours:
        ours = ours.assign(**{SOFT: np.nan, WEIGHT: 1.0})
    theirs = theirs.reindex(columns=ours.columns)
    if "camera" in ours:
        theirs["camera"] = theirs["camera"].fillna("")
    return pd.concat([ours, theirs], ignore_index=True) if len(theirs) else ours
