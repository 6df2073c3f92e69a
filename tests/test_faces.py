"""Faces: found where they are, the right one chosen, crops that never lack a pixel."""

import cv2
import numpy as np
import pytest
from skimage import data

from liveness.base.config import Data, Detector, Recipe, View, to_dict
from liveness.base.errors import UserError
from liveness.frames.boxes import Face, choose_face, crop_square, draw_faces
from liveness.frames.contract import make_contract, read_contract
from liveness.frames.faces import DETECTORS, detector_digest
from liveness.frames.video import jpeg_encode
from liveness.frames.views import StoredFrame, cut_stored
from liveness.frames.yunet import YuNet


@pytest.fixture(scope="module")
def detector() -> YuNet:
    return YuNet(Detector())


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    return data.astronaut()  # 512 x 512, one face about (177..275, 70..190)


def centre(face: Face) -> tuple[float, float]:
    return face.x + face.w / 2, face.y + face.h / 2


def test_the_face_is_found_in_pixels_of_the_frame(detector, portrait):
    (face,) = detector.detect(portrait)
    assert centre(face) == pytest.approx((226, 128), abs=15)
    assert 70 < face.w < 130 and 90 < face.h < 170 and 0.8 < face.confidence <= 1


@pytest.mark.parametrize("factor", [0.25, 0.5, 3.0])
def test_boxes_scale_with_the_frame(detector, portrait, factor):
    size = (round(512 * factor), round(512 * factor))
    (small,) = detector.detect(cv2.resize(portrait, size, interpolation=cv2.INTER_AREA))
    (face,) = detector.detect(portrait)
    assert centre(small) == pytest.approx(tuple(v * factor for v in centre(face)), abs=8 * max(1, factor))


def test_portrait_and_landscape_frames(detector, portrait):
    for shape in ((1280, 720), (480, 853)):
        frame = np.full((*shape, 3), 90, np.uint8)
        frame[40 : 40 + 400, 100 : 100 + 400] = portrait[:400, :400]
        (face,) = detector.detect(frame)
        assert centre(face) == pytest.approx((326, 168), abs=15)


@pytest.mark.parametrize("height", [1280, 1920])
def test_a_face_that_fills_the_frame_is_found(detector, portrait, height):
    close = cv2.resize(portrait[40:240, 160:290], (height * 9 // 16, height), interpolation=cv2.INTER_CUBIC)
    faces = detector.detect(close)
    assert faces and max(face.h for face in faces) > 0.4 * height


def test_same_pixels_same_boxes(detector, portrait):
    assert detector.detect(portrait) == detector.detect(portrait) == YuNet(Detector()).detect(portrait)


def test_no_face_is_an_empty_list(detector):
    assert detector.detect(np.zeros((240, 320, 3), np.uint8)) == []
    assert detector.detect(np.zeros((1, 1, 3), np.uint8)) == []
    assert choose_face([], 320, 240) is None


@pytest.mark.parametrize("version", [1, 2])
def test_the_far_larger_face_then_the_most_central(version):
    def chosen(*faces: Face) -> Face:
        one, other = choose_face(list(faces), 100, 100, version), choose_face(list(faces[::-1]), 100, 100, version)
        assert one == other
        return one

    small, large = Face(50, 50, 10, 10, 0.99), Face(0, 0, 30, 30, 0.7)
    assert chosen(small, large) == large
    left, middle = Face(0, 0, 20, 20, 0.9), Face(38, 42, 20, 20, 0.8)
    assert chosen(left, middle) == middle
    # 1.45 times the area: as near to the camera, so that the middle of the frame counts; in version 1 the largest did.
    near, centre, speck = Face(0, 0, 29, 20, 0.9), Face(40, 40, 20, 20, 0.8), Face(49, 49, 2, 2, 0.95)
    assert chosen(near, centre, speck) == (near if version == 1 else centre)
    assert chosen(Face(0, 0, 31, 20, 0.9), centre) == Face(0, 0, 31, 20, 0.9)  # 1.55 times


def test_crop_is_the_square_around_the_box():
    frame = np.arange(100 * 120 * 3, dtype=np.uint32).reshape(100, 120, 3).astype(np.uint8)
    crop = crop_square(frame, Face(40, 30, 20, 30, 1), 1.0)
    np.testing.assert_array_equal(crop, frame[30:60, 35:65])
    assert crop_square(frame, Face(40, 30, 20, 30, 1), 2.0).shape == (60, 60, 3)


@pytest.mark.parametrize("face", [Face(-30, -20, 60, 60, 1), Face(100, 80, 50, 50, 1), Face(-300, 10, 20, 20, 1)])
def test_crop_over_the_border_is_replicated(face):
    frame = np.random.default_rng(1).integers(0, 256, (100, 120, 3), np.uint8)
    crop = crop_square(frame, face, 1.5)
    side = round(1.5 * max(face.w, face.h))
    around = cv2.copyMakeBorder(frame, 500, 500, 500, 500, cv2.BORDER_REPLICATE)
    left, top = round(face.x + face.w / 2 - side / 2) + 500, round(face.y + face.h / 2 - side / 2) + 500
    np.testing.assert_array_equal(crop, around[top : top + side, left : left + side])


def test_drawing_leaves_the_frame_alone(portrait, detector):
    before = portrait.copy()
    faces = detector.detect(portrait)
    drawn = draw_faces(portrait, faces, faces[0])
    np.testing.assert_array_equal(portrait, before)
    assert drawn.shape == portrait.shape and (drawn != portrait).any()


class Corner:
    """A detector that sees a face in the upper left corner of every frame."""

    folder = None

    def __init__(self, config: Detector) -> None:
        self.config = config

    @classmethod
    def weights(cls):
        return cls.folder / "corner.bin"

    def detect(self, rgb: np.ndarray) -> list[Face]:
        return [Face(10, 10, 20, 20, self.config.threshold)]


def test_another_detector_is_a_class_and_a_line(portrait, monkeypatch, tmp_path):
    monkeypatch.setattr(Corner, "folder", tmp_path)
    (tmp_path / "corner.bin").write_bytes(b"weights")
    monkeypatch.setitem(DETECTORS, "corner", Corner)
    frame = StoredFrame(jpeg_encode(portrait, 95))
    square = View("face", scales=[1.0])
    cuts = cut_stored(frame, square, Detector(name="corner"))
    assert cuts.faces == [cuts.face] == [Face(10, 10, 20, 20, 0.6)]
    np.testing.assert_array_equal(cuts.pieces[0], frame.rgb[10:30, 10:30])
    yunet = cut_stored(frame, square, Detector())  # of the same frame, and not mixed up with the other
    assert centre(yunet.face) == pytest.approx((226, 128), abs=15)

    data = Data(detector=Detector(name="corner"))
    contract = make_contract(Recipe(), data, detector_digest("corner"))
    assert contract["detector"]["name"] == "corner"
    assert contract["detector_sha256"] == "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c"
    assert read_contract(contract, "a file")[2] == data.detector
    monkeypatch.delitem(DETECTORS, "corner")
    with pytest.raises(UserError, match="a file: detector.name=corner; expected one of yunet"):
        read_contract(contract, "a file")


def test_contracts_and_sets_from_before_detectors_had_names_mean_yunet():
    contract = make_contract(Recipe(), Data(), detector_digest())
    assert contract["detector"] == to_dict(Detector()) == {"threshold": 0.6, "max_side": 640}
    assert read_contract(contract, "an older file")[2].name == "yunet"
