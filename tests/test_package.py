"""The package as others install it: a wheel that needs no repository, and a program that names every verb."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from liveness.__main__ import GROUPS, usage
from liveness.base.files import CODE

PACKAGE = CODE / "src" / "liveness"
PROJECT = tomllib.loads((CODE / "pyproject.toml").read_text(encoding="utf-8"))


def verbs() -> set[str]:
    """The modules that can be run: those beside the package's folders, and packages with a __main__."""
    modules = {path.stem for path in PACKAGE.glob("*.py") if not path.name.startswith("__")}
    return modules | {path.parent.name for path in PACKAGE.glob("*/__main__.py")}


def test_the_program_lists_every_verb_once():
    listed = [verb for group in GROUPS.values() for verb in group]
    assert sorted(listed) == sorted(verbs() - {"torchrun"})  # the launcher of train.sh, no verb of its own
    text = usage()
    assert all(f"  {verb} " in text for verb in listed)


def test_every_folder_of_the_package_goes_into_the_wheel():
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    folders = {f"liveness.{path.parent.name}" for path in PACKAGE.glob("*/__init__.py")}
    assert listed == folders | {"liveness", "liveness.configs"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's content, made as pip makes it, far from the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        str(CODE),
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(folder),
    ]
    leave = [
        "--exclude=./.venv",
        "--exclude=./.git",
        "--exclude=./raw",
        "--exclude=./data",
        "--exclude=./runs",
        "--exclude=./weights",
    ]
    source = folder / "source"  # setuptools leaves build/ beside what it builds
    source.mkdir()
    packed = subprocess.Popen(["tar", "-C", str(CODE), *leave, "-cf", "-", "."], stdout=subprocess.PIPE)
    subprocess.run(["tar", "-C", str(source), "-xf", "-"], stdin=packed.stdout, check=True)
    assert packed.wait() == 0
    build[4] = str(source)
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    target = folder / "site-packages"
    zipfile.ZipFile(wheel).extractall(target)
    return target


def outside(installed: Path, folder: Path, *command: str) -> subprocess.CompletedProcess:
    values = {**os.environ, "PYTHONPATH": str(installed)}
    values.pop("LIVENESS_ROOT", None)
    call = [sys.executable, "-m", "liveness", *command]
    return subprocess.run(call, cwd=folder, env=values, capture_output=True, text=True, timeout=300)


@pytest.mark.full
def test_the_wheel_works_without_a_repository(installed, tmp_path):
    told = outside(installed, tmp_path, "-h")
    assert told.returncode == 0 and told.stdout.strip() == usage()
    # Its own configs, found inside; its workspace is the current folder.
    listed = outside(installed, tmp_path, "members", "zalo2022")
    assert listed.returncode == 0 and listed.stdout.split()[:3] == ["convnext_xlarge", "0", "train"]
    nothing = outside(installed, tmp_path, "predict", "--ensemble", "demo", ".", "out")
    assert nothing.returncode == 1 and nothing.stderr.startswith("error: ") and "Traceback" not in nothing.stderr


@pytest.mark.full
def test_a_missing_extra_is_one_line(installed, tmp_path):
    (tmp_path / "hydra").mkdir()
    (tmp_path / "hydra" / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'hydra'\", name='hydra')\n"
    )
    values = {**os.environ, "PYTHONPATH": f"{tmp_path}:{installed}"}
    call = [sys.executable, "-m", "liveness", "members", "zalo2022"]
    said = subprocess.run(call, cwd=tmp_path, env=values, capture_output=True, text=True, timeout=300)
    assert said.returncode == 1
    assert said.stderr.strip() == 'error: members: the package hydra is missing; install: pip install "liveness[train]"'
