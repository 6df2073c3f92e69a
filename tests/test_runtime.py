"""Scoring with an exported ensemble needs no torch; what it reads is checked, and a mistake is one line."""

import json
import os
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from exported_set import write_by_hand
from scipy.special import expit

from liveness.base.config import Detector, View
from liveness.base.errors import UserError
from liveness.base.files import CODE
from liveness.evaluation.combine import sigmoid
from liveness.frames.contract import to_array
from liveness.frames.faces import detector_path, find_faces
from liveness.frames.hints import list_hints
from liveness.frames.views import VideoViews
from liveness.prediction.exported import read_exported

# What `pip install "liveness[runtime]"` does not bring, and prediction with torch uses.
REFUSED = ("torch", "timm", "pandas", "hydra", "omegaconf", "albumentations", "scipy", "sklearn", "matplotlib", "yaml")
REFUSE = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {REFUSED}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
"""


def run_without(code: str, *arguments: str, cwd=None) -> subprocess.CompletedProcess:
    """A program in a fresh interpreter that cannot import any of REFUSED."""
    values = {**os.environ, "PYTHONPATH": os.pathsep.join([str(CODE / "src"), os.environ.get("PYTHONPATH", "")])}
    call = [sys.executable, "-c", REFUSE + textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(call, cwd=cwd, env=values, capture_output=True, text=True, timeout=300)


def test_one_numbers_sigmoid_has_scipys_bits():
    values = np.concatenate([np.random.default_rng(3).normal(0, 8, 4000), [0.0, -0.0, 40.0, -700.0, np.inf, -np.inf]])
    assert [float(sigmoid(float(value))) for value in values] == expit(values).tolist()
    assert np.isnan(sigmoid(float("nan"))) and float(sigmoid(-1000.0)) == 0.0


@pytest.mark.parametrize(("channels", "white"), [("rgb", 1.0), ("bgr", 255.0)])
def test_preprocessing_has_the_bits_of_torchs_operations(channels, white):
    """Every value of a byte in every channel: scores of members stay what they were when torch normalised."""
    view = View(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225], channels=channels, white=white)
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    rgb = np.stack([ramp, ramp.T, ramp[::-1]], axis=2)
    given = rgb if channels == "rgb" else np.ascontiguousarray(rgb[:, :, ::-1])
    expected = torch.from_numpy(given.transpose(2, 0, 1).copy()).to(torch.float32).div_(255 / white)
    expected = expected.sub_(torch.tensor(view.mean).view(3, 1, 1)).div_(torch.tensor(view.std).view(3, 1, 1))
    found = to_array(rgb, view)
    assert found.dtype == np.float32 and np.array_equal(found, expected.numpy())


def test_an_exported_folder_is_read_without_torch_and_says_what_is_wrong(tmp_path, monkeypatch):
    folder, home = write_by_hand(tmp_path / "hand"), tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    told = run_without(
        """
        import sys
        from pathlib import Path
        from liveness import Detector
        import liveness.predict
        from liveness.prediction.exported import read_exported
        found = read_exported(Path(sys.argv[1]))
        print(found.name, [member.name for member in found.members], found.operating.threshold)
        try:
            Detector(sys.argv[1])
        except Exception as error:
            print(type(error).__name__, str(error).count("\\n"), error)
        """,
        folder,
    )
    assert told.returncode == 0, told.stderr
    first, second = told.stdout.splitlines()
    assert first == "hand ['demo_frame_fold0'] 0.5"
    assert second.startswith("UserError 0 ")
    assert list(home.iterdir()) == []  # where ONNX Runtime's telemetry would keep what it sends


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": 2}, "exported as version 2, this code reads version 1; update liveness"),
        ({"version": "1"}, "damaged"),
        ({"files": {}}, "damaged"),
        ({"files": {"../one.onnx": {"sha256": "0"}}}, "not a plain file name"),
        ({"members": [{"file": "one.onnx"}]}, "damaged"),
        ({"cascade": {"first": [], "middle": 1}}, "damaged"),
        ({"gate": {"runtimes": {"onnxruntime": {"passed": False, "why": "3 of 9 differ"}}}}, "3 of 9 differ"),
        ({"operating": {"thresholds": [{"name": "eer", "threshold": 7}]}}, "expected 0 to 1"),
    ],
)
def test_a_contract_that_cannot_be_trusted_is_one_line(tmp_path, changes, said):
    folder = write_by_hand(tmp_path / "hand", **changes)
    with pytest.raises(UserError) as refused:
        read_exported(folder)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_file_that_is_not_the_exported_one_is_refused(tmp_path):
    folder = write_by_hand(tmp_path / "hand")
    assert read_exported(folder).members[0].path == folder / "one.onnx"
    (folder / "one.onnx").write_bytes(b"another")
    with pytest.raises(UserError, match="not the file that was exported"):
        read_exported(folder)
    (folder / "one.onnx").unlink()
    with pytest.raises(UserError, match="is missing from the exported ensemble"):
        read_exported(folder)
    with pytest.raises(UserError, match="no exported ensemble"):
        read_exported(tmp_path / "nowhere")
    with pytest.raises(UserError, match="did you mean onnxruntime"):
        read_exported(folder, runtime="onnxruntme")
    about = json.loads((folder / "contract.json").read_text())
    (folder / "contract.json").write_text(json.dumps(about)[:-40])
    with pytest.raises(UserError, match="damaged"):
        read_exported(folder)


def test_faces_are_looked_for_with_the_folders_own_detector(tmp_path):
    picture = np.random.default_rng(1).integers(0, 255, (80, 64, 3), dtype=np.uint8)
    copy = shutil.copy(detector_path(), tmp_path / "faces.onnx")
    assert find_faces(picture, Detector(), copy) == find_faces(picture, Detector())
    with pytest.raises(Exception, match="nothing.onnx"):
        find_faces(picture, Detector(), tmp_path / "nothing.onnx")


def test_hints_name_what_would_make_a_better_picture(tmp_path):
    good = {
        "brightness": 120.0,
        "contrast": 40.0,
        "sharpness": 0.4,
        "face_width": 200.0,
        "room": 2.0,
        "other_face": 0.0,
    }
    video = VideoViews(tmp_path / "a.mp4", frames=3, faces=3, most_faces=1, measures=good)
    assert list_hints(video) == []
    video.measures = good | {"brightness": 20.0, "face_width": 30.0}
    video.most_faces = 2
    assert list_hints(video) == ["several_faces", "small", "dark"]
    assert list_hints(VideoViews(tmp_path / "a.mp4", frames=3, faces=0, most_faces=0)) == ["no_face"]
    assert list_hints(VideoViews(tmp_path / "a.mp4", "unreadable")) == []
