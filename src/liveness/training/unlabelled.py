"""A set without labels as a second source of samples: what it must not hold, and in which order its samples come.

check_unlabelled(recipe, fold, prepared)     before training: refuses what would make the held-out error a fiction
join_plan(plan, n, config, ...)              behind the labelled samples of each share come unlabelled ones

Reads data/<train.unlabelled>/, of which no label; writes nothing.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from liveness.base.config import Recipe, Train, View
from liveness.base.errors import UserError
from liveness.base.files import plain_name
from liveness.base.names import find_column, loose
from liveness.base.tables import read_table
from liveness.evaluation.combine import HOLDOUT
from liveness.frames.contract import make_contract
from liveness.sets.dataset import PreparedSet, load_unlabelled
from liveness.sets.extract import digest_sources
from liveness.sets.shared_videos import find_copies
from liveness.training.samples import CameraBalance, Key, Samples, Share, Taught, batches
from liveness.training.start import list_provenance

_OF_FACES = ("detector", "detector_sha256")  # parts of a contract that a view of the whole frame does not depend on


def check_unlabelled(recipe: Recipe, fold: int, prepared: PreparedSet) -> dict[str, Any] | None:
    """What a run learns from without labels, {"set", "digest"}; None where there is nothing.

    A UserError where ``train.unlabelled`` is not prepared, was prepared in another way than the labelled set, has no
    frame for the recipe's view, or shares a video, a near-duplicate or a person with what the run holds out.
    """
    if not recipe.train.unlabelled:
        return None
    unlabelled = load_apart(recipe.train.unlabelled, recipe, fold, prepared, "train.unlabelled")
    return {"set": unlabelled.name, "digest": unlabelled.digest}


def load_apart(name: str, recipe: Recipe, fold: int, prepared: PreparedSet, key: str) -> PreparedSet:
    """The unlabelled set ``name``, which ``key`` names; a UserError as ``check_unlabelled`` says."""
    unlabelled = load_unlabelled(plain_name(name, key), recipe.frames)
    _require_same_input(recipe, prepared, unlabelled, key)
    rows_of_view(unlabelled, recipe.view, key)
    _require_apart(fold, prepared, unlabelled, key)
    return unlabelled


def rows_of_view(unlabelled: PreparedSet, view: View, key: str = "train.unlabelled") -> pd.DataFrame:
    """The frames to learn from: those with a face where the view needs one. Their label is 0, which nobody reads."""
    rows = unlabelled.frames
    if view.kind == "face":
        rows = rows[rows.face == 1]
    if not len(rows):
        what = "frame with a face" if view.kind == "face" else "frame"
        raise UserError(f"{key}: data/{unlabelled.name} has no {what}")
    return rows.assign(label=0).reset_index(drop=True)


def list_unlabelled_provenance(recipe: Recipe) -> dict[str, list[str]]:
    """What to write into a member of the videos that it learned from without labels, as ``list_provenance``."""
    if not recipe.train.unlabelled:
        return {}
    unlabelled = load_unlabelled(recipe.train.unlabelled, recipe.frames)
    return list_provenance(unlabelled, rows_of_view(unlabelled, recipe.view).filename)


# --- what is refused -------------------------------------------------------------------------------


def _require_same_input(recipe: Recipe, prepared: PreparedSet, unlabelled: PreparedSet, key: str) -> None:
    """A UserError where the sets' frames or faces were made in different ways: that would tell them apart."""
    here, there = (make_contract(recipe, one.data, one.detector_sha256, one.version) for one in (prepared, unlabelled))
    for part, value in here.items():
        if there[part] != value and (recipe.view.kind == "face" or part not in _OF_FACES):
            raise UserError(
                f"{key}: data/{unlabelled.name} was prepared with {part}={there[part]}, data/{prepared.name} "
                f"with {value}; prepare both alike (--renew, or -o with the same settings)"
            )


def _require_apart(fold: int, prepared: PreparedSet, unlabelled: PreparedSet, key: str) -> None:
    """A UserError where a video, a near-duplicate of one or a person of the unlabelled set is held out."""
    held_out = prepared.videos[(prepared.videos.fold == fold) | (prepared.videos.fold == HOLDOUT)]
    _require_records(unlabelled, list(unlabelled.frames.video_id.unique()), key)
    _require_records(prepared, list(held_out.video_id[held_out.video_id.isin(set(prepared.frames.video_id))]), key)
    trained_on = set(unlabelled.frames.filename)
    twins = find_copies(unlabelled.folder, prepared.folder, set(held_out.index))
    twins = [twin for twin in twins if twin.filename in trained_on]
    where, why = f"{key}: {unlabelled.name}", "the held-out error would be a fiction"
    if twins:
        one = twins[0]
        what = "is" if one.same else "is a near-duplicate of"
        raise UserError(
            f"{where}: its {one.filename} {what} {one.other} of {prepared.name}, which {_part(one.other, held_out)} "
            f"({len(twins)} such videos): {why}; take them out of the set {unlabelled.name} and prepare it again"
        )
    persons = _read_persons(prepared, set(held_out.index))
    for person, filename in _read_persons(unlabelled, trained_on).items():
        if person in persons:
            other = persons[person]
            raise UserError(
                f"{where}: its {filename} shows {person!r}, as does {other} of {prepared.name}, which "
                f"{_part(other, held_out)}: {why}; take that person out of the set {unlabelled.name}, or give "
                "different persons different names"
            )


def _part(filename: str, held_out: pd.DataFrame) -> str:
    fold = int(held_out.fold[filename])
    return "the holdout keeps from training" if fold == HOLDOUT else f"fold {fold} holds out"


def _require_records(prepared: PreparedSet, video_ids: list[str], key: str) -> None:
    """A UserError where the videos' records, by which copies are found, are not all there."""
    known = digest_sources(prepared.folder, video_ids)
    lost = [video_id for video_id in video_ids if video_id not in known]
    if lost:
        raise UserError(
            f"{key}: data/{prepared.name}/.records has nothing of {lost[0]!r} ({len(lost)} such videos), so "
            f"that copies of held-out videos cannot be found; run: bash prepare_data.sh {prepared.name}"
        )


def _read_persons(prepared: PreparedSet, filenames: set[str]) -> dict[str, str]:
    """The names of persons and groups that videos have (without case and blanks), each with one of its videos.

    A group of unknown persons, which has the name of its first video, is left out."""
    table = read_table(prepared.folder / "labels_video.csv", ["filename", "group"])
    column, files = find_column(list(table.columns), prepared.data.folds.group_column or "subject"), set(table.filename)
    found: dict[str, str] = {}
    for row in table.to_dict("records"):
        if row["filename"] in filenames:
            for name in (row[column] if column else "", row["group"]):
                if name.strip() and name.rstrip("'") not in files:
                    found.setdefault(loose(name), row["filename"])
    return found


# --- the order of samples --------------------------------------------------------------------------


class JoinedSamples:
    """Labelled samples and, under keys with a third number, those of other kinds: one loader makes all of them."""

    def __init__(self, labelled: Samples, kinds: list[Samples]) -> None:
        """kinds: number 0, 1, … of a key (epoch, index, number)."""
        self.labelled, self.kinds, self.policy, self.weighted = labelled, kinds, labelled.policy, labelled.weighted

    def __len__(self) -> int:
        return len(self.labelled) + sum(map(len, self.kinds))

    def __getitem__(self, key: Key) -> tuple[torch.Tensor, Taught]:
        if len(key) == 2:
            return self.labelled[key]
        image, label = self.kinds[key[2]][key[:2]]  # nobody reads this label
        return image, np.array([label, 1.0]) if self.weighted else label


def order_unlabelled(n: int, count: int, seed: int, epoch: int) -> np.ndarray:
    """The indices of an epoch's ``count`` unlabelled samples, of ``n``: none comes again before all have come."""
    rounds = -(-count // n)
    order = np.random.default_rng([seed, epoch, 2]).permuted(np.tile(np.arange(n), (rounds, 1)), axis=1)
    return (order + n * np.arange(rounds)[:, None]).ravel()[:count]


def divide_batch(config: Train, kinds: int) -> Train:
    """The configuration by which labelled shares are planned: ``batch_per_process`` counts their unlabelled samples,
    of ``kinds`` kinds, too."""
    each = 1 + kinds * config.unlabelled_batch
    return replace(config, batch_per_process=max(1, config.batch_per_process // each))


def join_plan(
    plan: list[Share], n: int, config: Train, unlabelled: int, kinds: int, balance: CameraBalance | None = None
) -> list[Share]:
    """The shares of a plan for ``n`` labelled samples, with the keys of unlabelled ones behind their own.

    Each labelled sample has ``config.unlabelled_batch`` unlabelled ones of ``unlabelled``, by its place in the epoch,
    whichever process has it. Their keys come once for each kind: all of the first, then all of the next.
    """
    joined, epoch, places, order = [], -1, {}, np.empty((0, 0), dtype=np.int64)
    for share in plan:
        if share.keys[0][0] != epoch:
            epoch = share.keys[0][0]
            drawn = [key for batch in batches(n, config.batch, config.seed, epoch, balance) for key in batch]
            places = {index: place for place, index in enumerate(drawn)}
            count = len(drawn) * config.unlabelled_batch
            order = order_unlabelled(unlabelled, count, config.seed, epoch).reshape(len(drawn), -1)
        mine = np.concatenate([order[places[key[1]]] for key in share.keys]).tolist()
        others: list[Key] = [(epoch, index, kind) for kind in range(kinds) for index in mine]
        joined.append(Share(share.batch, share.last, [*share.keys, *others]))
    return joined
