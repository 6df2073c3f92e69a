"""Every driver: -h is its header, misuse exits 2, the interpreter and the GPUs are chosen as documented."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from liveness.base.files import CODE

DRIVERS = sorted(p.name for p in CODE.glob("*.sh")) + sorted(f"scripts/{p.name}" for p in CODE.glob("scripts/*.sh"))
SOURCED = ("scripts/common.sh", "scripts/spread.sh")
DRIVERS = [name for name in DRIVERS if name not in SOURCED]
WITHOUT_INTERPRETER = (
    "scripts/setup.sh",
    "scripts/compile_requirements.sh",
    "scripts/setup_dvc.sh",
    "scripts/with_bucket.sh",
)
# Two-line callers of train_member.sh show its header.
CALLERS = [name for name in DRIVERS if name.startswith("scripts/train_convnext_")]


def common(text: str, env: dict[str, str] | None = None, code: Path = CODE) -> subprocess.CompletedProcess:
    """Run bash lines after sourcing common.sh, with nothing of the caller's settings."""
    clean = {key: value for key, value in os.environ.items() if key not in ("NGPU", "DRY_RUN", "CUDA_VISIBLE_DEVICES")}
    clean |= {"PYTHON": sys.executable, **(env or {})}
    return subprocess.run(
        ["bash", "-c", f'source "$0/scripts/common.sh"\n{text}', str(code)],
        env=clean,
        capture_output=True,
        text=True,
        timeout=300,
    )


def fake(folder: Path, name: str, text: str) -> Path:
    """An executable of that name in a folder for PATH."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)
    return folder


@pytest.mark.parametrize("name", DRIVERS)
def test_help_is_the_header(run_driver, name):
    # An interpreter that does not exist: help must not need one.
    result = run_driver(name, "-h", env={"PYTHON": "/nowhere/python"})
    assert result.returncode == 0, result.stderr
    home = "scripts/train_member.sh" if name in CALLERS else name
    assert Path(home).name in result.stdout
    assert not any(line.startswith("#") for line in result.stdout.splitlines())
    assert len(result.stdout.splitlines()) >= 3


def test_the_layout_is_whole():
    expected = {"prepare_data.sh", "train.sh", "predict.sh", "download_weights.sh", "demo.sh", "test.sh"}
    expected |= {"start_jupyter.sh", "jupyter.sh"}
    expected |= {"scripts/setup.sh", "scripts/download_data.sh", "scripts/train_member.sh"}
    expected |= {f"scripts/train_convnext_xlarge_fold{k}.sh" for k in range(5)}
    expected |= {f"scripts/train_convnext_large_fold{k}.sh" for k in range(3)}
    assert expected <= set(DRIVERS)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("demo.sh", ["fast"]),
        ("download_weights.sh", ["pretraned"]),
        ("scripts/download_data.sh", ["trian"]),
        ("scripts/setup.sh", ["--dve"]),
        ("scripts/setup_dvc.sh", ["--s4"]),
        ("scripts/with_bucket.sh", ["bucket", "true"]),
        ("scripts/with_bucket.sh", ["s3://bucket/x"]),
        ("scripts/review_change.sh", []),
        ("scripts/verb.sh", []),
        ("scripts/train_member.sh", ["convnext_large"]),
        ("scripts/train_member.sh", []),
        ("prepare_data.sh", ["--no-such-option"]),
        ("train.sh", ["--no-such-option"]),
        ("predict.sh", ["--no-such-option"]),
        ("create_sample_sub.py", ["--no-such-option"]),
    ],
)
def test_misuse_exits_2(run_driver, name, arguments):
    result = run_driver(name, *arguments)
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.strip()


@pytest.mark.parametrize("name", [name for name in DRIVERS if name not in WITHOUT_INTERPRETER])
def test_an_interpreter_that_does_not_exist_is_one_line(run_driver, name):
    arguments = ["efficientnet_lite0", "0"] if name == "scripts/train_member.sh" else []
    result = run_driver(name, *arguments, env={"PYTHON": "/nowhere/python"})
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].endswith("PYTHON=/nowhere/python: no such interpreter")


def test_an_interpreter_without_the_packages_is_named(tmp_path):
    bare = tmp_path / "bare python"
    # -S: no site-packages, as in an interpreter where nothing is installed.
    fake(tmp_path, bare.name, f'exec "{sys.executable}" -S "$@"')
    result = common("pick_python", {"PYTHON": str(bare)})
    assert result.returncode == 1
    lacking = result.stderr.partition("it lacks ")[2].partition(";")[0].split(", ")
    assert {"torch", "timm", "numpy", "hydra-core"} <= set(lacking)  # what pyproject.toml lists
    assert "scripts/setup.sh" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_interpreter_of_the_active_environment_is_used_without_venv(tmp_path):
    # A copy of the code in a path with a space, without .venv.
    code = tmp_path / "the code"
    (code / "scripts").mkdir(parents=True)
    shutil.copy(CODE / "scripts" / "common.sh", code / "scripts")
    shutil.copy(CODE / "pyproject.toml", code)
    path = fake(tmp_path / "bin", "python3", f'exec "{sys.executable}" "$@"')
    result = common('pick_python; echo "$PY"', {"PYTHON": "", "PATH": f"{path}:/usr/bin:/bin"}, code)
    assert result.stdout.strip() == str(path / "python3")
    # Nothing usable: one line that says what to run.
    fake(tmp_path / "bin", "python3", "exit 3")
    fake(tmp_path / "bin", "python", "exit 3")
    result = common("pick_python", {"PYTHON": "", "PATH": f"{path}:/usr/bin:/bin"}, code)
    assert result.returncode == 1
    assert "bash scripts/setup.sh" in result.stderr
    # .venv goes before the active environment.
    venv = code / ".venv" / "bin"
    venv.mkdir(parents=True)
    fake(venv, "python", f'exec "{sys.executable}" "$@"')
    result = common('pick_python; echo "$PY"', {"PYTHON": "", "PATH": f"{path}:/usr/bin:/bin"}, code)
    assert result.stdout.strip() == str(venv / "python")


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, "4"),
        ({"NGPU": "2"}, "2"),
        ({"NGPU": "0"}, "0"),
        ({"CUDA_VISIBLE_DEVICES": "1,3"}, "2"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "0"),
        ({"CUDA_VISIBLE_DEVICES": "0,-1,2"}, "1"),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "NGPU": "1"}, "1"),
    ],
)
def test_gpus_are_counted(tmp_path, env, expected):
    lines = "\n".join(f'echo "GPU {k}: a card (UUID: GPU-{k})"' for k in range(4))
    path = fake(tmp_path / "bin", "nvidia-smi", f"[[ $1 == -L ]] || exit 1\n{lines}")
    result = common("gpus", {**env, "PATH": f"{path}:{os.environ['PATH']}"})
    assert result.stdout.strip() == expected


def test_zero_gpus_hide_them_also_from_a_process_that_would_look_by_itself():
    show = 'echo "[${CUDA_VISIBLE_DEVICES-unset}]"'
    assert common(show, {"NGPU": "0"}).stdout.strip() == "[]"
    assert common(show, {"NGPU": "1"}).stdout.strip() == "[unset]"


def test_no_gpu_tool_means_no_gpu(tmp_path):
    path = fake(tmp_path / "bin", "nvidia-smi", "echo 'has failed' >&2; exit 9")
    assert common("gpus", {"PATH": f"{path}:{os.environ['PATH']}"}).stdout.strip() == "0"


def test_launch_prints_what_it_would_run():
    result = common("launch liveness.train -c demo --fold 0 -o 'a b=1'", {"DRY_RUN": "1", "NGPU": "0"})
    torchrun = f"{sys.executable} -m liveness.torchrun --standalone --local_addr 127.0.0.1 --nproc_per_node 1"
    assert result.stdout.strip() == f"{torchrun} -m liveness.train -c demo --fold 0 -o a\\ b=1"
    nodes = {"DRY_RUN": "1", "NGPU": "8", "NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "first"}
    result = common("launch liveness.train", nodes)
    assert "--nnodes 2 --node_rank 1 --master_addr first --master_port 29500 --nproc_per_node 8" in result.stdout
    assert "--standalone" not in result.stdout
    del nodes["MASTER_ADDR"]
    assert common("launch liveness.train", nodes).returncode == 2
    assert common("launch liveness.train", {"NGPU": "two"}).returncode == 2


@pytest.mark.full
def test_launch_works_where_the_name_of_the_host_is_unknown(tmp_path):
    (tmp_path / "show.py").write_text(
        "import os, torch.distributed as d\nd.init_process_group('gloo')\nd.barrier()\nos.write(1, b'met\\n')\n"
    )
    if subprocess.run(["unshare", "--uts", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to change the host's name in a namespace of its own")
    text = f"""source '{CODE}/scripts/common.sh'; hostname no-such-host-anywhere; launch show"""
    env = {**os.environ, "PYTHON": sys.executable, "NGPU": "2", "PYTHONPATH": str(tmp_path)}
    command = ["unshare", "--uts", "bash", "-c", text]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert result.stdout.split() == ["met", "met"], result.stderr


@pytest.mark.full
def test_launch_shares_the_cores_among_the_processes(tmp_path):
    # One write a line: two processes share the pipe.
    (tmp_path / "show.py").write_text(
        "import os\n"
        "values = [os.environ[name] for name in ('RANK', 'WORLD_SIZE', 'OMP_NUM_THREADS')]\n"
        "os.write(1, ('process ' + ' '.join(values) + '\\n').encode())\n"
    )
    env = {"NGPU": "2", "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": ""}
    result = common("cores() { echo 6; }; launch show", env)
    assert result.returncode == 0, result.stderr
    assert sorted(result.stdout.splitlines()) == ["process 0 2 3", "process 1 2 3"]
    result = common("launch show", {**env, "OMP_NUM_THREADS": "5"})
    assert sorted(result.stdout.splitlines()) == ["process 0 2 5", "process 1 2 5"]


def test_the_sample_submission_has_the_names_as_found(run_driver, tmp_path):
    for folder in ("flat", "set/private_test/videos"):
        videos = tmp_path / folder
        videos.mkdir(parents=True)
        for name in ("10.mp4", "2.MP4", "gương mặt.mov", "notes.txt"):
            (videos / name).touch()
    for folder in ("flat", "set"):
        output = tmp_path / f"{folder}.csv"
        result = run_driver("create_sample_sub.py", tmp_path / folder, output)
        assert result.returncode == 0, result.stderr
        with open(output, encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        assert rows == [["fname", "liveness_score"], ["2.MP4", "0.5"], ["10.mp4", "0.5"], ["gương mặt.mov", "0.5"]]


def test_the_sample_submission_of_nothing_is_one_line(run_driver, workspace, tmp_path):
    for arguments in ([], [tmp_path / "absent"], [workspace]):
        result = run_driver("create_sample_sub.py", *arguments, cwd=tmp_path)
        assert result.returncode == 1
        assert result.stderr.startswith("error: ")
        assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "sample_submission.csv").exists()


@pytest.fixture
def empty_project(tmp_path) -> Path:
    """The setup script with nothing to install, so that it runs without a network."""
    code = tmp_path / "a project"
    (code / "scripts").mkdir(parents=True)
    (code / "src").mkdir()
    for name in ("common.sh", "setup.sh"):
        shutil.copy(CODE / "scripts" / name, code / "scripts")
    for name in (
        "requirements.txt",
        "requirements-notebook.txt",
        "requirements-identity.txt",
        "requirements-dev.txt",
        "constraints.txt",
    ):
        (code / name).write_text("# nothing\n")
    return code


@pytest.mark.full
def test_setup_installs_once_and_mends_what_was_interrupted(empty_project, tmp_path):
    env = {**os.environ, "PYTHON_BASE": sys.executable}

    def setup(*arguments: str, **more: str) -> str:
        command = ["bash", str(empty_project / "scripts" / "setup.sh"), *arguments]
        result = subprocess.run(command, env={**env, **more}, capture_output=True, text=True, cwd=tmp_path, timeout=300)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    venv = empty_project / ".venv"
    first = setup()
    assert "making .venv" in first
    assert "installing requirements.txt" in first
    # The package can be imported from any folder.
    (empty_project / "src" / "probe_of_setup.py").touch()
    subprocess.run([venv / "bin" / "python", "-c", "import probe_of_setup"], check=True, cwd=tmp_path)
    kept = venv / "kept"
    kept.touch()
    assert setup() == ""
    assert setup("--notebook").count("installing") == 1
    assert setup("--identity").count("installing") == 1
    assert setup("--dev").count("installing") == 1
    assert setup("--dev") == ""
    (empty_project / "constraints.txt").write_text("# changed\n")
    assert setup().count("installing requirements.txt") == 1
    assert kept.exists()
    # Half installed: begun anew.
    (venv / ".installing").touch()
    assert "making .venv" in setup()
    assert not kept.exists()
    # The interpreter below it changed.
    (venv / ".interpreter").write_text("3.11.0 /somewhere/else\n")
    assert "making .venv" in setup()


@pytest.mark.full
def test_setup_says_what_fails(empty_project, tmp_path):
    def setup(**env: str) -> subprocess.CompletedProcess:
        command = ["bash", str(empty_project / "scripts" / "setup.sh")]
        return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=300)

    result = setup(PYTHON_BASE="/nowhere/python")
    assert result.returncode == 1
    assert "PYTHON_BASE=/nowhere/python" in result.stderr
    # A package that is not to be had, and no index to ask: the installation does not look finished.
    (empty_project / "requirements.txt").write_text("no-such-package-of-ours==1.0\n")
    result = setup(PYTHON_BASE=sys.executable, PIP_NO_INDEX="1")
    assert result.returncode == 1
    assert "setup.sh: pip could not install requirements.txt" in result.stderr
    assert not list((empty_project / ".venv").glob(".installed-*"))
