"""Hyperparameter search, nested: what ``liveness.tune`` does, from the first trial to the estimate.

    search = plan_search("demo_face", [], "demo", load_space("optimisation"), trials=20, folds=[0, 1, 2])
    check_search(search); studies = run_search(search)

One study per outer fold k. A trial trains on all folds but k and one more, the inner one, and is judged on the inner
one by its log loss or its worst stressed HTER, so that fold k has no part in what is chosen for it. Then one member per
fold is trained with its own study's best values, on all folds but k, and judged on k beside the recipe's default. Reads
data/<set>/; writes runs/<set>/<name>/{journal.log,trials.csv,tune.json} and what training writes.
"""

import contextlib
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from liveness.base.compose import load_recipe, names
from liveness.base.config import Recipe
from liveness.base.errors import UserError
from liveness.base.experiments import Dimension, SearchSpace
from liveness.base.files import plain_name, workspace, write_json, write_text
from liveness.base.tables import table_text
from liveness.laboratory import studies
from liveness.laboratory.comparison import add_costs, judge_contenders
from liveness.laboratory.contenders import Contender, choose_contenders, list_missing
from liveness.laboratory.stressed_search import StressedFold, check_stressed, estimate_stressed

if TYPE_CHECKING:
    from optuna import Study, Trial

    from liveness.sets.dataset import PreparedSet

LEAST_FOLDS = 3  # one to report on, one to choose on, one to train on


@dataclass(frozen=True)
class Search:
    """A search that is to be run, or joined."""

    name: str  # its folder is runs/<set>/<name>
    default: Contender  # the recipe as it is, and the row that the tuned one is compared with
    data: str
    space: SearchSpace
    trials: int  # in each study
    folds: list[int]  # the outer ones

    @property
    def folder(self) -> Path:
        return workspace() / "runs" / self.data / self.name

    @property
    def journal(self) -> Path:
        return self.folder / "journal.log"

    def load(self, values: Sequence[str] = ()) -> Recipe:
        """The recipe of a trial with these values."""
        return load_recipe(self.default.recipe, [*self.default.overrides, *values])


def plan_search(
    recipe: str, overrides: list[str], data: str, space: SearchSpace, trials: int, folds: list[int], name: str = ""
) -> Search:
    """A UserError where the recipe is none or where the tuned members would take a recipe's name."""
    if recipe not in names("recipe"):
        load_recipe(recipe)  # which says so
    (default,) = choose_contenders([recipe], [], overrides)
    if f"{default.name}_tuned" in names("recipe"):
        raise UserError(f"{default.name}_tuned is a recipe of its own; the tuned members would take its name")
    return Search(plain_name(name or f"tune_{default.name}", "--name"), default, data, space, trials, folds)


# --- before anything is trained ----------------------------------------------------------------------


def check_search(search: Search) -> None:
    """Everything that can be known before the first trial; UserErrors name the space's key or the fold."""
    from liveness.sets.dataset import load_set, split_set
    from liveness.training.checks import check_member
    from liveness.training.unlabelled import check_unlabelled

    recipe = search.load()
    _require_no_teacher(recipe)
    whole = load_set(search.data, recipe.frames)
    count = whole.n_folds
    if count < LEAST_FOLDS:
        raise UserError(
            f"data/{search.data} has {count} folds; a nested search needs {LEAST_FOLDS}: one to report on, one to "
            "choose on, one to train on"
        )
    check_stressed(whole, search.space)
    for fold in search.folds:
        _check_start(recipe, fold, whole)
        for held_out in (fold, choose_inner(fold, count)):
            check_unlabelled(recipe, held_out, whole)
        prepared, inner = leave_out(whole, fold)
        split_set(prepared, inner, recipe.view)
    untouched = search.folder / "untouched"  # a folder that is not there: no earlier run counts
    for item in search.space.space:
        for value in _list_extremes(item):
            text = studies.write_override(item, value)
            try:
                _require_no_teacher(search.load([text]))
                check_member(search.load([text]), search.folds[0], search.data, untouched)
            except UserError as error:
                raise UserError(f"tune {search.space.name}: {text}: {error}") from error
    list_missing([search.default], search.data, search.folds)


def _list_extremes(item: Dimension) -> list[Any]:
    if item.choices:
        return item.choices
    return [int(end) if item.whole else end for end in (item.low, item.high) if end is not None]


def _require_no_teacher(recipe: Recipe) -> None:
    """A UserError for distillation and pseudo-labels: a teacher or labeller that held out the outer fold was trained on
    the inner one, on which trials are judged, and the other way round."""
    if recipe.train.pseudo_labels:
        raise UserError(
            f"train.pseudo_labels={recipe.train.pseudo_labels}: a search cannot learn from them, as labellers that "
            "held out the outer fold have seen the inner one; search the recipe without them"
        )
    if recipe.train.task == "distil":
        raise UserError(
            "train.task=distil: a search cannot be taught, as a teacher that held out the outer fold has seen the "
            "inner one; search the recipe without its teacher"
        )


def _check_start(recipe: Recipe, fold: int, prepared: "PreparedSet") -> None:
    """A UserError where trials would go on from a member that has seen the inner or the outer fold."""
    from liveness.training.start import check_start

    if not recipe.train.init:
        return
    if ":" not in recipe.train.init:
        raise UserError(
            f"train.init={recipe.train.init}: a search cannot go on from a member that held out the outer "
            "fold, as it has seen the inner one; expected SET/RECIPE:FOLD of another set"
        )
    for held_out in (fold, choose_inner(fold, prepared.n_folds)):
        check_start(recipe, held_out, prepared)


def choose_inner(fold: int, count: int) -> int:
    """The fold on which the trials of an outer fold are judged: the next one."""
    return (fold + 1) % count


def leave_out(prepared: "PreparedSet", fold: int) -> tuple["PreparedSet", int]:
    """(the set without an outer fold's videos, the inner fold)."""
    videos, frames = prepared.videos, prepared.frames
    rest = replace(
        prepared, videos=videos[videos.fold != fold], frames=frames[frames.fold != fold].reset_index(drop=True)
    )
    return rest, choose_inner(fold, prepared.n_folds)


# --- trials ------------------------------------------------------------------------------------------


def run_search(search: Search, elsewhere: bool = False) -> dict[int, "Study"]:
    """Run trials until every outer fold's study has its planned ones, or others run what is left. Outer fold -> study.

    elsewhere: fail the trials that other machines seem to run.

    All studies are opened before the first trial: one of something else is a UserError.
    """
    from liveness.sets.dataset import load_set

    recipe = search.load()
    prepared = load_set(search.data, recipe.frames)
    found = {}
    for fold in search.folds:
        inner = choose_inner(fold, prepared.n_folds)
        contract = studies.make_contract(recipe, search.data, prepared.digest, inner, search.space)
        found[fold] = studies.open_study(search.journal, f"fold{fold}", contract, search.space)
    for fold, study in found.items():
        stressed = None
        if search.space.objective == "stressed_hter":
            inner, videos = choose_inner(fold, prepared.n_folds), prepared.videos
            names = videos.index[(videos.fold == inner) & videos.label.notna()].tolist()
            stressed = StressedFold(prepared, names, search.space)
        if dead := studies.fail_dead(study, elsewhere):
            print(f"fold {fold}: {dead} of its trials had been left by processes that are gone; they are failed")
        defaults = _list_defaults(recipe, search.space)
        while (trial := studies.next_trial(study, search.trials, search.space, defaults)) is not None:
            _run_trial(search, study, trial, fold, stressed)
    return found


def _list_defaults(recipe: Recipe, space: SearchSpace) -> dict[str, Any]:
    """The recipe's own values of the keys searched, as far as the space has them."""
    found: dict[str, Any] = {}
    for item in space.space:
        value: Any = recipe
        for part in item.key.split("."):
            value = value.get(part) if isinstance(value, dict) else getattr(value, part, None)
        if item.choices and value in item.choices:
            found[item.key] = json.dumps(value)
        ends = (item.low, item.high)
        if isinstance(value, int | float) and ends[0] is not None and ends[1] is not None:
            inside = ends[0] <= value <= ends[1]
            found |= {item.key: int(value) if item.whole else float(value)} if inside else {}
    return found


def _run_trial(search: Search, study: "Study", trial: "Trial", fold: int, stressed: StressedFold | None) -> None:
    """Train with the trial's values and tell the study how it ended. With either objective the pruner is told the log
    loss of the inner fold after each epoch: to stress its videos each time would cost more than the training."""
    import optuna
    from optuna.trial import TrialState

    values = studies.suggest(trial, search.space)
    title = f"fold {fold} trial {trial.number} ({studies.count_finished(study.trials) + 1} of {search.trials})"

    def report(epoch: int, loss: float) -> None:
        trial.report(loss, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned

    try:
        found = train_trial(search.load(values), search.data, fold, report, stressed)
        for key, value in asdict(found).items():
            trial.set_user_attr(key, value)
        study.tell(trial, found.log_loss if found.hter is None else found.hter)
        print(f"{title}: {found.describe()}  {' '.join(values)}", flush=True)
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
        print(f"{title}: pruned  {' '.join(values)}", flush=True)
    except UserError as error:
        trial.set_user_attr(studies.FINISHED_BY_ERROR, str(error))
        study.tell(trial, state=TrialState.FAIL)
        print(f"{title}: failed: {error}", flush=True)
    except KeyboardInterrupt:
        studies.give_up(study, trial.number, "interrupted")
        raise


@dataclass(frozen=True)
class Judged:
    """What a trial's model is worth on the inner fold; the last two where the search stresses it."""

    log_loss: float
    hter: float | None = None
    worst_stress: str = ""

    def describe(self) -> str:
        """In words."""
        told = f"inner log loss {self.log_loss:.4f}"
        return told if self.hter is None else f"worst HTER {100 * self.hter:.1f} % ({self.worst_stress}), {told}"


def train_trial(
    recipe: Recipe,
    data: str,
    fold: int,
    report: Callable[[int, float], None],
    stressed: StressedFold | None = None,
) -> Judged:
    """What the recipe makes of all folds but the outer and the inner one, judged on the inner one; leaves no file.

    report: called with each epoch and its log loss. A UserError where it has none or where training fails.
    """
    from liveness.models.device import pick_device, use_all_cores
    from liveness.sets.dataset import HeldOutVideos, load_set, split_set
    from liveness.training import loop
    from liveness.training.member import memory_told, open_cache, score_held_out, start_or_resume
    from liveness.training.start import Start
    from liveness.training.tasks import make_task

    use_all_cores()
    whole, device = load_set(data, recipe.frames), pick_device()
    prepared, inner = leave_out(whole, fold)
    rows, held_out = split_set(prepared, inner, recipe.view)
    with memory_told(recipe), tempfile.TemporaryDirectory(prefix="tune-") as scratch:
        task = make_task(recipe, prepared, rows)
        state = start_or_resume(task, Start(recipe, fold, data), device, Path(scratch) / "last.pt")
        decoded = task.frames.decoded = open_cache(recipe.train, whole, device, loop.count_bytes(state))
        videos = HeldOutVideos(prepared, held_out, recipe.view, decoded)

        def judge(row: dict[str, Any]) -> None:
            oof = score_held_out(state.best_guess, device, videos, prepared, recipe)
            row["logloss"] = _measure_log_loss(oof, recipe.combine)
            state.finish_epoch(row, recipe.train.select)
            report(row["epoch"], row["logloss"])

        loop.run_epochs(state, judge, lambda: False)
        loss, model = float(state.history[state.kept_epoch - 1]["logloss"]), state.kept_model()
        if task.tuning is not None and recipe.train.keep_init:
            task.tuning.interpolate(model)
            loss = _measure_log_loss(score_held_out(model, device, videos, prepared, recipe), recipe.combine)
        return Judged(loss) if stressed is None else Judged(loss, *stressed.measure(model, recipe, device))


def _measure_log_loss(oof: pd.DataFrame, combine: str) -> float:
    from liveness.evaluation import metrics
    from liveness.evaluation.combine import video_scores

    table = video_scores(oof, combine)
    table = table[table.score.notna()]
    if table.label.nunique() < 2:
        raise UserError("the inner fold's videos with a score are of one class; its log loss says nothing")
    return metrics.log_loss(table.label.to_numpy(int), table.score.to_numpy(float))


# --- what was found ----------------------------------------------------------------------------------


def list_unfinished(search: Search, found: dict[int, "Study"]) -> list[str]:
    """In words, the studies whose last trials other machines still run, or ran before they died."""
    lines = []
    for fold, study in found.items():
        lacking = search.trials - studies.count_finished(study.get_trials(deepcopy=False))
        if lacking > 0:
            hosts = {str((t.user_attrs.get("process") or {}).get("host", "?")) for t in studies.list_elsewhere(study)}
            lines.append(f"fold {fold}: {lacking} trials are left to {', '.join(sorted(hosts)) or 'others'}")
    return lines


def choose_tuned(search: Search, found: dict[int, "Study"]) -> Contender:
    """The tuned row: each outer fold's member has the best values of that fold's own study."""
    by_fold = {}
    for fold, study in found.items():
        best = studies.find_best(study)
        if best is None:
            reasons = [t.user_attrs.get(studies.FINISHED_BY_ERROR) for t in study.trials]
            last = next((str(reason) for reason in reversed(reasons) if reason), "none was finished")
            raise UserError(f"fold {fold}: no trial has a result; the last: {last}")
        by_fold[fold] = tuple(studies.list_overrides(best, search.space))
    default = search.default
    return Contender(f"{default.name}_tuned", default.recipe, default.overrides, by_fold=by_fold, replaced=True)


def estimate_search(search: Search, rows: list[Contender]) -> dict[str, Any]:
    """What the search is worth: a comparison of the default's and the tuned members on the outer folds; with the
    objective stressed_hter also by that."""
    found = judge_contenders(rows, search.data, search.folds)
    add_costs(found, rows, search.data, timed=False)
    if search.space.objective == "stressed_hter":
        default, tuned = (row.name for row in rows)
        found["stressed"] = estimate_stressed(default, tuned, search.data, search.folds, search.space)
    return found


def describe_search(search: Search, found: dict[int, "Study"]) -> dict[str, Any]:
    """What tune.json says besides the estimate; trials.csv, a row per trial, is written here too."""
    rows = []
    for fold, study in found.items():
        for trial in study.get_trials(deepcopy=False):
            why = trial.user_attrs.get(studies.FINISHED_BY_ERROR) or trial.user_attrs.get("given_up", "")
            last = max(trial.intermediate_values, default=0)
            loss = trial.user_attrs.get("log_loss", trial.intermediate_values.get(last))
            about = {"fold": fold, "trial": trial.number, "state": trial.state.name.lower(), "log_loss": loss}
            if search.space.objective == "stressed_hter":
                about |= {key: trial.user_attrs.get(key) for key in ("hter", "worst_stress")}
            values = {item.key: trial.params.get(item.key) for item in search.space.space}
            rows.append({**about, "epochs": last, "host": (trial.user_attrs.get("process") or {}).get("host", ""),
                         **values, "reason": why})  # fmt: skip
    table = pd.DataFrame(rows)
    write_text(search.folder / "trials.csv", table_text(table.astype(object).where(table.notna(), "")))
    parts = {fold: _describe_study(search, study) for fold, study in found.items()}
    return {
        "version": 1,
        "recipe": search.default.recipe,
        "overrides": list(search.default.overrides),
        "data": search.data,
        "space": search.space.name,
        "objective": search.space.objective,
        "trials": search.trials,
        "studies": {str(fold): part for fold, part in parts.items()},
        "importance": _average([part["importance"] for part in parts.values() if part["importance"]]),
    }


def _describe_study(search: Search, study: "Study") -> dict[str, Any]:
    states = [trial.state.name.lower() for trial in study.get_trials(deepcopy=False)]
    best = studies.find_best(study)
    assert best is not None  # choose_tuned has said so otherwise
    judged = {key: best.user_attrs.get(key) for key in ("log_loss", "hter", "worst_stress")}
    return {
        "inner_fold": study.user_attrs["contract"]["inner_fold"],
        "counts": {state: states.count(state) for state in sorted(set(states))},
        "best_trial": best.number,
        **{f"best_{key}": value for key, value in judged.items() if value not in (None, "")},
        "best_values": studies.list_overrides(best, search.space),
        "importance": _measure_importance(study),
    }


def _measure_importance(study: "Study") -> dict[str, float]:
    """Optuna's importances of the keys (fANOVA); empty where too few trials are complete, or all are alike."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    with contextlib.suppress(ValueError, RuntimeError, ZeroDivisionError):
        found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=1))
        return {key: float(value) for key, value in found.items() if math.isfinite(value)}
    return {}


def _average(parts: list[dict[str, float]]) -> dict[str, float]:
    """The mean importance of each key over the studies, the highest first."""
    mean = {key: sum(part.get(key, 0.0) for part in parts) / len(parts) for part in parts for key in part}
    return dict(sorted(mean.items(), key=lambda item: -item[1]))


def write_found(search: Search, about: dict[str, Any], estimate: dict[str, Any]) -> Path:
    """tune.json: the search and its nested estimate."""
    path = search.folder / "tune.json"
    write_json(path, {**about, "estimate": estimate}, indent=1)
    return path


def render_search_results(about: dict[str, Any]) -> str:
    """Each outer fold's study and what its keys matter, as text."""
    lines = [
        f"{about['recipe']} on {about['data']}, space {about['space']}: {about['trials']} trials an outer fold",
        "",
    ]
    for fold, part in about["studies"].items():
        counts = ", ".join(f"{number} {state}" for state, number in part["counts"].items())
        judged = Judged(part["best_log_loss"], part.get("best_hter"), part.get("best_worst_stress", ""))
        best = f"best is trial {part['best_trial']}, {judged.describe()}"
        lines.append(f"  fold {fold}, chosen on fold {part['inner_fold']}: {counts}; {best}")
        lines.append(f"    {' '.join(part['best_values'])}")
    if about["importance"]:
        told = ", ".join(f"{key} {100 * value:.0f} %" for key, value in about["importance"].items())
        lines += ["", f"  share of the objective's variance (fANOVA, mean of the studies): {told}"]
    return "\n".join([*lines, ""])
