"""A tiny labelled set for tests of training: drawn clips whose label is a colour, in LIVENESS_ROOT/raw/<set>.

    LIVENESS_ROOT=FOLDER python tests/tiny_set.py [SET]

Writes raw/<set>/label.csv (fname,liveness_score,subject) and raw/<set>/videos/; prepare_data.sh reads them.
"""

import csv
import os
import sys
from pathlib import Path

import av
import numpy as np

PERSONS = 5


def write_set(folder: Path, clips: int = 19) -> None:
    """``clips`` clips of 5 persons, alternately attack (a cold disc) and live (a warm one)."""
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(clips):
        write_clip(folder / "videos" / f"{number}.mp4", live=number % 2, seed=number)
        rows.append((f"{number}.mp4", number % 2, f"p{number // 2 % PERSONS}"))
    with open(folder / "label.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("fname", "liveness_score", "subject"), *rows])


def write_clip(path: Path, live: int, seed: int, frames: int = 6, width: int = 64, height: int = 80) -> None:
    """One H.264 clip: a disc that moves over a noisy ground, its place and brightness drawn from ``seed``."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(float)
    colour = np.array([1.0, 0.6, 0.3] if live else [0.3, 0.6, 1.0]) * rng.uniform(150, 250)
    start, ground = rng.uniform(0.3, 0.7, 2), rng.uniform(60, 140)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            centre = start + 0.02 * number
            disc = np.hypot(x - width * centre[0], y - height * centre[1]) < width * 0.3
            picture = np.where(disc[..., None], colour, ground) + rng.normal(0, 12, (height, width, 1))
            frame = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


if __name__ == "__main__":
    write_set(Path(os.environ["LIVENESS_ROOT"]) / "raw" / (sys.argv[1] if len(sys.argv) > 1 else "tiny"))
