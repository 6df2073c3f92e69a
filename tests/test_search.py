"""Which members are worth their time: on simulated members whose truth is known, and through the command."""

import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_curve
from test_prediction import put_member

from liveness import evaluate
from liveness import search as command
from liveness.base import compose, config, validity
from liveness.base.config import Ensemble, EnsembleMember
from liveness.base.errors import UserError
from liveness.evaluation import out_of_fold
from liveness.laboratory import candidates as subsets
from liveness.laboratory import cascades, cost
from liveness.laboratory.candidates import Costs, ScoredVideos
from liveness.laboratory.cascades import Thresholds
from liveness.laboratory.cost import measure_costs
from liveness.members.trained import OOF_COLUMNS
from liveness.models.backend import MOST_VIEWS
from liveness.prediction.engine import load_members

RECIPES = {
    "good_fold0": "good",
    "good_fold1": "good",
    "also_fold0": "also",
    "also_fold1": "also",
    "noise_fold0": "noise",
}
RECIPES["noise_fold1"] = "noise"
COSTS = Costs(40.0, {("good",): 20.0, ("also", "noise"): 5.0}, dict.fromkeys(RECIPES, 10.0))


def simulated(seed: int, videos: int = 600, labels=None, shift: float = 3.0) -> ScoredVideos:
    """Videos of two folds; ``good`` and ``also`` see the class each with noise of its own, ``noise`` sees nothing."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, videos) if labels is None else labels
    parts = np.arange(videos) % 2
    scores = pd.DataFrame(index=range(videos))
    for name, recipe in RECIPES.items():
        evidence = {"good": shift, "also": shift, "noise": 0.0}[recipe] * (labels - 0.5) + rng.normal(size=videos)
        scores[name] = np.where(parts == int(name[-1]), 1 / (1 + np.exp(-2 * evidence)), np.nan)
    return ScoredVideos(labels, np.arange(videos), parts, scores, dict.fromkeys(RECIPES, 1.0))


def test_a_useless_member_never_enters_the_front_and_a_second_good_one_does():
    for seed in range(2):
        judged = simulated(seed, 300)
        rows = subsets.judge_candidates(judged, subsets.list_recipe_subsets(judged, RECIPES, COSTS), list(RECIPES))
        front = [row["members"] for row in rows if row["pareto"]]
        assert front
        assert not any("noise_fold0" in members or "noise_fold1" in members for members in front), seed
        assert ["good_fold0", "good_fold1", "also_fold0", "also_fold1"] in front
        alone = next(row for row in rows if row["members"] == ["noise_fold0", "noise_fold1"])
        assert alone["against_full"] == "worse" and 0.4 < alone["eer"] < 0.6
        lean = next(row for row in rows if set(row["members"]) == {"good_fold0", "also_fold0"})
        whole = next(row for row in rows if row["members"] == ["good_fold0", "good_fold1", "also_fold0", "also_fold1"])
        assert lean["folds"] == "one" and lean["eer"] == whole["eer"]  # nothing out of fold can tell them apart
        assert (lean["milliseconds"], whole["milliseconds"]) == (40 + 20 + 5 + 20, 40 + 20 + 5 + 40)


def test_members_that_say_the_same_cannot_be_told_apart_and_one_of_them_is_enough():
    judged = simulated(3)
    twins = {"good_fold0": "good", "good_fold1": "good", "twin_fold0": "twin", "twin_fold1": "twin"}
    scores = judged.scores.assign(twin_fold0=judged.scores["good_fold0"], twin_fold1=judged.scores["good_fold1"])
    judged = ScoredVideos(judged.labels, judged.groups, judged.parts, scores[list(twins)], dict.fromkeys(twins, 1.0))
    costs = Costs(0.0, {}, dict.fromkeys(twins, 10.0))
    rows = subsets.judge_candidates(judged, subsets.list_recipe_subsets(judged, twins, costs), list(twins))
    assert {row["against_full"] for row in rows} == {"cannot be told apart"}
    assert {row["difference"] for row in rows} == {0.0}
    front = [row["members"] for row in rows if row["pareto"] and row["folds"] == "all"]
    assert front == [["good_fold0", "good_fold1"]]


def test_with_labels_drawn_at_random_the_searchs_own_pick_stays_at_chance():
    names = [f"m{i}_fold{k}" for i in range(8) for k in range(2)]
    recipes = {name: name.split("_")[0] for name in names}
    costs = Costs(0.0, {}, dict.fromkeys(names, 1.0))
    seen, nested = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        labels, parts = np.arange(400) // 2 % 2, np.arange(400) % 2
        scores = pd.DataFrame(
            {name: np.where(parts == int(name[-1]), rng.uniform(0.01, 0.99, 400), np.nan) for name in names}
        )
        judged = ScoredVideos(labels, np.arange(400), parts, scores, dict.fromkeys(names, 1.0))
        candidates = [c for c in subsets.list_recipe_subsets(judged, recipes, costs) if c.folds == "all"]
        assert len(candidates) == 255
        pick = subsets.judge_own_pick(judged, candidates, names)
        seen.append(pick["eer"])
        nested.append(pick["nested_eer"])
    assert np.mean(seen) < 0.46  # the best of 255 on the videos it was chosen on: flattering
    assert 0.47 < np.mean(nested) < 0.53, nested


def test_a_cascade_of_six_videos_by_hand():
    first = np.array([0.02, 0.10, 0.40, 0.60, 0.90, 0.97])
    full = np.array([0.30, 0.20, 0.70, 0.20, 0.80, 0.60])
    scores, escalated = cascades.apply_cascade(first, full, Thresholds(0.1, 0.9))
    assert scores.tolist() == [0.02, 0.10, 0.70, 0.20, 0.90, 0.97]  # on the limits it is final
    assert escalated.tolist() == [False, False, True, True, False, False]
    scores, escalated = cascades.apply_cascade(np.where(first == 0.02, np.nan, first), full, Thresholds(0.1, 0.9))
    assert scores[0] == 0.30 and escalated[0]  # no first score


def test_a_cascades_milliseconds_and_escalated_share_by_hand():
    # Two parts of alike videos: what is learned on one fits the other. The cheap recipe is sure of two thirds.
    cheap = np.array([0.01, 0.02, 0.45, 0.55, 0.98, 0.99])
    big = np.array([0.10, 0.10, 0.90, 0.10, 0.90, 0.90])
    labels = np.array([0, 0, 1, 0, 1, 1])
    columns = {
        "cheap_fold0": np.r_[cheap, [np.nan] * 6],
        "cheap_fold1": np.r_[[np.nan] * 6, cheap],
        "big_fold0": np.r_[big, [np.nan] * 6],
        "big_fold1": np.r_[[np.nan] * 6, big],
    }
    weights = {"cheap_fold0": 1e-9, "cheap_fold1": 1e-9, "big_fold0": 1.0, "big_fold1": 1.0}
    parts = np.repeat([0, 1], 6)
    judged = ScoredVideos(np.r_[labels, labels], np.arange(12), parts, pd.DataFrame(columns), weights)
    recipes = {name: name.split("_")[0] for name in columns}
    costs = Costs(
        40.0,
        {("cheap",): 3.0, ("big",): 7.0},
        {"cheap_fold0": 10, "cheap_fold1": 10, "big_fold0": 100, "big_fold1": 100},
    )
    candidates = subsets.list_recipe_subsets(judged, recipes, costs)
    first = next(c for c in candidates if c.members == ("cheap_fold0",))
    whole = next(c for c in candidates if len(c.members) == 4)
    assert (first.milliseconds, whole.milliseconds) == (53.0, 270.0)
    row = next(r for r in cascades.judge_cascades(judged, first, whole, costs) if r["rule"] == cascades.NO_WORSE)
    assert row["first"] == ["cheap_fold0"] and row["escalated"] == pytest.approx(1 / 3)
    assert row["milliseconds"] == pytest.approx(40 + 10 + 10 + (10 + 100 + 100) / 3)
    assert (row["eer"], row["difference"], row["against_full"]) == (0.0, 0.0, "cannot be told apart")
    assert 0.02 < row["low"] < 0.45 and 0.55 < row["high"] < 0.98
    assert cascades.choose_cascade([row], 270.0, 0.005) is row
    assert cascades.choose_cascade([row], 100.0, 0.005) is None  # it would not save time
    assert cascades.choose_cascade([row | {"difference": 0.01}], 270.0, 0.005) is None


def test_a_cascades_figures_come_from_thresholds_that_did_not_see_the_video():
    # With labels drawn at random the thresholds that look best on the other folds are worth nothing here.
    changes = []
    for seed in range(4):
        rng = np.random.default_rng(100 + seed)
        judged = simulated(seed, 150, labels=rng.integers(0, 2, 150), shift=0.0)
        candidates = subsets.list_recipe_subsets(judged, RECIPES, COSTS)
        first = next(c for c in candidates if c.members == ("good_fold0",))
        whole = next(c for c in candidates if len(c.members) == len(RECIPES))
        changes += [row["eer"] for row in cascades.judge_cascades(judged, first, whole, COSTS)]
    assert 0.45 < np.mean(changes) < 0.55


def test_on_a_real_gain_the_cascade_keeps_the_error_and_saves_time():
    judged = simulated(11, 800, shift=4.0)
    costs = Costs(10.0, {}, {name: 5.0 if name.startswith("also") else 100.0 for name in RECIPES})
    candidates = subsets.list_recipe_subsets(judged, RECIPES, costs)
    whole = next(c for c in candidates if len(c.members) == 6)
    first = next(c for c in candidates if c.members == ("also_fold0",))
    rows = cascades.judge_cascades(judged, first, whole, costs)
    chosen = cascades.choose_cascade(rows, whole.milliseconds, 0.005)
    assert chosen and chosen["milliseconds"] < 0.75 * whole.milliseconds
    assert chosen["difference"] <= 0.005 and chosen["against_full"] != "worse"
    for row in rows:
        assert row["low"] <= row["high"] and 0 <= row["escalated"] <= 1
        budget = float(row["rule"].split()[2]) / 100 if row["rule"] != cascades.NO_WORSE else 1
        assert row["escalated"] <= budget + 0.03


def test_more_recipes_than_can_be_tried_exhaustively_are_searched_greedily():
    names = [str(i) for i in range(14)]
    worth = {name: 2.0 ** -int(name) for name in names}
    calls = []

    def error(chosen):
        calls.append(chosen)
        return 2 - sum(worth[name] for name in chosen)

    tried = subsets.list_subsets(names, error)
    assert len(calls) < 300 and len(set(tried)) == len(tried)
    assert tried[-1] == tuple(names) and ("0", "1", "2") in tried and tuple(names[:9]) in tried
    assert len(subsets.list_subsets(names[:10], error)) == 1023


def test_shared_views_and_decoding_are_paid_once():
    assert COSTS.of(["also_fold0", "noise_fold0"], RECIPES) == 40 + 5 + 20
    assert COSTS.of(["good_fold0", "noise_fold0", "noise_fold1"], RECIPES) == 40 + 25 + 30


def test_the_naive_gap_is_the_paired_difference_of_two_sklearn_eers():
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, 400)
    groups = [f"p{i % 80}" for i in range(400)]
    naive, grouped = (1 / (1 + np.exp(-(labels - 0.5) * s - rng.normal(size=400))) for s in (5.0, 1.0))
    grouped[:7], naive[3:9] = np.nan, np.nan
    found = out_of_fold.compare_splits(labels, grouped, naive, groups)

    def eer(scores):
        fpr, tpr, _ = roc_curve(labels[9:], scores[9:], drop_intermediate=False)
        best = np.argmin(np.abs(fpr - (1 - tpr)))
        return (fpr[best] + 1 - tpr[best]) / 2

    assert found["videos"] == 391 and found["groups"] == 80
    assert found["grouped_eer"] == pytest.approx(eer(grouped), abs=0.005)
    assert found["naive_eer"] == pytest.approx(eer(naive), abs=0.005)
    assert found["difference"] == found["grouped_eer"] - found["naive_eer"] > 0.1
    assert found["interval"][0] < found["difference"] < found["interval"][1]
    assert found["verdict"] == "the naive split flatters"
    same = out_of_fold.compare_splits(labels, grouped, grouped, groups)
    assert same["difference"] == 0 and same["verdict"] == "cannot be told apart"


# The command.

MEMBERS = [("cheap", 0), ("cheap", 1), ("big", 0), ("big", 1)]


@pytest.fixture
def mix(workspace, tmp_path, monkeypatch):
    """An ensemble ``mix`` of two recipes with two folds each, with finished runs over 120 videos."""
    configs = tmp_path / "configs"
    shutil.copytree(compose.CONFIGS, configs)
    source = (configs / "recipe" / "convnext_xlarge.yaml").read_text()
    for name in ("cheap", "big"):
        (configs / "recipe" / f"{name}.yaml").write_text(source.replace("name: convnext_xlarge", f"name: {name}", 1))
    members = "".join(f"  - {{recipe: {r}, fold: {f}}}\n" for r, f in MEMBERS)
    (configs / "ensemble" / "mix.yaml").write_text(
        f"# @package _global_\ndefaults:\n  - /ensemble_schema\n  - _self_\nname: mix\ndata: tiny\nmembers:\n{members}"
    )
    monkeypatch.setattr(compose, "CONFIGS", configs)
    write_runs(workspace)
    evaluate.main(["mix"])
    costs = {
        "decode": 40,
        "views": {"cheap big": 5},
        "members": {f"{r}_fold{f}": 10 if r == "cheap" else 90 for r, f in MEMBERS},
    }
    (workspace / "costs.json").write_text(json.dumps(costs))
    return workspace


def write_runs(root, holdout: int = 0):
    rng = np.random.default_rng(1)
    index = np.arange(120 + holdout)
    folds = pd.DataFrame({"filename": [f"{i}.mp4" for i in index], "label": index // 2 % 2})
    folds["group"], folds["fold"] = [f"p{i // 4}" for i in index], index // 4 % 2
    folds.loc[index >= 120, "fold"] = -1
    (root / "data" / "tiny").mkdir(parents=True, exist_ok=True)
    folds.to_csv(root / "data" / "tiny" / "folds.csv", index=False)
    for recipe, fold in MEMBERS:
        folder = root / "runs" / "tiny" / f"{recipe}_fold{fold}"
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for video in folds[folds.fold.isin((fold, -1))].itertuples():
            evidence = (3 if recipe == "cheap" else 5) * (video.label - 0.5) + rng.normal()
            score = round(float(1 / (1 + np.exp(-evidence))), 6)
            rows.append((video.filename, video.filename[:-4], 3, video.label, video.fold, score, "ok"))
        pd.DataFrame(rows, columns=OOF_COLUMNS).to_csv(folder / "oof.csv", index=False)
        settings = {"recipe": {"name": recipe, "combine": "mean"}, "fold": fold, "data": "tiny", "data_hash": "abc"}
        (folder / "config.json").write_text(json.dumps(settings))


def searched(root, *options) -> dict:
    assert command.main(["mix", "--milliseconds", str(root / "costs.json"), *options]) == 0
    return json.loads((root / "runs" / "tiny" / "mix" / "search.json").read_text())


def test_the_command_writes_what_it_prints_and_the_same_each_time(mix, capsys):
    capsys.readouterr()
    found = searched(mix)
    text = capsys.readouterr().out
    assert "120 videos that every recipe scores out of fold" in text and "front" in text
    assert max(len(line) for line in text.splitlines()) <= 120
    first = (mix / "runs" / "tiny" / "mix" / "search.json").read_bytes()
    assert searched(mix, "--milliseconds", str(mix / "runs" / "tiny" / "mix" / "search.json")) == found
    assert (mix / "runs" / "tiny" / "mix" / "search.json").read_bytes() == first
    assert [row["name"] for row in found["members"]] == [f"{r}_fold{f}" for r, f in MEMBERS]
    by = {(tuple(row["members"]), row["folds"]): row for row in found["subsets"]}
    assert len(by) == 6 and found["tried"] == 6 and found["holdout"] is None
    whole = by[tuple(f"{r}_fold{f}" for r, f in MEMBERS), "all"]
    assert whole["milliseconds"] == 245 and whole["difference"] == 0
    report = json.loads((mix / "runs" / "tiny" / "mix" / "report.json").read_text())
    assert whole["eer"] == pytest.approx(report["pooled"]["eer"], abs=0.01)
    assert by[("cheap_fold0",), "one"]["milliseconds"] == 55


def test_the_printed_cascade_lines_make_an_ensemble_that_loads(mix, capsys):
    capsys.readouterr()
    found = searched(mix, "--tolerance", "0.2")
    text = capsys.readouterr().out
    (line,) = [line.strip() for line in text.splitlines() if line.strip().startswith("cascade: {")]
    path = compose.CONFIGS / "ensemble" / "mix.yaml"
    path.write_text(path.read_text() + line + "\n")
    cascade = compose.load_ensemble("mix").cascade
    assert cascade.first == [text.replace("_fold", ":") for text in found["cascade"]["first"]]
    assert (cascade.low, cascade.high) == (found["cascade"]["low"], found["cascade"]["high"])


def test_on_a_holdout_members_themselves_are_judged(mix, capsys):
    write_runs(mix, holdout=60)
    evaluate.main(["mix"])
    found = searched(mix)
    held = found["holdout"]
    assert (found["videos"], held["videos"], held["tried"]) == (120, 60, 15)
    assert {row["folds"] for row in held["subsets"]} == {""}
    assert ["big_fold1"] in [row["members"] for row in held["subsets"]]
    assert {tuple(row["first"]) for row in held["cascades"]} == {(f"{r}_fold{f}",) for r, f in MEMBERS}
    assert "on the holdout, 60 videos" in capsys.readouterr().out


def test_a_holdout_of_four_and_four_videos_in_five_groups_is_judged(mix):
    write_runs(mix, holdout=8)
    path = mix / "data" / "tiny" / "folds.csv"
    folds = pd.read_csv(path)
    folds.loc[folds.fold < 0, "group"] = ["a", "b", "c", "d", "e", "e", "e", "e"]
    folds.to_csv(path, index=False)
    evaluate.main(["mix"])
    held = searched(mix)["holdout"]
    assert (held["videos"], held["groups"]) == (8, 5) and held["cascades"]
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    for groups in (list("abcdeabc"), list("aabbccdd"), list("aaaabbbb"), list("abcdefgh")):
        parts = subsets.deal_into_parts(labels, np.array(groups))
        assert all(len({part for part, its in zip(parts, groups, strict=True) if its == g}) == 1 for g in groups)


def test_costs_are_those_of_a_further_video_beside_others(workspace, tiny_clips):
    for number in range(2):
        tiny_clips(workspace / "data" / "train" / "videos" / f"{number}.mp4", 6, (64, 96), seed=number)
    names = [("convnext_large", 0), ("convnext_large", 1), ("convnext_xlarge", 0)]
    for recipe, fold in names:
        put_member(recipe, fold)
    costs, device = measure_costs(Ensemble("mine", "train", [EnsembleMember(*name) for name in names]), "train")
    assert list(costs.members) == ["convnext_large_fold0", "convnext_large_fold1", "convnext_xlarge_fold0"]
    assert costs.members["convnext_large_fold0"] == costs.members["convnext_large_fold1"]  # one model
    assert list(costs.views) == [("convnext_large", "convnext_xlarge")] and costs.decode > 0
    assert min(costs.members.values()) > 0 and ("side by side" in device or torch.cuda.is_available())


@pytest.mark.gpu
def test_on_a_gpu_a_videos_cost_is_its_share_of_full_batches(workspace, monkeypatch):
    put_member("convnext_large", 0)
    loaded = load_members(Ensemble("mine", "train", [EnsembleMember("convnext_large", 0)]))
    (member,), passes = loaded.members, []
    forward = member.backend.forward
    monkeypatch.setattr(member.backend, "forward", lambda batch: passes.append(len(batch)) or forward(batch))
    cost.measure_pass(member, torch.zeros(2, 3, 48, 48), loaded)
    videos = (1 + cost.REPEATS) * (loaded.batches.capacity // 2)
    assert set(passes) == {MOST_VIEWS} and len(passes) == 2 * videos / MOST_VIEWS
    loaded.close()


def test_the_evaluation_sets_naive_folds_beside_grouped_ones(mix, capsys):
    path = mix / "data" / "tiny" / "folds.csv"
    folds = pd.read_csv(path)
    report = mix / "runs" / "tiny" / "mix" / "report.json"
    assert json.loads(report.read_text())["naive_gap"] is None  # no such run
    folds["naive_fold"] = np.arange(len(folds)) % 2
    folds.to_csv(path, index=False)
    for fold in (0, 1):
        folder = mix / "runs" / "tiny" / f"cheap_naive_fold{fold}"
        folder.mkdir()
        rows = [
            (v.filename, v.filename[:-4], 3, v.label, fold, 0.05 + 0.9 * v.label, "ok")
            for v in folds[folds.naive_fold == fold].itertuples()
        ]
        pd.DataFrame(rows, columns=OOF_COLUMNS).to_csv(folder / "oof.csv", index=False)
        settings = {"recipe": {"combine": "mean"}, "fold": fold, "naive": True, "data_hash": "abc"}
        (folder / "config.json").write_text(json.dumps(settings))
    capsys.readouterr()
    evaluate.main(["mix"])
    gap = json.loads(report.read_text())["naive_gap"]
    assert gap["members"] == ["cheap_naive_fold0", "cheap_naive_fold1"]
    assert (gap["videos"], gap["groups"], gap["naive_eer"]) == (120, 30, 0.0)
    # The grouped side is the recipe that has naive runs, alone.
    alone = evaluate.main(["mix", "--members", "cheap:0", "cheap:1"])
    assert alone == 0
    subset = json.loads((mix / "runs" / "tiny" / "mix-subset" / "report.json").read_text())
    assert gap["grouped_eer"] == subset["pooled"]["eer"] == gap["difference"] > 0.02
    text = capsys.readouterr().out
    assert "(naive) the EER would read 0.0 %" in text and gap["verdict"] in text
    (mix / "runs" / "tiny" / "cheap_naive_fold0" / "config.json").write_text(
        json.dumps({"recipe": {"combine": "mean"}, "data_hash": "other"})
    )
    with pytest.raises(UserError, match="different states of data/tiny"):
        evaluate.main(["mix"])


def test_what_cannot_be_searched_is_one_clear_line(mix):
    path = mix / "runs" / "tiny" / "mix" / "oof_video.csv"
    (mix / "bad.json").write_text('{"decode": 4, "members": {}}')
    with pytest.raises(UserError, match="every member of the ensemble"):
        command.main(["mix", "--milliseconds", str(mix / "bad.json")])
    table = pd.read_csv(path)
    table.drop(columns="big_fold1").to_csv(path, index=False)
    with pytest.raises(
        UserError, match="no column big_fold1; the ensemble changed since; run: python -m liveness.eval"
    ):
        searched(mix)
    path.unlink()
    with pytest.raises(UserError, match="no such file; run: python -m liveness.evaluate mix --data tiny"):
        searched(mix)
    evaluate.main(["mix"])
    oof = mix / "runs" / "tiny" / "big_fold1" / "oof.csv"
    os.utime(oof, (later := path.stat().st_mtime + 10, later))
    assert searched(mix)["videos"] == 120  # copied somewhere, say: the scores are the same
    frames = pd.read_csv(oof)
    frames.loc[3, "score"] += 0.001
    frames.to_csv(oof, index=False)
    os.utime(oof, (earlier := path.stat().st_mtime - 10, earlier))
    with pytest.raises(UserError, match="big_fold1 has other scores in its oof.csv, it was trained again since"):
        searched(mix)


@pytest.mark.parametrize(
    ("cascade", "words"),
    [
        (config.Cascade(["a:1"]), "cascade.first has 'a:1'; expected recipe:fold of its members"),
        (config.Cascade(["convnext_large:0"], 0.6, 0.4), "expected 0 <= low <= high <= 1"),
        (config.Cascade(["convnext_large:0"], -0.1, 0.4), "expected 0 <= low <= high <= 1"),
        (config.Cascade(["convnext_large:0", "convnext_large:0"]), "lists a member twice"),
        (config.Cascade(["convnext_large:0", "convnext_large:1"]), "lists all members"),
    ],
)
def test_a_cascade_that_is_none_is_refused(cascade, words):
    members = [EnsembleMember("convnext_large", 0), EnsembleMember("convnext_large", 1)]
    with pytest.raises(UserError, match=words):
        validity.check(Ensemble("x", "train", members, cascade=cascade), "ensemble x")
