"""Optuna's studies of a search in a journal file: one per outer fold, joined by any number of processes and machines.

    study = open_study(folder / "journal.log", "fold0", contract, space)
    while trial := next_trial(study, 20, space): ...

A journal has no heartbeat, which Optuna keeps in databases only. So every trial records who runs it, and whoever comes
next fails the trials of processes that are no more. Needs the package optuna (liveness[tune]).
"""

import json
import os
import socket
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from liveness.base.config import Recipe, to_dict
from liveness.base.errors import UserError
from liveness.base.experiments import Dimension, SearchSpace
from liveness.base.files import show_path

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

FINISHED_BY_ERROR = "error"  # user attribute: the training itself failed, as it would again
_GIVEN_UP = "given_up"  # user attribute: failed without a result of its own, and to be replaced
_CONTRACT = "contract"
_NAMELESS = timedelta(minutes=2)  # a running trial that has not said who runs it is given up after so long
_PATIENCE = 2.0  # seconds between looks at trials that others run


def require_optuna() -> None:
    """A UserError where the package is missing."""
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise UserError('tune: the package optuna is missing; install: pip install "optuna>=5,<6"') from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def open_study(journal: Path, name: str, contract: dict[str, Any], space: SearchSpace) -> "Study":
    """The study of one outer fold, made or joined. A UserError where it is of something else.

    contract: what is searched (recipe, data, space, split), without which trials do not compare.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    journal.parent.mkdir(parents=True, exist_ok=True)
    try:
        storage = JournalStorage(JournalFileBackend(str(journal)))
        study = optuna.create_study(
            storage=storage, study_name=name, direction="minimize", load_if_exists=True, pruner=_make_pruner(space)
        )
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{show_path(journal)}: not a journal that Optuna can read ({error}); move it away to begin anew"
        ) from error
    if _CONTRACT not in study.user_attrs:
        study.set_user_attr(_CONTRACT, contract)
    there = study.user_attrs[_CONTRACT]  # another process may have been faster
    if difference := _find_first(there, contract):
        raise UserError(
            f"{show_path(journal)}: {name} is a study of something else: {difference}; give --name for a "
            "study of its own"
        )
    return study


def make_contract(recipe: Recipe, data: str, digest: str, inner: int, space: SearchSpace) -> dict[str, Any]:
    """What all trials of a study have in common, as JSON keeps it."""
    of_space = {**to_dict(space), "space": {item.key: to_dict(item) for item in space.space}}
    of_space.pop("name")
    whole = {"version": 1, "recipe": to_dict(recipe), "data": data, "data_hash": digest, "inner_fold": inner}
    return json.loads(json.dumps({**whole, "tune": of_space}))


def _find_first(there: Any, here: Any, key: str = "") -> str:
    """The first value in which two contracts differ, in words; "" where they are equal."""
    if isinstance(there, dict) and isinstance(here, dict):
        for part in sorted({*there, *here}):
            if found := _find_first(there.get(part), here.get(part), f"{key}.{part}".lstrip(".")):
                return found
        return ""
    return "" if there == here else f"{key} is {str(there)[:60]} there, {str(here)[:60]} here"


def _make_pruner(space: SearchSpace) -> Any:
    from optuna import pruners

    first = space.warmup_epochs + 1  # the first epoch after which a trial may end; epochs are reported from 1
    if space.pruner == "median":
        return pruners.MedianPruner(n_startup_trials=space.startup_trials, n_warmup_steps=first)
    if space.pruner == "hyperband":
        return pruners.HyperbandPruner(min_resource=first)
    return pruners.NopPruner()


def suggest(trial: "Trial", space: SearchSpace) -> list[str]:
    """The trial's values as KEY=VALUE."""
    return [write_override(item, _suggest_one(trial, item)) for item in space.space]


def _suggest_one(trial: "Trial", item: Dimension) -> Any:
    if item.choices:
        return json.loads(trial.suggest_categorical(item.key, [json.dumps(choice) for choice in item.choices]))
    assert item.low is not None and item.high is not None  # base/experiments.py has checked it
    if item.whole:
        return trial.suggest_int(item.key, int(item.low), int(item.high), log=item.log)
    return trial.suggest_float(item.key, item.low, item.high, log=item.log)


def write_override(item: Dimension, value: Any) -> str:
    """KEY=VALUE as Hydra reads it: texts in quotes, lists in brackets."""
    return f"{item.key}={json.dumps(value)}"


def list_overrides(trial: "FrozenTrial", space: SearchSpace) -> list[str]:
    """The values of a finished trial as KEY=VALUE."""
    values = {item.key: trial.params[item.key] for item in space.space}
    return [write_override(i, json.loads(values[i.key]) if i.choices else values[i.key]) for i in space.space]


# --- whose turn it is -------------------------------------------------------------------------------


def next_trial(study: "Study", planned: int, space: SearchSpace, defaults: dict[str, Any]) -> "Trial | None":
    """The next trial to run here; None once the planned ones are finished, or run on other machines.

    Waits while processes of this machine still run some, and takes the place of those that die. defaults: the recipe's
    own values, tried first. Trials are numbered by the journal, so that of two that begin the last one at the same time
    the later steps back.
    """
    from optuna.trial import TrialState

    while True:
        fail_dead(study)
        trials = study.get_trials(deepcopy=False)
        finished, running = count_finished(trials), [t for t in trials if t.state == TrialState.RUNNING]
        if finished >= planned or finished + sum(map(_is_elsewhere, running)) >= planned:
            return None
        if finished + len(running) < planned:
            if not trials and defaults:
                study.enqueue_trial(defaults, skip_if_exists=True)
            _seed_sampler(study, space, len(trials))
            trial = study.ask()
            trial.set_user_attr("process", describe_process())
            before = [t for t in study.get_trials(deepcopy=False) if t.number < trial.number and _counts(t)]
            if len(before) < planned:
                _seed_sampler(study, space, trial.number)
                return trial
            give_up(study, trial.number, "one more than planned")
        time.sleep(_PATIENCE)


def _seed_sampler(study: "Study", space: SearchSpace, number: int) -> None:
    """A sampler of the trial's own seed: two processes draw different values, and a study that is continued draws those
    that it would have drawn."""
    from optuna.samplers import TPESampler

    study.sampler = TPESampler(seed=space.seed + 1000 * number, n_startup_trials=space.startup_trials)


def _counts(trial: "FrozenTrial") -> bool:
    """Whether a trial is one of the planned: finished, or on its way."""
    return not trial.state.is_finished() or _GIVEN_UP not in trial.user_attrs


def count_finished(trials: list["FrozenTrial"]) -> int:
    """Trials with a result, those that were pruned and those whose training failed by itself."""
    return sum(trial.state.is_finished() and _GIVEN_UP not in trial.user_attrs for trial in trials)


def find_best(study: "Study") -> "FrozenTrial | None":
    """The complete trial with the least value; of equal ones, as error rates of few videos are, the one with the least
    log loss, then the first."""
    from optuna.trial import TrialState

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return min(complete, key=lambda t: (t.value, t.user_attrs.get("log_loss", 0.0), t.number), default=None)


def list_elsewhere(study: "Study") -> list["FrozenTrial"]:
    """Trials that run on other machines."""
    from optuna.trial import TrialState

    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [trial for trial in running if _is_elsewhere(trial)]


def give_up(study: "Study", number: int, why: str) -> None:
    """Fail a running trial that has no result, so that another takes its place; nothing where it has just finished."""
    from optuna.trial import TrialState

    trial = study.get_trials(deepcopy=False)[number]
    try:
        study._storage.set_trial_user_attr(trial._trial_id, _GIVEN_UP, why)
        study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
    except RuntimeError:  # of Optuna, for a trial that is finished: its own process was not dead, or another was faster
        pass


def fail_dead(study: "Study", elsewhere: bool = False) -> int:
    """Fail the running trials whose processes are no more; how many. ``elsewhere``: those of other machines too, whose
    processes cannot be seen from here."""
    from optuna.trial import TrialState

    dead = 0
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        process = trial.user_attrs.get("process")
        if process is None:
            started = trial.datetime_start or datetime.now()
            gone = elsewhere or datetime.now() - started > _NAMELESS
        else:
            gone = not is_alive(process) if _is_here(trial) else elsewhere
        if gone:
            give_up(study, trial.number, "its process is gone")
            dead += 1
    return dead


def describe_process() -> dict[str, Any]:
    """What tells this process from every other: machine, its boot, the process namespace, the number, its start."""
    return {**_describe_machine(), "pid": os.getpid(), "started": _read_start(os.getpid())}


def _describe_machine() -> dict[str, str]:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        boot, space = "", ""
    return {"host": socket.gethostname(), "boot": boot, "space": space}


def _read_start(pid: int) -> str:
    """When a process began, in ticks after boot; "" for one that is no more, or has ended and is not yet collected."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]


def _is_here(trial: "FrozenTrial") -> bool:
    """Whether a trial runs, or ran before a boot, where its process can be looked up from here."""
    process, here = trial.user_attrs.get("process"), _describe_machine()
    if process is None or process["host"] != here["host"]:
        return False
    return process["boot"] != here["boot"] or process["space"] == here["space"]


def _is_elsewhere(trial: "FrozenTrial") -> bool:
    """Whether a trial has said that it runs where its process cannot be looked up from here."""
    return "process" in trial.user_attrs and not _is_here(trial)


def is_alive(process: dict[str, Any]) -> bool:
    """Whether a process of this machine still runs: the same number may since have been given to another."""
    started = _read_start(int(process["pid"]))
    return bool(started) and process["boot"] == _describe_machine()["boot"] and process["started"] == started
