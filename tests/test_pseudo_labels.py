"""Pseudo-labels: what a fold's file may come from, that its training reads only its own rows, and that it is exact."""

import json
from pathlib import Path

import pandas as pd
import pytest
from hand_set import NARROW, write_prepared
from in_process import at_home, train_here
from test_semi import write_records, write_unlabelled

from liveness import pseudo_label
from liveness.base.compose import load_recipe
from liveness.laboratory.pseudo_labelling import plan_labelling
from liveness.members.weights import describe_member
from liveness.sets.dataset import load_set
from liveness.training.pseudo_labels import split_training

OPTIONS = [*NARROW, "train.lr=0.02", "train.epochs=3", "train.calibration_share=0.5", "train.batch=8"]
LABELLER = ["train.keep_apart=true", "train.select=last", *OPTIONS]
WITH = [*OPTIONS, "train.pseudo_labels=mine"]
CONFIDENCE = "0.6"


def label(root: Path, *arguments: str) -> int:
    with at_home(root):
        return pseudo_label.main(
            ["convnext_xlarge", "--unlabelled", "extra", "--data", "tiny", "--name", "mine", *arguments]
            + ["--confidence", CONFIDENCE, "-o", *OPTIONS]
        )


def labeller_name() -> str:
    return plan_labelling("convnext_xlarge", OPTIONS, "tiny", "extra", [0], 0.6, "").by_fold[0][0][0].name


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A workspace with data/tiny in three folds of several persons, data/extra without labels, and its pseudo-labels."""
    root = tmp_path_factory.mktemp("pseudo")
    folder = write_prepared(root, videos=60)
    for table in ("folds.csv", "labels_video.csv"):
        rows = pd.read_csv(folder / table, dtype=str, keep_default_na=False)
        rows["group"] = [f"p{int(Path(name).stem) // 2}" for name in rows.filename]
        rows.to_csv(folder / table, index=False)
    write_records(folder)
    write_unlabelled(root, "extra", videos=9)
    for fold in (0, 1):  # as the verb would start them, in this process
        train_here(root, "-c", "convnext_xlarge", "--fold", str(fold), "--data", "tiny", "-o",
                   f"name={labeller_name()}", *LABELLER)  # fmt: skip
    assert label(root, "--folds", "0", "1") == 0
    return root


def path_of(root: Path) -> Path:
    return root / "runs" / "tiny" / "pseudo_labels" / "mine.csv"


def rows_of(root: Path, fold: int) -> pd.DataFrame:
    with at_home(root):
        recipe = load_recipe("convnext_xlarge", WITH)
        return split_training(recipe, fold, load_set("tiny", recipe.frames))[0]


def test_each_fold_is_labelled_by_the_member_that_held_it_out_and_calibrated_on_its_inner_part(root):
    table, about = pd.read_csv(path_of(root)), json.loads(path_of(root).with_suffix(".json").read_text())
    assert list(table) == ["filename", "label", "weight", "fold", "labellers"] and set(table.fold) == {0, 1}
    assert not table.duplicated(["filename", "fold"]).any()
    assert ((table.label >= 0.6) | (table.label <= 0.4)).all()
    folds = pd.read_csv(root / "data" / "tiny" / "folds.csv", dtype={"fold": int}).set_index("filename")
    records = {
        json.loads(p.read_text())["sha256"][:16]: f"{p.stem}.mp4" for p in (root / "data/tiny/.records").iterdir()
    }
    for fold in (0, 1):
        told = about["folds"][str(fold)]
        (labeller,) = told["labellers"]
        own = describe_member(root / "weights" / "tiny" / f"{labeller['member']}_fold{fold}.safetensors")
        assert own["weights_sha256"] == labeller["weights_sha256"] and own["fold"] == fold
        assert (table.labellers[table.fold == fold] == own["weights_sha256"][:16]).all()
        trained, calibrated = (
            [records[d] for d in part["videos"]] for part in (own["trained_on"], told["calibrated_on"])
        )
        assert not set(trained) & set(calibrated)
        assert set(trained) | set(calibrated) == set(folds.index[folds.fold != fold])
        assert not set(folds.group[trained]) & set(folds.group[calibrated])
