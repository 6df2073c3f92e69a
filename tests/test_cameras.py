"""Cameras as domains: the column, folds that hold a camera out, the sampler, the figures per camera, telling cues."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from in_process import at_home, prepare_here
from PIL import Image
from report_set import MEMBERS, make_configs, make_set
from sklearn.metrics import roc_auc_score
from tiny_set import write_set

from liveness import evaluate, report
from liveness.base import distributed
from liveness.base.compose import load_data, load_recipe
from liveness.base.config import Folds, Train
from liveness.base.errors import UserError
from liveness.base.files import CODE
from liveness.evaluation.cameras import measure_cameras, measure_cues, tell_cues, tell_worst
from liveness.evaluation.metrics import eer
from liveness.members.names import weights_path
from liveness.members.weights import load_member
from liveness.pages.dataset import render_dataset_page
from liveness.pages.dataset_tables import read_set_tables
from liveness.sets.dataset import load_set, split_set
from liveness.sets.dealing import deal_set
from liveness.sets.folds import fold_set
from liveness.sets.labels import read_labels
from liveness.training import member
from liveness.training.samples import CameraBalance, find_balance, plan_shares


def scored_table(shifts: dict[str, float], each: int = 40, seed: int = 5) -> pd.DataFrame:
    """``each`` live videos and attacks a camera; scores overlap, and a camera's are moved by its shift."""
    rng, parts = np.random.default_rng(seed), []
    for camera, shift in shifts.items():
        labels = np.repeat([1, 0], each)
        scores = (0.5 + shift + np.where(labels == 1, 0.12, -0.12) + rng.normal(0, 0.1, 2 * each)).clip(0, 1)
        names = [f"{camera}-{i}" for i in range(2 * each)]
        parts.append(pd.DataFrame({"camera": camera, "label": labels, "score": scores, "group": names}))
    return pd.concat(parts, ignore_index=True)


def test_every_camera_has_its_row_and_the_worst_is_the_headline():
    table = scored_table({"c10": 0.25, "c2": 0.0, "": -0.05})
    table.loc[3, "score"] = np.nan
    found = measure_cameras(table, 0.5)
    assert [row["camera"] for row in found["rows"]] == ["c10", "c2", ""]
    for row in found["rows"]:
        part = table[(table["camera"] == row["camera"]) & table["score"].notna()]
        live, attack = part[part["label"] == 1]["score"], part[part["label"] == 0]["score"]
        assert row["apcer"]["value"] == (attack >= 0.5).mean() and row["bpcer"]["value"] == (live < 0.5).mean()
        assert row["eer"] == eer(part["label"], part["score"]).value
        assert row["threshold"] == eer(part["label"], part["score"]).threshold
        assert row["eer_interval"][0] <= row["eer"] <= row["eer_interval"][1]
        other = table[(table["camera"] != row["camera"]) & table["score"].notna()]
        learned = eer(other["label"], other["score"]).threshold
        assert row["elsewhere"]["apcer"]["value"] == (attack >= learned).mean()
        assert row["elsewhere"]["bpcer"]["value"] == (live < learned).mean()
    assert (found["rows"][0]["videos"], found["rows"][0]["scored"]) == (80, 79)
    assert found["worst"] == "c10"
    own = [found["rows"][i]["threshold"] for i in (0, 1)]
    assert found["spread"] == {"low": min(own), "high": max(own), "cameras": 2} and max(own) - min(own) > 0.15
    assert f"{100 * found['rows'][0]['apcer']['value']:.1f} % of attacks pass" in tell_worst(found)


def test_a_camera_of_one_class_or_without_a_score_has_a_row_and_one_without_a_name_is_no_camera():
    table = scored_table({"a": 0.0, "b": 0.0, "c": 0.0})
    table = table[(table["camera"] != "b") | (table["label"] == 0)]
    table.loc[table["camera"] == "c", "score"] = np.nan
    a, b, c = sorted(measure_cameras(table, 0.5)["rows"], key=lambda row: row["camera"])
    assert np.isnan(b["eer"]) and b["bpcer"]["total"] == 0 and b["apcer"]["total"] == 40
    assert (c["videos"], c["scored"]) == (80, 0) and np.isnan(c["auc"])
    assert np.isnan(a["elsewhere"]["threshold"])  # the other cameras' scores are all attacks'
    assert measure_cameras(table, 0.5)["spread"] is None
    assert measure_cameras(table.assign(camera=""), 0.5) is None


def test_intervals_of_a_camera_are_by_group_where_groups_hold_several_videos():
    table = scored_table({"a": 0.1, "b": 0.0})
    alone = measure_cameras(table, 0.5)["rows"][0]
    shared = measure_cameras(table.assign(group=[f"p{i // 20}" for i in range(len(table))]), 0.5)["rows"][0]
    assert (alone["by"], shared["by"], shared["groups"]) == ("video", "group", 4)
    assert np.diff(shared["apcer"]["interval"]) > np.diff(alone["apcer"]["interval"])


def cue_table(seed: int = 2) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"camera": np.repeat(["a", "b"], 60), "label": np.tile([1, 0], 60)})
    for cue, middle in {"brightness": 120, "sharpness": 0.4, "face_width": 150, "contrast": 40}.items():
        table[cue] = middle * rng.normal(1, 0.2, len(table))
    return table


def test_a_planted_shortcut_is_flagged_on_its_camera_and_nothing_else_is():
    table = cue_table()
    assert measure_cues(table) == []
    bright = (table["camera"] == "b") & (table["label"] == 1)
    table.loc[bright, "brightness"] += 60
    table.loc[(table["camera"] == "a") & (table["label"] == 1), "face_width"] *= 0.4  # a cue counts either way
    table.loc[[0, 1], "face_width"] = np.nan
    first, second = measure_cues(table)
    assert (first["camera"], first["cue"], second["camera"], second["cue"]) == ("a", "face_width", "b", "brightness")
    b = table[table["camera"] == "b"]
    assert second["auc"] == pytest.approx(roc_auc_score(b["label"], b["brightness"]))
    assert first["auc"] < 0.2 and first["videos"] == 58
    assert second["live"] == b[b["label"] == 1]["brightness"].median()
    told = tell_cues([first, second])
    assert f"a: width of the face (AUC {first['auc']:.2f}); b: brightness of the face (AUC 0.9" in told
    assert tell_cues([]) == ""


def test_too_few_videos_flag_no_cue():
    table = cue_table().groupby(["camera", "label"]).head(9)
    assert measure_cues(table.assign(brightness=table["label"] * 100.0)) == []


# --- folds


def camera_videos(count: int = 24) -> pd.DataFrame:
    """A table of a set's videos: three cameras, both classes on each, every video its own group."""
    index = np.arange(count)
    return pd.DataFrame(
        {
            "filename": [f"{i}.mp4" for i in index],
            "label": index // 3 % 2,
            "group": [f"g{i}" for i in index],
            "species": "",
            "camera": np.array(["cam 10", "cam 2", "cam 1"])[index % 3],
        }
    )


def folds_of(table: pd.DataFrame) -> dict[str, set[int]]:
    return {name: set(rows["fold"]) for name, rows in table.groupby("camera")}


def test_fold_k_holds_out_camera_k_in_natural_order():
    videos = camera_videos()
    folds = deal_set(videos, Folds(by="camera"))
    assert (folds["camera"] == videos["camera"]).all()
    assert folds_of(folds) == {"cam 1": {0}, "cam 2": {1}, "cam 10": {2}}
    assert set(folds["naive_fold"]) == {0, 1, 2} and folds.groupby("naive_fold")["camera"].nunique().min() > 1


def test_cameras_that_share_a_group_are_held_out_together():
    videos = camera_videos()
    videos.loc[[0, 1], "group"] = "Ann"  # cam 10 and cam 2
    folds = deal_set(videos, Folds(by="camera"))
    assert folds_of(folds) == {"cam 1": {0}, "cam 2": {1}, "cam 10": {1}}
    assert folds.groupby("group")["fold"].nunique().max() == 1
    videos.loc[2, "group"] = "Ann"
    with pytest.raises(UserError, match=r"Ann \(3 videos\) of cam 1, cam 2 and cam 10"):
        deal_set(videos, Folds(by="camera"))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda videos: videos.drop(columns="camera"), "names no camera"),
        (lambda videos: videos.assign(camera=""), "names no camera"),
        (lambda videos: videos.assign(camera="c1"), "all 24 videos are of one camera, 'c1'"),
        (
            lambda videos: videos.assign(camera=[*[""] * 5, *videos["camera"][5:]]),
            r"5 videos have no camera .*: 0\.mp4, 1\.mp4, 2\.mp4 and 2 more",
        ),
        (lambda videos: videos.assign(label=(videos["camera"] == "cam 2").astype(int)), "has only attacked videos"),
    ],
)
def test_cameras_that_cannot_be_held_out_are_one_line(change, expected):
    with pytest.raises(UserError, match=expected) as caught:
        deal_set(change(camera_videos()), Folds(by="camera"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", ["folds.n=3", "folds.holdout=0.2"])
def test_settings_that_do_not_go_with_cameras_are_refused(option):
    with pytest.raises(UserError, match=f"{option} with folds.by=camera"):
        load_data("default", ["folds.by=camera", option])


def write_tables(folder: Path, videos: pd.DataFrame) -> None:
    """data/<set> as the stage before the folds leaves it, without frames."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = [Path(name).stem for name in videos["filename"]]
    videos.assign(video_id=ids, status="ok").to_csv(folder / "labels_video.csv", index=False)
    for name in ("labels_keyframes", "labels_bbox"):
        pd.DataFrame({"video_id": ids, "frame_id": 0}).to_csv(folder / f"{name}.csv", index=False)


def test_folds_by_camera_are_written_kept_and_dealt_anew_when_a_camera_changes(tmp_path, capsys):
    videos, folder, config = camera_videos(), tmp_path / "mine", Folds(by="camera", test=2)
    write_tables(folder, videos)
    fold_set(folder, config)
    assert "fold 1 (cam 2): 8 videos" in capsys.readouterr().out
    about = json.loads((folder / "folds.json").read_text())
    assert about["cameras"] == {"0": ["cam 1"], "1": ["cam 2"], "2": ["cam 10"]} and about["folds"]["by"] == "camera"
    assert set(pd.read_csv(folder / "labels_video_test.csv")["camera"]) == {"cam 10"}
    before = (folder / "folds.csv").read_bytes()
    fold_set(folder, config)
    assert "kept" in capsys.readouterr().out and (folder / "folds.csv").read_bytes() == before
    write_tables(folder, videos.assign(camera=videos["camera"].replace("cam 2", "cam 0")))
    fold_set(folder, config)
    assert "changed since they were dealt" in capsys.readouterr().out
    assert json.loads((folder / "folds.json").read_text())["cameras"]["0"] == ["cam 0"]
    with pytest.raises(UserError, match=r"folds\.test=3: expected a fold, 0 to 2"):
        fold_set(folder, Folds(by="camera", test=3), force=True)


def test_a_set_without_cameras_and_one_dealt_before_they_were_known_keep_every_byte(tmp_path, capsys):
    folder = tmp_path / "mine"
    write_tables(folder, camera_videos().drop(columns="camera"))
    fold_set(folder, Folds(n=3))
    before = {name: (folder / name).read_bytes() for name in ("folds.csv", "folds.json")}
    assert before["folds.csv"].startswith(b"filename,label,group,fold,naive_fold\n")
    assert b'"by"' not in before["folds.json"]
    write_tables(folder, camera_videos())  # as the code before cameras left it: the column is one of the others
    fold_set(folder, Folds(n=3))
    assert "kept" in capsys.readouterr().out
    assert {name: (folder / name).read_bytes() for name in before} == before
    fold_set(folder, Folds(n=3), force=True)
    assert pd.read_csv(folder / "folds.csv").columns[-1] == "camera"


def test_the_column_is_read_in_any_case_and_spelled_one_way(tmp_path):
    path = tmp_path / "label.csv"
    path.write_text("fname,liveness_score,Camera\na.mp4,1, c1\nb.mp4,0,c1\nc.mp4,0,\n")
    assert list(read_labels(path)["camera"]) == ["c1", "c1", ""]
    path.write_text("fname,liveness_score,camera\na.mp4,1,Phone\nb.mp4,0,phone\n")
    with pytest.raises(UserError, match="column camera: 'Phone' and 'phone' differ only by case"):
        read_labels(path)


# --- the sampler


def sampled_rows() -> pd.DataFrame:
    """Cameras of very different sizes and classes; the last has live images only."""
    sizes = {("a", 0): 300, ("a", 1): 20, ("b", 0): 7, ("b", 1): 30, ("c", 1): 40}
    rows = [(camera, label) for (camera, label), count in sizes.items() for _ in range(count)]
    return pd.DataFrame(rows, columns=["camera", "label"]).sample(frac=1, random_state=1).reset_index(drop=True)


def test_the_sampler_gives_cameras_equal_parts_and_each_camera_both_classes_by_half():
    rows = sampled_rows()
    balance, n = CameraBalance(rows), len(rows)
    order = balance.draw(seed=3, epoch=1)
    assert len(order) == len(set(order)) == n  # a further draw of a sample has a key, so an augmentation, of its own
    drawn = rows.iloc[order % n].reset_index(drop=True)
    counts = drawn["camera"].value_counts()
    assert set(counts) <= {n // 3, -(-n // 3)} and len(counts) == 3
    for camera in "ab":
        assert abs(2 * drawn[drawn["camera"] == camera]["label"].sum() - counts[camera]) <= 1
    assert all(drawn["camera"][i : i + 3].nunique() == 3 for i in range(0, n - 2, 3))
    assert balance.live == pytest.approx(2 / 3) and drawn["label"].mean() == pytest.approx(2 / 3, abs=0.01)
    repeats = pd.Series(order % n).value_counts()
    few = rows.index[(rows["camera"] == "b") & (rows["label"] == 0)]
    assert repeats[few].max() - repeats[few].min() <= 1  # none comes again before all have come
    np.testing.assert_array_equal(order, CameraBalance(rows).draw(seed=3, epoch=1))
    assert (order != balance.draw(seed=3, epoch=2)).any() and (order != balance.draw(seed=4, epoch=1)).any()


def test_several_processes_and_a_resumed_one_get_the_global_order_of_one(monkeypatch):
    rows = sampled_rows()
    n, balance, config = len(rows), CameraBalance(rows), Train(batch=24, batch_per_process=7, epochs=2, seed=9)

    def keys(rank: int, size: int, first_step: int = 0) -> list[list[tuple[int, int]]]:
        """The keys of each step."""
        monkeypatch.setattr(distributed, "rank", lambda: rank)
        monkeypatch.setattr(distributed, "size", lambda: size)
        steps: list[list[tuple[int, int]]] = [[]]
        for share in plan_shares(n, config, first_step, balance):
            assert share.batch == 24
            steps[-1] += share.keys
            steps += [[]] if share.last else []
        return steps[:-1]

    one, two = keys(0, 1), [keys(0, 2), keys(1, 2)]
    assert len(one) == 2 * (n // 24) and all(len(step) == 24 for step in one)
    for step, first, second in zip(one, *two, strict=True):
        assert step[::2] == first and step[1::2] == second
    assert keys(1, 2, first_step=5) == two[1][5:]
    assert [epoch for epoch, _ in one[0]] == [0] * 24
    assert [index for step in one[: n // 24] for _, index in step] == list(balance.draw(9, 0)[: n // 24 * 24])


@pytest.fixture(scope="module")
def cameras_set(tmp_path_factory) -> Path:
    """A workspace with data/tiny: 12 drawn clips of three cameras, dealt by camera."""
    root = tmp_path_factory.mktemp("cameras")
    write_set(root / "raw" / "tiny", clips=12)
    label = root / "raw" / "tiny" / "label.csv"
    table = pd.read_csv(label).drop(columns="subject")
    table.assign(camera=[f"cam{i // 2 % 3}" for i in table.index]).to_csv(label, index=False)
    prepare_here(root, "tiny", "folds.by=camera", "folds.duplicates=0")
    return root


NARROW = ["model.kwargs.depths=[1,1,1,1]", "model.kwargs.dims=[8,16,16,16]", "model.pretrained=", "view.size=32"]
NARROW += ["train.epochs=2", "train.batch=6", "train.workers=0", "train.balance=camera"]


def train_by_camera(root: Path, stop_after: int = 0) -> dict:
    """The weights of fold 1, trained in this process; stop_after: left after so many steps, and continued."""
    recipe, folder = load_recipe("convnext_xlarge", NARROW), root / "runs" / "tiny" / "convnext_xlarge_fold1"
    folder.mkdir(parents=True)
    with at_home(root):
        if stop_after:
            asked = iter([*[False] * (stop_after - 1), True, True])
            assert member.train_member(recipe, 1, "tiny", folder, listen=lambda: lambda: next(asked)).stopped
        assert not member.train_member(recipe, 1, "tiny", folder).stopped
        return load_member(weights_path("tiny", "convnext_xlarge", 1))[0].state_dict()


@pytest.mark.full
def test_training_by_camera_resumes_exactly_and_two_processes_train_what_one_trains(cameras_set, tmp_path):
    for name in ("whole", "stopped", "two"):
        shutil.copytree(cameras_set / "data", tmp_path / name / "data", symlinks=True)
    whole, stopped = train_by_camera(tmp_path / "whole"), train_by_camera(tmp_path / "stopped", stop_after=3)
    assert all(torch.equal(value, stopped[key]) for key, value in whole.items())
    oof = pd.read_csv(tmp_path / "whole" / "runs" / "tiny" / "convnext_xlarge_fold1" / "oof.csv")
    assert {int(name.split(".")[0]) // 2 % 3 for name in oof["filename"]} == {1}
    config = json.loads((tmp_path / "whole" / "runs" / "tiny" / "convnext_xlarge_fold1" / "config.json").read_text())
    assert config["recipe"]["train"]["balance"] == "camera"
    settings = {"LIVENESS_ROOT": str(tmp_path / "two"), "NGPU": "2", "DATA": "tiny", "OMP_NUM_THREADS": "1"}
    settings |= {"PYTHON": sys.executable, "PYTHONPATH": str(CODE / "src")}
    command = ["bash", "scripts/train_member.sh", "convnext_xlarge", "1", "-o", *NARROW]
    done = subprocess.run(
        command, cwd=CODE, env={**os.environ, **settings}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    two = load_member(tmp_path / "two" / "weights" / "tiny" / "convnext_xlarge_fold1.safetensors")[0].state_dict()
    for key, value in whole.items():
        assert (value - two[key]).norm() <= 1e-5 * value.norm() + 1e-9, key


def test_a_balance_without_cameras_is_one_line(cameras_set, tmp_path, monkeypatch):
    shutil.copytree(cameras_set / "data", tmp_path / "data", symlinks=True)
    monkeypatch.setenv("LIVENESS_ROOT", str(tmp_path))
    folder, recipe = tmp_path / "data" / "tiny", load_recipe("convnext_xlarge", NARROW)
    prepared = load_set("tiny", recipe.frames)
    rows, _ = split_set(prepared, 0, recipe.view)
    assert set(rows["camera"]) == {"cam1", "cam2"}
    rows.loc[rows["filename"] == "2.mp4", "camera"] = ""
    with pytest.raises(UserError, match=r"train\.balance=camera: 1 videos have no camera: 2\.mp4"):
        find_balance(recipe, prepared, rows)
    videos = pd.read_csv(folder / "labels_video.csv")
    videos.assign(camera=videos["camera"].replace("cam1", "cam9")).to_csv(folder / "labels_video.csv", index=False)
    with pytest.raises(UserError, match="another camera than labels_video.csv has for '2.mp4'"):
        load_set("tiny", recipe.frames)
    pd.read_csv(folder / "folds.csv").drop(columns="camera").to_csv(folder / "folds.csv", index=False)
    prepared = load_set("tiny", recipe.frames)
    with pytest.raises(UserError, match="no column camera; .*make_folds tiny --force"):
        find_balance(recipe, prepared, split_set(prepared, 0, recipe.view)[0])


# --- the pages


def test_a_planted_shortcut_in_stored_frames_is_flagged_by_evaluation_and_pages(tmp_path, monkeypatch, capsys):
    """Of two cameras the live images of one are brightened; folds hold a camera out each."""
    configs, root = tmp_path / "configs", tmp_path / "root"
    make_configs(configs, monkeypatch)
    monkeypatch.setenv("LIVENESS_ROOT", str(root))
    make_set(root, count=48, people=12)
    folder = root / "data" / "tiny"
    videos = pd.read_csv(folder / "labels_video.csv")
    cameras = np.array(["<b>attic</b>", "cellar"])[videos["fold"]]
    sizes = {"status": "ok", "reason": "", "fps": 25, "width": 120, "height": 160, "duration": 1}
    videos.assign(camera=cameras, **sizes).to_csv(folder / "labels_video.csv", index=False)
    folds = pd.read_csv(folder / "folds.csv")
    folds.assign(camera=cameras).to_csv(folder / "folds.csv", index=False)
    (folder / "prepare.json").write_text("{}")
    rng = np.random.default_rng(3)
    for row in videos.itertuples():
        lift = 60 * (row.label == 1) * (row.fold == 1)
        for frame in (3, 6, 9):
            picture = rng.integers(0, 120, (160, 120, 3), dtype=np.uint8) + int(rng.integers(0, 40)) + lift
            Image.fromarray(picture.astype(np.uint8)).save(folder / "frames" / f"{row.video_id}-{frame}.jpg")
    assert evaluate.main(["mix"]) == 0
    printed = capsys.readouterr().out
    summary = json.loads((root / "runs" / "tiny" / "mix" / "report.json").read_text())
    assert [(cue["camera"], cue["cue"]) for cue in summary["cues"]] == [("cellar", "brightness")]
    assert "warning: Within a camera" in printed and "cellar: brightness of the face (AUC 1.00)" in printed
    assert "On the worst of 2 cameras" in printed
    found = summary["cameras"]
    assert found["held_out"] and {row["camera"]: row["videos"] for row in found["rows"]} == dict.fromkeys(
        set(cameras), 24
    )
    # A member is calibrated on the camera that it holds out; no new camera has labels, so the raw scores count here.
    assert found["uncalibrated"]
    table = pd.read_csv(root / "runs" / "tiny" / "mix" / "oof_video.csv")
    raw = table[[f"{recipe}_fold{fold}" for recipe, fold in MEMBERS]].mean(axis=1)
    assert found["threshold"] == eer(table["label"], raw).threshold
    for row in found["rows"]:
        live = (cameras == row["camera"]) & (table["label"] == 1)
        assert row["bpcer"]["value"] == (raw[live] < found["threshold"]).mean()
        assert row["eer"] == eer(table["label"][cameras == row["camera"]], raw[cameras == row["camera"]]).value
    assert report.main(["mix"]) == 0
    text = (root / "result" / "report.html").read_text()
    assert text.index("On the worst of 2 cameras") < text.index("With one threshold for all")
    assert "<b>attic" not in text and "&lt;b&gt;attic" in text
    assert text.count("cellar: brightness of the face (AUC 1.00)") == 1 and 'id="cameras"' in text
    page = render_dataset_page(read_set_tables(folder))
    assert "cellar: brightness of the face (AUC 1.00)" in page and "<b>attic" not in page
