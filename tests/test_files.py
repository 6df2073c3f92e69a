"""Files that appear whole: links stay links, what dead processes left is swept and nothing else is."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from liveness.base import files
from liveness.base.errors import UserError
from liveness.base.files import CODE, held, sweep, write_bytes, written_aside

DAY = 86_400


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def side(folder: Path, where: str, process: int | str, age: float = 0.0) -> Path:
    path = folder / f".aside-{where}-{process}-abcdefgh.pt"
    path.write_bytes(b"half")
    os.utime(path, (time.time() - age,) * 2)
    return path


@pytest.fixture
def killed(tmp_path) -> Path:
    """A folder in which a process was killed while it wrote."""
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom liveness.base.files import written_aside\n"
        "with written_aside(Path(sys.argv[1])) as side:\n    side.write_bytes(b'half')\n    os.kill(os.getpid(), 9)"
    )
    env = {**os.environ, "PYTHONPATH": str(CODE / "src")}
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "x.pt")], env=env, timeout=60, check=False)
    assert done.returncode == -9 and len(list(tmp_path.iterdir())) == 1
    return tmp_path


def test_the_next_write_into_the_folder_sweeps_what_a_killed_process_left(killed):
    write_bytes(killed / "other.pt", b"whole")
    assert [path.name for path in killed.iterdir()] == ["other.pt"]


def test_a_file_that_is_being_written_is_not_swept(tmp_path):
    with written_aside(tmp_path / "x.pt") as path:
        path.write_bytes(b"half")
        os.utime(path, (0, 0))
        sweep(tmp_path)
        sweep(tmp_path, patience=0)
        program = (
            "import sys\nfrom pathlib import Path\nfrom liveness.base.files import sweep, write_bytes\n"
            "folder = Path(sys.argv[1])\nwrite_bytes(folder / 'y.pt', b'y')\nsweep(folder, patience=0)"
        )
        env = {**os.environ, "PYTHONPATH": str(CODE / "src")}
        subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=env, timeout=60, check=True)
        assert path.read_bytes() == b"half"
        # Also where the lock is not seen, as on some shared file systems: its process lives.
        copy = tmp_path / path.name.replace(path.name.split("-")[-1], "ijklmnop.pt")
        copy.write_bytes(b"half")
        sweep(tmp_path)
        assert copy.exists()
    assert (tmp_path / "x.pt").read_bytes() == b"half"


def test_whose_side_files_go_and_when(tmp_path):
    """Ours at once when the process is gone; those of other machines, containers and older versions after an hour."""
    here = files._here()
    gone = [
        side(tmp_path, here, dead_process()),
        side(tmp_path, "0badcafe", 1, DAY),
        side(tmp_path, here, "x", DAY),
        side(tmp_path, "k3j2h1g0", "", DAY),
    ]
    stay = [
        side(tmp_path, here, os.getpid(), DAY),
        side(tmp_path, "0badcafe", dead_process()),
        side(tmp_path, "12345678", 1, 60),
    ]
    mine = tmp_path / "aside-of-mine"
    mine.touch()
    sweep(tmp_path)
    assert not [path for path in gone if path.exists()]
    assert all(path.exists() for path in [*stay, mine])


def test_a_link_stays_a_link_and_its_file_is_written(tmp_path):
    store, place = tmp_path / "store", tmp_path / "place"
    store.mkdir()
    place.mkdir()
    (store / "file.pt").write_bytes(b"old")
    link = place / "x.pt"
    link.symlink_to("../store/file.pt")
    write_bytes(link, b"new")
    assert link.is_symlink() and os.readlink(link) == "../store/file.pt"
    assert (store / "file.pt").read_bytes() == b"new"
    assert [p.name for p in place.iterdir()] == ["x.pt"] and [p.name for p in store.iterdir()] == ["file.pt"]
    # A link to a link, and one to a file that is not there yet.
    (place / "y.pt").symlink_to("x.pt")
    (place / "z.pt").symlink_to(store / "later.pt")
    write_bytes(place / "y.pt", b"newer")
    write_bytes(place / "z.pt", b"first")
    assert (store / "file.pt").read_bytes() == b"newer" and (store / "later.pt").read_bytes() == b"first"
    assert all((place / name).is_symlink() for name in ("x.pt", "y.pt", "z.pt"))
    # What fails leaves the file as it was.
    with pytest.raises(ZeroDivisionError), written_aside(link) as path:
        path.write_bytes(b"half")
        raise ZeroDivisionError
    assert link.read_bytes() == b"newer"


@pytest.mark.parametrize("name", ["n" * 251 + ".csv", "n" * 255, "n." + "x" * 253, "ạ" * 83 + ".txt"])
def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path, name):
    write_bytes(tmp_path / name, b"whole")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"whole"


def test_the_side_name_keeps_the_ending_that_writers_look_at(tmp_path):
    with written_aside(tmp_path / "picture.png") as path:
        assert path.suffix == ".png" and path.parent == tmp_path
        path.write_bytes(b"")


def test_a_lock_is_held_alone_or_shared(tmp_path):
    with held(tmp_path / "lock", "taken"):
        for shared in (False, True):
            with pytest.raises(UserError, match="^taken$"), held(tmp_path / "lock", "taken", shared):
                pass
    with (
        held(tmp_path / "lock", "taken", shared=True),
        held(tmp_path / "lock", "taken", shared=True),
        pytest.raises(UserError),
        held(tmp_path / "lock", "taken"),
    ):
        pass
    with held(tmp_path / "lock", "taken"):
        pass
