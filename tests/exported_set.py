"""A set with two members on narrow networks and their operating file, for tests of exporting; and a folder by hand.

prepare_members(root)            # data/tiny, weights/tiny/efficientnet_lite0_fold{0,1}.safetensors and .json, untrained
write_by_hand(folder)            # an exported folder as far as reading goes: its networks are no networks
"""

import csv
import hashlib
import json
from functools import cache
from pathlib import Path

import av
import numpy as np
from in_process import at_home, prepare_here
from odd_clips import portrait
from test_prediction import put_member

from liveness.base.compose import load_recipe
from liveness.base.config import Data
from liveness.frames.contract import make_contract
from liveness.members.weights import describe_member
from liveness.sets.folds import digest_of_set

ENSEMBLE, DATA = "efficientnet_lite0", "tiny"


def write_face(path: Path, seed: int, frames: int = 6) -> None:
    """A clip of 96 x 112 with a face at a place, in a light and on a ground drawn from ``seed``."""
    rng = np.random.default_rng(seed)
    light, ground, (left, top) = rng.uniform(0.5, 1.2), rng.uniform(60, 180), rng.integers(0, 12, 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 112, "yuv420p"
        for _ in range(frames):
            picture = ground + rng.normal(0, 8, (112, 96, 3))
            picture[top : top + 80, left : left + 80] = light * portrait(80)
            frame = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def prepare_members(root: Path, clips: int = 20) -> None:
    """The first member sees the whole frame, the second one the face."""
    for number in range(clips):
        write_face(root / "raw" / DATA / "videos" / f"{number}.mp4", number)
    with open(root / "raw" / DATA / "label.csv", "w", encoding="utf-8", newline="") as file:
        rows = [(f"{number}.mp4", number % 2, f"p{number // 2 % 5}") for number in range(clips)]
        csv.writer(file).writerows([("fname", "liveness_score", "subject"), *rows])
    prepare_here(root, DATA, "folds.n=2", "folds.duplicates=0")
    with at_home(root):
        digest = digest_of_set(root / "data" / DATA)
        paths = [
            put_member(ENSEMBLE, fold, DATA, f"view.kind={kind}", "view.scales=[1.0]", data_hash=digest, folds=2)
            for fold, kind in enumerate(("frame", "face"))
        ]
    names = [path.stem for path in paths]
    about = {
        "data_hash": digest,
        "weights": dict.fromkeys(names, 1.0),
        "weights_sha256": {path.stem: describe_member(path)["weights_sha256"] for path in paths},
        "calibration": {"how": "platt", "members": dict.fromkeys(names, {"how": "platt", "slope": 0.7, "offset": 0.1})},
        "thresholds": [
            {"name": "eer", "target": None, "threshold": 0.5, "threshold_interval": [0.49, 0.51], "videos": clips},
            {"name": "apcer5", "target": 0.05, "threshold": 0.6, "threshold_interval": [0.6, 0.6], "videos": clips},
        ],
    }  # fmt: skip
    (paths[0].parent / f"{ENSEMBLE}.json").write_text(json.dumps(about))


@cache
def _contract() -> dict:
    return make_contract(load_recipe("demo_frame"), Data(), "")


def write_by_hand(folder: Path, **changes: object) -> Path:
    """An exported folder of one member whose file holds no network; ``changes`` replace keys of its contract."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "one.onnx").write_bytes(b"no network")
    member = {
        "recipe": "demo_frame",
        "fold": 0,
        "weight": 1.0,
        "file": "one.onnx",
        "contract": _contract(),
        "data_hash": "",
        "weights_sha256": "",
    }
    about = {
        "version": 1,
        "ensemble": "hand",
        "data": "none",
        "precision": "float32",
        "members": [member],
        "cascade": {"first": [], "low": 0.0, "high": 1.0},
        "operating": None,
        "detector": None,
        "gate": {"runtimes": {}},
        "files": {"one.onnx": {"sha256": hashlib.sha256(b"no network").hexdigest(), "bytes": 10}},
        "made_with": {},
    }
    (folder / "contract.json").write_text(json.dumps(about | changes))
    return folder
