"""liveness export: a folder that is whole, agrees with the members, and scores where torch cannot be imported."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import exported_set
import numpy as np
import pandas as pd
import pytest
from in_process import at_home, predict_here
from odd_clips import portrait
from test_runtime import run_without

from liveness.base.compose import load_ensemble
from liveness.base.errors import UserError
from liveness.base.files import CODE, sha256_of
from liveness.exporting import gate
from liveness.exporting.gate import GateClips, count_needed, judge_gate, part_for_calibration
from liveness.prediction.engine import load_members, score_paths

for library in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(library, reason="needs liveness[export]")

from liveness import Detector  # noqa: E402
from liveness.exporting import ensemble  # noqa: E402
from liveness.exporting.ensemble import Export, export_ensemble  # noqa: E402
from liveness.exporting.networks import INPUT, write_network  # noqa: E402


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with two members, three new clips, and the members exported."""
    root = tmp_path_factory.mktemp("export")
    exported_set.prepare_members(root)
    for number in range(3):
        exported_set.write_face(root / "clips" / f"{number}.mp4", 100 + number, frames=12)
    with at_home(root):
        export_ensemble(Export(exported_set.ENSEMBLE, exported_set.DATA))
    return root


@pytest.fixture
def folder(root) -> Path:
    return root / "weights" / exported_set.DATA / "exported" / exported_set.ENSEMBLE


def rows_of(output: Path) -> dict[str, dict[str, str]]:
    with open(output / "predictions.csv", newline="") as file:
        return {row["fname"]: row for row in csv.DictReader(file)}


@pytest.mark.full
def test_the_folder_holds_all_of_it_with_digests_and_the_gates_figures(root, folder):
    about = json.loads((folder / "contract.json").read_text())
    assert set(about["files"]) == {path.name for path in folder.iterdir()} - {"contract.json"}
    assert all(told["sha256"] == sha256_of(folder / name) for name, told in about["files"].items())
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]  # nothing is left beside it
    found = about["gate"]["runtimes"]["onnxruntime"]
    assert about["gate"]["on"] == "tiny" and about["gate"]["held_out"] and found["passed"]
    assert found["clips"] == found["scored"] == 20 and found["lost"] == 0
    assert 0 < found["largest_difference"] <= 1e-4 and found["inversions"]["turned"] == 0
    assert [(point["name"], point["flipped"]) for point in found["points"]] == [("eer", 0), ("apcer5", 0)]
    card = (folder / "MODEL_CARD.md").read_text()
    assert f"{found['largest_difference']:.1e}" in card and "apcer5" in card


@pytest.mark.full
def test_exported_scores_are_the_members_and_one_program_gives_both(root, folder, workspace):
    paths = sorted((root / "clips").iterdir())
    with at_home(root), load_members(load_ensemble(exported_set.ENSEMBLE), exported_set.DATA) as loaded:
        expected = {row.fname: row for row in score_paths(paths, loaded, 1)}
    with Detector(folder) as detector:
        for path in paths:
            row = detector.score(path)
            assert abs(row.score - expected[path.name].score) < 1e-5
            assert (row.decision, row.status, row.frames) == (
                expected[path.name].decision,
                expected[path.name].status,
                expected[path.name].frames,
            )
            assert set(row.members) == {"efficientnet_lite0_fold0", "efficientnet_lite0_fold1"}
            assert [one.index for one in row.seen] == sorted({one.index for one in row.seen}) and len(row.seen) == 3
            assert row.seen[0].picture.startswith(b"\xff\xd8") and (row.seen[0].width, row.seen[0].height) == (96, 112)
            assert row.faces == 3 and all(0 < one.face.x < 60 and one.face.w > 15 for one in row.seen)
            json.dumps(row.to_dict())
    assert predict_here(root, root / "clips", root / "out", "--exported", folder, "--strict") == 0
    assert {name: float(row["score"]) for name, row in rows_of(root / "out").items()} == pytest.approx(
        {name: row.score for name, row in expected.items()}, abs=1e-5
    )


@pytest.mark.full
def test_the_same_program_scores_where_torch_and_pandas_cannot_be_imported(root, folder, tmp_path):
    odd = tmp_path / "clips"
    shutil.copytree(root / "clips", odd)
    (odd / "broken.mp4").write_bytes(b"no video")
    assert predict_here(root, odd, tmp_path / "here", "--exported", folder) == 0
    code = "import sys; from liveness.base.errors import run; from liveness import predict; run(predict.main)"
    done = run_without(code, odd, tmp_path / "there", "--exported", folder, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    submissions = [(tmp_path / where / "submission.csv").read_bytes() for where in ("here", "there")]
    assert submissions[0] == submissions[1]
    here, there = rows_of(tmp_path / "here"), rows_of(tmp_path / "there")
    assert {name: (row["decision"], row["status"]) for name, row in here.items()} == {
        name: (row["decision"], row["status"]) for name, row in there.items()
    }
    assert there["broken.mp4"]["status"] == "unreadable" and there["broken.mp4"]["decision"] == "abstain"


@pytest.mark.full
def test_frames_are_scored_as_the_video_that_they_are_of(folder, tmp_path):
    import av

    frames = np.random.default_rng(5).integers(0, 255, (10, 80, 64, 3), dtype=np.uint8)
    frames[:, 10:70, 2:62] = portrait(60)  # each frame has its own ground
    with av.open(str(tmp_path / "clip.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 80, "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="bgr0")))
        container.mux(stream.encode())
    with Detector(folder) as detector:
        whole, video = detector.score_frames(frames, fps=25), detector.score(tmp_path / "clip.mkv")
        assert whole.score == video.score and whole.members == video.members and video.faces == 3
        assert [one.index for one in whole.seen] == [one.index for one in video.seen]
        every = detector.score_frames(frames)
        assert len(every.seen) == every.frames == 10
        image = detector.score_frames(frames[0])
        assert image.frames == 1 and image.decision != "" and "image" in image.reason
        for wrong in (frames.astype(float), frames[..., :2], frames[:0], frames[0, 0]):
            with pytest.raises(UserError, match="expected uint8 RGB"):
                detector.score_frames(wrong)


@pytest.mark.full
def test_a_network_takes_any_number_of_views_and_each_is_scored_by_itself(folder):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / "efficientnet_lite0_fold0.onnx"))
    views = np.random.default_rng(2).normal(size=(40, 3, 48, 48)).astype(np.float32)
    together = session.run(None, {INPUT: views})[0]
    assert together.shape == (40, 1) and np.ptp(together) > 1e-3
    alone = np.concatenate([session.run(None, {INPUT: views[i : i + 1]})[0] for i in range(40)])
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.full
def test_backend_onnx_takes_what_lies_beside_the_weights_and_refuses_another_training(root, tmp_path, capfd):
    copy = tmp_path / "workspace"
    shutil.copytree(root, copy, symlinks=True)
    asked = (copy / "clips", copy / "out", "--ensemble", exported_set.ENSEMBLE, "--data", exported_set.DATA)
    assert predict_here(copy, *asked, "--backend", "onnx") == 0
    assert "onnxruntime" in capfd.readouterr().out
    operating = copy / "weights" / exported_set.DATA / f"{exported_set.ENSEMBLE}.json"
    about = json.loads(operating.read_text())
    about["thresholds"][0]["threshold"] = 0.505
    operating.write_text(json.dumps(about))
    assert predict_here(copy, *asked, "--backend", "onnx") == 1
    assert "exported before efficientnet_lite0 was evaluated or weighed anew" in capfd.readouterr().err
    shutil.rmtree(operating.parent / "exported")
    assert predict_here(copy, *asked, "--backend", "onnx") == 1
    said = capfd.readouterr().err
    assert "is not exported; run: liveness export efficientnet_lite0 --data tiny" in said and "Traceback" not in said


@pytest.fixture
def again(root, folder, monkeypatch) -> Iterator[Callable[..., Path]]:
    """Another export of the same members, whose networks are taken from the first one."""

    def export(**asked: object) -> Path:
        return export_ensemble(Export(exported_set.ENSEMBLE, exported_set.DATA, **asked))

    def copy(weights: Path, path: Path) -> None:
        shutil.copyfile(folder / path.name, path)

    monkeypatch.setattr(ensemble, "write_network", copy)
    with at_home(root):
        yield export


@pytest.mark.full
def test_an_export_that_does_not_pass_leaves_the_one_before(root, folder, again, monkeypatch):
    before = sha256_of(folder / "contract.json")
    with pytest.raises(UserError, match=r"too few clips to say so, \d+ would do") as refused:
        again(int8=True, tolerance=0.9e-2, out=folder)
    assert "\n" not in str(refused.value)
    monkeypatch.setattr(gate, "FLOAT_TOLERANCE", 0.0)
    with pytest.raises(UserError, match="do not agree with the members .onnxruntime.: scores differ by up to"):
        again()
    with pytest.raises(UserError, match="is there and no exported ensemble"):
        again(out=root / "clips")
    with pytest.raises(UserError, match="nothing: not prepared"):
        again(on="nothing")
    assert sha256_of(folder / "contract.json") == before
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]


@pytest.mark.full
def test_int8_is_compared_on_other_persons_than_it_was_calibrated_on(folder, again, tmp_path):
    small = again(int8=True, tolerance=0.9, out=tmp_path / "small")
    about, whole = (json.loads((one / "contract.json").read_text()) for one in (small, folder))
    found = about["gate"]["runtimes"]["onnxruntime"]
    assert about["precision"] == "int8" and about["gate"]["tolerance"] == 0.9
    assert found["clips"] == 16 and found["groups"] == 4  # the fifth person's clips gave the ranges
    assert 1e-4 < found["largest_difference"] < 0.2
    for name in (f"efficientnet_lite0_fold{fold}.onnx" for fold in (0, 1)):
        assert about["files"][name]["bytes"] < whole["files"][name]["bytes"]
    assert "at most 90 % flipped decisions" in (small / "MODEL_CARD.md").read_text()


def test_calibration_clips_are_whole_groups_that_the_gate_does_not_have():
    table = pd.DataFrame({"filename": map(str, range(60)), "group": [f"g{number % 12}" for number in range(60)]})
    mine, rest = part_for_calibration(GateClips("set", table, True))
    assert 4 <= len(mine) <= 20 and len(mine) + len(rest.table) == 60
    assert set(mine["group"]) & set(rest.table["group"]) == set()
    with pytest.raises(UserError, match="set: 60 clips of 1 groups; --int8 needs at least 4 clips"):
        part_for_calibration(GateClips("set", table.assign(group="g"), True))


@pytest.mark.full
def test_an_operation_that_onnx_lacks_is_one_line(root, tmp_path, monkeypatch):
    import torch
    from timm.models import register_model

    class Odd(torch.nn.Module):
        pretrained_cfg = {"classifier": "head"}

        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(3, 1)

        def forward(self, views: torch.Tensor) -> torch.Tensor:
            return self.head(torch.linalg.eigvals(views @ views.mT).real[..., 0])

    @register_model
    def odd_for_tests(pretrained: bool = False, **kwargs: object) -> torch.nn.Module:
        return Odd()

    from test_prediction import put_member

    monkeypatch.setenv("LIVENESS_ROOT", str(tmp_path))
    path = put_member("demo_frame", 0, "odd", "model.name=odd_for_tests", "model.freeze_norm=false")
    with pytest.raises(UserError) as refused:
        write_network(path, tmp_path / "odd.onnx")
    said = str(refused.value)
    assert "linalg_eig" in said and "\n" not in said and not (tmp_path / "odd.onnx").exists()


def test_how_many_clips_a_tolerance_takes():
    """0 of n: 1 - 0.025^(1/n) <= 2 % from n = 183 on; by Clopper and Pearson's interval."""
    assert count_needed(0, 19, 0.02) == 183 == int(np.ceil(np.log(0.025) / np.log(0.98)))
    assert 0.015 < 1 - 0.025 ** (1 / 238) < 0.0155
    points = [{"name": "eer", "flipped": 0, "of": 19, "upper": 1 - 0.025 ** (1 / 19)}]
    figures = {"scored": 19, "points": points, "largest_difference": 0.01, "member_difference": 0.01}
    assert "183 would do" in judge_gate(figures, 0.02)
    assert judge_gate(figures, 0.2) == ""
    assert "scores differ by up to 0.01" in judge_gate(figures, None)
    points[0] |= {"flipped": 3, "upper": 0.4}
    assert "more clips would not help" in judge_gate(figures, 0.02)
    assert judge_gate(figures | {"largest_difference": 0.0, "member_difference": 0.0}, None).startswith("3 of 19")


@pytest.mark.extras
@pytest.mark.full
def test_openvino_reads_the_same_files(root, folder):
    pytest.importorskip("openvino", reason="needs liveness[openvino]")
    paths = sorted((root / "clips").iterdir())
    with Detector(folder) as one, Detector(folder, "openvino") as other:
        for path in paths:
            assert abs(one.score(path).score - other.score(path).score) < 1e-4
    assert predict_here(root, root / "clips", root / "ov", "--exported", folder, "--backend", "openvino") == 0
    from openvino.tools.ovc import telemetry_utils

    assert telemetry_utils.tm.__name__.endswith("telemetry_stub")  # nothing is reported


@pytest.mark.extras
@pytest.mark.full
def test_the_wheel_with_runtime_alone_scores_in_an_empty_environment(root, folder, tmp_path):
    """Needs the package index. What is installed beside pip and setuptools, byte code included, stays below 480 MB."""
    source = tmp_path / "source"
    shutil.copytree(CODE / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(CODE / "configs", source / "configs")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CODE / name, source)
    build = [sys.executable, "-m", "pip", "wheel", source, "--no-deps", "--no-build-isolation", "-q", "-w", tmp_path]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    python = tmp_path / "empty" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "empty"], check=True, timeout=300)
    subprocess.run([python, "-m", "pip", "install", "-q", f"{wheel}[runtime]"], check=True, timeout=900)
    (packages,) = (tmp_path / "empty").glob("lib/*/site-packages")
    size = sum(file.stat().st_size for file in packages.rglob("*") if file.is_file() and "/pip/" not in str(file))
    assert size < 480e6
    assert not {"torch", "timm", "pandas", "hydra", "albumentations", "scipy"} & {
        one.name for one in packages.iterdir()
    }
    (tmp_path / "away").mkdir()
    values = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "LIVENESS_ROOT")}
    call = [tmp_path / "empty" / "bin" / "liveness", "predict", "--exported", folder, root / "clips", tmp_path / "out"]
    done = subprocess.run(call, cwd=tmp_path / "away", env=values, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert predict_here(root, root / "clips", tmp_path / "here", "--exported", folder) == 0
    scores = [{name: float(row["score"]) for name, row in rows_of(tmp_path / one).items()} for one in ("out", "here")]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
