"""What preparation is measured by, besides its speed (benchmarks/prepare.py); docs/preparation.md has the figures.

    python benchmarks/preparation.py duplicates FOLDER [--copies 40]   recall and false merges at every threshold
    python benchmarks/preparation.py copies FOLDER [--copies 40]       the same of copies that FFmpeg made
    python benchmarks/preparation.py masks FOLDER                      YuNet on the same faces with drawn masks
    python benchmarks/preparation.py decoders FOLDER                   PyAV against OpenCV: pixels and time
    python benchmarks/preparation.py pairs [1200 10000]                seconds of the search for near-duplicates

FOLDER has videos/ and, for duplicates, label.csv with a column subject. Prints; writes nothing else.
"""

import argparse
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np

SOURCE = Path(__file__).resolve().parents[1] / "src"
sys.path.insert(0, str(SOURCE))

from liveness.base.config import Detector, Folds, FramePlan  # noqa: E402
from liveness.base.files import find_videos  # noqa: E402
from liveness.frames.boxes import choose_face  # noqa: E402
from liveness.frames.video import read_frames  # noqa: E402
from liveness.frames.yunet import YuNet  # noqa: E402
from liveness.sets.duplicates import BITS, VARIANTS, find_pairs, hash_frame  # noqa: E402
from liveness.sets.labels import read_labels  # noqa: E402

ALL, PLAN, MIDDLE = FramePlan(plan="all"), FramePlan(), FramePlan(positions=[0.5])
TRIMMED = "trimmed by a quarter"
THRESHOLDS = (0.06, 0.08, 0.10, 0.12, 0.14, 0.16, 0.18, 0.20)


def border(picture: np.ndarray, share: float) -> np.ndarray:
    y, x = round(share * picture.shape[0]), round(share * picture.shape[1])
    return picture[y : picture.shape[0] - y, x : picture.shape[1] - x]


def scaled(picture: np.ndarray, factor: float) -> np.ndarray:
    return cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


COPIES = {  # what is done to each frame, and the CRF of the new encoding
    "re-encoded, CRF 38": (lambda p: p, 38),
    "half the size": (lambda p: scaled(p, 0.5), 28),
    "mirrored": (lambda p: p[:, ::-1], 28),
    "cropped 3 % a side": (lambda p: border(p, 0.03), 28),
    "cropped 5 % a side": (lambda p: border(p, 0.05), 28),
    "brighter, gamma 0.8": (lambda p: np.clip((p / 255.0) ** 0.8 * 255, 0, 255).astype(np.uint8), 28),
    "mirrored, cropped 3 %, 0.6 x": (lambda p: scaled(border(p[:, ::-1], 0.03), 0.6), 32),
    TRIMMED: (lambda p: p, 28),
}


def encode(path: Path, pictures: list[np.ndarray], crf: int) -> None:
    import av

    height, width = (side - side % 2 for side in pictures[0].shape[:2])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=15, options={"crf": str(crf), "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in pictures:
            frame = np.ascontiguousarray(picture[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def hashes_of(path: Path) -> list[list[str]]:
    return [hash_frame(rgb) for _, rgb in sorted(read_frames(path, [PLAN], 95).frames.items())]


def duplicates(folder: Path, copies: int) -> None:
    """Plant copies of ``copies`` clips, one of each kind, and look for pairs at several thresholds."""
    table = read_labels(folder / "label.csv")
    person = dict(zip(table["filename"], table["subject"], strict=True))
    videos = [path for path in find_videos(folder / "videos") if path.name in person]
    hashes = {path.name: hashes_of(path) for path in videos}
    planted = {}
    with tempfile.TemporaryDirectory() as side:
        clip = Path(side) / "copy.mp4"
        for path in random.Random(7).sample(videos, min(copies, len(videos))):
            frames = [rgb for _, rgb in sorted(read_frames(path, [ALL]).frames.items())]
            for kind, (change, crf) in COPIES.items():
                part = frames[len(frames) // 4 :] if kind == TRIMMED else frames
                encode(clip, [change(frame) for frame in part], crf)
                hashes[f"{path.name}|{kind}"] = hashes_of(clip)
                planted[f"{path.name}|{kind}"] = path.name, kind
    pairs = find_pairs(hashes, 0.24)
    own = [(p.distance, planted[p.other][1]) for p in pairs if planted.get(p.other, ("",))[0] == p.one]
    strange = [
        (p.distance, *sorted((p.one.split("|")[0], p.other.split("|")[0])))
        for p in pairs
        if person[p.one.split("|")[0]] != person[p.other.split("|")[0]]
    ]
    print(f"{len(videos)} clips of {len(set(person.values()))} persons, {len(planted)} planted copies")
    for threshold in THRESHOLDS:
        found = Counter(kind for distance, kind in own if distance <= threshold)
        false = len({(a, b) for distance, a, b in strange if distance <= threshold})
        print(f"{threshold:.2f}: {[found[kind] for kind in COPIES]} found, {false} pairs of different persons")
    print("kinds:", ", ".join(COPIES))
    print("copies but the trimmed: at most", max(distance for distance, kind in own if kind != TRIMMED))
    print("different persons: at least", min((distance for distance, *_ in strange), default="0.24"))


RENDERED = {  # a copy by FFmpeg: CRF, filter
    "CRF 23": (23, "null"),
    "CRF 33": (33, "null"),
    "CRF 36, 1/2": (36, "scale=iw/2:-2"),
    "CRF 33, 3/4": (33, "scale=trunc(iw*0.75/2)*2:-2"),
    "10 frames a second": (28, "fps=10"),
    "30 frames a second": (28, "fps=30"),
    "mirrored, 3/4": (33, "hflip,scale=trunc(iw*0.75/2)*2:-2"),
    "mirrored, 3/4, 12 frames a second": (33, "hflip,fps=12,scale=trunc(iw*0.75/2)*2:-2"),
}


def copies(folder: Path, count: int) -> None:
    """Encode ``count`` clips again as people do; how many are found by two frames and by one, and what else matches."""
    videos = sorted(find_videos(folder / "videos"))
    hashes, planted = {path.name: hashes_of(path) for path in videos}, {}
    with tempfile.TemporaryDirectory() as side:
        clip = Path(side) / "copy.mp4"
        for path in random.Random(3).sample(videos, min(count, len(videos))):
            for kind, (crf, change) in RENDERED.items():
                codec = ["-an", "-c:v", "libx264", "-threads", "1", "-pix_fmt", "yuv420p", "-crf", str(crf)]
                command = ["ffmpeg", "-y", "-loglevel", "error", "-threads", "1", "-i", str(path), "-vf", change]
                subprocess.run([*command, *codec, str(clip)], check=True, stdin=subprocess.DEVNULL)
                planted[f"{path.name}|{kind}"] = kind
                hashes[f"{path.name}|{kind}"] = hashes_of(clip)
    for frames_alike in (2, 1):
        pairs = find_pairs(hashes, Folds().duplicates, frames_alike)
        found = Counter(planted[p.other] for p in pairs if p.other in planted and p.other.split("|")[0] == p.one)
        others = sum(p.one not in planted and p.other not in planted for p in pairs)
        print(f"by {frames_alike} frames: {[found[kind] for kind in RENDERED]}, {others} pairs of different clips")
    print("kinds:", "; ".join(RENDERED))


def draw_mask(rgb: np.ndarray, row: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """A medical mask from under the eyes to the chin, by YuNet's box and landmarks."""
    width, marks = row[2], row[4:14].reshape(5, 2)
    eyes, mouth = marks[:2].mean(0), marks[3:5].mean(0)
    down = mouth - eyes
    across = np.array([down[1], -down[0]]) / max(1e-6, np.hypot(*down)) * width
    shape = [(0.35, 0.48), (1.2, 0.46), (2.0, 0.2)]  # how far down, half of how wide
    points = [eyes + d * down + w * across for d, w in shape] + [eyes + d * down - w * across for d, w in shape[::-1]]
    image = rgb.copy()
    cv2.fillPoly(image, [np.rint(points).astype(np.int32)], colour, cv2.LINE_AA)
    for fold in (0.8, 1.1, 1.4):  # the pleats
        ends = [np.rint(eyes + fold * down + s * 0.4 * across).astype(int).tolist() for s in (-1, 1)]
        cv2.line(image, *ends, tuple(int(c * 0.85) for c in colour), 1, cv2.LINE_AA)
    return cv2.GaussianBlur(image, (0, 0), 0.6)


def overlap(one, other) -> float:
    """Intersection over union of two faces."""
    w = min(one.x + one.w, other.x + other.w) - max(one.x, other.x)
    h = min(one.y + one.h, other.y + other.h) - max(one.y, other.y)
    shared = max(0.0, w) * max(0.0, h)
    return shared / (one.w * one.h + other.w * other.h - shared)


def masks(folder: Path) -> None:
    """How many faces are still found, at their place, with a mask drawn on them."""
    detector = YuNet(Detector())
    marker = cv2.FaceDetectorYN.create(str(YuNet.weights()), "", (320, 320), 0.6)
    faces, found = 0, Counter()
    for path in find_videos(folder / "videos"):
        (rgb,) = read_frames(path, [MIDDLE], 95).frames.values()
        height, width = rgb.shape[:2]
        scale = min(1.0, 640 / max(height, width))
        small = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        marker.setInputSize((small.shape[1], small.shape[0]))
        _, rows = marker.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        bare = choose_face(detector.detect(small), small.shape[1], small.shape[0])
        if rows is None or bare is None:
            continue
        faces += 1
        row = max(rows, key=lambda r: r[2] * r[3])
        for name, colour in {"white": (235, 238, 240), "blue": (120, 170, 205), "black": (25, 25, 28)}.items():
            masked = choose_face(detector.detect(draw_mask(small, row, colour)), small.shape[1], small.shape[0])
            found[name] += masked is not None and overlap(masked, bare) >= 0.5
    print(f"{faces} faces; found again with a mask: {dict(found)}")


def opencv_frames(path: Path, wanted: list[int]) -> dict[int, np.ndarray]:
    """The frames by OpenCV, read in order up to the last: seeking is not exact there."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    frames = {}
    for index in range(max(wanted) + 1):
        if not capture.grab():
            break
        if index in wanted:
            frames[index] = cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB)
    return frames


def decoders(folder: Path) -> None:
    """The same frames by both libraries, one thread each: equal pixels, and the better time of three."""
    times, equal, count = Counter(), 0, 0
    for path in find_videos(folder / "videos"):
        best = {}
        for _ in range(3):
            start = time.perf_counter()
            decoded = read_frames(path, [PLAN])
            middle = time.perf_counter()
            other = opencv_frames(path, list(decoded.frames))
            took = {"PyAV": middle - start, "OpenCV": time.perf_counter() - middle}
            best = {name: min(seconds, best.get(name, seconds)) for name, seconds in took.items()}
        times.update(best)
        count += len(decoded.frames)
        equal += sum(i in other and np.array_equal(rgb, other[i]) for i, rgb in decoded.frames.items())
    took = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in times.items())
    print(f"{count} frames, {equal} equal; {took}; PyAV / OpenCV {times['PyAV'] / times['OpenCV']:.2f}")


def pairs(counts: list[int]) -> None:
    """Seconds and memory of the search among random videos of three frames, whose frames resemble each other."""
    for count in counts:
        rng = np.random.default_rng(0)
        scenes = rng.integers(0, 2, (count, 1, VARIANTS, BITS))
        bits = np.packbits(scenes ^ (rng.random((count, 3, VARIANTS, BITS)) < 0.05), axis=-1)
        hashes = {f"{v}.mp4": [[text.tobytes().hex() for text in frame] for frame in bits[v]] for v in range(count)}
        start = time.perf_counter()
        found = find_pairs(hashes, 0.12)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(f"{count} videos: {time.perf_counter() - start:.1f} s, {len(found)} pairs, peak {peak} MiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name in ("duplicates", "copies", "masks", "decoders"):
        verbs.add_parser(name).add_argument("folder", type=Path, metavar="FOLDER")
    for name in ("duplicates", "copies"):
        verbs.choices[name].add_argument("--copies", type=int, default=40)
    verbs.add_parser("pairs").add_argument("counts", type=int, nargs="*", default=[1200, 10000])
    args = parser.parse_args()
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    if args.verb in ("duplicates", "copies"):
        {"duplicates": duplicates, "copies": copies}[args.verb](args.folder, args.copies)
    elif args.verb == "pairs":
        pairs(args.counts)
    else:
        {"masks": masks, "decoders": decoders}[args.verb](args.folder)


if __name__ == "__main__":
    main()
