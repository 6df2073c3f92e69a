"""Bulk scoring: the manifest and its slices, what OUT holds, the summary; and, with Ray, a run that is killed."""

import contextlib
import functools
import http.server
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from s3_server import SERVER, started_server
from scipy.stats import entropy
from test_prediction import put_member

from liveness.base.config import Ensemble, EnsembleMember
from liveness.base.errors import UserError
from liveness.base.files import CODE
from liveness.bulk_scoring.manifest import check_manifest, deal, open_manifest
from liveness.bulk_scoring.places import Store, fetch_bytes, name_of
from liveness.bulk_scoring.summary import Tally, decide_by_score, describe_tally, summary_text
from liveness.evaluation.drift import count_in_bins, population_stability, quantile_edges
from liveness.prediction.engine import EnsembleDescription, load_members, score_paths
from liveness.prediction.operating import Operating
from liveness.prediction.rows import score_text

NEEDED = [name for name in ("ray", "pyarrow", "aiohttp", "fsspec") if importlib.util.find_spec(name) is None]
MEMBERS = [EnsembleMember("convnext_xlarge", 0, 3.0), EnsembleMember("convnext_large", 1)]


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def rows_of(manifest) -> list[tuple[str, str]]:
    return [pair for keys, places in manifest.pairs() for pair in zip(keys, places, strict=True)]


# --- the manifest ----------------------------------------------------------------------------------


def test_a_table_says_where_its_videos_lie_and_by_what_they_are_known(tmp_path):
    text = "key,path\na,clips/1.mp4\nb,/abs/2.mp4\nc,s3://bucket/x y/3.mp4\nd,https://host/4.mp4?v=1\n"
    text += "e,file:///abs/f%20e.mp4\n"
    manifest = open_manifest(write(tmp_path / "m.csv", text))
    assert rows_of(manifest) == [
        ("a", str(tmp_path / "clips/1.mp4")),
        ("b", "/abs/2.mp4"),
        ("c", "s3://bucket/x y/3.mp4"),
        ("d", "https://host/4.mp4?v=1"),
        ("e", "/abs/f e.mp4"),
    ]
    assert check_manifest(manifest) == 5
    assert [name_of(place) for _, place in rows_of(manifest)] == ["1.mp4", "2.mp4", "3.mp4", "4.mp4", "f e.mp4"]
    unnamed = open_manifest(write(tmp_path / "n.csv", "uri,who\n1.mp4,x\n2.mp4,y\n"))
    assert [key for key, _ in rows_of(unnamed)] == ["1.mp4", "2.mp4"]
    by_who = open_manifest(str(tmp_path / "n.csv"), key="who")
    assert [key for key, _ in rows_of(by_who)] == ["x", "y"]


@pytest.mark.parametrize(
    "text, said",
    [
        ("who\nx\n", "no column with paths; it has who"),
        ("path\n", "there is no row"),
        ("key,path\na,1.mp4\nb,2.mp4\na,3.mp4\n", "the key 'a' is in rows 1 and 3"),
        ("path\n1.mp4\n1.mp4\n", "the key '1.mp4' is in rows 1 and 2"),
        ("key,path\na,1.mp4\n,2.mp4\n", "row 2 has no key"),
        ("key,path\na,\n", "row 1 has no path"),
        ("path\n1.mp4\nftp://host/2.mp4\n", "row 2: nothing here reads or writes ftp://"),
        ("path;key\n1.mp4;a\n", "no column with paths"),
    ],
)
def test_a_table_that_is_wrong_is_refused_in_one_line(tmp_path, text, said):
    with pytest.raises(UserError, match=said) as refused:
        check_manifest(open_manifest(write(tmp_path / "m.csv", text)))
    assert "m.csv" in str(refused.value) and "\n" not in str(refused.value)


def test_what_is_no_manifest_or_no_place_for_results_is_refused(tmp_path):
    for source, said in ((tmp_path / "none", "not a manifest"), ("ftp://host/m.csv", "nothing here reads or writes")):
        with pytest.raises(UserError, match=said):
            open_manifest(str(source))
    with pytest.raises(UserError, match="leave out --column"):
        open_manifest(str(tmp_path), column="path")
    with pytest.raises(UserError, match="OUT: nothing here reads or writes https://"):
        Store("https://host/out")


def test_a_folder_is_listed_with_all_below_it_in_natural_order(tmp_path):
    for name in ("10.mp4", "2.mp4", ".hidden.mp4", "note.txt", "b/1.MOV", "a/c/3.webm", ".git/4.mp4", "x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "circle").symlink_to(tmp_path)
    listed = ["2.mp4", "10.mp4", "a/c/3.webm", "b/1.MOV"]
    assert rows_of(open_manifest(str(tmp_path))) == [(name, f"{tmp_path}/{name}") for name in listed]
    assert [key for key, _ in rows_of(open_manifest(str(tmp_path), images=True))] == [*listed[:2], "x.png", *listed[2:]]


def test_slices_hold_every_row_once_and_are_known_by_their_content(tmp_path):
    lines = [f"k{n},{n}.mp4" for n in range(23)]

    def dealt(rows: list[str], size: int = 5, identity: str = "weights"):
        return list(deal(open_manifest(write(tmp_path / "m.csv", "\n".join(["key,path", *rows]))), size, identity))

    first = dealt(lines)
    assert [key for piece in first for key in piece.keys] == [f"k{n}" for n in range(23)]
    assert [len(piece.keys) for piece in first] == [5, 5, 5, 5, 3] and [p.index for p in first] == list(range(5))
    assert dealt(lines) == first and len({piece.name for piece in first}) == 5
    for changed in ("k7,other.mp4", "other,7.mp4"):
        second = dealt([*lines[:7], changed, *lines[8:]])
        assert [a.digest == b.digest for a, b in zip(first, second, strict=True)] == [True, False, True, True, True]
    assert not {piece.digest for piece in dealt(lines, identity="others")} & {piece.digest for piece in first}


# --- the summary -----------------------------------------------------------------------------------


def test_the_stability_index_is_the_symmetric_divergence_of_the_two_histograms():
    rng = np.random.default_rng(3)
    expected, actual = rng.integers(0, 40, 10), rng.integers(0, 400, 10)
    e, a = ((side + 0.5) / (side + 0.5).sum() for side in (expected, actual))
    assert population_stability(expected, actual) == pytest.approx(entropy(e, a) + entropy(a, e), rel=1e-12)
    assert population_stability([20] * 10, [20] * 10) == 0
    assert population_stability([100, 100], [200, 0]) > 0.25 > 0.1 > population_stability([100, 100], [105, 95])
    assert np.isnan(population_stability([0, 0], [1, 2]))


def test_its_bins_hold_equal_shares_of_the_held_out_scores():
    scores = np.random.default_rng(4).beta(0.4, 0.4, 1000)
    edges = quantile_edges(scores)
    assert count_in_bins(scores, edges).tolist() == [100] * 10
    other = np.random.default_rng(5).random(500)
    assert np.array_equal(count_in_bins(other, edges), np.histogram(other, [0, *edges, 1])[0])
    tied = np.r_[np.zeros(600), np.linspace(0.1, 1, 400)]
    assert count_in_bins(tied, quantile_edges(tied)).sum() == 1000 and len(quantile_edges(tied)) < 9


def test_shares_at_an_operating_point_are_those_of_the_decisions():
    scores = np.r_[np.random.default_rng(6).random(300), 0.4, 0.5, 0.6]
    for point in ({"threshold": 0.5, "threshold_interval": [0.4, 0.6]}, {"threshold": 0.5}):
        low, high = point.get("threshold_interval", (0.5, 0.5))
        said = [Operating(0.5, low, high).decide(score, "ok", 3) for score in scores]
        assert decide_by_score(scores, point).tolist() == [said.count(kind) for kind in ("live", "attack", "abstain")]


def test_a_summary_counts_rows_of_all_parts_and_tells_of_a_shift():
    described = EnsembleDescription("mine", [], Operating(), data="train")
    rng = np.random.default_rng(7)
    held_out, points = rng.random(400), [{"name": "eer", "threshold": 0.5}]
    home, tally = (Tally(quantile_edges(held_out), points) for _ in range(2))
    home.add(held_out, ["ok"] * 400, [])
    for _ in range(3):
        scores = np.r_[rng.random(90) ** 4, [0.5] * 10]
        tally.add(scores, ["ok"] * 90 + ["unreadable"] * 10, ["attack"] * 60 + ["live"] * 30 + ["abstain"] * 10)
    found = describe_tally(tally, home, described, points, 3, "")
    assert (found["rows"], found["scored"], found["parts"]) == (300, 270, 3)
    assert found["statuses"] == {"ok": 270, "unreadable": 30}
    assert found["decisions"] == {"live": 90, "attack": 180, "abstain": 30}
    assert sum(found["histogram"]["counts"]) == sum(found["drift"]["counts"]) == 270
    assert found["drift"]["index"] > 0.25 and "shifted" in summary_text(found)
    assert found["operating_points"][0]["held_out"]["live"] == pytest.approx(np.mean(held_out >= 0.5))
    lost = describe_tally(tally, Tally(np.empty(0), points), described, points, 3, "oof_video.csv is not there")
    assert "not known" in summary_text(lost) and np.isnan(lost["drift"]["index"])


# --- with Ray --------------------------------------------------------------------------------------


@pytest.fixture
def ensemble(workspace) -> list[str]:
    """The options of an ensemble of two members with random weights."""
    put_member("convnext_xlarge", 0)
    put_member("convnext_large", 1, "train", "view.size=64")
    listed = [{"recipe": m.recipe, "fold": m.fold, "weight": m.weight} for m in MEMBERS]
    about = {"ensemble": listed, "thresholds": [{"name": "eer", "threshold": 0.5, "threshold_interval": [0.4, 0.6]}]}
    (workspace / "weights" / "train" / "mine.json").write_text(json.dumps(about))
    return ["--ensemble", "mine", "--data", "train"]


def start(workspace: Path, *arguments: str | Path) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(CODE / "src")}
    environment.pop("OMP_NUM_THREADS", None)
    command = [sys.executable, "-m", "liveness.bulk", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def read_parts(out: Path) -> dict[str, dict]:
    """Every row of every part by its key; fails where a key is there twice."""
    import pyarrow.parquet as pq

    rows = [row for path in sorted(out.glob("part-*.parquet")) for row in pq.read_table(path).to_pylist()]
    found = {row["key"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def workers_of(driver: int) -> list[int]:
    """Ray's processes that decode or score, below a driver."""
    listed = subprocess.check_output(["ps", "-eo", "pid,ppid,args"], text=True).splitlines()[1:]
    parents = {int(line.split()[0]): int(line.split()[1]) for line in listed}
    found = []
    for line in listed:
        pid = int(line.split()[0])
        if "ray::MapWorker" in line:
            above = pid
            while above in parents and above != driver:
                above = parents[above]
            found += [pid] if above == driver else []
    return found


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a web server on loopback that has the files of a folder."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.timeout(1500)
@pytest.mark.extras
@pytest.mark.skipif(bool(NEEDED), reason="needs liveness[bulk]")
def test_a_run_whose_driver_and_workers_are_killed_ends_with_each_row_once_and_predicts_bytes(
    workspace, tiny_clips, ensemble
):
    clips, out = workspace / "clips", workspace / "out"
    for n in range(60):
        tiny_clips(clips / f"{n}.mp4", 5 + n % 3, ((64, 96), (96, 64))[n % 2], seed=n)
    (clips / "broken.mp4").write_bytes(b"no video")
    paths = {f"k{n}": clips / f"{n}.mp4" for n in range(60)} | {"bad": clips / "broken.mp4", "gone": clips / "gone.mp4"}
    with served(clips) as address:
        places = {key: f"{address}/{path.name}" if key in ("k3", "k7") else path for key, path in paths.items()}
        places["lost"] = f"{address}/lost.mp4"
        manifest = write(workspace / "m.csv", "\n".join(["key,path", *(f"{k},{p}" for k, p in places.items())]))
        command = (workspace, manifest, out, *ensemble, "--rows", "4")
        damaged, *kept = kill_the_driver_at_its_second_part(start(*command), out)
        damaged.write_bytes(damaged.read_bytes()[:-9])
        before = [path.stat().st_mtime_ns for path in kept]
        second = start(*command)
        kill_workers(second, 2)
        said, told = second.communicate(timeout=900)
    assert second.returncode == 0, told
    assert f"{len(kept) + 1} finished parts" in told
    assert [path.stat().st_mtime_ns for path in kept] == before
    found = read_parts(out)
    lost = found.pop("lost")
    assert (lost["status"], lost["reason"], lost["score"]) == (
        "unreadable",
        "cannot be fetched: there is no such file",
        0.5,
    )
    with load_members(Ensemble("mine", "train", MEMBERS)) as loaded:
        for key, row in zip(paths, score_paths(list(paths.values()), loaded), strict=True):
            there = found.pop(key)
            assert score_text(there["score"]) == score_text(row.score)
            for name in ("fname", "score", "decision", "status", "reason", "frames", "faces", "faces_in_frame"):
                assert there[name] == getattr(row, name), (key, name)
    assert not found
    summary = json.loads((out / "summary.json").read_text())
    assert summary["statuses"] == {"ok": 60, "unreadable": 3} and "63 rows in 16 parts" in said
    _refuse_another_manifest(workspace, out, ensemble)


def kill_the_driver_at_its_second_part(driver: subprocess.Popen, out: Path) -> list[Path]:
    """The parts that it leaves."""
    deadline = time.monotonic() + 500
    while len(list(out.glob("part-*.parquet"))) < 2 and driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    driver.kill()
    _, told = driver.communicate()
    left = sorted(out.glob("part-*.parquet"))
    assert 2 <= len(left) < 16, told
    return left


def kill_workers(driver: subprocess.Popen, count: int) -> None:
    killed = 0
    while killed < count and driver.poll() is None:
        for worker in workers_of(driver.pid)[:1]:
            os.kill(worker, signal.SIGKILL)
            killed += 1
        time.sleep(5)
    assert killed


def _refuse_another_manifest(workspace: Path, out: Path, ensemble: list[str]) -> None:
    """What is told before Ray is started: OUT is of another manifest, of other settings, the head does not answer."""
    other = write(workspace / "other.csv", "path\nclips/1.mp4\n")
    manifest = str(workspace / "m.csv")
    for arguments, said in (
        ((other, out, *ensemble, "--rows", "4"), "are of other rows than the manifest has now"),
        ((manifest, out, *ensemble, "--rows", "5"), "begun with --rows 4, now 5"),
        ((manifest, workspace / "new", *ensemble, "--address", "127.0.0.1:9"), "--address 127.0.0.1:9: no answer"),
    ):
        process = start(workspace, *arguments)
        _, told = process.communicate(timeout=300)
        assert process.returncode == 1 and said in told and "Traceback" not in told, told


@pytest.mark.extras
@pytest.mark.skipif(bool(NEEDED), reason="needs liveness[bulk]")
def test_a_part_that_is_damaged_or_of_another_slice_is_not_taken_for_finished(tmp_path):
    import pyarrow as pa

    from liveness.bulk_scoring.shards import NOT_FETCHED, Shards, to_table

    manifest = open_manifest(write(tmp_path / "m.csv", "key,path\n" + "".join(f"k{n},{n}.mp4\n" for n in range(4))))
    piece, other = list(deal(manifest, 2, "weights"))
    shards = Shards(Store(str(tmp_path / "out")))
    about = {"rows_per_shard": 2, "ensemble": "mine", "scoring": "x", "libraries": ["torch 1"]}
    shards.begin(about)
    values = {"score": 0.25, "decision": "attack", "status": "ok", "reason": "", "frames": 3, "faces": None,
              "milliseconds": 1.5, "faces_in_frame": 1}  # fmt: skip
    lost = values | {"status": "unreadable", "reason": NOT_FETCHED + "no answer"}
    late, early = to_table([(0, 1)], [lost]), to_table([(0, 0)], [values])
    assert not shards.holds(piece)
    shards.write(piece, pa.concat_tables([late, early, late]))  # done twice by a cluster that lost one: once here
    again = Shards(Store(str(tmp_path / "out")))
    again.begin(about)
    assert again.holds(piece) and not again.holds(other) and not again.holds(piece, again=True)
    table = again.read(piece.name, ["key", "fname", "faces", "status"]).to_pydict()
    assert table == {
        "key": ["k0", "k1"],
        "fname": ["0.mp4", "1.mp4"],
        "faces": [None] * 2,
        "status": ["ok", "unreadable"],
    }
    path = tmp_path / "out" / piece.name
    path.write_bytes(path.read_bytes()[:-20])
    assert not again.holds(piece)
    for key, now, said in (("ensemble", "his", "mine, now his"), ("libraries", ["torch 2"], "torch 1, now torch 2")):
        with pytest.raises(UserError, match=said):
            Shards(Store(str(tmp_path / "out"))).begin(about | {key: now})


@pytest.mark.extras
@pytest.mark.skipif(bool(NEEDED), reason="needs liveness[bulk]")
def test_a_web_server_is_read_from_and_what_it_lacks_is_a_reason(tmp_path, monkeypatch):
    (tmp_path / "a b.mp4").write_bytes(bytes(range(256)) * 5000)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with served(tmp_path) as address:
        assert fetch_bytes(f"{address}/a%20b.mp4") == (tmp_path / "a b.mp4").read_bytes()
        for place, most, said in (("none.mp4", 1 << 30, "no such file"), ("a%20b.mp4", 1 << 20, "larger than 1 MiB")):
            with pytest.raises(OSError, match=said):
                fetch_bytes(f"{address}/{place}", most)
    with pytest.raises(OSError):
        fetch_bytes(f"{address}/a%20b.mp4")


@pytest.mark.timeout(900)
@pytest.mark.extras
@pytest.mark.skipif(bool(NEEDED) or not SERVER.exists(), reason="needs liveness[bulk], and setup_dvc.sh --s3")
def test_a_bucket_is_listed_scored_and_written_to(workspace, tiny_clips, ensemble, monkeypatch):
    for n in range(6):
        tiny_clips(workspace / "clips" / f"{n}.mp4", frames=8, size=(64, 96), seed=n)
    with started_server(workspace / "log") as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        clips, out = Store("s3://store/june/clips"), Store("s3://store/scores")
        for path in (workspace / "clips").iterdir():
            clips.write(path.name, path.read_bytes())
        clips.write("deeper/6.mp4", b"no video")
        process = start(workspace, "s3://store/june/clips", "s3://store/scores", *ensemble, "--rows", "4")
        said, told = process.communicate(timeout=600)
        assert process.returncode == 0, told
        written = sorted(out.names())
        assert len(written) == 4 and {"bulk.json", "summary.json"} < set(written)
        for name in written:
            (workspace / "out").mkdir(exist_ok=True)
            (workspace / "out" / name).write_bytes(out.read(name))
        process = start(workspace, "s3://store/june/clips", "s3://store/scores", *ensemble, "--rows", "4")
        assert "2 finished parts" in process.communicate(timeout=300)[1] and process.returncode == 0
    found = read_parts(workspace / "out")
    assert found.pop("deeper/6.mp4")["status"] == "unreadable"
    with load_members(Ensemble("mine", "train", MEMBERS)) as loaded:
        expected = score_paths([workspace / "clips" / name for name in found], loaded)
        assert {name: row["score"] for name, row in found.items()} == {row.fname: row.score for row in expected}
    assert len(found) == 6
