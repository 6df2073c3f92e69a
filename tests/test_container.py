"""The judging container's contract, in namespaces: no network, read-only code and data, any user, three layouts.

The environment is the one that runs the tests; /code holds what the Dockerfile copies, with the weights of a small
trained ensemble. scripts/test_container.sh tries the same in an image that was built.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from namespaces import SERVE_AND_ASK, Container, code_tree, copied_into_the_image, reason_against

from liveness.base.files import CODE

SOME_USER = 47110  # in no passwd file


@pytest.fixture(scope="module")
def judged(tmp_path_factory) -> Path:
    """A folder with code/ (the image's /code), clips/ (new videos) and expected.csv (what predict.sh gives here)."""
    why = reason_against()
    if why:
        pytest.skip(f"no containers can be made here: {why}")
    root = tmp_path_factory.mktemp("judged")
    root.parent.chmod(0o755)
    values = {**os.environ, "LIVENESS_ROOT": str(root), "PYTHON": sys.executable, "PYTHONPATH": str(CODE / "src")}
    make = [sys.executable, str(CODE / "tests" / "tiny_ensemble.py")]
    done = subprocess.run(make, env=values, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    predict = ["bash", str(CODE / "predict.sh"), str(root / "clips"), str(root / "here")]
    done = subprocess.run(predict, env=values, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    code_tree(root / "code", root / "weights")
    for folder in (root, root / "clips"):
        folder.chmod(0o755)
    return root


def mounted(tmp_path: Path, layout: str, clips: Path) -> Path:
    """A folder with the clips in one of the layouts, to be mounted."""
    folder = tmp_path / "mounted"
    shutil.copytree(clips, folder / layout)
    return folder


def made_by_docker(tmp_path: Path) -> Path:
    """An absent source of a mount as Docker makes it: root's, 755."""
    folder = tmp_path / "made by docker"
    folder.mkdir(mode=0o755)
    return folder


def submission(folder: Path) -> bytes:
    return (folder / "submission.csv").read_bytes()


@pytest.mark.full
@pytest.mark.parametrize(
    ("layout", "data", "result"),
    [
        (".", "/data", "/result"),
        ("private_test/videos", "/data", "/result"),
        ("videos", "/data", "/result"),
        (".", "/code/data", "/code/result"),
    ],
)
def test_a_judges_call_gives_the_submission(judged, tmp_path, layout, data, result):
    """Root, no network, everything read-only but a result folder made by Docker, no home, 64 KiB of shared memory."""
    out = made_by_docker(tmp_path)
    source = mounted(tmp_path, layout, judged / "clips")
    if data.startswith("/code/"):
        # What docker run does for a mount inside the image: it makes the place.
        code = tmp_path / "code"
        shutil.copytree(judged / "code", code)
        (code / "data").mkdir()
        (code / "result").mkdir()
    else:
        code = judged / "code"
    box = Container(code, [(source, data, True), (out, result, False)])
    done = box.run("/bin/bash", "/code/predict.sh")
    assert done.returncode == 0, done.stdout + done.stderr
    assert submission(out) == submission(judged / "here")
    assert "load time: " in done.stdout and "prediction time: " in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.full
def test_any_user_may_run_it_where_it_may_write(judged, tmp_path):
    out, foreign = tmp_path / "out", made_by_docker(tmp_path)
    out.mkdir()
    os.chown(out, SOME_USER, SOME_USER)
    data = mounted(tmp_path, ".", judged / "clips")
    (data / "lost+found").mkdir(mode=0o700)  # as at the root of a mounted disk
    box = Container(judged / "code", [(data, "/data", True), (out, "/result", False)], user=SOME_USER)
    done = box.run("/bin/bash", "predict.sh")
    assert done.returncode == 0, done.stdout + done.stderr
    assert submission(out) == submission(judged / "here")
    # Where it may not write, one line says so before the work.
    box.mounts[1] = (foreign, "/result", False)
    done = box.run("/bin/bash", "/code/predict.sh")
    assert done.returncode == 1
    assert "error: /result: cannot write there" in done.stderr and "Traceback" not in done.stderr
    assert "prediction time" not in done.stdout


@pytest.mark.full
def test_an_absent_result_folder_is_made(judged):
    box = Container(judged / "code", [(judged / "clips", "/data", True)])
    done = box.run("bash", "-c", "bash /code/predict.sh >&2 && cat /result/submission.csv")
    assert done.returncode == 0, done.stderr
    assert done.stdout.encode() == submission(judged / "here")


@pytest.mark.full
def test_the_network_is_really_cut_off(judged):
    """The tests above stand on it: nothing but the loopback device is inside."""
    program = "import socket; print(sorted(name for _, name in socket.if_nameindex()))"
    done = Container(judged / "code").run(sys.executable, "-c", program)
    assert done.stdout.strip() == "['lo']", done.stderr
    done = Container(judged / "code").run("bash", "-c", "touch /code/x || touch /usr/x || df /dev/shm | tail -n 1")
    assert done.stdout.split()[1] == "64"


@pytest.mark.full
def test_jupyter_lab_serves_the_notebook_inside(judged):
    done = Container(judged / "code", user=SOME_USER).run("bash", "-c", SERVE_AND_ASK, "start_jupyter.sh")
    assert done.returncode == 0, done.stdout + done.stderr
    without_token, with_token, names = json.loads(done.stdout)
    assert (without_token, with_token) == (403, 200)
    assert "predict_notebook.ipynb" in names


@pytest.mark.full
@pytest.mark.parametrize("user", [0, SOME_USER])
def test_the_notebook_gives_the_submissions_scores_and_a_time_for_each_video(judged, tmp_path, user):
    out = tmp_path / "out"
    out.mkdir()
    os.chown(out, user, user)
    mounts = [(judged / "clips", "/data", True), (out, "/result", False)]
    # As in the image: kernels have the code's path from the Dockerfile.
    box = Container(judged / "code", mounts, user, {"PYTHONPATH": "/code/src", "HOME": "/tmp"})
    execute = ["-m", "nbconvert", "--to", "notebook", "--execute", "--output-dir", "/tmp"]
    done = box.run(sys.executable, *execute, "/code/predict_notebook.ipynb")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (out / "jupyter_submission.csv").read_bytes() == submission(judged / "here")
    with open(out / "time_submission.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["fname", "time"]
    assert [row["fname"] for row in rows] == ["1.mp4", "2.mp4", "10.mp4"]
    assert all(0 < float(row["time"]) < 60_000 for row in rows)


def test_the_image_holds_what_it_needs_and_nothing_that_is_absent():
    copied = copied_into_the_image()
    assert [str(source) for source, _ in copied if not source.exists()] == []
    names = {path for _, path in copied}
    assert {"predict.sh", "start_jupyter.sh", "jupyter.sh", "predict_notebook.ipynb", "weights", "src"} <= names
    assert {"pyproject.toml", "configs"} <= names  # what common.sh and base/files.py know a repository by
    dockerfile = (CODE / "Dockerfile").read_text(encoding="utf-8")
    assert 'CMD ["/bin/bash", "/code/predict.sh"]' in dockerfile and "WORKDIR /code" in dockerfile
    # The dependencies are one layer, before anything that changes with the code.
    assert dockerfile.index("pip install") < dockerfile.index("COPY --chmod=755")
