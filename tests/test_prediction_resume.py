"""Nothing lost: a stopped prediction leaves its finished rows, and the same command continues from them."""

import contextlib
import csv
import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_prediction import put_member

from liveness import predict
from liveness.base.config import Cascade, Ensemble, EnsembleMember
from liveness.base.errors import UserError
from liveness.base.files import CODE
from liveness.prediction import engine
from liveness.prediction import partial as partial_rows
from liveness.prediction.engine import load_members, read_ensemble, score_paths
from liveness.prediction.partial import PARTIAL_FILE, Partial, make_fingerprint
from liveness.prediction.rows import ROW_COLUMNS, Row, write_submission

MEMBER = [EnsembleMember("convnext_large", 0)]
OPTIONS = ("--members", "convnext_large:0", "--workers", "1")


@pytest.fixture
def many(workspace, tiny_clips) -> Path:
    """A folder of 400 videos, which are four."""
    put_member("convnext_large", 0)
    folder = workspace / "clips"
    for n in range(4):
        tiny_clips(folder / f"{n}.mp4", 6, (64, 96), seed=n)
    for n in range(4, 400):
        os.link(folder / f"{n % 4}.mp4", folder / f"{n}.mp4")
    return folder


def expected_of(folder: Path, workspace: Path) -> bytes:
    """The submission by the engine itself, in one go."""
    loaded = load_members(Ensemble("mine", "train", MEMBER))
    four = {row.fname: row.score for row in score_paths([folder / f"{n}.mp4" for n in range(4)], loaded)}
    rows = [Row(f"{n}.mp4", four[f"{n % 4}.mp4"], "", "ok", "", 1, None, 0.0) for n in range(400)]
    return write_submission(rows, workspace / "expected.csv").read_bytes()


@contextlib.contextmanager
def started(folder: Path, output: Path, rows: int = 3, **env: str):
    """predict.sh in a group of its own, once it has finished some rows."""
    command = ["bash", str(CODE / "predict.sh"), str(folder), str(output), *OPTIONS]
    environment = {**os.environ, "PYTHON": sys.executable, **env}
    process = subprocess.Popen(
        command,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        # As a terminal starts it: tests that a shell runs in the background inherit that ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError):
                if (output / PARTIAL_FILE).read_bytes().count(b"\n") >= 2 + rows:
                    break
            time.sleep(0.01)
        assert process.poll() is None, process.communicate()
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def finished(output: Path) -> int:
    lines = (output / PARTIAL_FILE).read_bytes().splitlines()
    return sum(line.count(b",") == len(ROW_COLUMNS) for line in lines) - 1


def continues(run_driver, folder: Path, output: Path, workspace: Path) -> None:
    there = finished(output)
    assert 0 < there < 400
    done = run_driver("predict.sh", folder, output, *OPTIONS)
    assert done.returncode == 0, done.stderr
    assert f"continuing: {there} of 400 videos" in done.stderr
    assert (output / "submission.csv").read_bytes() == expected_of(folder, workspace)
    assert not (output / PARTIAL_FILE).exists()


@pytest.mark.full
def test_killed_without_warning_it_continues(run_driver, workspace, many):
    output = workspace / "out"
    output.mkdir()
    (output / "submission.csv").write_text("fname,liveness_score\nold.mp4,0.1\n")
    with started(many, output) as process:
        # The rows of a second one, of other weights perhaps, would get between those of the first.
        second = run_driver("predict.sh", many, output, *OPTIONS)
        assert second.returncode == 1
        assert f"error: {output}: another prediction writes there" in second.stderr
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (output / "submission.csv").exists()  # an earlier run's would pass for this one's
    assert (output / "previous_submission.csv").read_text().endswith("old.mp4,0.1\n")
    with open(output / PARTIAL_FILE, "ab") as file:
        file.write(b"399.mp4,0.1234")  # a row that was being written
    continues(run_driver, many, output, workspace)


@pytest.mark.parametrize("ranks", ["1", pytest.param("2", marks=pytest.mark.full)])
@pytest.mark.parametrize(
    ("which", "code", "word"),
    [(signal.SIGTERM, 143, "terminated"), pytest.param(signal.SIGINT, 130, "interrupted", marks=pytest.mark.full)],
)
def test_told_to_stop_it_says_where_the_finished_rows_are(run_driver, workspace, many, which, code, word, ranks):
    output = workspace / "out"
    with started(many, output, NGPU=ranks) as process:
        if which == signal.SIGINT:  # as a terminal does
            os.killpg(process.pid, which)
        else:
            process.send_signal(which)
        _, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    # torchrun tells of the signal too, in a line of its own form.
    lines = [line for line in err.splitlines() if not re.match(r"warning: no GPU|W\d{4} .* death signal", line)]
    assert len(lines) == 1, err
    assert lines[0].startswith(f"{word}; ") and f"finished rows are in {output / PARTIAL_FILE}" in lines[0]
    assert not (output / "submission.csv").exists()
    if ranks == "2" or which == signal.SIGINT:
        continues(run_driver, many, output, workspace)


@pytest.mark.full
def test_a_disk_that_refuses_more_leaves_what_is_finished(run_driver, workspace, many):
    """By the limit on a file's size, which is met in the middle of a row, as a full disk is."""
    output = workspace / "out"
    command = f'ulimit -f 2; exec bash {CODE / "predict.sh"} "$@"'
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", "-c", command, "bash", str(many), str(output), *OPTIONS],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("warning: no GPU")]
    assert line.startswith(f"error: {output / PARTIAL_FILE}: ") and "finished rows" in line
    assert not (output / "submission.csv").exists() and not (output / "predictions.csv").exists()
    assert 5 <= finished(output) <= 60
    assert [path.name for path in output.iterdir()] == [PARTIAL_FILE]


@pytest.mark.full
def test_on_a_disk_that_is_full_the_rows_stay_and_room_is_enough_to_go_on(run_driver, workspace, many):
    output = workspace / "small"
    output.mkdir()
    script = (
        f"mount -t tmpfs -o size=12k tmpfs {output} && bash {CODE / 'predict.sh'} {many} {output} {' '.join(OPTIONS)};"
        f" code=$?; ls -A {output}; mount -o remount,size=10m {output};"
        f" bash {CODE / 'predict.sh'} {many} {output} {' '.join(OPTIONS)}; cp {output}/submission.csv {workspace};"
        " exit $code"
    )
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("this user may not make a mount namespace here")
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", script], env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 1, done.stderr
    assert re.search("No space left on device|the disk is full", done.stderr), done.stderr  # or: in the middle of a row
    assert "continuing: " in done.stderr
    assert (workspace / "submission.csv").read_bytes() == expected_of(many, workspace)


def test_rows_hold_only_for_the_same_weights_settings_and_libraries(workspace, monkeypatch):
    put_member("convnext_large", 0)
    put_member("convnext_large", 1)

    def fingerprint(*members, name="mine", **more):
        return make_fingerprint(read_ensemble(Ensemble(name, "train", list(members), **more)), {})

    one, other = EnsembleMember("convnext_large", 0), EnsembleMember("convnext_large", 1)
    cascade = Cascade(["convnext_large:0"], 0.1, 0.9)
    prints = [fingerprint(one), fingerprint(other), fingerprint(one, other), fingerprint(one, other, cascade=cascade)]
    prints.append(fingerprint(EnsembleMember("convnext_large", 0, 2.0), other))
    point = '{"thresholds": [{"name": "eer", "threshold": 0.3}]}'
    (workspace / "weights" / "train" / "decided.json").write_text(point)
    prints.append(fingerprint(one, other, name="decided"))
    put_member("convnext_large", 0, "train", "view.size=64")
    prints.append(fingerprint(one))
    today = prints[-1]
    prints.append(fingerprint(one, other, cascade=Cascade(["convnext_large:0"], 0.1, 0.8)))
    prints.append(fingerprint(one, other, cascade=Cascade(["convnext_large:1"], 0.1, 0.8)))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")  # other kernels, other last bits
    prints.append(fingerprint(one))
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0" if name == "av" else version(name))
    prints.append(fingerprint(one))  # another decoder
    monkeypatch.undo()
    monkeypatch.setenv("LIVENESS_ROOT", str(workspace))
    assert len(set(prints)) == len(prints) and fingerprint(one) == today


def test_rows_hold_only_for_the_same_videos_and_finished_ones(workspace, tiny_clips):
    clips = [tiny_clips(workspace / "clips" / f"{n}.mp4", 4, (64, 64), seed=n) for n in range(3)]
    folder = workspace / "out"
    partial = Partial(folder, "ours")
    assert partial.begin(clips) == ""
    rows = {path.name: Row(path.name, 0.25, "attack", "ok", 'odd, "name"', 3, None, 1.5) for path in clips}
    rows["2.mp4"].status = "crashed"
    for path in clips:
        partial.add(rows[path.name], path)
    partial.close()
    again = Partial(folder, "ours")
    assert "continuing: 2 of 3 videos" in again.begin(clips)  # what crashed may have been the machine's fault
    assert again.finished() == {name: rows[name] for name in ("0.mp4", "1.mp4")}
    tiny_clips(clips[1], 5, (64, 64), seed=9)
    replaced = Partial(folder, "ours")
    assert "continuing: 1 of 3 videos" in replaced.begin(clips)
    assert list(replaced.rows) == ["0.mp4"]
    # It is the bytes that count: a copy has another time of change, and another video may have the same one.
    os.utime(clips[0], ns=(5, 5))
    assert list(rows_that_hold(folder, "ours", clips)) == ["0.mp4"]
    other_bytes = bytearray(clips[0].read_bytes())
    other_bytes[-1] ^= 1
    clips[0].write_bytes(other_bytes)
    os.utime(clips[0], ns=(5, 5))
    assert list(rows_that_hold(folder, "ours", clips)) == []
    assert "begun anew" in Partial(folder, "another").begin(clips)
    # Rows of fewer columns, as earlier code wrote them, are scored again.
    lines = (folder / PARTIAL_FILE).read_text().splitlines()
    old = [",".join(line.split(",")[:8] + line.split(",")[-1:]) for line in lines[1:]]
    (folder / PARTIAL_FILE).write_text("\n".join([lines[0], *old, ""]))
    assert "begun anew" in (older := Partial(folder, "ours")).begin(clips) and older.rows == {}
    (folder / PARTIAL_FILE).write_bytes(b"\0\xff no such thing\n")
    assert "begun anew" in Partial(folder, "another").begin(clips)


def rows_that_hold(folder: Path, fingerprint: str, clips: list[Path]) -> dict:
    partial = Partial(folder, fingerprint)
    partial.begin(clips)
    return partial.rows


@pytest.mark.parametrize(
    ("visible", "alike", "apart"),
    [
        (("0", "1", "0,1", None), True, False),  # equal ones: whichever
        (("", "-1"), True, True),  # none at all: the CPU scores
        (("0", "1"), False, False),
    ],
)
def test_which_gpus_are_to_be_seen_is_part_of_what_rows_hold_for(tmp_path, monkeypatch, visible, alike, apart):
    for number in range(2):
        folder = tmp_path / "proc/driver/nvidia/gpus" / str(number)
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: GPU {'A' if alike else number}\n")

    def hardware(value):
        if value is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        return tuple(partial_rows._hardware(tmp_path))

    found = {hardware(value) for value in visible}
    assert len(found) == (1 if alike else len(visible))
    assert (hardware("0") not in found) is apart


def test_members_that_take_turns_leave_rows_now_and_then(workspace, tiny_clips, monkeypatch):
    """A stop between two rounds loses the last one, not all that came before."""
    put_member("convnext_large", 0)
    clips = [tiny_clips(workspace / f"{n}.mp4", 4, (64, 64), seed=n) for n in range(5)]
    monkeypatch.setattr(engine, "TURN_VIDEOS", 2)
    loaded, asked = load_members(Ensemble("mine", "train", MEMBER), memory="turns"), []

    def one_by_one():
        for prepared in engine.decode_ahead(clips, loaded.wanted(), 1):
            asked.append(prepared.path)
            yield prepared

    rows = engine.score_prepared(one_by_one(), loaded)
    assert [next(rows)[1].status for _ in range(2)] == ["ok", "ok"] and len(asked) == 2
    assert len(list(rows)) == 3


def test_a_row_that_cannot_be_written_is_a_users_line(workspace, tiny_clips):
    clip = tiny_clips(workspace / "0.mp4", 4, (64, 64))
    (workspace / "out").mkdir()
    partial = Partial(workspace / "out", "x")
    (workspace / "out" / PARTIAL_FILE).symlink_to("/dev/full")
    with pytest.raises(UserError, match="No space left on device.*no video was finished"):
        partial.add(Row("0.mp4", 0.5, "abstain", "ok", "", 1, None, 1.0), clip)


@pytest.mark.full
def test_memory_stays_flat_over_many_videos(workspace, many):
    """Peak memory of all processes of a run of 400 videos, against that of 40."""
    few = workspace / "few"
    few.mkdir()
    for n in range(40):
        os.link(many / f"{n}.mp4", few / f"{n}.mp4")
    peaks = []
    for folder in (few, many):
        command = [sys.executable, "-m", "liveness.predict", str(folder), str(workspace / "out"), *OPTIONS]
        environment = {**os.environ, "PYTHONPATH": str(CODE / "src")}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        peak = 0
        while process.poll() is None:
            peak = max(peak, most_resident(process.pid))
            time.sleep(0.02)
        assert process.returncode == 0
        peaks.append(peak)
    assert peaks[1] < peaks[0] + 60 * (1 << 20), peaks


def most_resident(pid: int) -> int:
    """The most resident bytes that a process and all its descendants have had, each by itself, so that no peak
    between two looks is missed."""
    try:
        (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, ValueError):
        return 0
    return 1024 * int(line) + sum(most_resident(int(child)) for child in children)


def test_the_order_is_a_sample_submissions(workspace, tiny_clips, monkeypatch, capsys):
    put_member("convnext_large", 0)
    folder = workspace / "set" / "videos"
    for n in (1, 2, 10):
        tiny_clips(folder / f"{n}.mp4", 4, (64, 64), seed=n)
    sample = workspace / "set" / "sample_submission.csv"
    sample.write_text("fname,liveness_score\n10.mp4,0.5\n7.mp4,0.5\n1.mp4,0.5\n")
    arguments = [str(workspace / "set"), str(workspace / "out"), "--members", "convnext_large:0"]
    monkeypatch.setattr(sys, "argv", ["predict", *arguments])
    assert predict.main() == 0
    err = capsys.readouterr().err
    with open(workspace / "out" / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["fname"], row["status"]) for row in rows] == [
        ("10.mp4", "ok"), ("7.mp4", "missing"), ("1.mp4", "ok"), ("2.mp4", "ok"),
    ]  # fmt: skip
    assert (rows[1]["score"], rows[1]["decision"]) == ("0.500000000", "abstain")
    assert "1 videos are not in the sample submission (2.mp4, ...)" in err
    assert "warning: 7.mp4: missing" in err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fname,liveness_score\n../secret.mp4,0.5\n", "not a plain file name"),
        ("fname,liveness_score\n1.mp4,0.5\n1.mp4,0.5\n", "is there twice"),
        ("1.mp4,0.5\n", "expected the header"),
        ("", "expected the header"),
    ],
)
def test_a_sample_submission_that_is_none_is_one_line(workspace, text, words):
    from liveness.prediction.submission_order import read_names

    (workspace / "sample.csv").write_text(text)
    with pytest.raises(UserError, match=words):
        read_names([workspace / "sample.csv"])
