"""The folder of a run: whose it is, who may write there, and whether the member is made.

runs/<set>/<recipe>_fold<k>/ holds config.json (what is trained), metrics.csv, last.pt until the run is finished,
oof.csv once the member is made, and a lock.
"""

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from liveness.base.config import Recipe, to_dict
from liveness.base.errors import UserError
from liveness.members.names import weights_path
from liveness.sets.dataset import PreparedSet, split_set
from liveness.training.pseudo_labels import describe_pseudo
from liveness.training.species import list_species
from liveness.training.start import check_start
from liveness.training.teachers import check_teacher
from liveness.training.unlabelled import check_unlabelled

# Of a recipe: what may differ between two starts of one run without changing what is trained.
_FREE = ("recipe.train.workers", "recipe.train.keep_state", "recipe.train.cache_gib", "recipe.tracker")
# What only takes more or less memory: the same global batches and draws, rounded otherwise (docs/training.md). A run
# that ran out of memory continues with others; amp is also how a finished member scores, so there it counts.
_SPARING = ("recipe.train.batch_per_process", "recipe.train.checkpoint_activations", "recipe.train.amp")
_AMP = _SPARING[-1:]


def describe_run(recipe: Recipe, fold: int, prepared: PreparedSet, naive: bool) -> dict[str, Any]:
    """What a run is: config.json, and the beginning of the member's description. A UserError for a ``train.init`` that
    it cannot go on from, or a ``train.teacher``, ``train.unlabelled`` or ``train.pseudo_labels`` that it cannot learn
    from."""
    described = {"recipe": to_dict(recipe), "fold": fold, "data": prepared.name, "data_hash": prepared.digest}
    source = check_start(recipe, fold, prepared)
    described |= ({"naive": True} if naive else {}) | ({"init": source} if source else {})
    species = None
    if recipe.train.species_weight:
        species = list_species(recipe, prepared, split_set(prepared, fold, recipe.view)[0])
    teacher = check_teacher(recipe, fold, prepared, species)
    described |= ({"species": species.describe()} if species else {}) | ({"teacher": teacher} if teacher else {})
    unlabelled, pseudo = check_unlabelled(recipe, fold, prepared), describe_pseudo(recipe, fold, prepared)
    described |= {"unlabelled": unlabelled} if unlabelled else {}
    return described | ({"pseudo_labels": pseudo} if pseudo else {})


def find_run_weights(described: dict[str, Any]) -> Path:
    """Where a member's weights go: weights/<set>/, those of naive folds into naive/ there."""
    data = f"{described['data']}/naive" if described.get("naive") else described["data"]
    return weights_path(data, described["recipe"]["name"], described["fold"])


def same_run(folder: Path, described: dict[str, Any], weights: Path) -> bool:
    """Whether this very run is finished. A run of another recipe or data is a UserError."""
    if difference := differences_of_run(folder, described, weights):
        raise UserError(
            f"{folder} holds another run: {'; '.join(difference[:3])}; remove the folder, or give --restart"
        )
    return _finished(folder, weights)


def differences_of_run(folder: Path, described: dict[str, Any], weights: Path) -> list[str]:
    """What makes the run in ``folder`` another one than that which is described; empty where it is this very run."""
    changed = [text for text in _compare_record(folder, described) if not text.startswith(_FREE)]
    finished = _finished(folder, weights)
    return [text for text in changed if not text.startswith(_SPARING) or (finished and text.startswith(_AMP))]


def _finished(folder: Path, weights: Path) -> bool:
    return (folder / "config.json").is_file() and (folder / "oof.csv").is_file() and weights.is_file()


def tell_changes(folder: Path, described: dict[str, Any]) -> str:
    """What a run that goes on from its last.pt does otherwise than so far, to spare memory; "" for nothing."""
    changed = [text for text in _compare_record(folder, described) if text.startswith(_SPARING)]
    if not changed or not (folder / "last.pt").is_file():
        return ""
    return (
        f"{'; '.join(changed)}: this run goes on with the same batches and draws, but no longer to the last bit; batch "
        "norm that is not frozen and dropout depend on train.batch_per_process"
    )


def _compare_record(folder: Path, described: dict[str, Any]) -> list[str]:
    """The differences between a run's config.json, where there is one, and what is to be trained now."""
    record = folder / "config.json"
    if not record.is_file():
        return []
    there = json.loads(record.read_text(encoding="utf-8"))
    _fill(there.get("recipe", {}), to_dict(Recipe()))
    return _differences(there, described)


def _fill(old: dict, defaults: dict) -> None:
    """Give a recipe written before an option existed that option's default, which is what it was trained with."""
    for key, value in defaults.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            _fill(old[key], value)
        else:
            old.setdefault(key, value)


def _differences(old: Any, new: Any, key: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{key}.{k}".lstrip("."))]
    return [] if old == new else [f"{key} is {str(old)[:40]} there, {str(new)[:40]} here"]


@contextmanager
def lock_run(folder: Path, rank: int) -> Iterator[None]:
    """Hold the run's folder for one launch; rank 0 locks it. A second launch would write between its lines."""
    folder.mkdir(parents=True, exist_ok=True)
    if rank != 0:
        yield
        return
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{folder}: another process is training this member") from error
        yield


def clear_run(folder: Path) -> None:
    """Throw away what an earlier run left, but for the lock that is held. What says whose run it is goes last: killed
    in between, another recipe must not continue from what is left."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name == "config.json"):
        if path.name != "lock":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def drop_state(recipe: Recipe, folder: Path) -> None:
    """A finished member needs no last.pt, four times its size; killed just before, the next start comes here too."""
    if not recipe.train.keep_state:
        (folder / "last.pt").unlink(missing_ok=True)
