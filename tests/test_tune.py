"""A nested search: what a trial may see, bad input before anything is trained, studies that outlive their processes."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from in_process import at_home, prepare_here
from test_training_options import NARROW
from tiny_set import write_set

from liveness.base.compose import load_recipe, load_space, names
from liveness.base.errors import UserError
from liveness.base.experiments import Dimension, SearchSpace, check_space
from liveness.base.files import CODE
from liveness.base.validity import check
from liveness.laboratory import shift, shift_figures, stressed_search, studies, tuning
from liveness.sets import extract

LR = Dimension("train.lr", low=1e-4, high=1e-1, log=True)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("tune")
    write_set(root / "raw" / "tiny")
    prepare_here(root, "tiny", "folds.n=3")
    return root


@pytest.fixture
def root(prepared, tmp_path, monkeypatch) -> Path:
    shutil.copytree(prepared / "data", tmp_path / "data", symlinks=True)
    shutil.copytree(prepared / "raw", tmp_path / "raw")
    monkeypatch.setenv("LIVENESS_ROOT", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def plan(*dimensions: Dimension, trials: int = 2, folds: tuple[int, ...] = (0,), override: tuple[str, ...] = ()):
    space = SearchSpace("here", space=list(dimensions) or [LR], startup_trials=2)
    return tuning.plan_search("convnext_xlarge", [*NARROW, *override], "tiny", space, trials, list(folds), "search")


# --- the space


@pytest.mark.parametrize("name", names("tune"))
def test_every_space_is_of_keys_that_the_recipes_have(name):
    space = load_space(name)
    for end in (0, -1):
        values = [studies.write_override(item, tuning._list_extremes(item)[end]) for item in space.space]
        load_recipe("efficientnet_lite0", values)


@pytest.mark.parametrize(
    ("dimension", "told"),
    [
        (Dimension("train.lr", low=0.1, high=0.01), "low below high"),
        (Dimension("train.lr", low=0.0, high=0.01, log=True), "low above 0"),
        (Dimension("train.lr", low=0.1), "choices, or low and high"),
        (Dimension("train.lr", low=0.1, high=1, choices=[1, 2]), "not both"),
        (Dimension("train.loss", choices=["bce"]), "two choices"),
        (Dimension("train.epochs", low=1.5, high=3, whole=True), "whole numbers"),
        (Dimension("data", choices=["a", "b"]), "cannot be searched"),
        (Dimension("train.unlabelled", choices=["a", "b"]), "cannot be searched"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(dimension, told):
    with pytest.raises(UserError, match=told):
        check_space(SearchSpace("bad", space=[dimension]), "tune bad")
    with pytest.raises(UserError, match="pruner"):
        check(SearchSpace("bad", pruner="median_of_three"), "tune bad")


@pytest.mark.parametrize(
    ("dimension", "told"),
    [
        (Dimension("train.lrr", low=0.1, high=0.2), "unknown key 'train.lrr'.*did you mean train.lr"),
        (Dimension("train.label_smoothing", low=0.1, high=1.5), "label_smoothing=1.5; expected"),
        pytest.param(
            Dimension("model.name", choices=["convnext_atto", "convnext_atta"]),
            "timm has no such model",
            marks=pytest.mark.full,
        ),
        pytest.param(Dimension("view.kind", choices=["frame", "fac"]), "view.kind='fac'", marks=pytest.mark.full),
    ],
)
def test_a_key_or_value_that_the_recipe_does_not_take_is_said_before_anything_is_trained(root, dimension, told):
    with pytest.raises(UserError, match=told):
        tuning.check_search(plan(dimension))
    assert not (root / "runs").exists()


def test_too_few_folds_and_a_seen_start_are_refused(root):
    with pytest.raises(UserError, match=r"train.init=other: .*expected SET/RECIPE:FOLD"):
        tuning.check_search(plan(override=("train.init=other",)))
    folds = pd.read_csv(root / "data/tiny/folds.csv")
    folds["fold"] %= 2
    folds.to_csv(root / "data/tiny/folds.csv", index=False)
    with pytest.raises(UserError, match="has 2 folds; a nested search needs 3"):
        tuning.check_search(plan())


def test_a_teacher_is_refused_as_the_one_that_held_out_the_outer_fold_has_seen_the_inner_one(root):
    options = ("train.task=distil", "train.teacher=convnext_large")
    with pytest.raises(UserError, match=r"train.task=distil: .* has seen the inner one"):
        tuning.check_search(plan(override=options))
    with pytest.raises(UserError, match=r"train.pseudo_labels=mine: .* have seen the inner one"):
        tuning.check_search(plan(override=("train.pseudo_labels=mine",)))
    assert not (root / "runs").exists()


@pytest.mark.full
def test_an_unlabelled_set_may_neither_hold_the_outer_nor_the_inner_fold(root):
    folds = pd.read_csv(root / "data/tiny/folds.csv").set_index("filename").fold
    for path in (root / "data/tiny/.records").glob("*.json"):  # some drawn clips look alike: by their digests alone
        record = json.loads(path.read_text()) | {"frames": []}
        del record["seal"]
        path.write_text(json.dumps({**record, "seal": extract._digest(record)}))
    for fold in (0, 1, 2):
        shutil.rmtree(root / "data/extra", ignore_errors=True)
        shutil.copytree(root / "data/tiny", root / "data/extra", symlinks=True)
        for table in ("labels_video", "labels_keyframes", "labels_bbox"):  # only that fold's videos are left
            rows = pd.read_csv(root / f"data/extra/{table}.csv", dtype=str, keep_default_na=False)
            names = rows.filename if table == "labels_video" else rows.video_id + ".mp4"
            rows[names.map(folds) == fold].to_csv(root / f"data/extra/{table}.csv", index=False)
        search = plan(override=("train.task=cross_pseudo", "train.unlabelled=extra"))
        if fold == 2:
            tuning.check_search(search)  # of a fold on which every trial is trained
            continue
        with pytest.raises(UserError, match=f"train.unlabelled: .* of tiny, which fold {fold} holds out"):
            tuning.check_search(search)


# --- a trial


@pytest.mark.full
def test_a_trial_is_a_training_that_never_saw_the_outer_fold(root):
    """Its figure is that of a member of a set without the outer fold's videos; their frames are not there."""
    from liveness.training.member import train_member

    recipe = load_recipe("convnext_xlarge", [*NARROW, "train.lr=1e-2", "train.epochs=2"])
    path, told = root / "data/tiny/folds.csv", []
    folds = pd.read_csv(path)
    outer = folds.filename[folds.fold == 0].tolist()
    for name in outer:
        for frame in (root / "data/tiny/frames").glob(f"{Path(name).stem}-*.jpg"):
            frame.unlink()
    with at_home(root):
        loss = tuning.train_trial(recipe, "tiny", 0, lambda epoch, value: told.append((epoch, value))).log_loss
    assert [epoch for epoch, _ in told] == [1, 2] and told[-1][1] == loss
    for table in ("folds.csv", "labels_video.csv", "labels_keyframes.csv", "labels_bbox.csv"):
        rows = pd.read_csv(root / "data/tiny" / table, dtype=str, keep_default_na=False)
        stems = {Path(name).stem for name in outer}
        own = rows["filename"].isin(outer) if "filename" in rows else rows["video_id"].isin(stems)
        rows[~own].to_csv(root / "data/tiny" / table, index=False)
    folder = root / "runs/tiny/reference_fold1"
    folder.mkdir(parents=True)
    with at_home(root):
        outcome = train_member(recipe, 1, "tiny", folder)
    assert outcome.held_out["logloss"] == loss


# --- the other objective

STRESSES = SearchSpace("s", "stressed_hter", ["jpeg", "mirror", "print"], [3], space=[LR])


def test_an_hter_under_stress_is_of_the_threshold_at_home_and_who_has_no_score_is_not_accepted():
    clean = pd.DataFrame({"label": [1, 1, 1, 0, 0], "group": list("abcde"), "score": [0.9, 0.8, 0.7, 0.2, 0.1]})
    clean.index = [f"{number}.mp4" for number in range(5)]
    threshold = shift_figures.find_threshold(clean)
    assert 0.2 < threshold < 0.7 and shift_figures.measure_hter(clean, clean, threshold) == 0
    worse = clean.assign(score=[0.9, 0.1, np.nan, 0.95, 0.3])
    assert shift_figures.measure_hter(clean, worse, threshold) == pytest.approx((1 / 2 + 2 / 3) / 2)
    printed = clean[clean.label == 1].assign(label=0, score=[0.9, 0.1, 0.2])  # against the live videos as they are
    assert shift_figures.measure_hter(clean, printed, threshold) == pytest.approx((1 / 3 + 0) / 2)


def test_the_difference_of_worst_hters_is_drawn_in_pairs():
    rng = np.random.default_rng(4)
    labels, names = np.repeat([0, 1], 30), [f"{number}.mp4" for number in range(60)]

    def table(noise: float) -> pd.DataFrame:
        parts = []
        for stressor, more in (("clean", 0.0), ("jpeg", 0.2), ("blur", 0.6)):
            scores = labels + (noise + more) * rng.normal(size=60)
            row = {"stressor": stressor, "severity": 2, "filename": names, "label": labels, "group": names}
            parts.append(pd.DataFrame({**row, "score": scores}))
        return pd.concat(parts)

    good, bad = (stressed_search._count_errors(table(noise), 0.5) for noise in (0.1, 1.5))
    assert good.shape == (2, 60, 4) and good[:, :, 1].sum(1).tolist() == [30, 30]
    assert stressed_search._bootstrap_difference(good, good) == (0, 0)
    low, high = stressed_search._bootstrap_difference(good, bad)
    errors = [(part[..., 0].sum(1) / 30 + part[..., 2].sum(1) / 30).max() / 2 for part in (good, bad)]
    assert 0 < low < errors[1] - errors[0] < high < 0.6


def test_stresses_and_videos_that_are_not_there_are_said_before_anything_is_trained(root):
    search = plan()
    with pytest.raises(UserError, match="no stressor 'jpg'; expected among"):
        tuning.check_search(dataclasses.replace(search, space=dataclasses.replace(STRESSES, stressors=["jpg"])))
    shutil.rmtree(root / "data/tiny/videos")
    with pytest.raises(UserError, match=r"0.mp4 is missing \(19 such videos\), which objective=stressed_hter"):
        tuning.check_search(dataclasses.replace(search, space=STRESSES))


@pytest.mark.full
def test_a_trials_hter_is_that_of_the_shift_laboratory(root):
    """Of a member that held out the fold: the same videos, stresses and threshold, by ``liveness.shift``."""
    import torch

    from liveness.members.weights import load_member
    from liveness.sets.dataset import load_set
    from liveness.training.member import train_member

    recipe = load_recipe("convnext_xlarge", [*NARROW, "train.lr=1e-2", "train.epochs=3"])
    with at_home(root):
        folder = root / "runs/tiny/convnext_xlarge_fold1"
        folder.mkdir(parents=True)
        weights = train_member(recipe, 1, "tiny", folder).weights
        prepared = load_set("tiny", recipe.frames)
        videos = prepared.videos.index[prepared.videos.fold == 1].tolist()
        inner = stressed_search.StressedFold(prepared, videos, STRESSES)
        hter, worst = inner.measure(load_member(weights)[0], recipe, torch.device("cpu"))
        kept = inner._kept
        assert inner.measure(load_member(weights)[0], recipe, torch.device("cpu")) == (hter, worst)
        assert inner._kept is kept  # stressed once for all trials that cut views alike
        (told,) = shift.measure_shift(
            *shift.choose_systems(None, "tiny", ["convnext_xlarge:1"]),
            shift.StressPlan("tiny", stressed_search.list_of_space(STRESSES), STRESSES.seed),
        )
    errors = {f"{r['stressor']} {r['severity']}": (r["apcer"] + r["bpcer"]) / 2 for r in told["rows"]}
    assert len(errors) == 3 and hter == pytest.approx(max(errors.values())) and errors[worst] == pytest.approx(hter)


# --- studies (need optuna)


def count_states(search: tuning.Search, fold: int = 0) -> dict[str, int]:
    import optuna

    journal = optuna.storages.journal.JournalFileBackend(str(search.journal))
    study = optuna.load_study(storage=optuna.storages.JournalStorage(journal), study_name=f"fold{fold}")
    states = [trial.state.name for trial in study.trials]
    return {state: states.count(state) for state in set(states)}


@pytest.mark.extras
def test_a_search_tries_the_defaults_first_is_continued_and_refuses_another_recipe(root):
    studies.require_optuna()
    search = plan(LR, Dimension("train.loss", choices=["bce", "focal"]), override=("train.lr=1e-2",), folds=(0, 1))
    with at_home(root):
        found = tuning.run_search(search)
        first = [trial.params for trial in found[0].trials]
        assert first[0] == {"train.lr": 1e-2, "train.loss": '"bce"'} and len(first) == 2
        more = tuning.run_search(plan(*search.space.space, override=("train.lr=1e-2",), folds=(0, 1), trials=3))
        assert [trial.params for trial in more[0].trials][:2] == first and len(more[0].trials) == 3
        tuned = tuning.choose_tuned(search, more)
        assert tuned.load(0).train.lr == more[0].best_trial.params["train.lr"]
        assert tuned.name == f"{search.default.name}_tuned"
        about = tuning.describe_search(search, more)
        assert about["studies"]["1"]["best_log_loss"] == more[1].best_value
        assert f"inner log loss {more[1].best_value:.4f}" in tuning.render_search_results(about)
        table = pd.read_csv(search.folder / "trials.csv")
        assert table.groupby("fold").size().tolist() == [3, 3] and set(table.state) <= {"complete", "pruned"}
        with pytest.raises(UserError, match=r"study of something else: recipe.train.batch is 6 there, 8 here"):
            tuning.run_search(plan(*search.space.space, override=("train.lr=1e-2", "train.batch=8")))


@pytest.mark.extras
def test_a_training_that_fails_is_a_failed_trial_with_its_reason_and_does_not_repeat_for_ever(root):
    studies.require_optuna()
    search = plan(trials=2)
    for frame in (root / "data/tiny/frames").glob("*.jpg"):
        frame.write_bytes(b"")
    with at_home(root):
        found = tuning.run_search(search)
        with pytest.raises(UserError, match=r"fold 0: no trial has a result; the last: .*jpg"):
            tuning.choose_tuned(search, found)
    assert count_states(search) == {"FAIL": 2}


JOIN = """
import sys, time
sys.path.insert(0, {tests!r})
from test_tune import plan
from liveness.laboratory import tuning
if {slow}:
    kept = tuning.train_trial
    def held(recipe, data, fold, report, stressed):
        open({mark!r}, "w").close()
        time.sleep(600)
    tuning.train_trial = held
tuning.run_search(plan(trials=4))
"""


@pytest.mark.extras
def test_of_two_processes_on_one_study_one_is_killed_and_the_planned_trials_are_done(root, tmp_path):
    studies.require_optuna()
    mark = tmp_path / "started"

    def start(slow: bool) -> subprocess.Popen:
        code = JOIN.format(tests=str(CODE / "tests"), slow=slow, mark=str(mark))
        values = {**os.environ, "PYTHONPATH": os.pathsep.join([str(CODE / "src"), *sys.path])}
        return subprocess.Popen([sys.executable, "-c", code], env=values, stdin=subprocess.DEVNULL)

    first = start(slow=True)
    try:
        deadline = time.monotonic() + 120
        while not mark.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        second = start(slow=False)
        try:
            time.sleep(3)
            first.kill()  # its trial is left running; the other does the rest, fails it, and takes its place
            first.wait()
            assert second.wait(timeout=240) == 0
        finally:
            second.kill()
    finally:
        first.kill()
    states = count_states(plan(trials=4))
    assert states.get("COMPLETE", 0) + states.get("PRUNED", 0) == 4 and states.get("FAIL") == 1
    assert "RUNNING" not in states


@pytest.mark.extras
def test_a_trial_of_another_machine_is_waited_for_until_it_is_given_up(root):
    studies.require_optuna()
    search = plan(trials=1)
    recipe = search.load()
    with at_home(root):
        from liveness.sets.dataset import load_set

        digest = load_set("tiny", recipe.frames).digest
        contract = studies.make_contract(recipe, "tiny", digest, 1, search.space)
        study = studies.open_study(search.journal, "fold0", contract, search.space)
        study.ask().set_user_attr("process", {**studies.describe_process(), "host": "elsewhere"})
        found = tuning.run_search(search)
        assert count_states(search) == {"RUNNING": 1}
        assert tuning.list_unfinished(search, found) == ["fold 0: 1 trials are left to elsewhere"]
        tuning.run_search(search, elsewhere=True)
        assert count_states(search) == {"FAIL": 1, "COMPLETE": 1}


def test_a_process_is_told_from_another_that_got_its_number():
    me = studies.describe_process()
    assert studies.is_alive(me)
    assert not studies.is_alive({**me, "started": "1"}) and not studies.is_alive({**me, "boot": "another"})
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    time.sleep(0.05)
    child.wait()
    assert not studies.is_alive({**me, "pid": child.pid})
    assert json.loads(json.dumps(me)) == me


@pytest.mark.extras
def test_a_pruner_ends_trials_that_fall_behind_and_hyperband_works_on_the_same_journal(root, monkeypatch):
    studies.require_optuna()
    # Values that are told at once, in place of trainings: what is tested is who is ended.
    losses = {0: [0.5, 0.4, 0.3], 1: [0.9, 0.8, 0.7]}

    def train(recipe, data, fold, report, stressed):
        number = 0 if recipe.train.lr == 1e-2 else 1
        for epoch, loss in enumerate(losses[number], 1):
            report(epoch, loss)
        return tuning.Judged(losses[number][-1])

    monkeypatch.setattr(tuning, "train_trial", train)
    for pruner in ("median", "hyperband"):
        search = plan(LR, trials=4, override=("train.lr=1e-2",))
        search.space.pruner, search.space.startup_trials = pruner, 1
        search = dataclasses.replace(search, name=pruner)
        with at_home(root):
            found = tuning.run_search(search)
        assert found[0].best_trial.number == 0 and studies.count_finished(found[0].trials) == 4
        if pruner == "median":
            assert count_states(search) == {"COMPLETE": 1, "PRUNED": 3}
            assert max(found[0].trials[2].intermediate_values) == 2  # the first epoch is never judged


@pytest.mark.extras
def test_a_search_for_the_least_stressed_hter_is_nested_and_tells_ties_apart_by_the_log_loss(root, monkeypatch):
    studies.require_optuna()
    search = plan(trials=3, override=("train.lr=1e-2", "train.epochs=2"), folds=(0, 1))
    search = dataclasses.replace(search, space=dataclasses.replace(STRESSES, startup_trials=3, stressed_videos=4))
    measured = []

    def measure(inner, model, recipe, device):
        measured.append(sorted(set(inner.videos.fold)))
        return 0.25, "jpeg 3"

    with at_home(root), monkeypatch.context() as patch:
        patch.setattr(stressed_search.StressedFold, "measure", measure)
        tuning.check_search(search)
        found = tuning.run_search(search)
        tuned = tuning.choose_tuned(search, found)
        about = tuning.describe_search(search, found)
    complete = [t for t in found[0].trials if t.state.name == "COMPLETE"]
    assert {fold for folds in measured[: len(complete)] for fold in folds} == {1}  # of the outer fold 0
    assert {fold for folds in measured[len(complete) :] for fold in folds} == {2}
    assert all(t.value == 0.25 and t.intermediate_values[2] == t.user_attrs["log_loss"] for t in complete)
    best = min(complete, key=lambda t: t.user_attrs["log_loss"])
    assert tuned.load(0).train.lr == best.params["train.lr"]
    assert about["studies"]["0"] | {"best_trial": best.number, "best_hter": 0.25} == about["studies"]["0"]
    assert "worst HTER 25.0 % (jpeg 3), inner log loss" in tuning.render_search_results(about)
    table = pd.read_csv(search.folder / "trials.csv")
    assert set(table.hter.dropna()) == {0.25} and set(table.worst_stress.dropna()) == {"jpeg 3"}
    with pytest.raises(UserError, match="study of something else: tune.objective is stressed_hter there, log_loss"):
        tuning.run_search(plan(trials=3, override=("train.lr=1e-2", "train.epochs=2"), folds=(0, 1)))
