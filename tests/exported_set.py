"""A set with two members on narrow networks and their operating file, for tests of exporting; and a folder by hand.

prepare_members(root)            # data/tiny, weights/tiny/efficientnet_lite0_fold{0,1}.safetensors and .json, untrained
write_by_hand(folder)            # an exported folder as far as reading goes: its networks are no networks
"""

import hashlib
import json
from pathlib import Path

import tiny_set
from in_process import at_home, prepare_here
from test_prediction import put_member

from liveness.base.compose import load_recipe
from liveness.base.config import Data
from liveness.frames.contract import make_contract
from liveness.members.weights import describe_member
from liveness.sets.folds import digest_of_set

ENSEMBLE, DATA = "efficientnet_lite0", "tiny"


def prepare_members(root: Path, clips: int = 20) -> None:
    tiny_set.write_set(root / "raw" / DATA, clips)
    prepare_here(root, DATA, "folds.n=2")
    with at_home(root):
        digest = digest_of_set(root / "data" / DATA)
        paths = [
            put_member(ENSEMBLE, fold, DATA, "view.kind=frame", "view.scales=[1.0]", data_hash=digest, folds=2)
            for fold in (0, 1)
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


def write_by_hand(folder: Path, **changes: object) -> Path:
    """An exported folder of one member whose file holds no network; ``changes`` replace keys of its contract."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "one.onnx").write_bytes(b"no network")
    recipe = load_recipe("demo_frame")
    member = {
        "recipe": "demo_frame",
        "fold": 0,
        "weight": 1.0,
        "file": "one.onnx",
        "contract": make_contract(recipe, Data(), ""),
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
