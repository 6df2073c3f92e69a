"""Pseudo-labels: what a fold's file may come from, that its training reads only its own rows, and that it is exact."""

import json
import os
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hand_set import NARROW, write_prepared
from in_process import at_home, train_here
from test_semi import content, digest_number, flip_and_brighten, planted, write_records, write_unlabelled

from liveness import pseudo_label, train
from liveness.base import distributed, launch
from liveness.base.compose import load_recipe
from liveness.base.config import Recipe, to_dict
from liveness.base.errors import UserError
from liveness.base.files import sha256_of
from liveness.evaluation.calibration import fit_calibration
from liveness.laboratory.pseudo_labelling import choose_sure, plan_labelling
from liveness.members.weights import describe_member, load_member
from liveness.sets.dataset import HeldOutVideos, load_set, load_unlabelled
from liveness.training import loop, member
from liveness.training.pseudo_labels import split_training

OPTIONS = [*NARROW, "train.lr=0.02", "train.calibration_share=0.5", "train.batch=12"]
LABELLER = ["train.keep_apart=true", "train.select=last", *OPTIONS]
CONFIDENCE = 0.6


def label(
    root: Path, *arguments: str, unlabelled: str = "extra", name: str = "mine", more: tuple[str, ...] = ()
) -> int:
    words = ["convnext_xlarge", "--unlabelled", unlabelled, "--data", "tiny", "--name", name, *arguments]
    with at_home(root):
        return pseudo_label.main([*words, "--confidence", str(CONFIDENCE), "-o", *OPTIONS, *more])


def labeller_name() -> str:
    return plan_labelling("convnext_xlarge", OPTIONS, "tiny", "extra", [0], CONFIDENCE, "").by_fold[0][0][0].name


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A workspace with data/tiny in three folds of several persons, and pseudo-labels of data/extra for two of them."""
    root = tmp_path_factory.mktemp("pseudo")
    folder = write_prepared(root, videos=36)
    for table in ("folds.csv", "labels_video.csv"):
        rows = pd.read_csv(folder / table, dtype=str, keep_default_na=False)
        rows["group"] = [f"p{int(Path(name).stem) // 2}" for name in rows.filename]
        rows.to_csv(folder / table, index=False)
    write_records(folder)
    write_unlabelled(root, "extra")
    for fold in ("0", "1"):  # as the verb would start them, in this process
        words = ["-c", "convnext_xlarge", "--fold", fold, "--data", "tiny", "-o", f"name={labeller_name()}"]
        assert train_here(root, *words, *LABELLER) == 0
    assert label(root, "--folds", "0", "1") == 0
    return root


@pytest.fixture
def copy(root, tmp_path) -> Path:
    """The workspace, to be changed."""
    shutil.copytree(root, tmp_path / "copy")
    return tmp_path / "copy"


def path_of(root: Path) -> Path:
    return root / "runs" / "tiny" / "pseudo_labels" / "mine.csv"


def about_of(root: Path) -> dict:
    return json.loads(path_of(root).with_suffix(".json").read_text())


def write_about(root: Path, about: dict) -> None:
    path_of(root).with_suffix(".json").write_text(json.dumps(about | {"sha256": sha256_of(path_of(root))}))


# --- labelling -------------------------------------------------------------------------------------


def test_each_fold_is_labelled_by_the_member_that_held_it_out_calibrated_on_groups_that_it_did_not_see(root):
    table, about = pd.read_csv(path_of(root)), about_of(root)
    assert list(table) == ["filename", "label", "weight", "fold", "labellers"] and set(table.fold) == {0, 1}
    assert not table.duplicated(["filename", "fold"]).any()
    folds = pd.read_csv(root / "data" / "tiny" / "folds.csv").set_index("filename")
    names = {digest_number(number)[:16]: name for number, name in enumerate(sorted(folds.index))}
    for fold in (0, 1):
        told = about["folds"][str(fold)]
        (labeller,) = told["labellers"]
        own = describe_member(root / "weights" / "tiny" / f"{labeller['member']}_fold{fold}.safetensors")
        assert own["weights_sha256"] == labeller["weights_sha256"] and own["fold"] == fold
        assert (table.labellers[table.fold == fold] == own["weights_sha256"][:16]).all()
        parts = (own["trained_on"], told["calibrated_on"])
        trained, calibrated = ({names[digest] for digest in part["videos"]} for part in parts)
        assert trained | calibrated == set(folds.index[folds.fold != fold]) and not trained & calibrated
        assert not set(folds.group[list(trained)]) & set(folds.group[list(calibrated)])


@pytest.mark.full
def test_a_label_is_the_score_as_calibrated_on_the_inner_part_and_a_weight_its_certainty(root):
    """Scores computed one frame at a time from the member's file."""
    told = about_of(root)["folds"]["0"]
    model, about = load_member(root / "weights" / "tiny" / f"{told['labellers'][0]['member']}_fold0.safetensors")
    inner = set(told["calibrated_on"]["videos"])
    with at_home(root):
        recipe = load_recipe("convnext_xlarge", OPTIONS)
        sets = {"tiny": load_set("tiny", recipe.frames), "extra": load_unlabelled("extra", recipe.frames)}
    order = sorted(sets["tiny"].videos.index)
    known = [name for number, name in enumerate(order) if digest_number(number)[:16] in inner]
    scores = {}
    for key, chosen in (("tiny", known), ("extra", list(sets["extra"].videos.index))):
        videos = HeldOutVideos(sets[key], chosen, recipe.view)
        for name, _, views in (videos[place] for place in range(len(videos))):
            with torch.no_grad():
                scores[key, name] = float(np.mean([torch.sigmoid(model(view[None])).item() for view in views]))
    labels = sets["tiny"].videos.label[known].astype(int).to_numpy()
    fitted = fit_calibration("platt", [scores["tiny", name] for name in known], labels)
    table = pd.read_csv(path_of(root))
    table = table[table.fold == 0].set_index("filename")
    for name in sets["extra"].videos.index:
        p = float(fitted.apply(np.array([scores["extra", name]]))[0])
        if abs(p - 0.5) < 0.1:
            assert name not in table.index
            continue
        certainty = 1 + (p * np.log2(p) + (1 - p) * np.log2(1 - p))
        assert table.label[name] == pytest.approx(p, abs=1e-4)
        assert table.weight[name] == pytest.approx(certainty, abs=1e-3)
    assert len(table) > 2


def test_only_sure_videos_are_labelled():
    scores = pd.Series({"10.mp4": 0.95, "9.mp4": 0.05, "b.mp4": 0.5, "c.mp4": np.nan, "d.mp4": 0.9})
    table = choose_sure(scores, 0.9)
    assert list(table.filename) == ["9.mp4", "10.mp4", "d.mp4"] and list(table.label) == [0.05, 0.95, 0.9]
    entropy = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1)) / np.log(2)
    assert table.weight[2] == pytest.approx(1 - entropy, abs=1e-6) and table.weight[0] == table.weight[1]


# --- training --------------------------------------------------------------------------------------


def begin(fold: int = 0, *options: str) -> loop.State:
    recipe = load_recipe("convnext_xlarge", [*OPTIONS, "train.pseudo_labels=mine", *options])
    prepared = load_set("tiny", recipe.frames)
    rows, _ = split_training(recipe, fold, prepared)
    return loop.start_state(member.make_task(recipe, prepared, rows), torch.device("cpu"), recipe.train.lr)


def test_a_folds_training_reads_only_its_own_rows_and_their_soft_labels_and_weights(root):
    table = pd.read_csv(path_of(root))
    for fold in (0, 1):
        with at_home(root):
            frames = begin(fold).task.frames
            mine = [row for row in frames.rows if row.folder.name == "extra"]
            assert {row.filename for row in mine} == set(table.filename[table.fold == fold])
            assert len(frames) == 72 + len(mine) and len(mine) == 3 * (table.fold == fold).sum()
            for place in (0, len(frames) - 1):
                row, (_, (label, weight)) = frames.rows[place], frames[0, place]
                expected = (row.label, 1.0)
                if row.folder.name == "extra":
                    expected = table[(table.fold == fold) & (table.filename == row.filename)].iloc[0][
                        ["label", "weight"]
                    ]
                assert (label, weight) == tuple(expected)


def start(root: Path, *options: str, fold: int = 0, restart: bool = False) -> Path:
    words = ["-c", "convnext_xlarge", "--fold", str(fold), "--data", "tiny", *(["--restart"] if restart else [])]
    assert train_here(root, *words, "-o", *OPTIONS, "train.pseudo_labels=mine", *options) == 0
    return root / "weights" / "tiny" / f"convnext_xlarge_fold{fold}.safetensors"


@pytest.mark.full
def test_a_member_says_what_it_learned_from_and_what_that_came_from(copy, capsys):
    about = describe_member(start(copy))
    told, table = about_of(copy)["folds"]["0"], pd.read_csv(path_of(copy))
    said = capsys.readouterr().out
    assert f"frames of 24 videos and {(table.fold == 0).sum()} pseudo-labelled ones" in said
    mine = {digest_number(7700 + int(Path(name).stem))[:16] for name in table.filename[table.fold == 0]}
    seen = set(about["trained_on"]["videos"])
    assert mine <= seen and set(told["calibrated_on"]["videos"]) <= seen
    assert about["pseudo_labels"]["videos"] == len(mine) and about["pseudo_labels"]["unlabelled"]["set"] == "extra"
    with pytest.raises(UserError, match="was trained on 12 of the 12 videos of data/tiny that are kept apart"):
        label(copy, "--folds", "0", name="other", more=("train.init=convnext_xlarge",))
    changed = table.copy()
    changed.loc[changed.fold == 1, "weight"] = 0.5
    changed.to_csv(path_of(copy), index=False)
    write_about(copy, about_of(copy))
    start(copy)  # rows of another fold are none of its business
    table.assign(weight=0.5).to_csv(path_of(copy), index=False)
    write_about(copy, about_of(copy))
    with pytest.raises(UserError, match="holds another run: pseudo_labels.digest is"):
        start(copy)


def test_a_run_that_stops_in_an_epoch_and_goes_on_is_the_undisturbed_one(root, tmp_path):
    with at_home(root):
        options = ("model.drop_path=0.3", "augment.hflip=0.5", "augment.mixup=0.5", "train.epochs=2")
        whole, halved = begin(0, *options), begin(0, *options)
        assert loop.run_epochs(whole, lambda row: None, lambda: False)
        stop = whole.task.steps_per_epoch + 2
        assert not loop.run_epochs(halved, lambda row: None, lambda: halved.step == stop)
        loop.save(halved, tmp_path / "last.pt")
        resumed = begin(0, *options)
        loop.resume(resumed, tmp_path / "last.pt")
        assert resumed.step == stop and loop.run_epochs(resumed, lambda row: None, lambda: False)
    found = content(resumed)
    assert all(torch.equal(value, found[name]) for name, value in content(whole).items())


SLOWER = ("train.lr=0.005", "train.epochs=2", "train.batch_per_process=4", "augment.cutmix=0.5")


def rank_of_two(rank: int, port: int, root: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}
    os.environ |= {"LIVENESS_ROOT": root, "OMP_NUM_THREADS": "1"}
    launch.BY_TORCHRUN = True  # in this process, which was spawned: else it would train alone
    torch.set_num_threads(1)
    assert distributed.start() == (rank, 2, rank)
    state = begin(0, *SLOWER)
    assert loop.run_epochs(state, lambda row: None, lambda: False)
    torch.save(content(state), Path(root) / f"pseudo_{rank}.pt")
    distributed.stop()


@pytest.mark.full
def test_two_processes_train_what_one_trains(root):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    torch.multiprocessing.spawn(rank_of_two, (port, str(root)), nprocs=2)
    with at_home(root):
        state = begin(0, *SLOWER)
        assert loop.run_epochs(state, lambda row: None, lambda: False)
    for rank in range(2):
        found = torch.load(root / f"pseudo_{rank}.pt", weights_only=True)
        for name, value in content(state).items():
            assert torch.allclose(value, found[name], rtol=0, atol=1e-5), (rank, name)


# --- what is refused -------------------------------------------------------------------------------


def refused(root: Path, fold: int = 0) -> str:
    """What a start of a fold of data/tiny says; it has trained nothing."""
    before = {path: path.read_bytes() for path in root.rglob("*.safetensors")}
    with at_home(root) as patch:
        words = ["train", "-c", "convnext_xlarge", "--fold", str(fold), "--data", "tiny", "--restart", "-o"]
        patch.setattr(sys, "argv", [*words, *OPTIONS, "train.pseudo_labels=mine"])
        with pytest.raises(UserError) as error:
            train.main()
    assert {path: path.read_bytes() for path in root.rglob("*.safetensors")} == before
    assert "\n" not in str(error.value)
    return str(error.value)


def test_labels_of_a_member_that_was_trained_on_the_held_out_fold_are_refused(copy):
    about, table = about_of(copy), pd.read_csv(path_of(copy))
    about["folds"]["0"] = about["folds"]["1"]
    table[table.fold == 1].assign(fold=0).to_csv(path_of(copy), index=False)
    write_about(copy, about)
    said = refused(copy)
    assert "labeller" in said and "was trained on" in said and "which fold 0 holds out" in said


def test_labels_that_were_calibrated_on_the_held_out_fold_are_refused(copy):
    """Also of a single video of it: the labeller itself has not seen it."""
    about = about_of(copy)
    about["folds"]["0"]["calibrated_on"]["videos"].append(digest_number(0)[:16])  # of 0.mp4, which fold 0 holds out
    write_about(copy, about)
    assert "calibration of its labellers for fold 0, which was trained on '0.mp4'" in refused(copy)


def test_an_unlabelled_set_with_a_copy_of_a_held_out_video_is_refused_before_and_after_labelling(copy):
    planted(copy, "6", flip_and_brighten)  # of fold 0
    expected = "its 3.mp4 is a near-duplicate of 6.mp4 of tiny, which fold 0 holds out"
    with pytest.raises(UserError, match=expected):
        label(copy, "--folds", "0", unlabelled="planted", name="other")
    assert not (path_of(copy).parent / "other.csv").exists()
    shutil.rmtree(copy / "data" / "extra")
    shutil.move(copy / "data" / "planted", copy / "data" / "extra")
    assert expected in refused(copy)


@pytest.mark.full
def test_a_file_for_other_data_or_that_was_changed_is_refused(copy):
    assert "has nothing for fold 2, only for 0, 1" in refused(copy, fold=2)
    kept, about = path_of(copy).read_bytes(), about_of(copy)
    write_about(copy, about | {"data_hash": "0" * 64})
    assert "for another state of it" in refused(copy)
    write_about(copy, about | {"unlabelled": {"set": "extra", "digest": "0" * 64}})
    assert "was made for another state of data/extra" in refused(copy)
    write_about(copy, about)
    path_of(copy).write_bytes(kept.replace(b"mp4,0.", b"mp4,1."))
    assert "was changed since it was made" in refused(copy)
    path_of(copy).unlink()
    assert "is not there with its json" in refused(copy)


def test_a_labellers_epoch_is_not_chosen_on_the_held_out_fold():
    with pytest.raises(UserError, match="expected train.select=last"):
        load_recipe("convnext_xlarge", ["train.keep_apart=true", "train.select=logloss"])
    with pytest.raises(UserError, match="expected supervised or distil"):
        load_recipe("convnext_xlarge", ["train.pseudo_labels=x", "train.task=cross_pseudo", "train.unlabelled=y"])


def test_an_ensembles_members_of_a_fold_label_together():
    plan = plan_labelling("zalo2022", [], "tiny", "extra", [0, 3], 0.9, "")
    assert [one.name for one, _ in plan.by_fold[0]] == ["convnext_xlarge_labeller", "convnext_large_labeller"]
    assert [one.name for one, _ in plan.by_fold[3]] == ["convnext_xlarge_labeller"]


def test_a_recipe_that_uses_nothing_of_it_is_written_as_before():
    assert not {"keep_apart", "pseudo_labels"} & set(to_dict(Recipe())["train"])


def test_too_small_an_inner_part_is_said_before_a_labeller_is_trained(root):
    before = set(root.rglob("*.safetensors"))
    with pytest.raises(
        UserError, match="fold 2: the part of the training videos that is kept apart .* expected 5 videos"
    ):
        label(root, "--folds", "2", name="other", more=("train.calibration_share=0.1",))
    assert set(root.rglob("*.safetensors")) == before
