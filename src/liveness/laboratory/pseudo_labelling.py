"""Pseudo-labels: trained members label the videos of a set without labels, for each fold by itself.

    labelling = plan_labelling("efficientnet_lite0", [], "train", "public_test", [0, 1], 0.9, "")
    train_labellers(labelling)
    label_set(labelling)

What the training of fold k learns from must not know fold k. So a file of pseudo-labels has rows for each fold k, from
labellers that held out fold k. And since a member's scores of what it was trained on are too sure, and those of what it
held out are of fold k, the labellers are members of their own: ``train.keep_apart`` keeps an inner part of fold k's
training videos, whole groups of them, from their training. On these they are calibrated; what counts as sure follows.

Writes the labellers as any training, then runs/<set>/pseudo_labels/<name>.csv and, last, .json.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from liveness.base.compose import from_dict, load_ensemble, names
from liveness.base.config import Recipe, nearest
from liveness.base.errors import UserError
from liveness.base.files import natural_key, plain_name, sha256_of, show_path, write_json, write_text
from liveness.base.names import few
from liveness.base.tables import table_text
from liveness.base.validity import require
from liveness.evaluation.calibration import Calibration, fit_calibration
from liveness.evaluation.combine import blend_rows, video_scores
from liveness.laboratory.contenders import Contender, list_missing, train_missing
from liveness.members.names import weights_path
from liveness.members.weights import load_member
from liveness.sets.dataset import HeldOutVideos, PreparedSet, load_set, split_set
from liveness.sets.soft_labels import is_soft
from liveness.training.pseudo_labels import COLUMNS, name_labellers, pseudo_path
from liveness.training.semi import find_apart
from liveness.training.start import Start, find_seen, list_provenance, require_fold_safe
from liveness.training.teachers import describe_teachers
from liveness.training.unlabelled import load_apart

_LEAST = 5  # videos of each class that the calibration needs
_DIGITS = 6  # of labels and weights in the file


@dataclass(frozen=True)
class Labelling:
    """What is to be labelled, and by whom."""

    name: str  # of the file
    data: str
    unlabelled: str
    confidence: float  # the calibrated probability of a class from which a video is labelled
    by_fold: dict[int, list[tuple[Contender, float]]]  # labellers and their weights


def plan_labelling(
    who: str, overrides: Sequence[str], data: str, unlabelled: str, folds: Sequence[int], confidence: float, name: str
) -> Labelling:
    """who: a recipe, or an ensemble, whose members of a fold label together. overrides: of all labellers' recipes.

    A UserError where that names nobody for one of the folds.
    """
    require(0.5 < confidence < 1, f"--confidence {confidence:g}: expected above 0.5, below 1")
    plain_name(unlabelled, "--unlabelled")
    by_fold = {fold: [(_make_labeller(r, overrides), w) for r, w in _list_recipes(who, fold)] for fold in folds}
    return Labelling(name or f"{who}_{unlabelled}", data, unlabelled, confidence, by_fold)


def _list_recipes(who: str, fold: int) -> list[tuple[str, float]]:
    """Recipes and weights of those who label for a fold; of one name a recipe goes before an ensemble."""
    recipes, ensembles = names("recipe"), names("ensemble")
    if who in recipes:
        return [(who, 1.0)]
    if who not in ensembles:
        hint = nearest(who, recipes + ensembles)
        raise UserError(f"no {who!r} in configs/recipe ({', '.join(recipes)}) and none in configs/ensemble{hint}")
    found = [(m.recipe, m.weight) for m in load_ensemble(who).members if (m.folds or m.fold == fold) and not m.soup]
    require(found, f"the ensemble {who} has no recipe's member of fold {fold}; expected --folds of those that it has")
    return found


def _make_labeller(recipe: str, overrides: Sequence[str]) -> Contender:
    """A recipe's labellers: members <recipe>_labeller_fold<k>; with overrides a digest of them stands in the name."""
    digest = hashlib.sha256("\n".join(overrides).encode()).hexdigest()[:6]
    name = f"{recipe}_labeller" + (f"_{digest}" if overrides else "")
    return Contender(name, recipe, ("train.keep_apart=true", "train.select=last", *overrides))


def train_labellers(labelling: Labelling) -> None:
    """Train the labellers that are missing, once all is known to be possible. Raises as ``train_missing``, and a
    UserError where the unlabelled set may not be learned from for one of the folds."""
    for fold, labellers in labelling.by_fold.items():
        for labeller, _ in labellers:
            recipe = labeller.load(fold)
            prepared = load_set(labelling.data, recipe.frames)
            load_apart(labelling.unlabelled, recipe, fold, prepared, "--unlabelled")
            sources = [Start(recipe, fold, labelling.data).describe(), *describe_teachers(recipe, fold, labelling.data)]
            for source in sources:
                _require_unseen(source or {}, recipe, prepared, fold, f"{labeller.name}: what it starts or learns from")
            labels = prepared.videos.label[_find_kept_apart(recipe, prepared, fold)].to_numpy(dtype=int)
            calibrate_labeller(labels, labels, f"fold {fold}")  # whether there are enough of them
        list_missing([labeller for labeller, _ in labellers], labelling.data, [fold])
    for fold, labellers in labelling.by_fold.items():
        train_missing([labeller for labeller, _ in labellers], labelling.data, [fold])


def _find_kept_apart(recipe: Recipe, prepared: PreparedSet, fold: int) -> list[str]:
    """The videos with hard labels that a labeller of the fold keeps from its training."""
    apart = find_apart(recipe, prepared, split_set(prepared, fold, recipe.view)[0])
    videos = prepared.videos
    return videos.index[videos.index.isin(apart) & ~is_soft(videos)].tolist()


def _require_unseen(about: dict[str, Any], recipe: Recipe, prepared: PreparedSet, fold: int, where: str) -> None:
    """A UserError where a member was trained on videos on which a labeller is to be calibrated."""
    videos = prepared.videos.video_id[_find_kept_apart(recipe, prepared, fold)]
    seen = find_seen(about, prepared.folder, list(videos))
    require(
        not seen,
        f"{where} was trained on {len(seen)} of the {len(videos)} videos of data/{prepared.name} that are kept apart "
        f"to calibrate on for fold {fold}, such as {few(seen, 2)}: its scores of them are too sure; leave "
        "out train.init and train.teacher",
    )


# --- labelling -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Labeller:
    """A trained labeller: its scores of videos, by file name (nan: none)."""

    about: dict[str, Any]  # for the json
    weight: float
    apart: pd.Series  # of the labelled videos that it kept from its training
    unlabelled: pd.Series


def label_set(labelling: Labelling) -> tuple[Path, list[dict[str, Any]]]:
    """Write the file, and what its labels come from beside it. Returns its path and, by fold, what was found."""
    path, tables, folds = pseudo_path(labelling.data, labelling.name), [], {}
    told: list[dict[str, Any]] = []
    for fold in labelling.by_fold:
        table, about, prepared, unlabelled = _label_fold(labelling, fold)
        tables.append(table)
        folds[str(fold)] = about
        told.append({"fold": fold, **about["counts"]})
    path.with_suffix(".json").unlink(missing_ok=True)  # of an earlier file, which is replaced now
    write_text(path, table_text(pd.concat(tables, ignore_index=True)))
    content = {"format": 1, "data": labelling.data, "data_hash": prepared.digest, "confidence": labelling.confidence}
    content |= {"unlabelled": {"set": unlabelled.name, "digest": unlabelled.digest}, "sha256": sha256_of(path)}
    write_json(path.with_suffix(".json"), content | {"folds": folds}, indent=1, sort_keys=True)
    return path, told


def _label_fold(labelling: Labelling, fold: int) -> tuple[pd.DataFrame, dict[str, Any], PreparedSet, PreparedSet]:
    found = [_ask(labelling, labeller, weight, fold) for labeller, weight in labelling.by_fold[fold]]
    labellers, prepared, unlabelled = [one for one, _, _ in found], found[0][1], found[0][2]
    common = sorted(set.intersection(*(set(one.apart.index) for one in labellers)), key=natural_key)
    labels = prepared.videos.label[common].to_numpy(dtype=int)
    inner, outer = [], []
    for labeller in labellers:
        fitted = calibrate_labeller(labeller.apart[common].to_numpy(), labels, f"fold {fold}")
        labeller.about["calibration"] = fitted.to_dict()
        inner.append(_apply(fitted, labeller.apart[common]))
        outer.append(_apply(fitted, labeller.unlabelled))
    weights = np.array([labeller.weight for labeller in labellers])
    check, scores = (blend_rows(np.array(part).T, weights) for part in (inner, outer))
    about: dict[str, Any] = {
        "labellers": [labeller.about for labeller in labellers],
        "calibrated_on": list_provenance(prepared, common),
        "counts": _count(check, labels, scores, labelling.confidence),
    }
    table = choose_sure(pd.Series(scores, index=labellers[0].unlabelled.index), labelling.confidence)
    table["fold"], table["labellers"] = fold, name_labellers(about["labellers"])
    return table[COLUMNS], about, prepared, unlabelled


def _ask(
    labelling: Labelling, labeller: Contender, weight: float, fold: int
) -> tuple[_Labeller, PreparedSet, PreparedSet]:
    """What a trained labeller says of the videos that it kept apart, and of the unlabelled ones.

    A UserError where it is no labeller of this fold and this state of the set."""
    from liveness.models.device import pick_device
    from liveness.training.member import score_held_out

    path = weights_path(labelling.data, labeller.name, fold)
    model, about = load_member(path)
    where, recipe = show_path(path), from_dict(Recipe, about["recipe"], "recipe")
    prepared = load_set(labelling.data, recipe.frames)
    if (about.get("data"), about.get("data_hash"), about.get("fold")) != (prepared.name, prepared.digest, fold):
        raise UserError(f"{where} was not trained on this state of data/{prepared.name} with fold {fold} held out")
    require_fold_safe(about, prepared, fold, where)
    unlabelled = load_apart(labelling.unlabelled, recipe, fold, prepared, "--unlabelled")
    if recipe.train.task != "mean_teacher":  # which lists what it is calibrated on too
        _require_unseen(about, recipe, prepared, fold, where)
    judged = _find_kept_apart(recipe, prepared, fold)
    nobody = replace(unlabelled, videos=unlabelled.videos.assign(label=0, fold=-1))  # it has no labels: none is read
    device = pick_device()
    model.to(device)
    scores = []
    for part, chosen in ((prepared, judged), (nobody, list(nobody.videos.index))):
        videos = HeldOutVideos(part, chosen, recipe.view)
        table = video_scores(score_held_out(model, device, videos, part, recipe), recipe.combine)
        scores.append(table.set_index("filename")["score"].reindex(chosen))
    told = {"member": labeller.name, "weights_sha256": about["weights_sha256"], "weight": weight}
    return _Labeller(told | {"trained_on": about["trained_on"]}, weight, *scores), prepared, unlabelled


def calibrate_labeller(scores: np.ndarray, labels: np.ndarray, where: str) -> Calibration:
    """Platt's calibration of a labeller's scores of the videos that it kept apart; a UserError with too few of them."""
    fitted = fit_calibration("platt", scores, labels, least=_LEAST)
    require(
        fitted.how != "none",
        f"{where}: the part of the training videos that is kept apart to calibrate on has {fitted.note}; expected "
        f"{_LEAST} videos of each class: give it a larger share (-o train.calibration_share=)",
    )
    return fitted


def _apply(fitted: Calibration, scores: pd.Series) -> np.ndarray:
    """Calibrated scores; a labeller whose scores do not rise with the labels says nothing of any video."""
    return fitted.apply(scores.to_numpy()) if fitted.slope > 0 else np.full(len(scores), np.nan)


def choose_sure(scores: pd.Series, confidence: float) -> pd.DataFrame:
    """The videos (index) whose calibrated score is sure, in natural order: filename, label (the score), weight.

    The weight is the certainty 1 - H(p) / ln 2 of a label p, H its entropy: 0 for a coin's, 1 for a hard one (Iscen et
    al. 2019, "Label propagation for deep semi-supervised learning").
    """
    sure = scores[(scores >= confidence) | (scores <= 1 - confidence)]
    sure = sure[sorted(sure.index, key=natural_key)]
    p = np.clip(sure.to_numpy(dtype=float), 1e-12, 1 - 1e-12)
    certainty = 1 + (p * np.log(p) + (1 - p) * np.log(1 - p)) / np.log(2)
    table = pd.DataFrame({"filename": list(sure.index), "label": p, "weight": certainty})
    return table.round({"label": _DIGITS, "weight": _DIGITS})


def _count(inner: np.ndarray, labels: np.ndarray, scores: np.ndarray, confidence: float) -> dict[str, int]:
    """How many videos are taken as live and as attacks; and of those kept apart how many would be, and how many of
    these wrongly."""
    sure = [(part >= confidence, part <= 1 - confidence) for part in (inner, scores)]
    (live, attack), (taken_live, taken_attack) = sure
    return {
        "videos": len(scores),
        "live": int(taken_live.sum()),
        "attack": int(taken_attack.sum()),
        "apart": len(labels),
        "apart_sure": int((live | attack).sum()),
        "apart_wrong": int((live & (labels == 0)).sum() + (attack & (labels == 1)).sum()),
    }


def render_labelling(path: Path, told: list[dict[str, Any]]) -> str:
    """What was found, a line for each fold."""
    lines = [
        f"fold {row['fold']}: of {row['videos']} videos {row['live']} are taken as live, {row['attack']} as attacks "
        f"(of the {row['apart']} labelled ones that were kept apart {row['apart_sure']} would be, {row['apart_wrong']} "
        "of them wrongly)"
        for row in told
    ]
    use = f"to train with them: -o train.pseudo_labels={path.stem}"
    return "\n".join([*lines, f"{show_path(path)}; {use}"])
