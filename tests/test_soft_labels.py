"""Soft labels and weights: from the label file to the loss; and that nobody is judged by them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hand_set import NARROW, write_prepared
from in_process import at_home, train_here
from test_semi import write_records, write_unlabelled

from liveness.base.compose import load_recipe
from liveness.base.config import Folds, Train
from liveness.base.errors import UserError
from liveness.models.losses import part_weights, sample_losses
from liveness.sets.dataset import load_set, load_unlabelled, split_set
from liveness.sets.fold_table import count_soft, read_folds
from liveness.sets.folds import check_folds, digest_of_set, fold_set
from liveness.sets.labelled import read_labelled
from liveness.sets.labels import read_labels
from liveness.training import loop
from liveness.training.tasks import make_task

OPTIONS = [*NARROW, "train.lr=0.02", "train.batch=12"]


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_label_file_may_have_soft_labels_and_weights(tmp_path):
    text = "fname,liveness_score,Weight\na.mp4,1,\nb.mp4,0.93,0.5\nc.mp4,0.0,2\nd.mp4,.2,1e-1\n"
    table = read_labels(write(tmp_path / "label.csv", text))
    assert table.to_dict("list") == {
        "filename": ["a.mp4", "b.mp4", "c.mp4", "d.mp4"],
        "label": [1, 1, 0, 0],
        "soft_label": ["", "0.93", "", "0.2"],
        "weight": ["", "0.5", "2", "1e-1"],
    }
    hard = read_labels(write(tmp_path / "label.csv", "fname,liveness_score\na.mp4,1.0\nb.mp4,0\n"))
    assert list(hard) == ["filename", "label"] and hard.label.tolist() == [1, 0]


@pytest.mark.parametrize(
    "row, expected",
    [
        ("0.5,1", "label '0.5' of 'b.mp4'; expected 0 (attack) or 1 (live), or between them"),
        ("1.2,1", "label '1.2'"),
        ("nan,1", "label 'nan'"),
        ("0.7,0", "weight '0' of 'b.mp4'; expected a number above 0"),
        ("0.7,inf", "weight 'inf'"),
        ("0.7,heavy", "weight 'heavy'"),
    ],
)
def test_what_is_no_label_or_weight_is_said(tmp_path, row, expected):
    with pytest.raises(UserError) as error:
        read_labels(write(tmp_path / "label.csv", f"fname,label,weight\na.mp4,1,1\nb.mp4,{row}\n"))
    assert expected in str(error.value) and "\n" not in str(error.value)


@pytest.fixture
def root(tmp_path) -> Path:
    """A workspace whose set has a soft label in fold 0 and in fold 1, and weights."""
    folder = write_prepared(tmp_path, videos=24)
    (folder / "folds.csv").unlink()
    path = folder / "labels_video.csv"
    rows = pd.read_csv(path, dtype=str, keep_default_na=False).assign(species="", soft_label="", weight="")
    rows["group"] = [f"p{int(video) // 2}" for video in rows.video_id]
    rows.loc[1, "soft_label"], rows.loc[6, "soft_label"], rows.loc[4, "weight"] = "0.8", "0.25", "3"
    rows.to_csv(path, index=False)
    with at_home(tmp_path):
        fold_set(folder, Folds(n=3, seed=1))
    return tmp_path


def test_preparation_takes_them_into_the_folds_and_what_changes_is_another_state(root, capsys):
    folder = root / "data" / "tiny"
    folds = pd.read_csv(folder / "folds.csv", dtype=str, keep_default_na=False).set_index("filename")
    assert folds.soft_label["1.mp4"] == "0.8" and folds.label["1.mp4"] == "1" and folds.weight["4.mp4"] == "3"
    before, path = digest_of_set(folder), folder / "labels_video.csv"
    videos = pd.read_csv(path, dtype=str, keep_default_na=False)
    check_folds(folder / "folds.csv", folds.reset_index(), videos)
    videos.loc[1, "soft_label"] = "0.9"
    with pytest.raises(UserError, match="another soft_label than the set's for '1.mp4'"):
        check_folds(folder / "folds.csv", folds.reset_index(), videos)
    videos.to_csv(path, index=False)
    with at_home(root):
        fold_set(folder, Folds(n=3, seed=1))
    again = pd.read_csv(folder / "folds.csv", dtype=str, keep_default_na=False).set_index("filename")
    assert again.soft_label["1.mp4"] == "0.9" and (again.fold == folds.fold).all() and digest_of_set(folder) != before


def test_no_member_is_judged_by_a_soft_label_and_the_other_folds_learn_it(root):
    with at_home(root):
        recipe = load_recipe("convnext_xlarge", OPTIONS)
        prepared = load_set("tiny", recipe.frames)
        fold = int(prepared.videos.fold["1.mp4"])
        rows, held_out = split_set(prepared, fold, recipe.view)
        assert "1.mp4" not in held_out and "1.mp4" not in set(rows.filename) and "0.mp4" in held_out
        rows, _ = split_set(prepared, (fold + 1) % 3, recipe.view)
        frames = make_task(recipe, prepared, rows).frames
        taught = {row.filename: frames[0, place][1].tolist() for place, row in enumerate(frames.rows)}
        assert taught["1.mp4"] == [0.8, 1.0] and taught["0.mp4"] == [0.0, 1.0]
        attacked = make_task(load_recipe("convnext_xlarge", [*OPTIONS, "augment.attack_rate=1"]), prepared, rows).frames
        place = [row.filename for row in attacked.rows].index("1.mp4")
        assert attacked[0, place][1].tolist() == [0.0, 1.0]  # shot from a screen it is an attack for sure
    judged = read_folds(root / "data" / "tiny")
    assert len(judged) == 22 and not {"1.mp4", "6.mp4"} & set(judged.filename)
    assert count_soft(root / "data" / "tiny") == {"soft_labelled": 2}
    assert len(read_labelled(root / "data" / "tiny")[0]) == 22
    with at_home(root):
        assert not {"soft_label", "weight"} & set(load_unlabelled("tiny", recipe.frames).frames)


def bce(logit: float, target: float) -> float:
    return target * np.log1p(np.exp(-logit)) + (1 - target) * np.log1p(np.exp(logit))


def test_the_weighted_soft_loss_is_that_of_a_computation_by_hand():
    logits, config = torch.tensor([0.3, -1.2, 2.0]), Train(label_smoothing=0.1)
    labels, weights = part_weights(torch.tensor([[0.8, 0.5], [0.0, 3.0], [1.0, 1.0]]))
    found = weights * sample_losses(logits, labels, config)
    expected = [0.5 * bce(0.3, 0.77), 3 * bce(-1.2, 0.05), bce(2.0, 0.95)]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)
    plain, one = part_weights(labels)
    assert one == 1.0 and plain is labels


@pytest.mark.parametrize("mixing", [pytest.param("mixup", marks=pytest.mark.full), "cutmix"])
def test_a_mixed_sample_has_both_losses_each_with_its_weight(root, mixing):
    """Whatever the logit z: w * loss(z, y) = share * w1 * loss(z, y1) + (1 - share) * w2 * loss(z, y2)."""
    with at_home(root):
        recipe = load_recipe("convnext_xlarge", [*OPTIONS, f"augment.{mixing}=1", "train.label_smoothing=0"])
        prepared = load_set("tiny", recipe.frames)
        frames = make_task(recipe, prepared, split_set(prepared, 0, recipe.view)[0]).frames
        plain = make_task(
            load_recipe("convnext_xlarge", OPTIONS), prepared, split_set(prepared, 0, recipe.view)[0]
        ).frames
        checked = 0
        for place in range(len(frames)):
            partner = frames.partner((0, place))
            (y, w), (y1, w1), (y2, w2) = frames[0, place][1], plain[0, place][1], plain[0, partner][1]
            if w1 == w2:
                continue
            share = (w - w2) / (w1 - w2)
            assert 0 <= share <= 1
            for z in (-1.3, 0.4):
                assert w * bce(z, y) == pytest.approx(share * w1 * bce(z, y1) + (1 - share) * w2 * bce(z, y2), rel=1e-9)
            checked += share < 1
    assert checked


def test_a_step_of_weighted_samples_is_the_same_in_parts(root):
    """Its gradient is that of the sum of the weighted losses over the batch's size."""
    gradients = []
    with at_home(root):
        for most in (12, 5):
            recipe = load_recipe(
                "convnext_xlarge", [*OPTIONS, f"train.batch_per_process={most}", "train.class_balance=true"]
            )
            prepared = load_set("tiny", recipe.frames)
            task = make_task(recipe, prepared, split_set(prepared, 0, recipe.view)[0])
            state, total, done = loop.start_state(task, torch.device("cpu"), 0.01), 0.0, False
            stream = task.stream(0, state.device)
            while not done:
                share, batch = next(stream)
                losses = task.losses(loop.ready_networks(state), share, batch, state.device)
                (losses.sum() / share.batch).backward()
                total, done = total + float(losses.sum().detach()), share.last
            gradients.append([total, *(p.grad.clone() for p in task.model.parameters())])
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-6)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(gradients[0][1:], gradients[1][1:], strict=True))


@pytest.mark.parametrize("task", [pytest.param("cross_pseudo", marks=pytest.mark.full), "mean_teacher"])
def test_weights_count_beside_unlabelled_samples_too(root, task):
    """With next to nothing of the unlabelled loss, a sample's loss is its weight times the loss that it has without."""
    write_records(root / "data" / "tiny")
    write_unlabelled(root, "extra")
    options = [*OPTIONS, f"train.task={task}", "train.unlabelled=extra", "train.unlabelled_weight=1e-9"]
    found, path = [], root / "data" / "tiny" / "folds.csv"
    with at_home(root):
        recipe = load_recipe("convnext_xlarge", [*options, "model.drop_path=0", "train.batch_per_process=60"])
        for weight in ("3", "1"):
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
            table.assign(weight=weight).to_csv(path, index=False)
            prepared = load_set("tiny", recipe.frames)
            task_made = make_task(recipe, prepared, split_set(prepared, 0, recipe.view)[0])
            state = loop.start_state(task_made, torch.device("cpu"), 0.01)
            share, batch = next(task_made.stream(0, state.device))
            found.append(task_made.losses(loop.ready_networks(state), share, batch, state.device).detach())
    assert torch.allclose(found[0], 3 * found[1], rtol=1e-5) and found[1].min() > 0


def test_the_balance_of_classes_counts_soft_labels_and_weights(root):
    with at_home(root):
        recipe = load_recipe("convnext_xlarge", [*OPTIONS, "augment.attack_rate=0.5"])
        prepared = load_set("tiny", recipe.frames)
        rows, _ = split_set(prepared, 0, recipe.view)
        live, attacks = make_task(recipe, prepared, rows).frames.count_classes(0.5)
    labels = rows.soft_label.fillna(rows.label)
    expected = (rows.weight * labels * np.where(rows.label == 1, 0.5, 1)).sum()
    assert live == pytest.approx(expected) and live + attacks == pytest.approx(rows.weight.sum())


@pytest.mark.full
def test_the_report_says_how_many_videos_nobody_was_judged_by(root, capsys):
    from liveness import evaluate

    shutil.rmtree(root / "weights", ignore_errors=True)
    with at_home(root):
        n = load_set("tiny", load_recipe("convnext_xlarge").frames).n_folds
    for fold in range(n):
        assert train_here(root, "-c", "efficientnet_lite0", "--fold", str(fold), "--data", "tiny", "-o",
                          "model.name=convnext_tiny", "view.kind=frame", *OPTIONS) == 0  # fmt: skip
    with at_home(root):
        assert evaluate.main(["efficientnet_lite0", "--data", "tiny"]) == 0
    assert "2 videos with soft labels: for training alone" in capsys.readouterr().out
    report = json.loads((root / "runs" / "tiny" / "efficientnet_lite0" / "report.json").read_text())
    assert report["soft_labelled"] == 2 and report["counts"]["videos"] == 22
