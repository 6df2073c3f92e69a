"""A video that is damaged in whatever way has its row, and costs no other video anything."""

import io
import multiprocessing
import os
import signal
import struct
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from test_prediction import put_member

from liveness.base.config import Ensemble, EnsembleMember
from liveness.base.files import find_videos
from liveness.prediction import engine
from liveness.prediction.engine import load_members, score_paths
from liveness.prediction.rows import Row, score_text

MINE = Ensemble("mine", "train", [EnsembleMember("convnext_large", 0)])


def sound(folder: Path) -> bytes:
    return (folder / "sound.mp4").read_bytes()


def encoded(format: str, codec: str, frames: int, **options: str) -> bytes:
    """A clip of ``frames`` frames in another container or codec."""
    rng = np.random.default_rng(3)
    with tempfile.NamedTemporaryFile() as target:
        _encode(target.name, format, codec, frames, options, rng)
        return Path(target.name).read_bytes()


def _encode(path: str, format: str, codec: str, frames: int, options: dict, rng: np.random.Generator) -> None:
    with av.open(path, "w", format=format, options=options) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(frames):
            picture = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def sound_only() -> bytes:
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return target.getvalue()


def torn(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


def scratched(data: bytes) -> bytes:
    """Bytes in the middle of the pictures replaced."""
    at = data.index(b"mdat")
    middle = at + (len(data) - at) // 3
    return data[:middle] + np.random.default_rng(1).bytes(400) + data[middle + 400 :]


def boxless(data: bytes, name: bytes) -> bytes:
    return data.replace(name, b"\0\0\0\0")


def vast() -> bytes:
    """A VP8 file whose header asks for 65535 x 65535 pixels."""
    header = struct.pack("<4sHH4sHHIIII", b"DKIF", 0, 32, b"VP80", 65535, 65535, 25, 1, 1, 0)
    frame = b"\x10\x02\x00\x9d\x01\x2a\xff\xff\xff\xff" + bytes(200)
    return header + struct.pack("<IQ", len(frame), 0) + frame


KINDS: dict[str, tuple[Callable[[Path], bytes], set[str]]] = {
    "empty.mp4": (lambda f: b"", {"unreadable"}),
    "one_byte.mp4": (lambda f: b"\0", {"unreadable"}),
    "text.mp4": (lambda f: b"not a video\n", {"unreadable"}),
    "page.mp4": (lambda f: b"<!doctype html><title>404</title>" * 50, {"unreadable"}),
    "zeros.mp4": (lambda f: bytes(50_000), {"unreadable"}),
    "noise.avi": (lambda f: np.random.default_rng(0).bytes(50_000), {"unreadable"}),
    "noise.mp4": (lambda f: np.random.default_rng(1).bytes(50_000), {"unreadable"}),
    "head_only.mp4": (lambda f: sound(f)[:40], {"unreadable"}),
    "torn_before_its_index.mp4": (lambda f: torn(sound(f), 0.5), {"unreadable"}),
    "torn_after_its_index.mp4": (lambda f: torn(encoded("mp4", "libx264", 30, movflags="faststart"), 0.6), {"partial"}),
    "torn.ts": (lambda f: torn(encoded("mpegts", "libx264", 30), 0.6), {"partial", "ok"}),
    "torn.mkv": (lambda f: torn(encoded("matroska", "libx264", 90), 0.6), {"partial"}),
    "scratched.mp4": (lambda f: scratched(sound(f)), {"partial", "ok"}),
    "no_pictures_index.mp4": (lambda f: boxless(sound(f), b"stbl"), {"unreadable"}),
    "no_moov.mp4": (lambda f: boxless(sound(f), b"moov"), {"unreadable"}),
    "unknown_codec.mp4": (lambda f: boxless(sound(f), b"avc1"), {"unreadable"}),
    "sound_only.mp4": (lambda f: sound_only(), {"unreadable"}),
    "a_picture.mp4": (lambda f: b"\xff\xd8\xff\xe0" + bytes(3000), {"unreadable"}),
    "playlist.mp4": (lambda f: f"#EXTM3U\n#EXTINF:1,\n{f}/sound.mp4\n#EXT-X-ENDLIST\n".encode(), {"unreadable"}),
    "concat.mp4": (lambda f: f"ffconcat version 1.0\nfile {f}/sound.mp4\n".encode(), {"unreadable"}),
    "vast.webm": (lambda f: vast(), {"unreadable"}),
    "one_frame.mp4": (lambda f: encoded("mp4", "libx264", 1), {"ok"}),
    "another_container.mp4": (lambda f: encoded("matroska", "libx264", 9), {"ok"}),
    "twice.mp4": (lambda f: sound(f) + sound(f), {"ok"}),
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory, tiny_clips) -> dict[str, Row]:
    """Every kind in one folder, scored in one go."""
    root = tmp_path_factory.mktemp("broken")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIVENESS_ROOT", str(root))
        put_member("convnext_large", 0)
        folder = root / "clips"
        tiny_clips(folder / "sound.mp4", 30, (96, 128), seed=4)
        for name, (make, _) in KINDS.items():
            (folder / name.replace(".", f"_{name.rpartition('.')[2]}.")).write_bytes(make(folder))
        (folder / "gone.mp4").symlink_to(root / "nowhere")
        found = list(score_paths(find_videos(folder), load_members(MINE)))
    assert len(found) == len(KINDS) + 2
    return {row.fname: row for row in found}


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_video_has_its_row(rows, name):
    row = rows[name.replace(".", f"_{name.rpartition('.')[2]}.")]
    assert row.status in KINDS[name][1], row
    assert bool(row.reason) == (row.status != "ok") and "\n" not in row.reason
    if row.status == "unreadable":
        assert (row.score, row.decision, row.frames) == (0.5, "abstain", 0)
    else:
        assert row.frames >= 1 and 0 < row.score < 1


def test_beside_them_a_sound_video_scores_as_alone_and_a_link_to_nowhere_has_a_row(rows, tmp_path, tiny_clips):
    assert rows["gone.mp4"].status == "unreadable"
    assert rows["sound.mp4"].status == "ok"
    assert score_text(rows["twice_mp4.mp4"].score) == score_text(rows["sound.mp4"].score)


@pytest.fixture
def hanging(workspace, tiny_clips) -> list[Path]:
    """Three videos, of which the second never gives a byte."""
    put_member("convnext_large", 0)
    paths = [tiny_clips(workspace / "clips" / f"{n}.mp4", 6, (64, 64), seed=n) for n in (0, 2)]
    os.mkfifo(workspace / "clips" / "1.mp4")
    return [paths[0], workspace / "clips" / "1.mp4", paths[1]]


@pytest.mark.full
def test_a_video_that_takes_too_long_is_given_up_and_tried_once_more(hanging, monkeypatch):
    monkeypatch.setattr(engine, "DECODE_SECONDS", 4.0)
    rows = list(score_paths(hanging, load_members(MINE), 2))
    assert [row.status for row in rows] == ["ok", "crashed", "ok"]
    assert rows[1].reason == "given up after 4 s, twice" and rows[1].score == 0.5


def test_a_decoder_that_is_killed_costs_its_video_and_no_other(hanging):
    """As the kernel does when memory runs out: twice, since the video is tried once more."""
    killed, over = [], threading.Event()

    def kill() -> None:
        while not over.wait(0.05):
            for child in multiprocessing.active_children():
                if child.pid not in killed and opens(child.pid, hanging[1]):
                    killed.append(child.pid)
                    os.kill(child.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        rows = list(score_paths(hanging, load_members(MINE), 2))
    finally:
        over.set()
        killer.join()
    assert [row.status for row in rows] == ["ok", "crashed", "ok"]
    # On a busy machine an idle decoder can look stuck and be killed too; that costs no video, as said above.
    assert len(killed) >= 2 and rows[1].reason == "the worker process crashed (signal SIGKILL), twice"


def opens(pid: int, fifo: Path) -> bool:
    """Whether a process waits in the opening of the fifo: it does for nothing else here."""
    try:
        return "fifo" in Path(f"/proc/{pid}/wchan").read_text() or _stuck(pid)
    except OSError:
        return False


def _stuck(pid: int) -> bool:
    """Where the kernel tells no wait channel: the same few ticks of processor time over a second."""
    ticks = []
    for _ in range(2):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks.append((fields[0], fields[11], fields[12]))
        time.sleep(1.0)
    return ticks[0] == ticks[1] and ticks[0][0] == "S"
