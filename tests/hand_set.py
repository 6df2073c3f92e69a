"""A prepared set written by hand, for tests of what comes after preparation: no driver, no video.

write_prepared(root, "tiny", folds=3)      # data/tiny: 12 videos of 3 frames, as prepare_data.sh leaves them
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from liveness.base.compose import load_data
from liveness.base.config import to_dict
from liveness.base.files import sha256_of
from liveness.frames.faces import detector_path

# A ConvNeXt that trains in a second.
NARROW = [
    "model.kwargs.depths=[1,1,1,1]",
    "model.kwargs.dims=[8,16,16,16]",
    "model.pretrained=",
    "view.size=32",
    "augment=none",
    "train.epochs=1",
    "train.batch=6",
    "train.workers=0",
    "train.warmup_epochs=0",
]


def write_prepared(root: Path, name: str = "tiny", folds: int = 3, videos: int = 12) -> Path:
    """data/<name> below ``root``: live and attack in turn, a person a fold; live frames are brighter."""
    folder = root / "data" / name
    (folder / "frames").mkdir(parents=True)
    rng = np.random.default_rng(5)
    rows, frames = [], []
    for number in range(videos):
        label, fold = number % 2, number // 2 % folds
        rows.append((f"{number}.mp4", label, str(number), "ok", "", f"p{fold}", fold))
        for frame in range(3):
            picture = rng.integers(0, 150, (40, 32, 3)) + 100 * label
            Image.fromarray(picture.astype(np.uint8)).save(folder / "frames" / f"{number}-{frame}.jpg", quality=95)
            frames.append((f"{number}-{frame}.jpg", str(number), frame, label, frame / 3, 0))
    table = pd.DataFrame(rows, columns=["filename", "label", "video_id", "status", "reason", "group", "fold"])
    shots = pd.DataFrame(frames, columns=["filename", "video_id", "frame_id", "label", "time", "face"])
    table.drop(columns="fold").to_csv(folder / "labels_video.csv", index=False)
    table[["filename", "label", "group", "fold"]].to_csv(folder / "folds.csv", index=False)
    shots.drop(columns="face").to_csv(folder / "labels_keyframes.csv", index=False)
    boxes = shots.assign(confidence="", x="", y="", w="", h="").drop(columns="time")
    boxes.to_csv(folder / "labels_bbox.csv", index=False)
    about = {"version": 2, "data": to_dict(load_data(name)), "detector_sha256": sha256_of(detector_path())}
    (folder / "prepare.json").write_text(json.dumps(about))
    return folder
