"""A soup: one member whose weights are the mean of several members' weights. What ``liveness.soup`` does.

    used, figures = make_soup(["anise", "basil"], "mine", 0, "garden", greedy=False)

Reads weights/<set>/<recipe>_fold<k>.safetensors and data/<set>/; writes runs/<set>/<name>_fold<k>/{config.json,
oof.csv} and weights/<set>/<name>_fold<k>.safetensors. docs/ensembles.md says what a soup is worth.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from liveness.base.compose import from_dict
from liveness.base.config import Recipe, to_dict
from liveness.base.errors import UserError
from liveness.base.files import write_text
from liveness.evaluation import metrics
from liveness.evaluation.combine import video_scores
from liveness.frames.contract import read_contract
from liveness.laboratory.candidates import deal_into_parts

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from liveness.sets.dataset import PreparedSet

# Of a recipe's model: what may differ between ingredients, because it changes training only.
_FREE = ("drop_path",)
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
Score = Callable[[list[int]], pd.DataFrame]  # ingredients by number -> out-of-fold table of the mean of their weights


@dataclass
class Ingredient:
    """A trained member: its file's description and, by name, its tensors."""

    name: str
    description: dict[str, Any]
    state: "dict[str, Tensor]"


def _read_ingredient(data: str, recipe: str, fold: int) -> Ingredient:
    from liveness.members.names import weights_path
    from liveness.members.weights import describe_member, read_state

    path = weights_path(data, recipe, fold)
    if not path.is_file():
        raise UserError(
            f"{path}: no such weights; train them: DATA={data} bash scripts/train_member.sh {recipe} {fold}"
        )
    description = describe_member(path)
    if description["recipe"]["name"] != recipe or description["fold"] != fold:
        raise UserError(f"{path}: holds {description['recipe']['name']} fold {description['fold']}")
    return Ingredient(recipe, description, read_state(path))


def require_alike(parts: list[Ingredient]) -> None:
    """A UserError unless all ingredients share model, preprocessing, data and batch statistics."""
    first = parts[0]
    for other in parts[1:]:
        pair = f"{other.name} and {first.name} cannot be one soup"
        models = [{k: v for k, v in p.description["recipe"]["model"].items() if k not in _FREE} for p in (first, other)]
        if models[0] != models[1]:
            raise UserError(f"{pair}: other models ({_find_difference(*models)})")
        contracts = [_read_contract(part) for part in (first, other)]
        if contracts[0] != contracts[1]:
            raise UserError(f"{pair}: other preprocessing ({_find_difference(*contracts)})")
        if first.description.get("data_hash") != other.description.get("data_hash"):
            raise UserError(f"{pair}: they were trained on different states of the data; train one of them again")
        if {k: v.shape for k, v in first.state.items()} != {k: v.shape for k, v in other.state.items()}:
            raise UserError(f"{pair}: their files hold other tensors")
        for key, value in first.state.items():
            counted = key.endswith(_STATISTICS) or not value.is_floating_point()
            if counted and not value.equal(other.state[key]):
                raise UserError(
                    f"{pair}: their batch norms have other statistics ({key}), and the mean of statistics is not that "
                    "of the mean weights; train with model.freeze_norm=true"
                )


def _read_contract(part: Ingredient) -> dict:
    """The preprocessing with today's options filled in, so that files of different age compare."""
    contract = part.description["contract"]
    plan, view, detector = read_contract(contract, part.name)
    typed = {"frames": to_dict(plan), "view": to_dict(view), "detector": to_dict(detector)}
    # What training draws is no part of what a score is made of.
    typed["view"].pop("train_scales")
    return contract | typed


def _find_difference(one: dict, other: dict) -> str:
    """The first key that differs, with both values."""
    for key in sorted(set(one) | set(other)):
        a, b = one.get(key), other.get(key)
        if isinstance(a, dict) and isinstance(b, dict) and a != b:
            return f"{key}.{_find_difference(a, b)}"
        if a != b:
            return f"{key}: {str(b)[:40]}, not {str(a)[:40]}"
    return ""


def _average_states(states: "list[dict[str, Tensor]]") -> "dict[str, Tensor]":
    """The mean of each tensor over the states: summed in float64, stored as it was. One state stays as it is."""
    import torch

    if len(states) == 1:
        return dict(states[0])
    found = {}
    for key, value in states[0].items():
        if not value.is_floating_point() or key.endswith(_STATISTICS):
            found[key] = value  # equal in all, as require_alike has made sure
            continue
        total = torch.zeros(value.shape, dtype=torch.float64)
        for state in states:
            total += state[key].double()
        found[key] = (total / len(states)).to(value.dtype)
    return found


def make_soup(recipes: list[str], data: str, fold: int, name: str, greedy: bool) -> tuple[list[str], dict[str, str]]:
    """Judge the soup on the fold that its ingredients held out, and write it as a member.

    Returns the recipes whose mean it is, and for each ingredient and the soup its figures in words.
    """
    from liveness.members.names import run_folder, weights_path
    from liveness.models.device import pick_device
    from liveness.sets.dataset import load_set
    from liveness.training.checks import require_room
    from liveness.training.member import finish, with_holdout
    from liveness.training.start import merge_provenance

    parts = [_read_ingredient(data, recipe, fold) for recipe in recipes]
    require_alike(parts)
    recipe = from_dict(Recipe, parts[0].description["recipe"], parts[0].name)
    recipe.name = name
    folder = run_folder(data, name, fold)
    weights = weights_path(data, name, fold)
    _refuse_training(folder, weights)
    for place in (folder, weights.parent):
        require_room(place, sum(value.nbytes for value in parts[0].state.values()))
    prepared = load_set(data, recipe.frames)
    if prepared.digest != parts[0].description.get("data_hash"):
        raise UserError(f"data/{data} changed since {parts[0].name} was trained; train the ingredients again")
    score = _make_scorer(parts, recipe, fold, prepared)
    chosen = list(range(len(parts)))
    crossed: list[list[int]] = []
    if greedy:
        chosen, oof, crossed = _choose_greedily(parts, recipe.combine, prepared.videos["group"], score)
    else:
        oof = score(chosen)
    used = [parts[i].name for i in chosen]
    about: dict[str, Any] = {
        "how": "greedy" if greedy else "uniform",
        "offered": [part.name for part in parts],
        "mean_of": used,
    }
    if crossed:
        about["cross_fitted"] = [[parts[i].name for i in choice] for choice in crossed]
    described = {"recipe": to_dict(recipe), "fold": fold, "data": data, "data_hash": prepared.digest, "soup": about}
    known = [part.description["trained_on"] for part in parts if "trained_on" in part.description]
    if len(known) == len(parts):
        described["trained_on"] = merge_provenance(known)
    model = _build_with(recipe, _average_states([parts[i].state for i in chosen]))
    oof = with_holdout(oof, model, pick_device(), prepared, recipe)
    write_text(folder / "config.json", json.dumps(described, indent=1, sort_keys=True) + "\n")  # all is scored by now
    finish(model, oof, prepared, described, folder)
    tables = {**{part.name: score([i]) for i, part in enumerate(parts)}, name: oof}
    return used, {title: _describe_figures(table, recipe.combine) for title, table in tables.items()}


def _refuse_training(folder: Path, weights: Path) -> None:
    """A UserError where a trained member's run or its weights lie where the soup's would."""
    from liveness.members.weights import describe_member

    path = folder / "config.json"
    if path.is_file() and "soup" not in json.loads(path.read_text(encoding="utf-8")):
        raise UserError(f"{folder} holds a training; give the soup another --name")
    if weights.is_file() and "soup" not in describe_member(weights):
        raise UserError(f"{weights} is a trained member; give the soup another --name")


def _build_with(recipe: Recipe, state: "dict[str, Tensor]") -> "Module":
    from liveness.members.weights import load_strictly
    from liveness.models.build import build

    model = build(recipe.model, recipe.view.size)
    load_strictly(model, state, recipe.name)
    return model.eval()


def _make_scorer(parts: list[Ingredient], recipe: Recipe, fold: int, prepared: "PreparedSet") -> Score:
    """A function: ingredients (by number) -> out-of-fold table of the mean of their weights; each made once."""
    from liveness.models.device import pick_device, use_all_cores
    from liveness.sets.dataset import HeldOutVideos, split_set
    from liveness.training.member import score_held_out

    use_all_cores()
    device = pick_device()
    _, held_out = split_set(prepared, fold, recipe.view)
    videos = HeldOutVideos(prepared, held_out, recipe.view)
    known: dict[tuple[int, ...], pd.DataFrame] = {}

    def score(chosen: list[int]) -> pd.DataFrame:
        key = tuple(sorted(chosen))
        if key not in known:
            model = _build_with(recipe, _average_states([parts[i].state for i in key]))
            known[key] = score_held_out(model, device, videos, prepared, recipe)
        return known[key]

    return score


def _choose_greedily(
    parts: list[Ingredient], combine: str, groups: pd.Series, score: Score
) -> tuple[list[int], pd.DataFrame, list[list[int]]]:
    """(what is chosen on the whole fold, cross-fitted out-of-fold table, what was chosen for each part).

    The table's rows of a part of the fold come from the soup that was chosen on the other parts, so that
    no video has a say in what scores it. A fold of one group, or with a class in one part only, has none.
    """
    videos = video_scores(score([0]), combine)
    names, labels = videos["filename"].to_numpy(), videos["label"].to_numpy(int)
    dealt = dict(zip(names, deal_into_parts(labels, groups.loc[names].to_numpy()), strict=True))
    chosen = _choose_on(set(names), len(parts), combine, score)
    table = score(chosen).copy()
    crossed: list[list[int]] = []
    part_of = table["filename"].map(dealt)
    for part in sorted(set(dealt.values())):
        rest = {video for video, its in dealt.items() if its != part}
        if len({label for video, label in zip(names, labels, strict=True) if video in rest}) < 2:
            raise UserError(
                "--greedy: the held-out fold has too few groups of either class to choose on some and judge on others; "
                "leave --greedy out"
            )
        crossed.append(_choose_on(rest, len(parts), combine, score))
        rows = part_of == part
        table.loc[rows, "score"] = score(crossed[-1]).loc[rows, "score"]
    return chosen, table, crossed


def _choose_on(videos: set[str], count: int, combine: str, score: Score) -> list[int]:
    """Greedy soup (Wortsman et al. 2022): ingredients by their own log loss, each kept if it lowers the soup's."""

    def loss(chosen: list[int]) -> float:
        table = video_scores(score(chosen), combine)
        table = table[table["filename"].isin(videos) & table["score"].notna()]
        return metrics.log_loss(table["label"].to_numpy(int), table["score"].to_numpy(float))

    order = sorted(range(count), key=lambda i: (loss([i]), i))
    chosen, best = [order[0]], loss([order[0]])
    for i in order[1:]:
        tried = loss([*chosen, i])
        if tried < best:
            chosen, best = [*chosen, i], tried
    return sorted(chosen)


def _describe_figures(oof: pd.DataFrame, combine: str) -> str:
    """Log loss and EER of the videos of the held-out fold that have a score."""
    table = video_scores(oof, combine)
    # Rows of fold -1 belong to no fold: every member is judged on them in the evaluation.
    table = table[table["score"].notna() & (table["fold"] >= 0)]
    labels, scores = table["label"].to_numpy(int), table["score"].to_numpy(np.float64)
    loss, equal = metrics.log_loss(labels, scores), metrics.eer(labels, scores).value
    return f"held-out log loss {loss:.4f}, EER {100 * equal:.1f} %, {len(table)} videos"
