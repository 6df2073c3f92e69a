"""The demo set: which clips there are, how each is filmed and encoded, and the set as a whole.

Half of the clips are live, a quarter shows a printed photo and a quarter a replay; labelled and unlabelled clips
share some of their persons. Equal arguments give equal bytes.
"""

import itertools
import json
import shutil
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from liveness.base.errors import UserError
from liveness.base.files import write_text, written_aside
from liveness.base.machine import cores
from liveness.demo.canvas import FACE_WIDTH
from liveness.demo.persons import Person
from liveness.demo.portrait import Portrait, Pose
from liveness.simulation.attacks import ATTACKS
from liveness.simulation.camera import Camera
from liveness.simulation.scenes import draw_scene
from liveness.simulation.warp import Sway

DEMO_VERSION = 2  # of the pictures: raise it when the same arguments give other clips
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


def plan_clips(folder: Path, count: int, persons: list[int], seed: int) -> list[Clip]:
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


def draw_person(number: int, seed: int) -> Person:
    """The person of a number in the demo set of a seed: always the same."""
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
        (x, y), drift = self.place + hand, 0.6 * hand
        pose = Pose(x, y, scale=self.scale * (1 + grow), roll=self.roll + roll, yaw=yaw, pitch=pitch, smile=smile,
                    brow=brow, blink=blink, drift=(drift[0], drift[1]))  # fmt: skip
        return self.portrait.render(pose, self.room, self.height, self.width)


def _film_clip(clip: Clip) -> tuple[int, int, Iterator[np.ndarray]]:
    """(frames per second, kbit/s, generator of uint8 RGB frames) of a clip."""
    rng = np.random.default_rng([clip.set_seed, clip.seed])
    size = SIZES[int(rng.integers(len(SIZES)))]
    fps = int(rng.choice([12, 15]))
    count = round(fps * rng.uniform(1.7, 2.3))
    rate = int(np.exp(rng.uniform(np.log(700), np.log(2400))))
    camera = Camera.draw(rng)
    person = draw_person(clip.person, clip.set_seed)
    return fps, rate, _shots(clip, person, size, camera, rng, [k / fps for k in range(count)])


def _shots(
    clip: Clip, person: Person, size: tuple[int, int], camera: Camera, rng: np.random.Generator, times: list[float]
) -> Iterator[np.ndarray]:
    """The frames of a clip at its times (s)."""
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
    fps, rate, frames = _film_clip(clip)
    with written_aside(Path(clip.path)) as side, av.open(str(side), "w", format="mp4") as container:
        first = next(frames)
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt, stream.bit_rate = "yuv420p", rate * 1000
        # mbtree gives other bytes from run to run even with one thread
        stream.options = {"preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
        stream.thread_count = 1
        for picture in itertools.chain([first], frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return clip.path


def make_demo_set(out: Path, seed: int = 0, clips: int = 60, unlabelled: int = 12, workers: int = 0) -> str:
    """Make ``out`` with labelled clips and ``out``_test with unlabelled ones; a line that says what is there now.

    clips, unlabelled: how many; workers: processes, 0 = one per core. The label file is written last. A finished set
    of the same arguments is kept; a folder that holds something else is a UserError.
    """
    test = out.with_name(out.name + "_test")
    parameters = {"version": DEMO_VERSION, "seed": seed, "clips": clips, "unlabelled": unlabelled}
    if _is_finished(out, test, parameters):
        return f"{out}: a finished demo set with these parameters is there; kept"
    _clear_folders(out, test, parameters)
    known = plan_clips(out / "videos", clips, list(range(PERSONS)), seed)
    unknown = plan_clips(test / "videos", unlabelled, [12, 1, 13, 6, 14, 3, 15, 8], seed)
    print(f"making {len(known)} labelled and {len(unknown)} unlabelled clips in {out}", file=sys.stderr)
    _make_clips(known + unknown, workers or cores())
    write_text(test / "truth.csv", _format_labels(unknown, seed))
    write_text(out / "label.csv", _format_labels(known, seed))
    return f"{out}: {len(known)} labelled clips; {test}: {len(unknown)} unlabelled clips"


def _clear_folders(out: Path, test: Path, parameters: dict) -> None:
    """Empty folders for the clips; a UserError where something else lies there."""
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


def _format_labels(clips: list[Clip], seed: int) -> str:
    """The label file's text."""
    rows = [
        f"{Path(c.path).name},{int(c.species == 'live')},{draw_person(c.person, seed).name},{c.species}" for c in clips
    ]
    return "\n".join([HEADER, *rows]) + "\n"


def _is_finished(out: Path, test: Path, parameters: dict) -> bool:
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


def _make_clips(clips: list[Clip], workers: int) -> None:
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
