"""Stressors do what they say, in the same way every time, and change nothing else of what prediction does."""

import numpy as np
import pytest

from liveness.base.config import Detector, FramePlan, View
from liveness.base.errors import UserError
from liveness.frames.video import probe, read_frames
from liveness.frames.views import make_request, prepare_video
from liveness.laboratory.stressed import StressTask, stress_video
from liveness.simulation import stress
from liveness.simulation.recompress import reencode
from liveness.simulation.stress import (
    CLEAN,
    SEVERITIES,
    STRESSORS,
    Draws,
    Stress,
    keep_frames,
    list_stresses,
    stress_frame,
)

WHOLE = make_request(FramePlan(), View(kind="frame", size=48), Detector(), 95)
RANDOM = ("crop", "noise", "cast", "gamma", "rotation", "print", "replay")
PIXELS = [name for name, its in STRESSORS.items() if its.kind != "time"]
# The parameter at which each leaves a frame or a video as it is.
NEUTRAL = {
    "downscale": 1, "crop": 1, "blur": 0, "noise": 0, "cast": 0, "gamma": 0, "contrast": 1, "rotation": 0,
    "shorten": 1, "drop": 0,
}  # fmt: skip


def picture(height: int = 120, width: int = 90, seed: int = 0) -> np.ndarray:
    """A smooth colour picture with some detail, never at the ends of the scale."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / a + y / b + c) for a, b, c in rng.uniform((3, 3, 0), (15, 15, 6), (3, 3))]
    return np.dstack([128 + 60 * wave for wave in waves]).astype(np.uint8)


def changed(frame: np.ndarray, name: str, severity: int, seed: int = 1, filename: str = "7.mp4", index: int = 3):
    worse = Stress(name, severity)
    return stress_frame(worse, [frame], Draws(seed, filename, worse), index, index / 25)


@pytest.mark.parametrize("name", PIXELS)
def test_a_stressed_frame_differs_and_is_the_same_each_time(name):
    frame = picture(240, 180)
    before = frame.copy()
    first, again = changed(frame, name, 1), changed(frame, name, 1)
    assert first.dtype == np.uint8 and np.array_equal(first, again)
    assert not np.array_equal(first, frame) and np.array_equal(frame, before)
    # crops and turns may come out alike for one other seed, not for all of these
    others = [changed(frame, name, 1, seed) for seed in range(2, 8)] + [changed(frame, name, 1, 1, "8.mp4")]
    assert all(np.array_equal(first, other) for other in others) == (name not in RANDOM)


@pytest.mark.parametrize("name", ["reencode", "jpeg", "blur", "noise", "cast", "gamma", "contrast"])
def test_a_higher_severity_is_further_from_the_clean_frame(name):
    frame = picture(240, 180).astype(float)
    far = [np.abs(changed(picture(240, 180), name, s).astype(float) - frame).mean() for s in SEVERITIES]
    assert far == sorted(far) and far[-1] > 1.5 * far[0]


def test_figures_of_the_pixels_are_those_of_the_parameters():
    frame = picture(400, 400)
    grey = np.full((400, 400, 3), 128, np.uint8)
    noise = changed(grey, "noise", 2).astype(float) - 128
    assert noise.std() / 255 == pytest.approx(STRESSORS["noise"].values[1], rel=0.1) and abs(noise.mean()) < 2
    share = STRESSORS["contrast"].values[2]
    assert changed(frame, "contrast", 3).std() == pytest.approx(share * frame.std(), rel=0.02)
    assert changed(frame, "contrast", 3).mean() == pytest.approx(frame.mean(), abs=1)
    impulse = np.zeros((400, 400, 3), np.uint8)
    impulse[200, 200] = 255
    spread = changed(impulse, "blur", 2)[..., 0].astype(float)
    rows = np.arange(400) - 200
    assert np.sqrt((spread.sum(1) * rows**2).sum() / spread.sum()) == pytest.approx(2, rel=0.15)
    cast = changed(grey, "cast", 2).mean((0, 1))
    assert cast @ (0.299, 0.587, 0.114) == pytest.approx(128, abs=1) and np.ptp(np.log(cast / 128)) > 0.2
    level = changed(grey, "gamma", 2)[0, 0, 0]
    assert any(level == pytest.approx(255 * (128 / 255) ** np.exp(sign * 0.6), abs=1) for sign in (-1, 1))


def test_shapes_after_downscaling_cropping_and_mirroring():
    frame = picture(200, 100)
    small = changed(frame, "downscale", 1)
    assert small.shape == (100, 50, 3)
    assert np.array_equal(small, frame.reshape(100, 2, 50, 2, 3).mean((1, 3)).round().astype(np.uint8)) or (
        np.abs(small - frame.reshape(100, 2, 50, 2, 3).mean((1, 3))).max() <= 1
    )
    window = changed(frame, "crop", 2)
    assert window.shape == (140, 70, 3)
    places = [(r, c) for r in range(61) for c in range(31) if np.array_equal(frame[r : r + 140, c : c + 70], window)]
    assert len(places) == 1
    assert np.array_equal(changed(frame, "mirror", 1), frame[:, ::-1])
    turned = changed(frame, "rotation", 3)
    assert turned.shape == frame.shape and np.abs(turned[100, 50].astype(int) - frame[100, 50]).max() < 40


def test_h264_uses_the_frames_before(monkeypatch):
    frames = [picture(seed=k) for k in range(3)]
    alone, among = reencode(frames[2:], 34), reencode(frames, 34)
    assert alone.shape == among.shape == frames[2].shape
    assert not np.array_equal(alone, among)
    odd = reencode([picture(121, 91)], 20)
    assert odd.shape == (121, 91, 3) and np.abs(odd.astype(int) - picture(121, 91)).mean() < 6


@pytest.mark.parametrize("severity", SEVERITIES)
def test_time_stressors_leave_other_frames_of_the_same_video(severity):
    times = np.arange(50) / 25
    for name in ("shorten", "drop"):
        worse = Stress(name, severity)
        left, shown, duration = keep_frames(worse, times, 2.0, Draws(1, "7.mp4", worse))
        again = keep_frames(worse, times, 2.0, Draws(1, "7.mp4", worse))[0]
        assert np.array_equal(left, again) and (np.diff(left) > 0).all() and len(shown) == len(left)
        others = [keep_frames(worse, times, 2.0, Draws(k, "7.mp4", worse))[0] for k in range(9)]
        assert not all(np.array_equal(left, other) for other in others)
        if name == "shorten":
            assert (np.diff(left) == 1).all() and shown[0] == 0
            assert duration == pytest.approx(2 * worse.value) and len(left) == pytest.approx(50 * worse.value, abs=1)
        else:
            assert len(left) == round(50 * (1 - worse.value)) and duration == 2.0
            assert np.array_equal(shown, times[left])
    for count in (1, 2, 3):
        for worse in list_stresses(["shorten", "drop"], [3]):
            assert len(keep_frames(worse, np.arange(count) / 25, count / 25, Draws(1, "7.mp4", worse))[0]) >= 1


def test_stresses_by_name_and_severity():
    assert list_stresses(["mirror", "jpeg"], [1, 3]) == [Stress("mirror", 1), Stress("jpeg", 1), Stress("jpeg", 3)]
    assert Stress("jpeg", 2).parameters == "quality 30" and CLEAN.kind == "clean"
    with pytest.raises(UserError, match="no stressor 'jpg'; expected among reencode, jpeg"):
        list_stresses(["jpg"], [1])
    with pytest.raises(UserError, match="severity 4"):
        list_stresses(["jpeg"], [4])


def run(path, stresses, wanted=(WHOLE,), seed=1):
    return stress_video(StressTask(path, tuple(wanted), tuple(stresses), seed))


def test_the_clean_video_and_neutral_stressors_give_the_views_of_prediction(tiny_clips, tmp_path, monkeypatch):
    path = tiny_clips(tmp_path / "3.mp4", frames=20, seed=4)
    plain = prepare_video(path, [WHOLE])
    for name, value in NEUTRAL.items():
        its = STRESSORS[name]
        monkeypatch.setitem(STRESSORS, name, stress.Stressor(its.kind, (value,), its.text))
    found = run(path, [CLEAN, *list_stresses(list(NEUTRAL), [1])])
    for worse, prepared in found.items():
        assert np.array_equal(prepared.views[WHOLE.key], plain.views[WHOLE.key]), worse
        assert prepared.status == "ok"


def test_views_depend_on_the_seed_alone_and_not_on_what_else_is_asked_for(tiny_clips, tmp_path):
    path = tiny_clips(tmp_path / "3.mp4", frames=20, seed=4)
    every = list_stresses(list(STRESSORS), [2])
    other = make_request(FramePlan(positions=[0.4666667, 0.9]), View(kind="frame", size=32), Detector(), 80)
    first, more = run(path, every), run(path, every[::-1], (other, WHOLE))
    for worse in every:
        assert np.array_equal(first[worse].views[WHOLE.key], more[worse].views[WHOLE.key]), worse
        assert more[worse].views[other.key].shape == (2, 32, 32, 3)
    differ = set()
    for seed in (2, 3, 4):
        again = run(path, every, seed=seed)
        differ |= {w.name for w in every if not np.array_equal(first[w].views[WHOLE.key], again[w].views[WHOLE.key])}
    assert {"noise", "cast", "crop", "print", "replay", "drop", "shorten"} <= differ
    assert not {"jpeg", "blur", "downscale", "contrast", "mirror", "reencode"} & differ


def test_a_shortened_video_shows_the_frames_of_its_part(tiny_clips, tmp_path):
    path = tiny_clips(tmp_path / "3.mp4", frames=40, seed=4)
    info = probe(path)
    frames = read_frames(path, [FramePlan(plan="all")]).frames
    sharp = make_request(FramePlan(), View(kind="frame", size=96, resize="short_side"), Detector(), 100)
    for worse in list_stresses(["shorten", "drop"], list(SEVERITIES)):
        left = keep_frames(worse, info.times, info.duration, Draws(1, path.name, worse))[0]
        views = run(path, [worse], [sharp])[worse].views[sharp.key].astype(int)
        for view in views:
            apart = [np.abs(view - frames[i]).mean() for i in range(40)]
            assert int(np.argmin(apart)) in left


def test_without_a_face_there_are_no_views_and_an_unreadable_video_says_so(tiny_clips, tmp_path):
    face = make_request(FramePlan(), View(kind="face", size=48), Detector(), 95)
    path = tiny_clips(tmp_path / "3.mp4")
    worse = [CLEAN, Stress("jpeg", 1), Stress("shorten", 1)]
    for prepared in run(path, worse, [face, WHOLE]).values():
        assert prepared.frames_of[face.key] == [] and face.key not in prepared.views
        assert prepared.faces == 0 and len(prepared.views[WHOLE.key]) == 3
    broken = tmp_path / "4.mp4"
    broken.write_bytes(path.read_bytes()[:90])
    for prepared in run(broken, worse).values():
        assert prepared.status == "unreadable" and prepared.reason and not prepared.views


def test_a_video_that_breaks_off_is_stressed_as_far_as_it_goes(tiny_clips, tmp_path):
    import av

    source = tiny_clips(tmp_path / "3.mp4", frames=60, size=(160, 120))
    whole = tmp_path / "5.mkv"  # keeps its packets when it is cut
    with av.open(str(source)) as read, av.open(str(whole), "w") as write:
        stream = write.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                write.mux(packet)
    cut = tmp_path / "6.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    found = run(cut, [CLEAN, *list_stresses(["reencode", "shorten", "drop", "noise"], [2])])
    assert found[CLEAN].status == "partial"
    assert all(len(prepared.views[WHOLE.key]) >= 1 for prepared in found.values())
    assert np.array_equal(found[CLEAN].views[WHOLE.key], prepare_video(cut, [WHOLE]).views[WHOLE.key])
