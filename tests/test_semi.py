"""Semi-supervised training: its losses against a computation by hand, what it refuses, and that it resumes exactly."""

import hashlib
import json
import os
import shutil
import socket
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from hand_set import NARROW, write_prepared
from in_process import at_home, prepare_here, train_here
from PIL import Image
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from test_duplicates import encode, recording

from liveness import train
from liveness.base import distributed, launch
from liveness.base.compose import load_recipe
from liveness.base.config import Data, Recipe, Train, to_dict
from liveness.base.errors import UserError
from liveness.frames.contract import make_contract
from liveness.laboratory.other_set import find_origin
from liveness.members.weights import describe_member, save_member
from liveness.models.build import build
from liveness.sets import extract
from liveness.sets.dataset import load_set, split_set
from liveness.sets.duplicates import hash_frame
from liveness.training import loop, lr_finder, member, semi
from liveness.training.runs import describe_run
from liveness.training.unlabelled import order_unlabelled

TASKS = ("cross_pseudo", "mean_teacher")
ONE_QUICK = [pytest.param("cross_pseudo", marks=pytest.mark.full), "mean_teacher"]
OPTIONS = ["train.unlabelled=extra", "train.epochs=3", "train.lr=0.02", "train.unlabelled_ramp=0.3"]
OPTIONS += ["train.confidence=0.6", "train.calibration_share=0.5", "train.ema_half_life=0.2", "train.batch=4"]


def digest_number(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def write_records(folder: Path, first: int = 0) -> None:
    """What preparation would record of the set's videos; their files' digests are those of numbers from ``first`` on,
    in the order of their names as texts."""
    (folder / ".records").mkdir(exist_ok=True)
    for number, path in enumerate(sorted((folder / "frames").glob("*-0.jpg")), first):
        video = path.name.removesuffix("-0.jpg")
        frames = [np.asarray(Image.open(folder / "frames" / f"{video}-{k}.jpg")) for k in range(3)]
        record = {"filename": f"{video}.mp4", "sha256": digest_number(number)}
        record["frames"] = [{"frame_id": k, "hashes": hash_frame(rgb)} for k, rgb in enumerate(frames)]
        text = json.dumps({**record, "seal": extract._digest(record)})
        (folder / ".records" / f"{video}.json").write_text(text)


def write_unlabelled(root: Path, name: str, videos: int = 7, seed: int = 77) -> Path:
    """data/<name>: videos that no other set has, without labels, folds or persons."""
    folder, rng = write_prepared(root, name, videos=videos), np.random.default_rng(seed)
    for path in sorted((folder / "frames").glob("*.jpg")):
        picture = rng.integers(0, 150, (40, 32, 3)) + 100 * int(rng.integers(2))
        Image.fromarray(picture.astype(np.uint8)).save(path, quality=95)
    (folder / "folds.csv").unlink()
    for table in ("labels_video", "labels_keyframes", "labels_bbox"):
        rows = pd.read_csv(folder / f"{table}.csv", dtype=str, keep_default_na=False).assign(label="")
        if table == "labels_video":
            rows["group"] = rows.filename
        rows.to_csv(folder / f"{table}.csv", index=False)
    write_records(folder, 100 * seed)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A workspace with data/tiny in three folds and data/extra without labels."""
    root = tmp_path_factory.mktemp("semi")
    write_records(write_prepared(root))
    write_unlabelled(root, "extra")
    return root


def narrow(task: str, *options: str) -> Recipe:
    return load_recipe("convnext_xlarge", [*NARROW, *OPTIONS, f"train.task={task}", *options])


def begin(recipe: Recipe) -> loop.State:
    prepared = load_set("tiny", recipe.frames)
    rows, _ = split_set(prepared, 0, recipe.view)
    return loop.start_state(member.make_task(recipe, prepared, rows), torch.device("cpu"), recipe.train.lr)


# --- losses and bounds -----------------------------------------------------------------------------


def softplus(value: float) -> float:
    return float(np.log1p(np.exp(value)))


def test_cross_pseudo_supervision_is_each_ones_cross_entropy_with_the_others_decision():
    one, other = torch.tensor([2.0, -1.0], requires_grad=True), torch.tensor([-0.5, -3.0], requires_grad=True)
    losses = semi.cross_losses(one, other)
    # The first says live, the second attack: -log(1 - p1) - log(p2). Then both say attack.
    expected = [softplus(2.0) + softplus(0.5), softplus(-1.0) + softplus(-3.0)]
    assert losses.tolist() == pytest.approx(expected, rel=1e-6)
    losses.sum().backward()
    assert one.grad.tolist() == pytest.approx([1 / (1 + np.exp(-2.0)), 1 / (1 + np.exp(1.0))], rel=1e-6)  # p - decision


def test_only_sure_pseudo_labels_count_and_each_class_has_its_own_bound():
    teacher, student = torch.tensor([3.0, 1.0, 0.0, -0.4, -0.6]), torch.tensor([0.5, 7.0, 7.0, 7.0, 0.5])
    labels, counted = semi.teach(teacher, 2.0, -0.5)
    assert labels.tolist() == [1, 0, 0, 0, 0] and counted.tolist() == [1, 0, 0, 0, 1]
    assert semi.pseudo_losses(student, labels, counted).tolist() == pytest.approx(
        [softplus(-0.5), 0, 0, 0, softplus(0.5)]
    )


def test_the_bounds_are_where_platts_calibration_reaches_the_confidence():
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1], [40, 25])
    logits = 0.7 * rng.normal(size=65) + 0.8 * labels - 1
    live, attack = semi.bound_classes(logits, labels, 0.9)
    # Platt's soft targets as weighted pairs of hard ones, for scikit-learn.
    targets = np.where(labels == 1, 26 / 27, 1 / 42)
    fit = LogisticRegression(C=1e12, tol=1e-10, max_iter=1000)
    x, y = np.tile(logits, 2)[:, None], np.repeat([1, 0], 65)
    fit.fit(x, y, sample_weight=np.concatenate([targets, 1 - targets]))
    assert fit.predict_proba([[live], [attack]])[:, 1] == pytest.approx([0.9, 0.1], abs=1e-4)
    assert live > attack and abs(live + attack) > 0.5  # the teacher is off: no one bound serves both classes
    assert semi.bound_classes(-logits, labels, 0.9) == (np.inf, -np.inf)  # it knows nothing
    assert semi.bound_classes(logits[38:44], labels[38:44], 0.9) == (np.inf, -np.inf)  # two attacks, four live


def test_the_weight_rises_to_its_full_value_in_the_first_part_of_the_training():
    config = Train(epochs=10, unlabelled_weight=2.0, unlabelled_ramp=0.4)
    found = [semi.ramp_up(epoch, config) for epoch in (0, 2, 4, 9.9)]
    assert found == pytest.approx([2 * np.exp(-5), 2 * np.exp(-5 / 4), 2, 2])
    assert semi.ramp_up(0, replace(config, unlabelled_ramp=0.0)) == 2


def bce(logit: float, target: float) -> float:
    return target * softplus(-logit) + (1 - target) * softplus(logit)


@pytest.mark.parametrize("task", ONE_QUICK)
def test_the_loss_of_a_batch_is_that_of_its_samples_one_by_one(root, task):
    with at_home(root) as patch:
        recipe = narrow(
            task, "train.unlabelled_batch=2", "train.unlabelled_weight=0.8", "augment.hflip=0.5", "model.drop_path=0"
        )
        state = begin(recipe)
        networks, job = state.task.networks, state.task
        for network in networks.values():  # else all first logits are near 0
            torch.nn.init.normal_(network.head.fc.weight, std=3.0)
        if task == "mean_teacher":
            job.average.load_state_dict(job.model.state_dict())
            torch.nn.init.normal_(job.average.head.fc.weight, std=3.0)
            patch.setattr(semi, "bound_classes", lambda *_: (0.3, -0.2))
        share, batch = next(job.stream(2, state.device))
        losses = job.losses(networks, share, batch, state.device)
    images, labels, _, when = batch
    n = len(share.keys)
    assert n == 4 and len(images) == (12 if task == "cross_pseudo" else 20)
    assert when == pytest.approx(2 / job.steps_per_epoch)
    weight = semi.ramp_up(when, recipe.train)
    score = {
        name: [float(network(image[None]).detach()) for image in images]
        for name, network in {**networks, "teacher": job.average}.items()
    }
    for i in range(n):
        own, target = (4 + 2 * i, 5 + 2 * i), float(labels[i]) * 0.9 + 0.05
        if task == "cross_pseudo":
            one, other = score["model"], score["other"]
            crossed = [bce(one[k], other[k] > 0) + bce(other[k], one[k] > 0) for k in (i, *own)]
            expected = bce(one[i], target) + bce(other[i], target) + weight * (crossed[0] + np.mean(crossed[1:]))
        else:
            sure = {k: score["teacher"][k + 8] for k in own}
            taught = [bce(score["model"][k], s > 0.3) if s >= 0.3 or s <= -0.2 else 0 for k, s in sure.items()]
            expected = bce(score["model"][i], target) + weight * np.mean(taught)
        assert float(losses[i].detach()) == pytest.approx(expected, rel=1e-4)


def test_an_unlabelled_sample_comes_again_when_all_have_come():
    order = order_unlabelled(7, 17, 1, 0)
    assert sorted(order[:7]) == list(range(7)) and sorted(order[7:14]) == list(range(7, 14)) and len(set(order)) == 17
    assert set(order[14:] % 7) <= set(range(7)) and (order != order_unlabelled(7, 17, 1, 1)).any()


def test_videos_that_calibrate_the_teacher_share_no_group_with_those_it_is_trained_on(root):
    with at_home(root):
        task = begin(narrow("mean_teacher")).task
        group = load_set("tiny", narrow("mean_teacher").frames).videos.group
    trained, apart = ({group[row.filename] for row in frames.rows} for frames in (task.frames, task.calibration))
    assert trained and apart and not trained & apart and "p0" not in trained | apart


def test_what_is_set_apart_leaves_both_classes_on_both_sides():
    videos = pd.DataFrame({"group": list("aabbccdd"), "label": [1, 1, 0, 0, 1, 1, 0, 0]}, dtype=object)
    for seed in range(20):
        apart = semi.set_apart(videos, 0.3, seed)
        assert len(apart & set("ac")) == 1 and len(apart & set("bd")) == 1
    with pytest.raises(UserError, match="has 2 groups"):
        semi.set_apart(videos[:4], 0.3, 0)


# --- training --------------------------------------------------------------------------------------


def content(state: loop.State) -> dict[str, torch.Tensor]:
    networks = {**state.task.networks, "average": state.ema.module}
    return {f"{name}.{key}": v for name, net in networks.items() for key, v in net.state_dict().items()}


@pytest.mark.parametrize("task", ONE_QUICK)
def test_a_run_that_stops_in_an_epoch_and_goes_on_is_the_undisturbed_one(root, tmp_path, task):
    with at_home(root):
        recipe = narrow(task, "model.drop_path=0.3", "augment.hflip=0.5", "augment.noise=0.5")
        whole, halved = begin(recipe), begin(recipe)
        steps = whole.task.steps_per_epoch
        bounds = []
        note = lambda row: bounds.append(dict(getattr(whole.task, "bounds", {})))  # noqa: E731
        assert loop.run_epochs(whole, note, lambda: False) and steps > 2
        stop = steps + 2
        assert not loop.run_epochs(halved, lambda row: None, lambda: halved.step == stop)
        loop.save(halved, tmp_path / "last.pt")
        resumed = begin(recipe)
        loop.resume(resumed, tmp_path / "last.pt")
        assert resumed.step == stop and loop.run_epochs(resumed, lambda row: None, lambda: False)
    expected, found = content(whole), content(resumed)
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    if task == "mean_teacher":
        assert resumed.task.bounds == bounds[-1] and np.isfinite(bounds[1]["live"])  # the teacher had a say
        assert len({one["live"] for one in bounds}) == 3  # anew in every epoch
    else:
        assert not torch.equal(expected["model.head.fc.weight"], expected["other.head.fc.weight"])


def test_the_range_test_of_the_learning_rate_runs_without_a_teacher(root):
    with at_home(root):
        recipe = narrow("mean_teacher")
        prepared = load_set("tiny", recipe.frames)
        made = member.make_task(recipe, prepared, split_set(prepared, 0, recipe.view)[0])
        assert len(lr_finder.measure_curve(made, torch.device("cpu"), 2).losses) == 2


# Adam makes of a gradient's rounding a step of up to the learning rate.
SLOWER = ("train.lr=0.005", "train.epochs=2", "train.batch_per_process=4", "model.drop_path=0.3")


def rank_of_two(rank: int, port: int, root: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}
    os.environ |= {"LIVENESS_ROOT": root, "OMP_NUM_THREADS": "1"}
    launch.BY_TORCHRUN = True  # in this process, which was spawned: else it would train alone
    torch.set_num_threads(1)
    assert distributed.start() == (rank, 2, rank)
    for task in TASKS:
        state = begin(narrow(task, *SLOWER))
        assert loop.run_epochs(state, lambda row: None, lambda: False)
        torch.save(content(state), Path(root) / f"{task}_{rank}.pt")
    distributed.stop()


@pytest.mark.full
def test_two_processes_train_what_one_trains(root):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    torch.multiprocessing.spawn(rank_of_two, (port, str(root)), nprocs=2)
    for task in TASKS:
        with at_home(root):
            state = begin(narrow(task, *SLOWER))
            assert loop.run_epochs(state, lambda row: None, lambda: False)
            assert task == "cross_pseudo" or np.isfinite(state.task.bounds["live"])
        for rank in range(2):
            found = torch.load(root / f"{task}_{rank}.pt", weights_only=True)
            for name, value in content(state).items():
                assert torch.allclose(value, found[name], rtol=0, atol=1e-5), (task, rank, name)


def start(root: Path, *options: str, restart: bool = True) -> Path:
    arguments = ["-c", "convnext_xlarge", "--fold", "0", "--data", "tiny", *(["--restart"] if restart else [])]
    assert train_here(root, *arguments, "-o", *NARROW, *OPTIONS, *options) == 0
    return root / "weights" / "tiny" / "convnext_xlarge_fold0.safetensors"


@pytest.mark.parametrize("task", ONE_QUICK)
def test_a_member_says_what_it_learned_from_and_no_label_of_that_was_read(root, task, capsys):
    path = start(root, f"train.task={task}", "train.epochs=1")
    about, weights = describe_member(path), load_file(path)
    assert "21 unlabelled frames of 7 videos of extra" in capsys.readouterr().out
    digests = {digest_number(number)[:16] for number in range(7700, 7707)}
    assert about["unlabelled"]["set"] == "extra" and digests <= set(about["trained_on"]["videos"])
    ensemble = SimpleNamespace(name="mine", members=[SimpleNamespace(name="one", path=path)])
    origin = find_origin(ensemble, root / "data" / "extra")
    assert origin["independent"] is False and "has learned from the videos of data/extra" in origin["line"]
    tables = [root / "data" / "extra" / f"labels_{name}.csv" for name in ("video", "keyframes", "bbox")]
    kept = [table.read_bytes() for table in tables]
    for table in tables:
        pd.read_csv(table, dtype=str, keep_default_na=False).assign(label="1").to_csv(table, index=False)
    with pytest.raises(UserError, match="holds another run: unlabelled.digest is"):
        start(root, f"train.task={task}", "train.epochs=1", restart=False)
    labelled = load_file(start(root, f"train.task={task}", "train.epochs=1"))
    for table, data in zip(tables, kept, strict=True):
        table.write_bytes(data)
    assert all(torch.equal(value, labelled[name]) for name, value in weights.items())


# --- what is refused -------------------------------------------------------------------------------


def refused(root: Path, *options: str) -> str:
    """What a start of fold 0 of data/tiny says; it has trained nothing."""
    before = {path: path.read_bytes() for path in root.rglob("*.safetensors")}
    with at_home(root) as patch:
        words = ["train", "-c", "convnext_xlarge", "--fold", "0", "--data", "tiny", "--restart", "-o"]
        patch.setattr(sys, "argv", [*words, *NARROW, *OPTIONS, *options])
        with pytest.raises(UserError) as error:
            train.main()
    assert {path: path.read_bytes() for path in root.rglob("*.safetensors")} == before
    assert "\n" not in str(error.value)
    return str(error.value)


def planted(root: Path, source: str, change=lambda picture: picture, same: bool = False) -> Path:
    """data/planted: the videos of extra, of which 3.mp4 is a changed copy of a video of tiny."""
    shutil.rmtree(root / "data" / "planted", ignore_errors=True)
    folder = root / "data" / "planted"
    shutil.copytree(root / "data" / "extra", folder)
    for frame in range(3):
        picture = Image.open(root / "data" / "tiny" / "frames" / f"{source}-{frame}.jpg")
        change(picture).save(folder / "frames" / f"3-{frame}.jpg", quality=60)
    write_records(folder, 5000)
    if same:
        record = extract._load(folder / ".records" / "3.json")
        record["sha256"] = extract._load(root / "data" / "tiny" / ".records" / f"{source}.json")["sha256"]
        record["frames"] = []
        (folder / ".records" / "3.json").write_text(json.dumps({**record, "seal": extract._digest(record)}))
    return folder


def flip_and_brighten(picture: Image.Image) -> Image.Image:
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).point(lambda value: min(255, int(1.1 * value)))


@pytest.mark.parametrize("task", ONE_QUICK)
def test_a_copy_of_a_held_out_video_is_refused_and_one_of_a_training_video_is_not(root, task):
    options = ["train.unlabelled=planted", f"train.task={task}", "train.epochs=1"]
    planted(root, "6", flip_and_brighten)  # of fold 0
    said = refused(root, *options)
    assert "its 3.mp4 is a near-duplicate of 6.mp4 of tiny, which fold 0 holds out (1 such videos)" in said
    planted(root, "6", same=True)
    assert "its 3.mp4 is 6.mp4 of tiny, which fold 0 holds out" in refused(root, *options)
    with at_home(root), pytest.raises(UserError, match=r"its 3.mp4 is 6.mp4 of tiny"):  # so is the range test
        member.find_lr(narrow(task, "train.unlabelled=planted"), 0, "tiny", root / "lr")
    planted(root, "8", flip_and_brighten)
    start(root, *options)


@pytest.mark.parametrize("key", [pytest.param("train.init", marks=pytest.mark.full), "train.teacher"])
def test_a_member_of_another_set_that_has_seen_a_copy_is_refused(root, tmp_path, key):
    """It does not hold the held-out file itself, so that no digest tells."""
    shutil.copytree(root / "data", tmp_path / "data")
    planted(tmp_path, "6", flip_and_brighten)
    task = ["train.task=distil"] if key == "train.teacher" else ["train.task=supervised"]
    with at_home(tmp_path):
        recipe = narrow("supervised", "train.unlabelled=", "name=source")
        about = {"recipe": to_dict(recipe), "fold": 1, "data": "planted", "data_hash": "", "folds": 3}
        about["contract"] = make_contract(recipe, Data(), "", load_set("tiny", recipe.frames).version)
        weights = tmp_path / "weights" / "planted" / "source_fold1.safetensors"
        weights.parent.mkdir(parents=True)
        state = build(recipe.model, recipe.view.size).state_dict()
        said = "source_fold1.safetensors was trained on 3.mp4 of planted, which is 6.mp4 of tiny or a near-duplicate"
        for number, expected in ((5003, said), (5002, "")):
            save_member(weights, state, about | {"trained_on": {"videos": [digest_number(number)[:16]], "groups": []}})
            options = [*task, f"{key}=planted/source:1", "train.unlabelled="]
            if expected:
                assert expected in refused(tmp_path, *options)
            else:  # it has learned from others of that set
                recipe = load_recipe("convnext_xlarge", [*NARROW, *OPTIONS, *options])
                describe_run(recipe, 0, load_set("tiny", recipe.frames), naive=False)


def test_a_copy_of_a_video_of_the_holdout_is_refused(root, tmp_path):
    shutil.copytree(root / "data", tmp_path / "data")
    path = tmp_path / "data" / "tiny" / "folds.csv"
    folds = pd.read_csv(path)
    folds.loc[folds.group == "p2", "fold"] = -1
    folds.to_csv(path, index=False)
    planted(tmp_path, "4", flip_and_brighten)
    said = refused(tmp_path, "train.unlabelled=planted", "train.task=cross_pseudo")
    assert "near-duplicate of 4.mp4 of tiny, which the holdout keeps from training" in said


@pytest.mark.parametrize("column", [pytest.param("group", marks=pytest.mark.full), "subject"])
def test_a_person_who_is_held_out_is_refused(root, column):
    folder = planted(root, "8")
    path, tiny = folder / "labels_video.csv", root / "data" / "tiny" / "labels_video.csv"
    kept = tiny.read_bytes()
    for name, table in (("P 0", path), ("p0", tiny)):
        rows = pd.read_csv(table, dtype=str, keep_default_na=False)
        if column not in rows:
            rows[column] = "" if table == path else rows.group
        rows.loc[2 if table == path else 0, column] = name
        rows.to_csv(table, index=False)
    said = refused(root, "train.unlabelled=planted", "train.task=cross_pseudo")
    tiny.write_bytes(kept)
    assert "its 2.mp4 shows 'p0', as does 0.mp4 of tiny, which fold 0 holds out" in said


@pytest.mark.parametrize(
    "options, expected",
    [
        (["train.task=cross_pseudo", "train.unlabelled="], "without train.unlabelled"),
        (["train.task=supervised"], "train.unlabelled=extra with train.task=supervised"),
        (["train.task=mean_teacher", "train.ema_half_life=0"], "the moving average teaches"),
        (["train.task=mean_teacher", "train.unlabelled=nowhere"], "nowhere: not prepared"),
        (["train.task=mean_teacher", "train.unlabelled=../extra"], "train.unlabelled"),
        (["train.task=mean_teacher", "train.unlabelled=tiny"], "its 0.mp4 is 0.mp4 of tiny, which fold 0 holds out"),
        (["train.task=mean_teacher", "train.unlabelled=other"], "prepared with jpeg_quality=80, data/tiny with 95"),
        (["train.task=mean_teacher", "train.unlabelled=lost"], ".records has nothing of '2'"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_trained(root, options, expected):
    for name in ("other", "lost"):
        if not (root / "data" / name).is_dir():
            shutil.copytree(root / "data" / "extra", root / "data" / name)
    path = root / "data" / "other" / "prepare.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data": {"jpeg_quality": 80}}))
    (root / "data" / "lost" / ".records" / "2.json").unlink(missing_ok=True)
    assert expected in refused(root, *options)


def resized(pictures: list[np.ndarray], share: float) -> list[np.ndarray]:
    return [cv2.resize(picture, None, fx=share, fy=share, interpolation=cv2.INTER_AREA) for picture in pictures]


def at_rate(pictures: list[np.ndarray], share: float) -> list[np.ndarray]:
    """As a player shows them at ``share`` of the frame rate."""
    return [pictures[int(place / share)] for place in range(int(len(pictures) * share))]


COPIES = {  # strategy -> what is done to a recording, and the CRF of its new encoding
    "cross_pseudo": (lambda pictures: resized(pictures, 0.75), 33),
    "mean_teacher": (lambda pictures: at_rate([np.ascontiguousarray(p[:, ::-1]) for p in pictures], 0.7), 28),
}


@pytest.mark.full
def test_a_held_out_video_that_was_encoded_again_is_found_by_a_real_preparation(tmp_path):
    for name, seeds in (("tiny", range(8)), ("extra", range(8, 11))):
        videos = tmp_path / "raw" / name / "videos"
        videos.mkdir(parents=True)
        for seed in seeds:
            encode(videos / f"{seed}.mp4", recording(seed))
    rows = [(f"{n}.mp4", n // 4, f"p{n}") for n in range(8)]
    table = pd.DataFrame(rows, columns=["fname", "liveness_score", "subject"])
    table.to_csv(tmp_path / "raw" / "tiny" / "label.csv", index=False)
    prepare_here(tmp_path, "tiny", "folds.n=2", "workers=1")
    folds = pd.read_csv(tmp_path / "data" / "tiny" / "folds.csv")
    held_out, trained_on = (folds.filename[folds.fold == fold].iloc[0] for fold in (0, 1))

    def plant(source: str, task: str) -> None:
        change, crf = COPIES[task]
        target = tmp_path / "raw" / "extra" / "videos" / "copy.mp4"
        encode(target, change(recording(int(Path(source).stem))), crf)
        prepare_here(tmp_path, "extra", "workers=1")

    for task in TASKS:
        plant(held_out, task)
        said = refused(tmp_path, f"train.task={task}", "train.calibration_share=0.3")
        assert f"its copy.mp4 is a near-duplicate of {held_out} of tiny, which fold 0 holds out (1 such videos)" in said
    plant(trained_on, "cross_pseudo")
    start(tmp_path, "train.task=cross_pseudo", "train.epochs=1")


def test_a_recipe_that_uses_nothing_of_it_is_written_as_before():
    added = {"task", "confidence", "calibration_share"} | {key for key in vars(Train()) if key.startswith("unlabelled")}
    assert not added & set(to_dict(Recipe())["train"])
