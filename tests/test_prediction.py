"""predict.sh: one row for every video, whatever happens to it; the same score wherever it is scored."""

import csv
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import in_process
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from liveness.base.compose import load_recipe
from liveness.base.config import Data, Ensemble, EnsembleMember, to_dict
from liveness.base.errors import UserError
from liveness.base.files import sha256_of
from liveness.frames.contract import make_contract
from liveness.frames.faces import detector_path
from liveness.members.names import weights_path
from liveness.members.weights import describe_member, save_member
from liveness.models.build import build
from liveness.prediction.engine import load_members, score_paths

NARROW = ["model.name=convnext_tiny", "model.kwargs.depths=[1,1,1,1]", "model.kwargs.dims=[8,16,16,16]", "view.size=48"]


def put_member(recipe: str, fold: int, data: str = "train", *overrides: str, **changes) -> Path:
    """A member with random weights in the workspace's weights/. ``changes`` replace parts of its description."""
    made = load_recipe(recipe, [*NARROW, "model.drop_path=0", *overrides])
    torch.manual_seed(fold + 17 * len(recipe))
    model = build(made.model, made.view.size)
    for parameter in model.parameters():  # layer scale starts at 1e-6: every score would be the same
        torch.nn.init.normal_(parameter, std=0.2)
    contract = make_contract(made, Data(), sha256_of(detector_path()))
    path = weights_path(data, recipe, fold)
    description = {"recipe": to_dict(made), "fold": fold, "data": data, "data_hash": "", "held_out": {}}
    save_member(path, model.state_dict(), {**description, "contract": contract, **changes})
    return path


@pytest.fixture
def clips(workspace, tiny_clips) -> Path:
    folder = workspace / "clips"
    for number in (1, 2, 10):
        tiny_clips(folder / f"{number}.mp4", frames=8, size=(64, 96), seed=number)
    return folder


@pytest.fixture
def predict_here(workspace, capfd) -> Callable[..., subprocess.CompletedProcess]:
    """What predict.sh starts, in this process; the result is that of ``run_driver``."""

    def call(*arguments: str | Path) -> subprocess.CompletedProcess:
        capfd.readouterr()
        code = in_process.predict_here(workspace, *arguments)
        return subprocess.CompletedProcess(arguments, code, *capfd.readouterr())

    return call


@pytest.fixture(scope="module")
def eight(tmp_path_factory) -> Path:
    """A folder weights/ with the members of the ensemble zalo2022, narrow."""
    root = tmp_path_factory.mktemp("eight")
    with in_process.at_home(root):
        for recipe, folds in (("convnext_xlarge", 5), ("convnext_large", 3)):
            for fold in range(folds):
                put_member(recipe, fold)
    return root / "weights"


@pytest.fixture
def members(workspace, eight) -> None:
    shutil.copytree(eight, workspace / "weights")


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_folder_of_videos_becomes_a_submission(run_driver, workspace, clips, members):
    # What another launcher has left in the environment makes this process wait for nobody.
    left = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29599"}
    done = run_driver("predict.sh", clips, workspace / "out", env=left, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = table(workspace / "out" / "submission.csv")
    assert list(rows[0]) == ["fname", "liveness_score"]
    assert [row["fname"] for row in rows] == ["1.mp4", "2.mp4", "10.mp4"]
    assert len({row["liveness_score"] for row in rows}) == 3
    assert all(0 < float(row["liveness_score"]) < 1 for row in rows)
    details = table(workspace / "out" / "predictions.csv")
    assert [row["score"] for row in details] == [row["liveness_score"] for row in rows]
    assert {row["status"] for row in details} == {"ok"} and {row["frames"] for row in details} == {"3"}
    assert {row["faces"] for row in details} == {""}  # no member looks for a face
    assert "load time" in done.stdout and "prediction time" in done.stdout


def test_without_arguments_data_becomes_result_and_prepared_sets_are_not_scored(run_driver, workspace, clips, members):
    shutil.copytree(clips, workspace / "data")
    prepared = workspace / "data" / "train"
    (prepared / "videos").mkdir(parents=True)
    shutil.copy(clips / "1.mp4", prepared / "videos" / "77.mp4")
    (prepared / "folds.csv").write_text("filename,label,group,fold\n77.mp4,1,a,0\n")
    done = run_driver("predict.sh")
    assert done.returncode == 0, done.stderr
    assert [row["fname"] for row in table(workspace / "result" / "submission.csv")] == ["1.mp4", "2.mp4", "10.mp4"]


@pytest.mark.full
def test_the_containers_layouts_are_read_and_labelled_sets_passed_over(predict_here, workspace, clips, members):
    for layout in ("mounted/videos", "sets/private_test/videos"):
        shutil.copytree(clips, workspace / layout)
    shutil.copytree(clips, workspace / "sets" / "train" / "videos")
    (workspace / "sets" / "train" / "label.csv").write_text("fname,liveness_score\n1.mp4,1\n2.mp4,0\n10.mp4,1\n")
    results = []
    for name, source in (("a", clips), ("b", workspace / "mounted"), ("c", workspace / "sets")):
        done = predict_here(source, workspace / name)
        assert done.returncode == 0, done.stderr
        results.append((workspace / name / "submission.csv").read_bytes())
    assert results[0] == results[1] == results[2]
    assert "train is a training set" in done.stderr
    # Labels do not keep the only videos that were mounted from their scores.
    shutil.rmtree(workspace / "sets" / "private_test")
    done = predict_here(workspace / "sets", workspace / "d")
    assert done.returncode == 0 and "train has labels; there are no other videos, so its are scored" in done.stderr
    assert (workspace / "d" / "submission.csv").read_bytes() == results[0]


def test_scores_do_not_depend_on_the_other_videos_their_order_or_the_workers(predict_here, workspace, clips, members):
    predict_here(clips, workspace / "all", "--workers", "1")
    scores = {row["fname"]: row["liveness_score"] for row in table(workspace / "all" / "submission.csv")}
    few = workspace / "few"
    few.mkdir()
    shutil.copy(clips / "10.mp4", few / "10.mp4")
    shutil.copy(clips / "1.mp4", few / "00.mp4")
    done = predict_here(few, workspace / "some", "--workers", "3")
    assert done.returncode == 0, done.stderr
    got = {row["fname"]: row["liveness_score"] for row in table(workspace / "some" / "submission.csv")}
    assert got == {"00.mp4": scores["1.mp4"], "10.mp4": scores["10.mp4"]}


def test_every_video_has_its_row_whatever_is_wrong_with_it(predict_here, workspace, clips, members):
    whole = (clips / "1.mp4").read_bytes()
    (clips / "empty.mp4").write_bytes(b"")
    (clips / "text.mp4").write_text("not a video\n")
    (clips / "head.mp4").write_bytes(whole[: len(whole) // 3])
    (clips / "nonsense.avi").write_bytes(np.random.default_rng(0).bytes(5000))
    (clips / "UPPER and space ø.MP4").write_bytes(whole)
    (clips / "-dash.mp4").write_bytes(whole)
    done = predict_here(clips, workspace / "out")
    assert done.returncode == 0, done.stderr
    rows = {row["fname"]: row for row in table(workspace / "out" / "predictions.csv")}
    assert len(rows) == len(table(workspace / "out" / "submission.csv")) == 9
    for name in ("empty.mp4", "text.mp4", "head.mp4", "nonsense.avi"):
        row = rows[name]
        assert (row["score"], row["decision"]) == ("0.500000000", "abstain")
        assert row["status"] == "unreadable" and row["reason"]
        assert f"warning: {name}: unreadable" in done.stderr
    for name in ("UPPER and space ø.MP4", "-dash.mp4"):
        assert rows[name]["score"] == rows["1.mp4"]["score"] and rows[name]["status"] == "ok"
    assert "Traceback" not in done.stderr

    strict = predict_here(clips, workspace / "strict", "--strict")
    assert strict.returncode == 1
    assert (workspace / "strict" / "submission.csv").read_bytes() == (workspace / "out" / "submission.csv").read_bytes()


def test_a_video_without_a_face_abstains_and_whole_frame_members_still_score_it(predict_here, workspace, clips):
    put_member("efficientnet_lite0", 0, "train")
    put_member("convnext_large", 0, "train")
    options = ["--members", "efficientnet_lite0:0"]
    done = predict_here(clips, workspace / "face", *options)
    assert done.returncode == 0, done.stderr
    for row in table(workspace / "face" / "predictions.csv"):
        assert (row["score"], row["decision"]) == ("0.500000000", "abstain")
        assert (row["status"], row["faces"]) == ("no_face", "0")
        assert "no face found in 3 frames" in row["reason"]
    done = predict_here(clips, workspace / "both", *options, "convnext_large:0")
    alone = predict_here(clips, workspace / "frame", "--members", "convnext_large:0")
    assert done.returncode == alone.returncode == 0, done.stderr
    assert (workspace / "both" / "submission.csv").read_bytes() == (workspace / "frame" / "submission.csv").read_bytes()
    assert {row["status"] for row in table(workspace / "both" / "predictions.csv")} == {"no_face"}


def test_missing_weights_are_one_line_with_the_ways_to_get_them(predict_here, workspace, clips):
    put_member("convnext_xlarge", 0)
    done = predict_here(clips, workspace / "out")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    for fold in range(1, 5):
        assert "in weights/train: " in line and f"convnext_xlarge_fold{fold}.safetensors" in line
    assert "convnext_xlarge_fold0" not in line
    assert "bash train.sh zalo2022" in line and "bash download_weights.sh zalo2022_published" in line
    assert not (workspace / "out" / "submission.csv").exists()


def test_weights_under_another_members_name_or_of_another_contract_are_refused(predict_here, workspace, clips):
    path = put_member("convnext_large", 0)
    shutil.copy(path, weights_path("train", "convnext_large", 1))
    done = predict_here(clips, workspace / "out", "--members", "convnext_large:1")
    assert done.returncode == 1 and "holds convnext_large fold 0, expected convnext_large fold 1" in done.stderr
    recipe = load_recipe("convnext_large", NARROW)
    contract = make_contract(recipe, Data(), "0" * 64) | {"version": 99}
    put_member("convnext_large", 2, contract=contract)
    done = predict_here(clips, workspace / "out", "--members", "convnext_large:2")
    assert done.returncode == 1 and "contract version 99; this code speaks the versions 1, 2" in done.stderr
    path.write_bytes(path.read_bytes()[:1000])
    done = predict_here(clips, workspace / "out", "--members", "convnext_large:0")
    assert done.returncode == 1 and "not a safetensors file" in done.stderr
    assert not (workspace / "out" / "submission.csv").exists()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, "no such folder"),
        (lambda folder: folder.mkdir(), "no videos in it"),
        (lambda folder: [(folder / s / "videos").mkdir(parents=True) for s in "ab"], "no videos in it"),
    ],
)
def test_an_input_without_videos_is_one_line(predict_here, workspace, make, words):
    make(workspace / "input")
    done = predict_here(workspace / "input", workspace / "out")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and words in done.stderr
    assert not (workspace / "out").exists()


def test_two_videos_with_one_stem_are_two_rows(predict_here, workspace, clips):
    put_member("convnext_large", 0)
    shutil.copy(clips / "2.mp4", clips / "1.MOV")
    done = predict_here(clips, workspace / "out", "--members", "convnext_large:0")
    assert done.returncode == 0, done.stderr
    scores = {row["fname"]: row["liveness_score"] for row in table(workspace / "out" / "submission.csv")}
    assert sorted(scores) == ["1.MOV", "1.mp4", "10.mp4", "2.mp4"]
    assert scores["1.MOV"] == scores["2.mp4"] != scores["1.mp4"]


def test_an_output_that_cannot_be_written_is_found_before_the_work(predict_here, workspace, clips, members):
    (workspace / "file").write_text("")
    done = predict_here(clips, workspace / "file" / "out")
    assert done.returncode == 1 and "cannot write there" in done.stderr and "load time" not in done.stdout


def test_the_ensembles_score_is_the_weighted_mean_and_its_shipped_threshold_decides(workspace, clips):
    put_member("convnext_xlarge", 0)
    put_member("convnext_large", 0)
    paths = sorted(clips.glob("*.mp4"))

    def scores(members, name="mine"):
        loaded = load_members(Ensemble(name, "train", members))
        return [row.score for row in score_paths(paths, loaded)], loaded

    a, _ = scores([EnsembleMember("convnext_xlarge", 0)])
    b, _ = scores([EnsembleMember("convnext_large", 0)])
    both = [EnsembleMember("convnext_xlarge", 0, 3.0), EnsembleMember("convnext_large", 0, 1.0)]
    blended, _ = scores(both)
    assert blended == pytest.approx([0.75 * x + 0.25 * y for x, y in zip(a, b, strict=True)], abs=1e-12)
    middle = sorted(blended)[1]
    point = {"name": "eer", "threshold": middle}
    (workspace / "weights" / "train" / "mine.json").write_text(json.dumps({"thresholds": [point]}))
    loaded = load_members(Ensemble("mine", "train", both))
    decisions = [row.decision for row in score_paths(paths, loaded)]
    assert decisions == ["live" if score >= middle else "attack" for score in blended]
    assert sorted(decisions) == ["attack", "live", "live"]


@pytest.mark.full
def test_a_member_that_gives_no_number_is_named_and_its_videos_are_not_called_faceless(predict_here, workspace, clips):
    path = put_member("convnext_large", 0)
    state, description = load_file(path), describe_member(path)
    state["head.fc.bias"].fill_(float("nan"))
    save_member(path, state, description)
    put_member("convnext_xlarge", 0)
    done = predict_here(clips, workspace / "out", "--members", "convnext_large:0", "convnext_xlarge:0", "--strict")
    assert done.returncode == 1
    for row in table(workspace / "out" / "predictions.csv"):
        assert (row["status"], row["decision"]) == ("failed", "abstain")
        assert row["reason"].startswith("no finite score from convnext_large_fold0")
    done = predict_here(clips, workspace / "out", "--members", "convnext_large:0")
    assert done.returncode == 1 and "no member gave any video a finite score" in done.stderr


def test_names_that_are_not_text_and_links_that_lead_nowhere_have_their_row(predict_here, workspace, clips, members):
    odd = clips / os.fsdecode(b"bad\xff.mp4")
    shutil.copy(clips / "1.mp4", odd)
    (clips / "gone.mp4").symlink_to(workspace / "nowhere.mp4")
    (clips / "videos").mkdir()
    shutil.copy(clips / "1.mp4", clips / "videos" / "77.mp4")
    done = predict_here(clips, workspace / "out")
    assert done.returncode == 0, done.stderr
    lines = (workspace / "out" / "submission.csv").read_bytes().splitlines()
    assert len(lines) == 6
    assert any(line.startswith(b"bad\xff.mp4,") for line in lines)
    assert b"gone.mp4,0.500000000" in lines
    assert f"{clips}: 1 is not scored beside the videos: videos (a folder with videos in it)" in done.stderr


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"format": 1}, "lacks 'recipe'"),
        ([1, 2], "its description is damaged"),
        ("{", "its description is damaged"),
    ],
)
def test_a_members_damaged_description_is_one_line(workspace, clips, damage, words):
    from safetensors.torch import save_file

    path = weights_path("train", "convnext_large", 0)
    path.parent.mkdir(parents=True)
    text = damage if isinstance(damage, str) else json.dumps(damage)
    save_file({"weight": torch.zeros(1)}, path, metadata={"liveness": text})
    with pytest.raises(UserError, match=words):
        load_members(Ensemble("mine", "train", [EnsembleMember("convnext_large", 0)]))


@pytest.mark.parametrize("threshold", [float("nan"), 7, "high"])
def test_a_threshold_that_is_none_is_refused(workspace, threshold):
    put_member("convnext_large", 0)
    point = {"name": "eer", "threshold": threshold}
    (workspace / "weights" / "train" / "mine.json").write_text(json.dumps({"thresholds": [point]}))
    with pytest.raises(UserError, match="eer"):
        load_members(Ensemble("mine", "train", [EnsembleMember("convnext_large", 0)]))
