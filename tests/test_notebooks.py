"""The notebooks run from top to bottom without a screen, with the code of the drivers; Jupyter Lab serves them."""

import csv
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest
import tiny_set
from nbclient import NotebookClient
from test_prediction import put_member

from liveness.base.files import CODE

NOTEBOOKS = (CODE / "predict_notebook.ipynb", CODE / "notebooks" / "train.ipynb")


def execute(path: Path, folder: Path) -> str:
    """Run every cell in a new kernel; what the cells printed. A cell that fails raises."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.metadata == {}
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.language_info == {"name": "python"}


@pytest.mark.full
def test_the_prediction_notebook_gives_the_bytes_of_the_submission(run_driver, workspace, monkeypatch):
    """Also in a sample submission's order, and for a video that cannot be read."""
    for recipe, folds in (("convnext_xlarge", 5), ("convnext_large", 3)):
        for fold in range(folds):
            put_member(recipe, fold)
    for number in (1, 2, 10):
        (workspace / "data").mkdir(exist_ok=True)
        tiny_set.write_clip(workspace / "data" / f"{number}.mp4", number % 2, seed=number)
    (workspace / "data" / "3.mp4").write_bytes(b"not a video")
    sample = "fname,liveness_score\n10.mp4,0\n3.mp4,0\n1.mp4,0\n2.mp4,0\n"
    (workspace / "data" / "sample_submission.csv").write_text(sample)
    done = run_driver("predict.sh")
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("PYTHONPATH", str(CODE / "src"))
    said = execute(NOTEBOOKS[0], CODE)
    assert "8 members, load time" in said and "4 videos in" in said
    result = workspace / "result"
    assert (result / "jupyter_submission.csv").read_bytes() == (result / "submission.csv").read_bytes()
    with open(result / "time_submission.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["fname", "time"]
    assert [name for name, _ in rows] == ["10.mp4", "3.mp4", "1.mp4", "2.mp4"]
    assert all(0 < float(milliseconds) < 60_000 for _, milliseconds in rows)


@pytest.mark.full
def test_the_training_notebook_walks_from_clips_to_the_report(workspace, monkeypatch):
    options = "-o train.epochs=1 train.batch=8 train.workers=0 view.size=64"
    for name, value in (("PYTHONPATH", str(CODE / "src")), ("CLIPS", "12"), ("OPTIONS", options)):
        monkeypatch.setenv(name, value)
    said = execute(NOTEBOOKS[1], CODE / "notebooks")
    report = json.loads((workspace / "runs" / "demo" / "demo" / "report.json").read_text())
    assert f"out-of-fold EER {report['pooled']['eer']:.1%}, 95 % interval" in said
    assert "of 12 held-out videos (12 persons) have a score" in said
    assert len(list((workspace / "weights" / "demo").glob("*.safetensors"))) == 5


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(port: int, path: str, token: str = "") -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
    if token:
        request.add_header("Authorization", f"token {token}")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


@pytest.mark.parametrize(
    ("driver", "token"),
    [("start_jupyter.sh", ""), pytest.param("jupyter.sh", "another one", marks=pytest.mark.full)],
)
def test_jupyter_lab_is_served_to_those_who_have_the_token(tmp_path, driver, token):
    port = free_port()
    settings = {"JUPYTER_PORT": str(port), "JUPYTER_IP": "127.0.0.1", "JUPYTER_TOKEN": token, "PYTHON": sys.executable}
    values = {key: value for key, value in os.environ.items() if key != "HOME" and "JUPYTER" not in key} | settings
    values["TMPDIR"] = str(tmp_path)
    with open(tmp_path / "said.txt", "w") as said:
        server = subprocess.Popen(["bash", str(CODE / driver)], env=values, cwd=tmp_path, stdout=said, stderr=said)
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                ask(port, "/api")
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline, (tmp_path / "said.txt").read_text()
                time.sleep(0.2)
        assert ask(port, "/api/contents")[0] == 403
        assert ask(port, "/api/contents", "wrong")[0] == 403
        status, text = ask(port, "/api/contents/", token or "zac2022")
        names = {entry["name"] for entry in json.loads(text)["content"]}
        assert status == 200 and {"predict_notebook.ipynb", "notebooks", "predict.sh"} <= names
        assert ask(port, "/lab", token or "zac2022")[0] == 200
    finally:
        server.terminate()
        code = server.wait(timeout=120)
    assert code in (0, -15)


@pytest.mark.full
def test_a_port_that_is_taken_is_an_error_not_another_port(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        values = {**os.environ, "JUPYTER_PORT": str(port), "JUPYTER_IP": "127.0.0.1", "PYTHON": sys.executable}
        done = subprocess.run(
            ["bash", str(CODE / "jupyter.sh")], env=values, capture_output=True, text=True, timeout=120, cwd=tmp_path
        )
    assert done.returncode != 0
    assert str(port) in done.stderr
