"""A small evaluated ensemble for the tests of the report: runs, frames, and the real ``liveness.evaluate``."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from liveness.base import compose
from liveness.members.trained import OOF_COLUMNS

MEMBERS = [("convnext_xlarge", 0), ("convnext_xlarge", 1), ("second", 0)]
NASTY = "<script>alert(1)<!-- & 'o\"brien' Nguyễn.mp4"
SPECIES = ("print", "<b>replay</b>")
HASH = "0123456789abcdef"
# shift.json and search.json as the laboratory leaves them, of the ensemble ``mix``.
SHIFT = {
    "version": 1,
    "ensemble": "mix",
    "data": "tiny",
    "data_hash": HASH,
    "clean": {"eer": 0.1, "interval": [0.05, 0.15], "videos": 120},
    "rows": [
        {"stressor": "print", "severity": 3, "parameters": "traces", "eer": 0.31, "interval": [0.2, 0.4],
         "difference": 0.21, "verdict": "worse", "videos": 120, "no_score": 2, "auc": 0.8, "apcer": 0.4, "bpcer": 0.1},
        {"stressor": "jpeg", "severity": 1, "eer": 0.11, "verdict": "cannot be told apart"},
        {"stressor": "blur", "severity": 1, "eer": None, "interval": [None, None]},
    ],
}  # fmt: skip
SEARCH = {
    "version": 1,
    "ensemble": "mix",
    "data": "tiny",
    "data_hash": HASH,
    "members": [
        {"name": f"{recipe}_fold{fold}", "milliseconds": 20.0, "eer": 0.2, "interval": [0.1, 0.3]}
        for recipe, fold in MEMBERS
    ],
    "subsets": [
        {"members": ["second_fold0"], "milliseconds": 20.0, "eer": 0.2, "interval": [0.1, 0.3], "pareto": True,
         "against_full": "worse"},
        {"members": ["convnext_xlarge_fold0", "second_fold0"], "milliseconds": 90.0, "eer": 0.1,
         "interval": [0.05, 0.2], "pareto": True, "against_full": "cannot be told apart"},
    ],
    "cascades": [{"first": ["second_fold0"], "low": 0.1, "high": 0.9, "milliseconds": 40.0, "escalated": 0.3,
                  "eer": 0.12, "interval": [0.05, 0.2], "difference": 0.02, "difference_interval": [-0.01, 0.05]}],
}  # fmt: skip


def make_configs(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """configs/ with the ensemble ``mix`` of two folds of one recipe and one fold of another."""
    shutil.copytree(compose.CONFIGS, folder)
    text = (folder / "recipe" / "convnext_xlarge.yaml").read_text()
    (folder / "recipe" / "second.yaml").write_text(text.replace("name: convnext_xlarge", "name: second", 1))
    members = "".join(f"  - {{recipe: {recipe}, fold: {fold}}}\n" for recipe, fold in MEMBERS)
    (folder / "ensemble" / "mix.yaml").write_text(
        f"# @package _global_\ndefaults:\n  - /ensemble_schema\n  - _self_\nname: mix\ndata: tiny\nmembers:\n{members}"
    )
    patch.setattr(compose, "CONFIGS", folder)


def make_set(root: Path, count: int = 120, people: int = 24, aside: int = 0, apart: float = 0.25) -> None:
    """data/tiny with frames and labels, and a finished run of every member.

    ``count`` videos of ``people`` groups in two folds (the first ``aside`` groups: holdout); the scores of the
    classes lie ``apart`` around the middle and overlap.
    """
    rng, index = np.random.default_rng(7), np.arange(count)
    label, person = (index // people) % 2, index % people
    names = [NASTY if i == 0 else f"{i}.mp4" for i in index]
    groups = ['"><img src=x>' if p == 0 else f"person {p}" for p in person]
    fold = np.where(person < aside, -1, person % 2)
    kinds = np.where(label == 1, "", np.array(SPECIES)[index % 2])
    folds = pd.DataFrame({"filename": names, "label": label, "group": groups, "fold": fold})
    folder = root / "data" / "tiny"
    folder.mkdir(parents=True)
    folds.to_csv(folder / "folds.csv", index=False)
    (folder / "folds.json").write_text('{"groups": {"kind": "subjects", "source": "subject", "without": 0}}')
    folds.assign(video_id=index, species=kinds).to_csv(folder / "labels_video.csv", index=False)
    make_frames(folder, index, label, rng)
    for recipe, number in MEMBERS:
        rows = []
        for i in np.flatnonzero((fold == number) | (fold == -1)):
            base = 0.5 + apart * (2 * label[i] - 1) + rng.normal(0, 0.17)
            for frame in (3, 6, 9):
                score = np.clip(base + rng.normal(0, 0.03), 0.01, 0.99)
                rows.append((names[i], i, frame, label[i], fold[i], round(score, 6), "ok"))
        make_run(root / "runs" / "tiny" / f"{recipe}_fold{number}", recipe, number, rows)


def make_frames(folder: Path, index: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> None:
    """Three stored frames and a face crop of every twelfth video."""
    (folder / "frames").mkdir()
    (folder / "faces" / "crop").mkdir(parents=True)
    rows = []
    for i in index:
        for frame in (3, 6, 9):
            name = f"{i}-{frame}.jpg"
            rows.append((name, i, frame, label[i], 1, 1, 0.9, 20, 30, 40, 50))
            if i % 12 == 0:
                picture = Image.fromarray(rng.integers(0, 255, (160, 120, 3), dtype=np.uint8))
                picture.save(folder / "frames" / name, quality=95)
                picture.crop((20, 30, 70, 80)).save(folder / "faces" / "crop" / name, quality=95)
    columns = ["filename", "video_id", "frame_id", "label", "face", "n_faces", "confidence", "x", "y", "w", "h"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "labels_bbox.csv", index=False)


def make_run(folder: Path, recipe: str, number: int, rows: list[tuple]) -> None:
    folder.mkdir(parents=True)
    pd.DataFrame(rows, columns=OOF_COLUMNS).to_csv(folder / "oof.csv", index=False)
    settings = {"name": recipe, "combine": "mean", "train": {"lr": 1e-4, "select": "last"}}
    described = {"recipe": settings, "fold": number, "data": "tiny", "data_hash": HASH}
    (folder / "config.json").write_text(json.dumps(described))
    start = {"started": "2026-01-02T03:04:05+0000", "commit": "c0ffee" * 6 + "+", "versions": {"torch": "2.0"}}
    start["hardware"] = {"device": "cpu", "processes": 1, "cores": 2}
    (folder / "runs.json").write_text(json.dumps([start]))


def percent(rate: float) -> str:
    return f"{100 * rate:.1f} %"
