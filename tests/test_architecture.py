"""Imports run one way, and a few libraries are touched in one place only."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from liveness.base.files import CODE

PACKAGE = CODE / "src" / "liveness"


def check_imports(root: Path) -> subprocess.CompletedProcess:
    """import-linter on the package below ``root``/src, with the contracts of ``root``/pyproject.toml."""
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command as c; c()",
            "--no-cache",
            "--no-logo",
        ],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root / "src")},
        capture_output=True,
        text=True,
        timeout=300,
    )


def imported(path: Path) -> set[str]:
    """Every module that a source file imports, dotted, wherever in the file it does so."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_imports_run_one_way():
    result = check_imports(CODE)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("frames/video.py", "import liveness.sets.labels"),
        ("evaluation/metrics.py", "from liveness.base import files"),
        ("download.py", "def late():\n    from liveness import predict"),
        ("new_module.py", "import os"),
    ],
)
def test_a_wrong_import_is_found(tmp_path, file, line):
    shutil.copy(CODE / "pyproject.toml", tmp_path)
    shutil.copytree(PACKAGE, tmp_path / "src" / "liveness", ignore=shutil.ignore_patterns("__pycache__"))
    with open(tmp_path / "src" / "liveness" / file, "a", encoding="utf-8") as source:
        source.write(f"\n\n{line}\n")
    result = check_imports(tmp_path)
    assert result.returncode != 0
    assert "BROKEN" in result.stdout or "new_module" in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("library", "home"),
    [
        # torchrun.py is the launcher's side: it never runs in a process that trains.
        ("torch.distributed", {"base/distributed.py", "torchrun.py"}),
        ("hydra", {"base/compose.py"}),
        ("omegaconf", {"base/compose.py"}),
    ],
)
def test_a_library_has_one_home(library, home):
    users = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if any(name == library or name.startswith(library + ".") for name in imported(path))
    }
    assert users <= home


def test_every_declared_dependency_is_pinned_and_alike_in_all_files():
    def name_of(line: str) -> str:
        return re.split(r"[=<>]", line)[0].strip().lower().replace("_", "-")

    def pins(name: str) -> dict[str, str]:
        lines = (CODE / name).read_text(encoding="utf-8").splitlines()
        lines = [line for line in lines if line and not line.startswith(("#", "-c "))]
        assert [line for line in lines if line.count("==") != 1 or "@" in line or "/" in line] == []
        return {name_of(line): line for line in lines}

    project = tomllib.loads((CODE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras, wanted = project["optional-dependencies"], set(map(name_of, project["dependencies"]))
    before: dict[str, str] = {}
    for file, added in (
        ("requirements.txt", ["train"]),
        ("requirements-notebook.txt", ["notebook"]),
        ("requirements-dev.txt", ["trackers", "export", "dev"]),
    ):
        found = pins(file)
        wanted |= {name_of(line) for extra in added for line in extras[extra]}
        assert wanted <= set(found) and before.items() <= found.items(), file
        before = found
    served = pins("requirements-serve.txt")
    needed = [*project["dependencies"], *extras["runtime"], *extras["serve"]]
    assert set(map(name_of, needed)) <= set(served) and served.items() <= before.items()
    assert not set(pins("constraints.txt")) & set(before)
    exporting, runtime = pins("requirements-export.txt"), pins("requirements-runtime.txt")
    assert pins("requirements.txt").items() <= exporting.items() and runtime.items() <= before.items()
    assert {name: line for name, line in exporting.items() if not name.startswith("openvino")}.items() <= before.items()
    assert {name_of(line) for line in [*project["dependencies"], *extras["runtime"]]} <= set(runtime) <= set(exporting)
    assert not {"torch", "timm", "pandas", "hydra-core", "albumentations", "scipy"} & set(runtime)
    base, found = pins("requirements.txt"), pins("requirements-identity.txt")
    assert base.items() <= found.items() and set(found) == set(base) | {name_of(line) for line in extras["identity"]}
    bulk = pins("requirements-bulk.txt")
    assert base.items() <= bulk.items() and set(map(name_of, extras["bulk"])) <= set(bulk)
    both = set(bulk) & set(before)
    assert {bulk[name] for name in both} == {before[name] for name in both}  # they can be installed side by side
