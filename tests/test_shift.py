"""The shift laboratory: from trained members to errors under stress, through the real command on a tiny set."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny_set
from sklearn.metrics import roc_auc_score, roc_curve

from liveness import shift, train
from liveness.base import compose
from liveness.base.errors import UserError
from liveness.base.files import CODE
from liveness.laboratory import shift_figures as figures

NARROW = ["model.kwargs.depths=[1,1,1,1]", "model.kwargs.dims=[8,16,16,16]", "model.pretrained=", "model.drop_path=0"]
SHORT = ["view.size=32", "train.epochs=1", "train.batch=8", "train.workers=0", "train.lr=3e-2", "augment=none"]
SOME = ["jpeg", "noise", "shorten", "print"]
MEMBERS = [("convnext_xlarge", 0), ("convnext_xlarge", 1), ("convnext_large", 0), ("convnext_large", 1)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A workspace with the tiny set in three folds and four narrow members of two recipes."""
    root = tmp_path_factory.mktemp("shift")
    tiny_set.write_set(root / "raw" / "tiny")
    values = {**os.environ, "LIVENESS_ROOT": str(root), "PYTHON": sys.executable}
    command = ["bash", "prepare_data.sh", "tiny", "-o", "folds.n=3"]
    subprocess.run(command, cwd=CODE, env=values, check=True, capture_output=True, timeout=300)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIVENESS_ROOT", str(root))
        for recipe, fold in MEMBERS:
            options = ["--data", "tiny", "-o", *NARROW, *SHORT]
            options += ["view.size=40"] if recipe == "convnext_large" else []
            patch.setattr(sys, "argv", ["train", "-c", recipe, "--fold", str(fold), *options])
            train.main()
    return root


@pytest.fixture
def root(trained, tmp_path, monkeypatch) -> Path:
    """A copy to spoil, with the ensembles ``small`` and ``other`` (a recipe each) in configs/."""
    copy = tmp_path / "workspace"
    shutil.copytree(trained, copy, symlinks=True)
    configs = tmp_path / "configs"
    shutil.copytree(compose.CONFIGS, configs)
    for name, recipe in (("small", "convnext_xlarge"), ("other", "convnext_large")):
        members = "".join(f"  - {{recipe: {recipe}, fold: {fold}}}\n" for fold in (0, 1))
        head = "# @package _global_\ndefaults:\n  - /ensemble_schema\n  - _self_\n"
        (configs / "ensemble" / f"{name}.yaml").write_text(f"{head}name: {name}\ndata: tiny\nmembers:\n{members}")
    monkeypatch.setattr(compose, "CONFIGS", configs)
    monkeypatch.setenv("LIVENESS_ROOT", str(copy))
    return copy


def read(root: Path, name: str) -> tuple[dict, pd.DataFrame]:
    folder = root / "runs" / "tiny" / name
    table = pd.read_csv(folder / "shift.csv", dtype={"filename": str})
    return json.loads((folder / "shift.json").read_text()), table


def oof(root: Path, recipe: str) -> pd.Series:
    """Mean of the frame scores per video, over the recipe's folds."""
    parts = [pd.read_csv(root / f"runs/tiny/{recipe}_fold{fold}/oof.csv") for fold in (0, 1)]
    return pd.concat(parts).groupby("filename").score.mean()


def eer(labels, scores) -> float:
    """The mean of FPR and FNR where they are closest; of equally close points the smaller mean."""
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    distance = np.abs(fpr - (1 - tpr))
    return ((fpr + 1 - tpr) / 2)[distance < distance.min() + 1e-9].min()


def test_clean_scores_are_those_of_oof_and_figures_follow_from_the_table(root, capsys):
    assert shift.main(["small", "--stressors", *SOME, "--severities", "1", "3"]) == 0
    found, table = read(root, "small")
    clean = table[table.stressor == "clean"].set_index("filename")
    own = oof(root, "convnext_xlarge")
    assert set(clean.index) == set(own.index) and (clean.score - own.reindex(clean.index)).abs().max() < 1e-6
    folds = pd.read_csv(root / "data/tiny/folds.csv").set_index("filename")
    assert (clean.fold == folds.fold.reindex(clean.index)).all() and set(clean.fold) == {0, 1}
    assert found["clean"]["eer"] == pytest.approx(eer(clean.label, clean.score))
    assert [row["eer"] for row in found["rows"]] == sorted((row["eer"] for row in found["rows"]), reverse=True)
    assert {(r["stressor"], r["severity"]) for r in found["rows"]} == {(n, s) for n in SOME for s in (1, 3)}
    live = clean[clean.label == 1]
    for row in found["rows"]:
        part = table[(table.stressor == row["stressor"]) & (table.severity == row["severity"])].set_index("filename")
        if row["stressor"] == "print":
            assert set(part.index) == set(live.index) and (part.label == 0).all()
            part = pd.concat([live, part])
        assert row["eer"] == pytest.approx(eer(part.label, part.score)) and row["videos"] == len(part)
        assert row["auc"] == pytest.approx(roc_auc_score(part.label, part.score))
        accepted = part.score >= found["clean"]["threshold"]
        assert row["apcer"] == pytest.approx(accepted[part.label == 0].mean())
        assert row["bpcer"] == pytest.approx(1 - accepted[part.label == 1].mean())
        assert row["interval"][0] <= row["eer"] <= row["interval"][1]
        assert row["difference"] == pytest.approx(row["eer"] - found["clean"]["eer"])
        assert row["verdict"] in ("worse", "better", "cannot be told apart") and row["no_score"] == 0
    text = capsys.readouterr()
    assert "small on tiny" in text.out and "quality 12" in text.out
    assert [line for line in text.err.splitlines() if "warning" in line] == [
        "warning: small: not calibrated, weights/tiny/small.json is not there: not the scores that an evaluation is of"
    ]


def test_recipes_judged_each_in_one_pass_are_those_judged_alone(root, capsys):
    names = [f"{recipe}:{fold}" for recipe, fold in MEMBERS]
    some = ["--stressors", "noise", "replay", "--severities", "2", "--data", "tiny"]
    shift.main(["--each", "--members", *names, *some])
    assert "stressed HTER" in capsys.readouterr().out
    together = {recipe: read(root, recipe) for recipe in ("convnext_xlarge", "convnext_large")}
    shift.main(["small", *some])
    alone, table = read(root, "small")
    assert alone["rows"] == together["convnext_xlarge"][0]["rows"]
    assert table.equals(together["convnext_xlarge"][1])
    assert not table.score.equals(together["convnext_large"][1].score)
    shift.main(["other", "--against", "small", *some])
    both, _ = read(root, "other")
    assert both["rows"][0]["eer"] == together["convnext_large"][0]["rows"][0]["eer"]
    other = {row["stressor"]: row["eer"] for row in alone["rows"]}
    for row in both["rows"]:
        assert row["against"]["eer"] == other[row["stressor"]]
        assert row["against"]["difference"] == pytest.approx(row["eer"] - other[row["stressor"]])


def test_a_video_that_gives_no_score_is_counted_and_not_accepted(root, capsys):
    held = sorted(oof(root, "convnext_xlarge").index)
    labels = pd.read_csv(root / "data/tiny/folds.csv").set_index("filename").label
    lost = next(name for name in held if labels[name] == 1)
    link = root / "data" / "tiny" / "videos" / lost
    link.unlink()
    link.write_bytes(b"no video")
    shift.main(["small", "--stressors", "jpeg", "print", "--severities", "1"])
    found, table = read(root, "small")
    assert table[table.filename == lost].score.isna().all() and found["clean"]["no_score"] == 1
    rows = {row["stressor"]: row for row in found["rows"]}
    assert rows["jpeg"]["no_score"] == 1 and rows["print"]["no_score"] == 2  # as live video and as attack
    assert rows["jpeg"]["bpcer"] >= 1 / (labels[held] == 1).sum() - 1e-9
    part = table[table.stressor == "jpeg"]
    assert rows["jpeg"]["eer"] == pytest.approx(eer(part.label, part.score.fillna(0.5)))
    assert f"{lost} scores nan here" in capsys.readouterr().err


def test_calibration_beside_the_weights_is_applied_to_an_ensemble_and_not_to_chosen_members(root):
    from liveness import evaluate

    evaluate.main(["small"])
    path = root / "weights/tiny/small.json"
    about = json.loads(path.read_text())
    platt = {"how": "platt", "slope": 2.0, "offset": 0.5}
    about["calibration"] = {"how": "platt", "members": {f"convnext_xlarge_fold{k}": platt for k in (0, 1)}}
    path.write_text(json.dumps(about))
    shift.main(["small", "--stressors", "jpeg", "--severities", "1"])
    calibrated = read(root, "small")[1]
    shift.main(["small", "--stressors", "jpeg", "--severities", "1", "--members", "convnext_xlarge:0"])
    raw = read(root, "small-subset")[1]
    here = calibrated[calibrated.fold == 0].reset_index(drop=True)
    assert set(raw.fold) == {0} and here.filename.equals(raw.filename)
    odds = 2 * np.log(raw.score / (1 - raw.score)) + 0.5
    assert np.allclose(here.score, 1 / (1 + np.exp(-odds)))


def test_a_sample_is_seeded_and_keeps_the_shares_of_labels_and_folds(root):
    rng = np.random.default_rng(5)
    videos = pd.DataFrame({"label": [0] * 60 + [1] * 30, "fold": [0, 1, 2] * 30})
    order = list(rng.permutation(90))
    for count in (9, 18, 45):
        part = figures.sample_videos(videos, count, order)
        assert len(part) == count and part.index.is_monotonic_increasing
        assert (part.groupby(["label", "fold"]).size() == [2 * count // 9] * 3 + [count // 9] * 3).all()
        assert not part.equals(figures.sample_videos(videos, count, order[::-1]))
    assert figures.sample_videos(videos, 0, order) is videos and figures.sample_videos(videos, 200, order) is videos
    shift.main(["small", "--stressors", "mirror", "--videos", "8"])
    first = read(root, "small")[1]
    assert first[first.stressor == "clean"].label.value_counts().to_dict() == {0: 4, 1: 4}
    shift.main(["small", "--stressors", "mirror", "--videos", "8"])
    assert read(root, "small")[1].equals(first)


def test_videos_outside_all_folds_and_changed_folds(root):
    path = root / "data" / "tiny" / "folds.csv"
    folds = pd.read_csv(path)
    path.write_text(folds.assign(fold=folds.fold.where(folds.fold != 2, -1)).to_csv(index=False))
    shift.main(["small", "--stressors", "mirror"])
    assert set(read(root, "small")[1].fold) == {0, 1}
    folds.loc[folds.fold == 2, "fold"] = 0
    path.write_text(folds.to_csv(index=False))
    with pytest.raises(UserError, match="convnext_xlarge_fold0.*the folds changed since training"):
        shift.main(["small", "--stressors", "mirror"])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["small", "--stressors", "jpg"], "no stressor 'jpg'"),
        (["small", "--severities", "0"], "severity 0"),
        (["small", "--members", "convnext_xlarge"], "expected RECIPE:FOLD"),
        (["small", "--members", "convnext_xlarge:2"], "not trained yet: convnext_xlarge_fold2; train with: DATA=tiny"),
        (["small", "--data", "elsewhere"], "prepare_data.sh elsewhere"),
    ],
)
def test_mistakes_are_named_in_one_line(root, arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        shift.main(arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("arguments", [[], ["--data", "tiny"], ["small", "--each", "--against", "other"]])
def test_misuse_of_options_exits_with_2(root, arguments):
    with pytest.raises(SystemExit) as caught:
        shift.main(arguments)
    assert caught.value.code == 2


def test_a_sheet_shows_every_stressor_without_any_member(root, tmp_path):
    from PIL import Image

    shutil.rmtree(root / "weights")
    path = tmp_path / "sheet.png"
    shift.main(["--data", "tiny", "--sheet", str(path)])
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet)
    assert pixels.ndim == 3 and pixels.shape[0] > 15 * 100 and (pixels.max((1, 2)) > 0).mean() > 0.9


def table_of(live: list[float], attack: list[float], groups: int = 1) -> pd.DataFrame:
    scores = [*live, *attack]
    labels = [1] * len(live) + [0] * len(attack)
    names = [f"{i}.mp4" for i in range(len(scores))]
    return pd.DataFrame(
        {"label": labels, "group": [i % groups for i in range(len(scores))], "score": scores}, index=names
    )


@pytest.mark.parametrize("groups", [1, 40])
def test_verdicts_need_a_difference_that_is_sure(groups):
    rng = np.random.default_rng(3)
    clean = table_of(list(rng.normal(0.8, 0.1, 100)), list(rng.normal(0.3, 0.1, 100)), groups)
    threshold = figures.find_threshold(clean)
    same = figures.judge_stress(clean, clean.assign(score=clean.score + rng.normal(0, 0.001, 200)), threshold)
    assert same["verdict"] == "cannot be told apart" and abs(same["difference"]) < 0.02
    noisy = clean.assign(score=clean.score + rng.normal(0, 0.4, 200))
    worse = figures.judge_stress(clean, noisy, threshold)
    assert worse["verdict"] == "worse" and worse["difference_interval"][0] > 0.05
    assert figures.judge_stress(noisy, clean, threshold)["verdict"] == "better"
    assert ("by group" in worse["interval_method"]) == (groups == 40)
    assert figures.compare_systems(noisy, clean)["verdict"] == "better"


@pytest.mark.parametrize("groups", [1, 40])
def test_simulated_attacks_stand_against_the_clean_live_videos(groups):
    rng = np.random.default_rng(4)
    clean = table_of(list(rng.uniform(0.7, 0.9, 80)), list(rng.uniform(0.1, 0.3, 50)), groups)
    attacks = clean[clean.label == 1].assign(label=0)
    alike = figures.judge_stress(clean, attacks.assign(score=rng.uniform(0.7, 0.9, 80)), figures.find_threshold(clean))
    assert 0.35 < alike["eer"] < 0.65 and alike["verdict"] == "worse" and alike["videos"] == 160
    assert alike["apcer"] == 1.0 and alike["bpcer"] == 0.0 and alike["difference"] == alike["eer"]
    caught = figures.judge_stress(clean, attacks.assign(score=0.2), figures.find_threshold(clean))
    assert caught["eer"] == 0 and caught["verdict"] == "cannot be told apart" and caught["interval"][1] > 0.03
    silent = figures.judge_stress(clean, attacks.assign(score=np.nan), 0.45)
    assert silent["no_score"] == 80 and silent["apcer"] == 0  # 0.5 would pass, a video without a score does not
