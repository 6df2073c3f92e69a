"""How fast preparation is, against FFmpeg's decoder alone, on the same clips in one run.

    python benchmarks/prepare.py [--clips FOLDER] [--count 100] [--size 720x1280] [--seconds 3] [--fps 25]
                                 [--workers 0] [--repeat 2] [--out FILE]

Stages, each a process of its own, on all cores:

    decode    the reference: libavcodec through PyAV in a pool of processes, one clip per task, one decoder
              thread, no conversion, up to the last frame that the three-position plan needs
    ffmpeg    the same with the ffmpeg program, where one is on the PATH: one process per clip
    frames    the project's read_jpegs (decode, convert, JPEG) and its writer, in its pool of workers
    prepare   python -m liveness.prepare: frames, hashes, faces, crops, tables

Makes its own clips (20 distinct ones and byte copies of them: moving texture with noise, a portrait
in it that the detector finds) or takes those of FOLDER. Prints JSON: clips per second, ratios to the
reference, peak memory of each stage for 1, 10 and all clips, and where the time of one clip goes.
The repetitions take turns, so that a busy machine hurts all stages alike; the fastest counts. Memory
is sampled 20 times a second.
"""

import argparse
import functools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src"
sys.path.insert(0, str(SOURCE))  # after the standard library's own: this folder has a prepare.py too
os.environ["PYTHONPATH"] = os.pathsep.join([str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])])

QUALITY = 95
DISTINCT = 20  # clips that are encoded; the others are byte copies of them
PAUSE = 0.05  # seconds between two looks at the memory
MIB = 1 << 20
RATIOS = ("seconds", "milliseconds_per_further_clip", "cpu_seconds", "cpu_milliseconds_per_further_clip")
STAGES = ("decode", "ffmpeg", "frames", "prepare")


def main() -> int:
    args = arguments()
    if args.stage:
        run_stage(args)
        return 0
    with tempfile.TemporaryDirectory(prefix="bench-prepare-", dir=args.work) as folder:
        report = benchmark(args, Path(folder))
    tell(report, args.out)
    return 0


def tell(report: dict, out: Path | None) -> None:
    """Print a report as JSON, and write it to a file where one is named."""
    text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    print(text, end="")
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")


def benchmark(args: argparse.Namespace, work: Path) -> dict:
    """Make or take the clips, run every stage on 1, 10 and all of them, compare."""
    from liveness.base.files import find_videos
    from liveness.base.machine import cores

    workers = args.workers or cores()
    if args.clips:
        clips = find_videos(args.clips.resolve())[: args.count]
    else:
        say(f"making {args.count} clips of {args.size}, {args.seconds:g} s at {args.fps} fps")
        clips = make_clips(args, work / "made", workers)
    plan = work / "plan.json"
    say("looking for the last frame needed")
    plan.write_text(json.dumps(last_frames(clips)), encoding="utf-8")
    counts = sorted({n for n in (1, 10, len(clips)) if n <= len(clips)})
    stages = [stage for stage in STAGES if stage != "ffmpeg" or shutil.which("ffmpeg")]
    runs = {stage: {count: [] for count in counts} for stage in stages}
    for turn in range(args.repeat):
        for count in counts:
            for stage in stages:
                figures = measure(stage, plan, count, workers, work)
                runs[stage][count].append(figures)
                say(f"turn {turn + 1}: {stage} of {count} clips: {figures['seconds']:.2f} s")
    results = {stage: summary(runs[stage]) for stage in stages}
    for stage in stages:
        results[stage]["ratio"] = ratios(results[stage], results["decode"])
    return {
        "benchmark": "prepare",
        "command": " ".join(["python", "benchmarks/prepare.py", *sys.argv[1:]]),
        "machine": machine(workers),
        "clips": describe(clips, json.loads(plan.read_text(encoding="utf-8")), args),
        "plan": "positions 0.2, 0.4666667, 0.7333333",
        "stages": results,
        "one_clip_processor_milliseconds": profile(clips[: min(10, len(clips))], work / "profile"),
    }


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def ratios(stage: dict, reference: dict) -> dict:
    """How many times the reference's time, over a whole run, without start-up, and in processor time."""
    return {key: round(stage[key] / reference[key], 3) for key in RATIOS if stage.get(key) and reference.get(key)}


def summary(runs: dict[int, list[dict]]) -> dict:
    """The figures of one stage: the fastest run of all clips, and what each number of clips took."""
    best = {count: min(figures, key=lambda run: run["seconds"]) for count, figures in runs.items()}
    most = max(best)
    result = {
        "clips_per_second": round(most / best[most]["seconds"], 2),
        "seconds": best[most]["seconds"],
        "cpu_seconds": min(run["cpu_seconds"] for run in runs[most]),
    }
    if 10 in best and most > 10:
        # The difference of two runs has no start-up in it.
        further = (best[most]["seconds"] - best[10]["seconds"]) / (most - 10)
        processor = min(run["cpu_seconds"] for run in runs[most]) - min(run["cpu_seconds"] for run in runs[10])
        result["milliseconds_per_further_clip"] = round(1000 * further, 2)
        result["cpu_milliseconds_per_further_clip"] = round(1000 * processor / (most - 10), 2)
        result["clips_per_second_without_start"] = round(1 / further, 2) if further > 0 else None
    result["by_clips"] = {
        str(count): {
            "seconds": best[count]["seconds"],
            "cpu_seconds": min(run["cpu_seconds"] for run in figures),
            "peak_rss_mib": max(run["peak_rss_mib"] for run in figures),
            "peak_pss_mib": max(run["peak_pss_mib"] for run in figures),
        }
        for count, figures in runs.items()
    }
    result["all_seconds"] = [run["seconds"] for run in runs[most]]
    return result


# --- the clips ---------------------------------------------------------------------------------


def make_clips(args: argparse.Namespace, folder: Path, workers: int) -> list[Path]:
    """``count`` clips, of which DISTINCT are encoded: that takes far longer than what is measured."""
    folder.mkdir(parents=True)
    width, height = (int(side) for side in args.size.split("x"))
    paths = [folder / f"{i}.mp4" for i in range(args.count)]
    frames = round(args.seconds * args.fps)
    tasks = [(str(path), i, width, height, frames, args.fps) for i, path in enumerate(paths[:DISTINCT])]
    with get_context("spawn").Pool(workers) as pool:
        pool.map(make_clip, tasks, chunksize=1)
    for i, path in enumerate(paths[DISTINCT:]):
        shutil.copyfile(paths[i % DISTINCT], path)
    return paths


def make_clip(task: tuple) -> None:
    """One H.264 clip: a portrait over a drifting texture, sensor noise on top; straight in YUV 4:2:0."""
    import av
    import cv2
    import numpy as np

    path, seed, width, height, frames, fps = task
    rng = np.random.default_rng(seed)
    cv2.setNumThreads(1)
    ground = picture(rng, width + 64, height + 64)
    noise = [rng.normal(0, 4, (height * 3 // 2, width)).astype(np.int16) for _ in range(4)]
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "veryfast", "crf": "23", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(frames):
            x, y = (int(32 + 30 * f(seed + i / 9)) for f in (np.sin, np.cos))
            yuv = cv2.cvtColor(ground[y : y + height, x : x + width], cv2.COLOR_RGB2YUV_I420).astype(np.int16)
            yuv = np.clip(yuv + noise[i % 4], 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(yuv, format="yuv420p")))
        container.mux(stream.encode())


def picture(rng: object, width: int, height: int) -> object:
    """uint8 RGB: smooth and fine texture, and scikit-image's public-domain portrait in the middle."""
    import cv2
    import numpy as np
    from skimage.data import astronaut

    image = np.zeros((height, width, 3), np.float32)
    for cells, strength in ((4, 60), (16, 30), (64, 15)):
        coarse = rng.normal(0, strength, (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    image = np.clip(image + 120, 0, 255).astype(np.uint8)
    side = int(0.8 * min(width, height))
    portrait = cv2.resize(astronaut()[:360, 60:420], (side, side), interpolation=cv2.INTER_AREA)
    left, top = (width - side) // 2, (height - side) // 2
    image[top : top + side, left : left + side] = portrait
    return image


def last_frames(clips: list[Path]) -> list[list]:
    """[path, index of the last frame needed] of each clip."""
    from liveness.base.config import FramePlan
    from liveness.frames.video import choose_frames, probe

    plan = []
    for clip in clips:
        info = probe(clip)
        plan.append([str(clip), max(choose_frames(FramePlan(), info.times, info.duration))])
    return plan


# --- the stages, each run as a process of its own ----------------------------------------------


def run_stage(args: argparse.Namespace) -> None:
    plan = json.loads(args.plan.read_text(encoding="utf-8"))[: args.count]
    stage = {"decode": stage_decode, "ffmpeg": stage_ffmpeg, "frames": stage_frames}[args.stage]
    stage(plan, args.workers, args.output)


def stage_decode(plan: list[list], workers: int, output: Path) -> None:
    with get_context("fork").Pool(min(workers, len(plan))) as pool:
        for _ in pool.imap_unordered(decode, plan, chunksize=1):
            pass


def decode(task: list) -> int:
    """Decode a clip's frames 0 to the last one needed; nothing is converted."""
    import av

    path, last = task
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count, stream.codec_context.thread_type = 1, "NONE"
        for index, _ in enumerate(container.decode(stream)):
            if index >= last:
                break
    return index


def stage_ffmpeg(plan: list[list], workers: int, output: Path) -> None:
    def call(task: list) -> None:
        options = ["-frames:v", str(task[1] + 1), "-an", "-fps_mode", "passthrough", "-f", "null", "-"]
        command = ["ffmpeg", "-v", "error", "-nostdin", "-threads", "1", "-i", task[0], *options]
        subprocess.run(command, check=True)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(call, plan))


def stage_frames(plan: list[list], workers: int, output: Path) -> None:
    from liveness.frames.workers import Failed, run_tasks

    tasks = [(path, str(output)) for path, _ in plan]
    for task, result in run_tasks(store_frames, tasks, workers, 300.0, 4.0):
        if isinstance(result, Failed):
            raise SystemExit(f"{task[0]}: {result.reason}")


def store_frames(task: tuple) -> int:
    """The project's own decoding, JPEG and writing of one clip."""
    from liveness.base.config import FramePlan
    from liveness.frames.video import read_jpegs

    path, folder = Path(task[0]), Path(task[1])
    frames = read_jpegs(path, [FramePlan()], QUALITY).frames
    for index, data in frames.items():
        put(folder / f"{path.stem}-{index}.jpg", data)
    return len(frames)


def put(path: Path, data: bytes) -> None:
    """Write aside and rename, as preparation does."""
    side = path.with_name(f".aside-{path.name}")
    side.write_bytes(data)
    os.replace(side, path)


# --- measuring ---------------------------------------------------------------------------------


def measure(stage: str, plan: Path, count: int, workers: int, work: Path) -> dict:
    """Run a stage on the first ``count`` clips: seconds, processor seconds, peak memory of all its processes."""
    output = work / "output"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    environment = dict(os.environ)
    if stage == "prepare":
        videos = output / "raw" / "bench" / "videos"
        videos.mkdir(parents=True)
        for path, _ in json.loads(plan.read_text(encoding="utf-8"))[:count]:
            (videos / Path(path).name).symlink_to(path)
        environment["LIVENESS_ROOT"] = str(output)
        command = ["-m", "liveness.prepare", "bench", "-o", f"workers={workers}", "frames.plan=positions"]
    else:
        command = [
            __file__,
            "--stage",
            stage,
            "--plan",
            plan,
            "--count",
            count,
            "--workers",
            workers,
            "--output",
            output,
        ]
    with open(output / "log", "w+", encoding="utf-8") as log:
        start = time.perf_counter()
        # A session of its own: its members are the stage's processes, whoever started them.
        process = subprocess.Popen(
            [sys.executable, *map(str, command)], stdout=log, stderr=log, env=environment, start_new_session=True
        )
        watch = Watch(process.pid)
        code = process.wait()
        seconds = time.perf_counter() - start
        figures = watch.stop()
        if code:
            log.seek(0)
            raise SystemExit(f"{stage} failed on {count} clips:\n{log.read()}")
    return {"seconds": round(seconds, 3), **figures}


class Watch(threading.Thread):
    """Samples the memory and processor time of a session's processes."""

    def __init__(self, session: int):
        super().__init__(daemon=True)
        self._session, self._end = session, threading.Event()
        self._rss = self._pss = 0
        self._cpu: dict[int, float] = {}
        self.start()

    def run(self) -> None:
        looks = 0
        while not self._end.wait(PAUSE):
            members = session_members(self._session)
            self._cpu |= {pid: cpu for pid, (cpu, _) in members.items()}
            self._rss = max(self._rss, sum(rss for _, rss in members.values()))
            if looks % 5 == 0:  # the kernel adds this up page by page
                self._pss = max(self._pss, sum(map(shared_memory, members)))
            looks += 1

    def stop(self) -> dict:
        self._end.set()
        self.join()
        return {
            "cpu_seconds": round(sum(self._cpu.values()), 3),
            "peak_rss_mib": round(self._rss / MIB, 1),
            "peak_pss_mib": round(self._pss / MIB, 1),
        }


def session_members(session: int) -> dict[int, tuple[float, int]]:
    """pid -> (processor seconds, resident bytes) of a session's processes."""
    members = {}
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        try:
            fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[3]) == session:
            cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            members[int(entry)] = cpu, int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    return members


def shared_memory(pid: int) -> int:
    """A process's resident bytes, those that it shares divided by the number of sharers."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def profile(clips: list[Path], folder: Path) -> dict:
    """Where a clip's time goes: processor milliseconds of each step by itself, mean over ``clips``, two rounds."""
    import av

    from liveness.base.config import Detector, FramePlan
    from liveness.base.files import sha256_of
    from liveness.frames.video import choose_frames, jpeg_decode, jpeg_encode, probe, read_jpegs
    from liveness.frames.yunet import YuNet
    from liveness.sets.duplicates import hash_frame

    folder.mkdir()
    spent: dict[str, float] = {}

    def timed(name: str, call: Callable) -> object:
        start = time.process_time()  # this process's own: a busy machine does not count
        value = call()
        spent[name] = spent.get(name, 0.0) + time.process_time() - start
        return value

    detector = YuNet(Detector())
    decode([str(clips[0]), 1])
    for clip in 2 * clips:
        info = probe(clip)
        timed("open and walk through the packets", functools.partial(demux, clip))
        wanted = choose_frames(FramePlan(), info.times, info.duration)
        timed("reference: decode to the last frame", functools.partial(decode, [str(clip), max(wanted)]))
        with av.open(str(clip)) as container:
            frames = [frame for i, frame in enumerate(container.decode(video=0)) if i in wanted]
        rgb = timed("convert to RGB", lambda frames=frames: [f.to_ndarray(format="rgb24") for f in frames])
        data = timed("encode JPEG", lambda rgb=rgb: [jpeg_encode(image, QUALITY) for image in rgb])
        files = [(folder / f"{clip.stem}-{i}.jpg", jpeg) for i, jpeg in enumerate(data)]
        timed("write", lambda files=files: [put(path, jpeg) for path, jpeg in files])
        timed("frames only, all of it (read_jpegs)", functools.partial(read_jpegs, clip, [FramePlan()], QUALITY))
        timed("hash the file", functools.partial(sha256_of, clip))
        stored = timed("decode JPEG", lambda data=data: [jpeg_decode(jpeg) for jpeg in data])
        timed("hash frames", lambda stored=stored: [hash_frame(image) for image in stored])
        timed("find faces", lambda stored=stored: [detector.detect(image) for image in stored])
    return {name: round(1000 * seconds / (2 * len(clips)), 2) for name, seconds in spent.items()}


def demux(clip: Path) -> int:
    import av

    with av.open(str(clip)) as container:
        return sum(packet.size for packet in container.demux())


def describe(clips: list[Path], plan: list[list], args: argparse.Namespace) -> dict:
    """What was measured on."""
    from liveness.frames.video import probe

    info = probe(clips[0])
    return {
        "source": str(args.clips.name)
        if args.clips
        else f"made: {min(DISTINCT, len(clips))} distinct, texture, noise, portrait, libx264",
        "count": len(clips),
        "first": f"{info.width}x{info.height}, {info.duration:.2f} s, {info.fps:.2f} fps, {info.codec}",
        "megabytes": round(sum(clip.stat().st_size for clip in clips) / 1e6, 1),
        "frames_decoded_per_clip": round(sum(last + 1 for _, last in plan) / len(plan), 1),
    }


def machine(workers: int) -> dict:
    """The processor, cores, load and versions."""
    import av
    import cv2
    import numpy as np

    from liveness.base.machine import cores

    model = platform.processor()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    ffmpeg = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True) if shutil.which("ffmpeg") else None
    return {
        "cpu": model,
        "cores": cores(),
        "workers": workers,
        "load_average_at_the_end": [round(load, 2) for load in os.getloadavg()],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "av": av.__version__,
        "libavcodec": ".".join(map(str, av.library_versions["libavcodec"])),
        "ffmpeg": ffmpeg.stdout.split()[2] if ffmpeg else None,
        "opencv": cv2.__version__,
        "numpy": np.__version__,
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python benchmarks/prepare.py", description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=Path, metavar="FOLDER", help="real clips instead of made ones")
    parser.add_argument("--count", type=int, default=100, help="clips at most (default 100)")
    parser.add_argument("--size", default="720x1280", metavar="WxH", help="of the made clips, even (default 720x1280)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of the made clips (default 3)")
    parser.add_argument("--fps", type=int, default=25, help="of the made clips (default 25)")
    parser.add_argument("--workers", type=int, default=0, help="processes (default: one per core)")
    parser.add_argument("--repeat", type=int, default=2, help="turns, the fastest counts (default 2)")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="where to work (default: the temporary folder)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON there")
    for name in ("stage", "plan", "output"):  # of a stage's own process
        parser.add_argument(f"--{name}", type=str if name == "stage" else Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
