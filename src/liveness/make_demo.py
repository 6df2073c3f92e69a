"""Make the demo set: short selfie clips of invented persons, live, printed and replayed.

    python -m liveness.make_demo [--out raw/demo] [--seed 0] [--clips 60] [--unlabelled 12] [--workers 0]

Reads nothing but scikit-image's portrait. Writes raw/demo/{videos/*.mp4, label.csv, demo.json} and
raw/demo_test/{videos/*.mp4, truth.csv, demo.json}: label.csv is fname,liveness_score,subject,species and is
written last, so its presence means that the set is whole. truth.csv has the same columns; no driver
reads it. The same arguments give the same bytes; a finished set is kept, one made with other
arguments is made anew.
"""

import argparse
import json
import shutil
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from liveness.base.errors import UserError, run
from liveness.base.files import workspace, write_text, written_aside
from liveness.base.machine import cores
from liveness.demo.persons import FACE_WIDTH, Person, Portrait, Pose
from liveness.simulation.attacks import ATTACKS
from liveness.simulation.camera import Camera
from liveness.simulation.scenes import draw_scene
from liveness.simulation.warp import Sway

VERSION = 2  # of the pictures: raise it when the same arguments give other clips
SIZES = ((640, 360), (640, 480), (576, 432), (360, 640), (432, 576), (480, 640))  # height, width
PERSONS = 12  # of the labelled clips
NEW_PERSONS = 4  # only in the unlabelled clips
HEADER = "fname,liveness_score,subject,species"


@dataclass(frozen=True)
class Clip:
    """One clip to make; everything else follows from ``seed``."""

    path: str
    seed: int
    person: int
    species: str  # live, print, replay
    masked: bool
    set_seed: int


def plan(folder: Path, count: int, persons: list[int], seed: int) -> list[Clip]:
    """``count`` clips of the persons in turn: half live, a quarter print, a quarter replay, in shuffled order."""
    rng = np.random.default_rng([seed, count, persons[0]])
    cycle = ("live", "print", "live", "replay")
    cells = []
    for k in range(count):
        turn, who = divmod(k, len(persons))
        # Neighbouring persons are half a cycle apart, so that labels stay balanced in every round.
        cells.append((persons[who], cycle[(turn + 2 * (turn // 4) + who) % 4], (turn + who) % 3 == 2))
    order = rng.permutation(count)
    seeds = rng.integers(2**31, size=count)
    return [Clip(str(folder / f"{n}.mp4"), int(seeds[n]), *cells[int(k)], set_seed=seed) for n, k in enumerate(order)]


def person_of(number: int, seed: int) -> Person:
    return Person.draw(np.random.default_rng([seed, 77, number]), f"p{number + 1:02d}", number)


class Take:
    """One living person before one camera: frames at any time."""

    def __init__(self, portrait: Portrait, size: tuple[int, int], rng: np.random.Generator, zoom: float = 1.0):
        self.height, self.width = size
        self.portrait = portrait
        self.room = draw_scene(rng, int(self.height * 1.2), int(self.width * 1.2))
        side = min(self.width, 0.8 * self.height)
        self.scale = rng.uniform(0.36, 0.5) * side / FACE_WIDTH / zoom
        off = np.clip(rng.normal(0, 0.03, 2), -0.06, 0.06)
        self.place = (off + (0.5, 0.49)) * (self.width, self.height)
        self.roll = rng.normal(0, 0.05)
        shake = rng.uniform(0.25, 1.0) * side
        self.hand = Sway(rng, [0.016 * shake, 0.016 * shake])
        liveliness = rng.uniform(0.5, 1.3)
        self.head = Sway(rng, [v * liveliness for v in (10, 7, 0.03, 0.02, 5, 2)], (0.15, 0.9))
        self.blinks = np.cumsum(rng.uniform(0.5, 2.2, 3))

    def frame(self, t: float) -> np.ndarray:
        hand = self.hand(t)
        yaw, pitch, roll, grow, smile, brow = self.head(t)
        blink = max(float(np.clip(1.4 - abs(t - b) / 0.09, 0, 1)) for b in self.blinks)
        pose = Pose(*(self.place + hand), scale=self.scale * (1 + grow), roll=self.roll + roll, yaw=yaw, pitch=pitch,
                    smile=smile, brow=brow, blink=blink, drift=tuple(0.6 * hand))  # fmt: skip
        return self.portrait.render(pose, self.room, self.height, self.width)


def frames_of(clip: Clip):
    """(frames per second, kbit/s, generator of uint8 RGB frames) of a clip."""
    rng = np.random.default_rng([clip.set_seed, clip.seed])
    size = SIZES[int(rng.integers(len(SIZES)))]
    fps = int(rng.choice([12, 15]))
    count = round(fps * rng.uniform(1.7, 2.3))
    rate = int(np.exp(rng.uniform(np.log(700), np.log(2400))))
    camera = Camera.draw(rng)
    person = person_of(clip.person, clip.set_seed)
    return fps, rate, _shots(clip, person, size, camera, rng, [k / fps for k in range(count)])


def _shots(clip: Clip, person: Person, size: tuple, camera: Camera, rng: np.random.Generator, times: list[float]):
    if clip.species == "live":
        take = Take(Portrait(person, rng, clip.masked), size, rng)
        for t in times:
            yield camera.apply(take.frame(t), rng)
        return
    attack = replace(ATTACKS[clip.species].draw(rng), camera=camera)
    first = replace(Camera.draw(rng), noise=0.004, blur=0.35, strength=0.4)  # the attacker picks a good recording
    take = Take(Portrait(person, rng, clip.masked), size, rng, zoom=attack.holding.fill)
    sheet = None
    for t in times:
        if sheet is None or clip.species == "replay":
            sheet = attack.surface(first.apply(take.frame(t if clip.species == "replay" else 0.0), rng))
        yield attack.capture(sheet, t, rng)


def make_clip(clip: Clip) -> str:
    """Render and encode one clip (H.264, yuv420p, one thread, no dates: equal bytes every time)."""
    import av

    cv2.setNumThreads(1)
    fps, rate, frames = frames_of(clip)
    with written_aside(Path(clip.path)) as side, av.open(str(side), "w", format="mp4") as container:
        stream = None
        for picture in frames:
            if stream is None:
                stream = container.add_stream("libx264", rate=fps)
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt, stream.bit_rate = "yuv420p", rate * 1000
                # mbtree gives other bytes from run to run even with one thread
                stream.options = {"preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
                stream.thread_count = 1
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return clip.path


def table(clips: list[Clip], seed: int) -> str:
    """The label file's text."""
    rows = [
        f"{Path(c.path).name},{int(c.species == 'live')},{person_of(c.person, seed).name},{c.species}" for c in clips
    ]
    return "\n".join([HEADER, *rows]) + "\n"


def finished(out: Path, test: Path, parameters: dict) -> bool:
    """Whether a whole set with these parameters is there."""
    try:
        for folder, name in ((out, "label.csv"), (test, "truth.csv")):
            if json.loads((folder / "demo.json").read_text(encoding="utf-8")) != parameters:
                return False
            rows = (folder / name).read_text(encoding="utf-8").splitlines()[1:]
            if not all((folder / "videos" / row.split(",")[0]).is_file() for row in rows):
                return False
    except (OSError, ValueError):
        return False
    return True


def generate(clips: list[Clip], workers: int) -> None:
    """Make all clips, in a pool of processes, with a progress bar or a few lines."""
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    clips = sorted(clips, key=lambda clip: clip.person)  # a process keeps the head that it has drawn
    with ProcessPoolExecutor(workers, initializer=_leave_interrupts) as pool:
        try:
            done = pool.map(make_clip, clips)
            bar = tqdm(done, total=len(clips), desc="demo clips", unit="clip", disable=not terminal)
            for number, _ in enumerate(bar, 1):
                if not terminal and number % max(len(clips) // 4, 1) == 0:
                    print(f"demo clips: {number} of {len(clips)}", file=sys.stderr)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _leave_interrupts() -> None:
    """A worker leaves ctrl-C to the parent, which then cancels what has not begun."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def main() -> int:
    options = parse()
    out = options.out if options.out.is_absolute() else workspace() / options.out
    test = out.with_name(out.name + "_test")
    parameters = {"version": VERSION, "seed": options.seed, "clips": options.clips, "unlabelled": options.unlabelled}
    if finished(out, test, parameters):
        print(f"{out}: a finished demo set with these parameters is there; kept")
        return 0
    for folder in (out, test):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder}: is a file; expected a folder for the demo set, or a new name")
        if folder.exists() and not (folder / "demo.json").exists() and any(folder.iterdir()):
            raise UserError(f"{folder}: not empty and no demo set (no demo.json in it); expected a new or empty folder")
    (out / "label.csv").unlink(missing_ok=True)
    for folder in (out, test):
        write_text(folder / "demo.json", json.dumps(parameters, indent=1) + "\n")
        shutil.rmtree(folder / "videos", ignore_errors=True)
        (folder / "videos").mkdir(parents=True)
    known = list(range(PERSONS))
    labelled = plan(out / "videos", options.clips, known, options.seed)
    unlabelled = plan(test / "videos", options.unlabelled, [12, 1, 13, 6, 14, 3, 15, 8], options.seed)
    workers = options.workers or cores()
    print(f"making {len(labelled)} labelled and {len(unlabelled)} unlabelled clips in {out}", file=sys.stderr)
    generate(labelled + unlabelled, workers)
    write_text(test / "truth.csv", table(unlabelled, options.seed))
    write_text(out / "label.csv", table(labelled, options.seed))
    print(f"{out}: {len(labelled)} labelled clips; {test}: {len(unlabelled)} unlabelled clips")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m liveness.make_demo", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("raw/demo"), help="folder of the set (default: raw/demo)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clips", type=int, default=60, help="labelled clips")
    parser.add_argument("--unlabelled", type=int, default=12, help="clips of the set OUT_test")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 = one per core")
    options = parser.parse_args()
    for name, least in (("seed", 0), ("clips", 1), ("unlabelled", 0), ("workers", 0)):
        if getattr(options, name) < least:
            parser.error(f"--{name} {getattr(options, name)}: expected at least {least}")
    return options


if __name__ == "__main__":
    run(main)
