"""The same video gets the same bytes in submission.csv, whatever surrounds it."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_prediction import put_member

from liveness.base.config import Cascade, Ensemble, EnsembleMember
from liveness.base.errors import UserError
from liveness.base.files import CODE
from liveness.models.backend import MOST_VIEWS, TorchBackend
from liveness.models.batches import CpuBatches, GpuBatches
from liveness.models.device import halve
from liveness.models.score import Job, Request, average_views, score_jobs
from liveness.prediction.engine import load_members, score_one, score_paths
from liveness.prediction.rows import score_text, write_submission, write_times

MEMBERS = [EnsembleMember("convnext_xlarge", 0, 3.0), EnsembleMember("convnext_large", 1)]


@pytest.fixture
def clips(workspace, tiny_clips) -> list[Path]:
    sizes = ((64, 96), (96, 64), (128, 128))
    return [tiny_clips(workspace / "clips" / f"{n}.mp4", 6 + n, sizes[n % 3], seed=n) for n in range(7)]


@pytest.fixture
def members(workspace) -> None:
    put_member("convnext_xlarge", 0)
    put_member("convnext_large", 1, "train", "view.size=64")


def texts(rows) -> dict[str, tuple[str, str]]:
    return {row.fname: (score_text(row.score), row.decision) for row in rows}


def test_order_company_workers_turns_and_one_by_one_do_not_change_a_score(workspace, clips, members):
    loaded = load_members(Ensemble("mine", "train", MEMBERS))
    plain = list(score_paths(clips, loaded, 1))
    assert [row.fname for row in plain] == [path.name for path in clips]
    expected = texts(plain)
    assert len({score for score, _ in expected.values()}) == len(clips)
    shuffled = [clips[i] for i in np.random.default_rng(5).permutation(len(clips))]
    assert texts(score_paths(shuffled, loaded, 3)) == expected
    assert texts(score_paths(clips[2:4], loaded)) == {path.name: expected[path.name] for path in clips[2:4]}
    one_by_one = [score_one(path, loaded) for path in clips]
    assert texts(one_by_one) == expected
    in_turns = load_members(Ensemble("mine", "train", MEMBERS), memory="turns")
    assert all(member.backend is None for member in in_turns.members)
    assert texts(score_paths(clips, in_turns)) == expected
    # What the notebook writes.
    written = write_submission(one_by_one, workspace / "b.csv").read_bytes()
    assert written == write_submission(plain, workspace / "a.csv").read_bytes()
    with open(write_times(one_by_one, workspace / "times.csv"), newline="") as file:
        times = list(csv.DictReader(file))
    assert [row["fname"] for row in times] == [path.name for path in clips]
    assert all(float(row["time"]) > 0 for row in times)


def test_the_number_of_threads_does_not_change_a_bit(workspace):
    put_member("convnext_large", 0, "train", "model.kwargs.dims=[48,96,192,384]", "view.size=96")
    backend = load_members(Ensemble("mine", "train", [EnsembleMember("convnext_large", 0)])).members[0].loaded()
    videos = [torch.randn(n, 3, 96, 96, generator=torch.Generator().manual_seed(n)) for n in (1, 3, 3, 2, 5)]
    before = torch.get_num_threads()
    try:
        alone = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            alone.append([backend.score_views(views) for views in videos])
            assert torch.get_num_threads() == threads
        for other in alone[1:]:
            assert all(np.array_equal(a, b) for a, b in zip(alone[0], other, strict=True))
        for threads in (1, 4):
            jobs = (Job(n, [Request({"": backend}, views, len(views))]) for n, views in enumerate(videos))
            with CpuBatches(threads) as batches:
                many = {job.item: job.scores[""] for job in score_jobs(jobs, batches)}
            assert sorted(many) == list(range(len(videos)))  # a later one may be done before
            assert all(np.array_equal(a, many[n]) for n, a in enumerate(alone[0]))
        assert torch.get_num_threads() == 5
    finally:
        torch.set_num_threads(before)


def test_videos_without_frames_have_no_scores_among_others(workspace):
    put_member("convnext_large", 0)
    backend = load_members(Ensemble("mine", "train", [EnsembleMember("convnext_large", 0)])).members[0].loaded()
    views = torch.zeros(4, 3, 48, 48)
    videos = [("none", None, 0), ("two", views, 2), ("last", None, 0)]
    with CpuBatches(2) as batches:
        jobs = [Job(name, [Request({"": backend}, its, count)]) for name, its, count in videos]
        found = {job.item: job.scores[""] for job in score_jobs(jobs, batches)}
    assert {name: len(scores) for name, scores in found.items()} == {"none": 0, "two": 2, "last": 0}
    assert np.array_equal(found["two"], average_views(backend.score_views(views), 2))


@pytest.mark.parametrize("memory", ["resident", "turns"])
def test_a_cascade_asks_the_other_members_only_about_what_its_first_leave_open(workspace, clips, members, memory):
    def rows(members, cascade=None):
        return list(score_paths(clips, load_members(Ensemble("mine", "train", members, "none", cascade), "", memory)))

    off = Cascade()
    first, both = rows(MEMBERS[1:], off), rows(MEMBERS, off)
    scores = sorted(row.score for row in first)
    cascade = Cascade(["convnext_large:1"], scores[1], scores[-2])
    found = rows(MEMBERS, cascade)
    final = [row.score <= scores[1] or row.score >= scores[-2] for row in first]
    assert sum(final) == 4
    expected = [a.score if early else b.score for a, b, early in zip(first, both, final, strict=True)]
    assert [score_text(row.score) for row in found] == [score_text(score) for score in expected]
    assert {row.status for row in found} == {"ok"}
    with pytest.raises(UserError, match="--point apcer5: with a cascade only eer"):
        load_members(Ensemble("mine", "train", MEMBERS, "none", cascade), point="apcer5")


def test_a_cascade_in_turns_is_that_of_resident_members_with_two_that_come_after(workspace, clips, members):
    """What the second member says must not close a video for the third."""
    put_member("convnext_large", 0)
    third = EnsembleMember("convnext_large", 0)
    first, second, last = (
        [row.score for row in score_paths(clips, load_members(Ensemble("one", "train", [member])))]
        for member in (MEMBERS[1], MEMBERS[0], third)
    )
    both = [0.25 * a + 0.75 * b for a, b in zip(first, second, strict=True)]
    # Limits that leave open, after the first, a video that its blend with the second would take beyond them.
    apart = max(range(len(clips)), key=lambda i: abs(first[i] - both[i]))
    middle = (first[apart] + both[apart]) / 2
    low, high = (middle, 1.0) if first[apart] > middle else (0.0, middle)
    made = Ensemble("mine", "train", [MEMBERS[1], MEMBERS[0], third], cascade=Cascade(["convnext_large:1"], low, high))
    written = []
    for memory in ("resident", "turns"):
        rows = list(score_paths(clips, load_members(made, memory=memory)))
        written.append(write_submission(rows, workspace / f"{memory}.csv").read_bytes())
    assert written[0] == written[1]
    all_three = [(a + 3 * b + c) / 5 for a, b, c in zip(first, second, last, strict=True)]
    expected = [score if low < a < high else a for a, score in zip(first, all_three, strict=True)]
    assert [row.score for row in rows] == pytest.approx(expected, abs=1e-12)
    assert low < first[apart] < high and not low < both[apart] < high


def test_calibrated_scores_are_blended_and_decided(workspace, clips, members):
    names = ["convnext_xlarge_fold0", "convnext_large_fold1"]
    raw = [
        [row.score for row in score_paths(clips, load_members(Ensemble("raw", "train", [member])))]
        for member in MEMBERS
    ]
    platt = {names[0]: {"slope": 0.5, "offset": 0.25}, names[1]: {"slope": 2.0, "offset": -1.0}}
    point = {"name": "eer", "threshold": 0.5, "threshold_interval": [0.4, 0.6]}
    members = {name: {"how": "platt", **values} for name, values in platt.items()}
    about = {"thresholds": [point], "calibration": {"how": "platt", "members": members}}
    (workspace / "weights" / "train" / "mine.json").write_text(json.dumps(about))
    found = list(score_paths(clips, load_members(Ensemble("mine", "train", MEMBERS))))

    def calibrated(score, slope, offset):
        return 1 / (1 + np.exp(-(slope * np.log(score / (1 - score)) + offset)))

    expected = [
        0.75 * calibrated(a, *platt[names[0]].values()) + 0.25 * calibrated(b, *platt[names[1]].values())
        for a, b in zip(*raw, strict=True)
    ]
    assert [row.score for row in found] == pytest.approx(expected, abs=1e-9)
    for row in found:
        assert row.decision == ("live" if row.score >= 0.6 else "attack" if row.score <= 0.4 else "abstain")


@pytest.mark.full
def test_two_processes_give_the_bytes_of_one(run_driver, workspace, clips, members):
    (clips[0].parent / "broken.mp4").write_bytes(b"no video")
    one, two = ["--members", "convnext_xlarge:0", "convnext_large:1"], {"NGPU": "2", "OMP_NUM_THREADS": None}
    done = run_driver("predict.sh", clips[0].parent, workspace / "two", *one, env=two)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("load time") == done.stdout.count("submission.csv") == 1
    assert done.stderr.count("broken.mp4: unreadable") == 1
    loaded = load_members(Ensemble("mine", "train", [EnsembleMember(m.recipe, m.fold) for m in MEMBERS]))
    rows = list(score_paths([*clips, clips[0].parent / "broken.mp4"], loaded))
    expected = write_submission(rows, workspace / "one.csv").read_bytes()
    assert (workspace / "two" / "submission.csv").read_bytes() == expected
    assert sorted(path.name for path in (workspace / "two").iterdir()) == ["predictions.csv", "submission.csv"]


@pytest.mark.full
@pytest.mark.parametrize("threads", ["1", "3", None])
def test_omp_num_threads_does_not_change_the_submission(run_driver, workspace, clips, members, threads):
    options = ["--members", "convnext_xlarge:0", "convnext_large:1", "--workers", "2"]
    done = run_driver("predict.sh", clips[0].parent, workspace / "out", *options, env={"OMP_NUM_THREADS": threads})
    assert done.returncode == 0, done.stderr
    loaded = load_members(Ensemble("mine", "train", [EnsembleMember(m.recipe, m.fold) for m in MEMBERS]))
    expected = write_submission(list(score_paths(clips, loaded)), workspace / "one.csv").read_bytes()
    assert (workspace / "out" / "submission.csv").read_bytes() == expected


@pytest.mark.full
def test_shared_memory_is_not_needed(workspace, clips, members):
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("this user may not make a mount namespace here")
    options = f"{clips[0].parent} {workspace / 'out'} --members convnext_xlarge:0 convnext_large:1"
    script = f"mount -t tmpfs -o size=64k,ro tmpfs /dev/shm && bash {CODE / 'predict.sh'} {options}"
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(["unshare", "-rm", "bash", "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "no GPU here: the models run on the CPU" in done.stderr or torch.cuda.is_available()
    loaded = load_members(Ensemble("mine", "train", [EnsembleMember(m.recipe, m.fold) for m in MEMBERS]))
    expected = write_submission(list(score_paths(clips, loaded)), workspace / "one.csv").read_bytes()
    assert (workspace / "out" / "submission.csv").read_bytes() == expected


def test_the_function_gives_a_table(workspace, clips, monkeypatch):
    from liveness.predict import score_videos as table_of

    for fold in range(5):
        put_member("convnext_xlarge", fold)
    for fold in range(3):
        put_member("convnext_large", fold)
    shutil.copy(clips[0], clips[0].parent / "again.mp4")
    table = table_of([*clips[:2], clips[0].parent / "again.mp4"])
    assert list(table.fname) == ["0.mp4", "1.mp4", "again.mp4"]
    assert table.score[0] == table.score[2] != table.score[1]
    assert set(table.status) == {"ok"} and (table.milliseconds > 0).all()


@pytest.mark.gpu
def test_on_a_gpu_company_in_a_batch_and_half_weights_do_not_change_a_bit(workspace):
    put_member("convnext_large", 0, "train", "model.kwargs.dims=[48,96,192,384]", "view.size=96")
    member = load_members(Ensemble("mine", "train", [EnsembleMember("convnext_large", 0)])).members[0]
    from liveness.members.weights import load_member

    device = torch.device("cuda", 0)
    whole, halved = (
        TorchBackend(change(load_member(member.path)[0]), device, member.amp) for change in (lambda m: m, halve)
    )
    videos = [torch.randn(1 + n % 5, 3, 96, 96, generator=torch.Generator().manual_seed(n)) for n in range(40)]
    alone = [whole.score_views(views) for views in videos]
    with GpuBatches(device) as batches:
        futures = [batches.submit([halved], views)[0] for views in videos]
        together = [batches.result(future).scores for future in futures]
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_a_path_that_is_given_twice_has_two_rows_in_its_places(clips, members):
    paths = [clips[0], clips[1], clips[1], clips[0], clips[2]]
    rows = list(score_paths(paths, load_members(Ensemble("mine", "train", MEMBERS))))
    assert [row.fname for row in rows] == [path.name for path in paths]
    assert rows[1] == rows[2] and rows[0] == rows[3]


@pytest.mark.full
def test_a_script_of_a_few_lines_scores_without_a_guard(workspace, clips, members):
    """Workers do not run the script again: one without ``if __name__ == "__main__"`` is what people type."""
    script = workspace / "few_lines.py"
    script.write_text(
        "from liveness.prediction.engine import load_members, score_paths\n"
        "from liveness.base.config import Ensemble, EnsembleMember\nfrom pathlib import Path\nprint('begun')\n"
        "loaded = load_members(Ensemble('mine', 'train', [EnsembleMember('convnext_large', 1)]))\n"
        f"print([row.status for row in score_paths([Path({str(clips[0])!r})], loaded)])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(CODE / "src")}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines() == ["begun", "['ok']"], done.stderr


def test_a_models_error_is_handed_on(workspace):
    backend = TorchBackend(torch.nn.Conv2d(3, 1, 99), torch.device("cpu"))
    with CpuBatches(2) as batches, pytest.raises(RuntimeError, match="[Kk]ernel size"):
        batches.result(batches.submit([backend], torch.zeros(MOST_VIEWS, 3, 8, 8))[0])
