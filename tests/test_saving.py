"""A training that is asked to stop has only so long: what it saves, what it keeps, and how all its processes end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hand_set import NARROW, write_prepared
from test_training_checks import begun, free_port

from liveness import torchrun
from liveness.base import distributed, launch
from liveness.base.compose import load_recipe
from liveness.base.errors import UserError
from liveness.base.files import CODE
from liveness.members.names import weights_path
from liveness.training import loop, member, saving

TWO_EPOCHS = [*NARROW, "train.epochs=2", "train.lr=1e-2", "train.batch=4"]


@pytest.fixture
def root(workspace, monkeypatch):
    write_prepared(workspace)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return workspace


def stopped_after(steps: int, folder: Path) -> member.Outcome:
    """A training that is asked to stop when so many steps and held-out videos are done; 0: never."""
    asked = iter(range(1, steps)) if steps else None

    def ask() -> bool:
        return asked is not None and next(asked, None) is None

    folder.mkdir(exist_ok=True)
    return member.train_member(load_recipe("convnext_xlarge", TWO_EPOCHS), 0, "tiny", folder, listen=lambda: ask)


def test_where_the_grace_is_too_short_the_last_whole_epoch_stays_and_the_end_is_the_same(root, monkeypatch, capsys):
    path = weights_path("tiny", "convnext_xlarge", 0)
    assert not stopped_after(0, root / "whole").stopped
    assert "a stop has 30 s for it" in capsys.readouterr().out
    whole = path.read_bytes()
    path.unlink()
    monkeypatch.setenv("GRACE_SECONDS", "1.5")
    folder = root / "short"
    assert stopped_after(2, folder).stopped  # in the first epoch
    said = capsys.readouterr()
    assert "GRACE_SECONDS gives 2 s: a training that is stopped keeps its last whole epoch" in said.err
    assert "stopped in epoch 1 after step 2, which could not be saved in time" in said.out
    assert "no epoch was whole yet" in said.out and not (folder / "last.pt").exists()
    assert stopped_after(13, folder).stopped  # six steps, four videos, three steps
    assert "stopped in epoch 2 after step 9" in (said := capsys.readouterr().out) and "last.pt keeps epoch 1" in said
    assert torch.load(folder / "last.pt", weights_only=True)["step"] == 6
    monkeypatch.setenv("GRACE_SECONDS", "3600")
    assert stopped_after(2, folder).stopped
    assert torch.load(folder / "last.pt", weights_only=True)["step"] == 8
    assert not stopped_after(0, folder).stopped
    assert path.read_bytes() == whole


def test_a_save_that_takes_too_long_leaves_what_was_there_and_nothing_besides(root, monkeypatch):
    """The estimate said that there would be time, and then the disk is slow."""
    state, folder = begun(load_recipe("convnext_xlarge", TWO_EPOCHS)), root / "run"
    saver = saving.Saver(state, folder / "last.pt")
    saver.save()
    before = (folder / "last.pt").read_bytes()
    assert 0.8 < loop.count_bytes(state) / len(before) < 1.2 or len(before) < 1 << 20
    state.step, saver.given, saver.seconds = 1, saving.LEAVING + 0.3, 0.1
    monkeypatch.setattr(saving, "_FLUSHED", 1)
    monkeypatch.setattr(saving.os, "fsync", lambda file: time.sleep(0.1))
    assert not saver.save_in_time(time.monotonic())
    assert (folder / "last.pt").read_bytes() == before and os.listdir(folder) == ["last.pt"]
    monkeypatch.undo()
    assert not saver.save_in_time(time.monotonic() - 60)  # the request may have come a minute ago
    assert saver.save_in_time(time.monotonic())
    assert torch.load(folder / "last.pt", weights_only=True)["step"] == 1 and os.listdir(folder) == ["last.pt"]


def test_the_size_of_the_state_is_known_before_the_first_step(root):
    recipe = load_recipe("convnext_xlarge", [*TWO_EPOCHS, "model.kwargs.dims=[64,128,256,512]", "view.size=32"])
    state = begun(recipe)
    known = loop.count_bytes(state)
    loop.run_epochs(state, lambda row: None, lambda: True)
    loop.save(state, root / "last.pt")
    assert (root / "last.pt").stat().st_size == pytest.approx(known, rel=0.05)


def test_torchrun_waits_as_long_as_its_processes_have_asked_for(tmp_path, monkeypatch):
    from torch.distributed.elastic.multiprocessing.api import PContext

    waited, asked = [], tmp_path / "grace"
    monkeypatch.setattr(PContext, "close", lambda self, death_sig=None, timeout=30: waited.append(timeout))
    torchrun.give_grace(asked)
    for variable in (launch.GRACE_FILE, launch.LAUNCHER):
        monkeypatch.setenv(variable, str(asked))
    monkeypatch.setattr(launch, "BY_TORCHRUN", True)
    for seconds in (None, 12, 95.2):
        if seconds:
            launch.ask_for_grace(seconds)
        PContext.close(None, signal.SIGTERM, 30)
    PContext.close(None, signal.SIGTERM, 200)
    assert waited == [30, 30, 96, 200]


def test_the_time_that_is_given_is_told_by_a_variable_or_by_who_started_it(monkeypatch):
    monkeypatch.delenv("GRACE_SECONDS", raising=False)
    monkeypatch.setattr(launch, "BY_TORCHRUN", False)
    assert saving.given_seconds() is None
    monkeypatch.setattr(launch, "BY_TORCHRUN", True)
    monkeypatch.delenv(launch.LAUNCHER, raising=False)
    assert saving.given_seconds() == 30  # torch's own
    monkeypatch.setenv(launch.LAUNCHER, "1")
    assert saving.given_seconds() is None
    monkeypatch.setenv("GRACE_SECONDS", "120")
    assert saving.given_seconds() == 120
    for wrong in ("2 minutes", "0", "-5", "nan", "inf"):
        monkeypatch.setenv("GRACE_SECONDS", wrong)
        with pytest.raises(UserError, match="GRACE_SECONDS=.*expected the seconds"):
            saving.given_seconds()


# --- on other hardware


def test_a_run_without_a_scaler_continues_in_fp16_with_a_fresh_one_and_back(root):
    recipe, last, told = load_recipe("convnext_xlarge", TWO_EPOCHS), root / "last.pt", []
    first = begun(recipe)
    assert not loop.run_epochs(first, lambda row: None, lambda: first.step == 2)
    loop.save(first, last)
    second = begun(recipe)
    second.scaler = torch.amp.GradScaler("cpu", enabled=True)
    loop.resume(second, last, told.append)
    assert len(told) == 1 and "fp16" in told[0] and second.scaler.get_scale() == 2.0**16
    assert not loop.run_epochs(second, lambda row: None, lambda: second.step == 4)
    second.scaler.update(512.0)
    loop.save(second, last)
    third = begun(recipe)
    third.scaler = torch.amp.GradScaler("cpu", enabled=True)
    loop.resume(third, last, told.append)
    assert third.scaler.get_scale() == 512  # of one that was there nothing is lost
    fourth = begun(recipe)
    loop.resume(fourth, last, told.append)
    assert len(told) == 1 and not fourth.scaler.is_enabled()
    assert loop.run_epochs(fourth, lambda row: None, lambda: False)


def joined(rank: int, port: int) -> None:
    """Become one of two processes, as under torchrun."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}
    launch.BY_TORCHRUN = True
    torch.set_num_threads(1)
    distributed.start()


CHANGING = [*TWO_EPOCHS, "train.batch=5", "train.clip_grad=1", "model.drop_path=0.3", "augment=zalo2022"]


def middle_part(rank: int, port: int, last: str) -> None:
    joined(rank, port)
    state = begun(load_recipe("convnext_xlarge", CHANGING))
    loop.resume(state, Path(last))
    assert state.step == 2 and not loop.run_epochs(state, lambda row: None, lambda: state.step == 7)
    if rank == 0:
        loop.save(state, Path(last))
    distributed.barrier()
    distributed.stop()


@pytest.mark.full
def test_one_process_then_two_then_one_train_what_one_trains(root):
    recipe, last, rows = load_recipe("convnext_xlarge", CHANGING), root / "last.pt", {"whole": [], "changed": []}
    whole, first = begun(recipe), begun(recipe)
    assert loop.run_epochs(whole, rows["whole"].append, lambda: False)
    assert not loop.run_epochs(first, rows["changed"].append, lambda: first.step == 2)
    loop.save(first, last)
    torch.multiprocessing.spawn(middle_part, (free_port(), str(last)), nprocs=2)
    third = begun(recipe)
    loop.resume(third, last)
    assert third.step == 7 and third.task.steps_per_epoch == 4  # the second process was there at an epoch's end
    assert loop.run_epochs(third, rows["changed"].append, lambda: False)
    for one, other in ((whole.model, third.model), (whole.ema.module, third.ema.module)):
        for key, value in one.state_dict().items():
            assert (value - other.state_dict()[key]).norm() <= 1e-5 * value.norm() + 1e-9, key
    assert rows["changed"][-1]["train_loss"] == pytest.approx(rows["whole"][-1]["train_loss"], rel=1e-5)


# --- how all processes end


def one_that_waits(rank: int, port: int) -> None:
    joined(rank, port)
    distributed.follow_rank_0(143)
    distributed.barrier()
    if rank == 1:
        distributed.barrier()  # rank 0 never comes
    distributed.tell(distributed.STOP)
    time.sleep(3)  # saving: the other one stays
    distributed.tell(distributed.LEFT)
    time.sleep(60)  # it is still there: no connection is lost


@pytest.mark.full
def test_a_rank_in_a_collective_ends_as_soon_as_rank_0_has_saved():
    begin, port = torch.multiprocessing.get_context("spawn").Process, free_port()
    ranks = [begin(target=one_that_waits, args=(rank, port), daemon=True) for rank in range(2)]
    try:
        for process in ranks:
            process.start()
        ranks[1].join(50)
        assert ranks[1].exitcode == 143 and ranks[0].is_alive()
    finally:
        for process in ranks:
            process.kill()


@pytest.mark.full
def test_a_signal_to_the_second_node_ends_both_with_143_and_nothing_half_written(root):
    common = {**os.environ, "LIVENESS_ROOT": str(root), "PYTHON": sys.executable, "PYTHONPATH": str(CODE / "src")}
    common |= {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NGPU": "1"}
    common |= {"CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo", "DATA": "tiny"}
    command = ["bash", "scripts/train_member.sh", "convnext_xlarge", "0", "-o", *NARROW, "train.epochs=2000"]
    nodes = [
        subprocess.Popen(
            command,
            cwd=CODE,
            env=common | {"NODE_RANK": node},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for node in ("0", "1")
    ]
    try:
        for line in nodes[0].stdout:
            if "held-out: log loss" in line:
                break
        nodes[1].send_signal(signal.SIGTERM)
        out, said = nodes[0].communicate(timeout=60)
        nodes[1].communicate(timeout=60)
        assert [node.returncode for node in nodes] == [143, 143], said
        assert "the same command continues\n" in out and "Traceback" not in said
        left = os.listdir(root / "runs/tiny/convnext_xlarge_fold0")
        assert "last.pt" in left and not [name for name in left if name.startswith(".")]
    finally:
        for node in nodes:
            node.kill()
