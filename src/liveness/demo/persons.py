"""Different persons made from one public-domain portrait, and their selfie frames.

``skimage.data.astronaut()`` (NASA, public domain, in scikit-image's wheel) is cut out, warped by a
thin-plate spline, recoloured, given brows, lips, beard, glasses, hat, long hair and clothes, and
relit: ``Person.draw`` fixes the identity. ``Portrait`` is one person on a canvas on one day (clothes,
light, medical mask); its ``render`` gives a frame with head motion, blinking and expression over a
background that moves less than the head (parallax). Nothing is written.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np

from liveness.simulation.scenes import draw_clouds, draw_colour
from liveness.simulation.warp import place_nodes, upsample_nodes, warp_thin_plate

CANVAS_H, CANVAS_W = 880, 720
SCALE = 2.4  # canvas pixels per pixel of the portrait
SHIFT = np.array([360 - 222 * SCALE, 110 - 12 * SCALE])  # where the portrait's origin lies on the canvas
FACE = np.array([360.0, 390.0])  # middle of the face on the canvas
FACE_WIDTH = 206.0  # cheek to cheek on the canvas

# Points of the portrait, measured by hand (pixels of the 512 x 512 picture, x and y).
HEAD = np.array([
    (153.6, 67.3), (162.4, 53.6), (178.9, 42.6), (189.9, 34.3), (200.9, 24.2), (217.4, 18.7), (231.1, 15.4),
    (244.8, 17.0), (258.6, 21.4), (272.3, 28.8), (283.3, 38.5), (292.9, 52.2), (299.0, 65.9), (301.4, 82.4),
    (300.3, 96.2), (295.7, 108.5), (288.8, 118.1), (281.9, 125.0), (277.3, 129.7), (276.2, 134.1), (272.3, 136.5),
    (267.9, 136.5), (265.7, 144.2), (261.3, 153.8), (255.8, 164.8), (247.6, 172.5), (235.2, 178.0), (221.5, 179.7),
    (206.4, 177.5), (194.0, 170.3), (188.5, 163.5), (184.9, 151.1), (182.7, 137.4), (181.6, 132.1), (176.2, 129.7),
    (171.5, 119.5), (162.4, 111.3), (156.9, 98.9), (154.7, 85.2)])  # fmt: skip
HAIR = np.r_[HEAD[:19], HEAD[34:]]  # the part of the outline that is hair
HAIRLINE = np.array([
    (182.7, 115.4), (183.8, 96.2), (185.5, 76.9), (200.9, 78.3), (222.9, 80.5), (239.3, 82.1), (255.8, 87.4),
    (267.6, 90.1), (269.6, 109.9)])  # fmt: skip
JAW = np.array([
    (267.9, 136.5), (265.7, 144.2), (261.3, 153.8), (255.8, 164.8), (247.6, 172.5), (235.2, 178.0), (221.5, 179.7),
    (206.4, 177.5), (194.0, 170.3), (188.5, 163.5), (184.9, 151.1), (182.7, 137.4)])  # fmt: skip
EYES = np.array([(202.6, 101.2), (247.3, 103.0)])
EYE_ROUND = np.array([(-9.0, 0.5), (9.0, 0.5), (0, -5.5), (0, 4.0)])  # lids and corners about each eye
BROWS = np.array([(190, 91.0), (200, 88.3), (213, 91.5), (238, 93.5), (250, 92.3), (264, 96.0)])
NOSE = np.array([(222, 126), (214, 127), (233, 128)])
MOUTH = np.array([(204.5, 140.5), (245, 141), (223, 139.5), (222, 153.5)])  # corners, upper and lower edge
MASK = np.array([
    (185.0, 121), (203, 114), (216, 109), (222.5, 108), (230, 109), (245, 114), (266, 122), (263, 151), (251, 171),
    (236, 181.5), (221.5, 184), (206, 181), (192, 170), (186, 150)])  # fmt: skip

SKINS = [(79, 9, 13), (76, 12, 15), (72, 12, 20), (67, 12, 22), (62, 13, 24), (56, 14, 25), (50, 14, 23), (45, 12, 18),
         (70, 10, 17), (65, 15, 18), (47, 14, 22), (74, 8, 19)]  # fmt: skip
HAIRS = [(13, 1, 1, 0.5), (17, 2, 3, 0.55), (23, 4, 7, 0.65), (31, 7, 13, 0.8), (36, 6, 17, 0.85), (52, 5, 24, 1.0),
         (33, 17, 20, 0.85), (55, 0, 2, 0.9), (70, 0, 3, 0.8), (20, 6, 6, 0.6)]  # fmt: skip
MASK_COLOURS = [(158, 196, 214), (222, 228, 230), (150, 200, 190), (84, 86, 94), (205, 178, 190)]


def canvas(points: np.ndarray) -> np.ndarray:
    """Portrait pixels to canvas pixels (n x 2)."""
    return np.asarray(points, np.float64) * SCALE + SHIFT


@dataclass(frozen=True)
class Shape:
    """How the face departs from the portrait; 0 = as it is. Mostly relative sizes."""

    width: float
    jaw: float
    length: float
    eye_size: float
    eye_apart: float
    eye_tilt: float
    brow: float
    nose_width: float
    nose_length: float
    mouth_width: float
    mouth_height: float
    volume_x: float  # of the hair, share of what stands out beyond the face
    volume_y: float
    forehead: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Shape":
        sizes = dict(width=0.06, jaw=0.09, length=0.07, eye_size=0.13, eye_apart=0.05, eye_tilt=0.8, brow=2.0,
                     nose_width=0.16, nose_length=4.0, mouth_width=0.12, mouth_height=2.2)  # fmt: skip
        values = {key: float(np.clip(rng.normal(0, size), -1.8 * size, 1.8 * size)) for key, size in sizes.items()}
        return cls(
            **values,
            volume_x=float(rng.uniform(-0.65, 0.15)),
            volume_y=float(rng.uniform(-0.3, 0.1)),
            forehead=float(rng.uniform(-4, 5)),
        )

    def move(self, points: np.ndarray, part: str) -> np.ndarray:
        """Where ``points`` (portrait pixels, n x 2) of a part of the head come to lie."""
        p = np.array(points, np.float64)
        if part == "eyes":
            side = np.where(p[:, :1] < 225, 0, 1)
            centre = EYES[side[:, 0]]
            p = centre + (p - centre) * (1 + self.eye_size) * np.array([0.85 if self.eye_size > 0.1 else 1.0, 1.0])
            p[:, 0] += np.sign(centre[:, 0] - 225) * self.eye_apart * 22
            p[:, 1] += np.sign(centre[:, 0] - 225) * np.sign(p[:, 0] - centre[:, 0]) * self.eye_tilt * -0.8
        elif part == "brows":
            p[:, 1] += self.brow
            p[:, 0] += np.sign(p[:, 0] - 225) * self.eye_apart * 22
        elif part == "nose":
            p[:, 0] = 223 + (p[:, 0] - 223) * (1 + self.nose_width)
            p[:, 1] += self.nose_length
        elif part == "mouth":
            p[:, 0] = 223.5 + (p[:, 0] - 223.5) * (1 + self.mouth_width)
            p[:, 1] += self.mouth_height + 0.4 * self.nose_length
        elif part == "hairline":
            p[:, 1] += self.forehead * np.clip((100 - p[:, 1]) / 20, 0, 1)
        elif part == "hair":
            beyond = np.where(p[:, 0] < 225, np.minimum(p[:, 0] - 180, 0), np.maximum(p[:, 0] - 272, 0))
            p[:, 0] += beyond * self.volume_x
            p[:, 1] += np.minimum(p[:, 1] - 72, 0) * self.volume_y
        low = np.clip((p[:, 1] - 105) / 75, 0, 1)
        p[:, 0] = 223 + (p[:, 0] - 223) * (1 + self.width) * (1 + self.jaw * low)
        p[:, 1] += np.clip((p[:, 1] - 105), 0, None) * self.length
        return p


@dataclass(frozen=True)
class Person:
    """One identity: what stays the same from clip to clip."""

    name: str
    shape: Shape
    skin: tuple[float, float, float]  # Lab
    hair: tuple[float, float, float, float]  # Lab, contrast
    long_hair: float  # 0 = none, else how far down it falls (canvas pixels below the eyes)
    fringe: float  # 0 = none, else its depth
    brows: float  # darkness of drawn brows
    lips: str  # "smile" (the portrait's own), "closed"
    beard: float  # darkness, 0 = none
    moustache: float
    glasses: str  # "", "round", "square"
    hat: str  # "", "beanie", "scarf"
    moles: int
    mirrored: bool
    seed: int

    @classmethod
    def draw(cls, rng: np.random.Generator, name: str, turn: int) -> "Person":
        """The ``turn``-th person: tones, hats and beards go round so that neighbours differ clearly."""
        hat = {3: "scarf", 5: "beanie", 10: "beanie", 13: "scarf"}.get(turn % 16, "")
        bearded = turn % 3 == 1 and hat != "scarf"
        shape = Shape.draw(rng)
        return cls(
            name=name,
            shape=replace(shape, volume_x=-0.75) if hat else shape,
            skin=tuple(float(v + e) for v, e in zip(SKINS[turn * 5 % 12], rng.normal(0, (1.5, 0.8, 1.2)), strict=True)),
            hair=HAIRS[turn * 7 % 10],
            long_hair=float(rng.uniform(120, 330)) if not bearded and turn % 2 == 0 else 0.0,
            fringe=float(rng.uniform(0.3, 1.0)) if rng.random() < 0.4 else 0.0,
            brows=float(rng.uniform(0.15, 0.75)),
            lips="smile" if turn % 3 == 2 else "closed",
            beard=float(rng.uniform(0.3, 0.8)) if bearded else 0.0,
            moustache=float(rng.uniform(0.3, 0.9)) if bearded and rng.random() < 0.8 else 0.0,
            glasses=("round", "square")[int(rng.integers(2))] if turn % 4 == 0 else "",
            hat=hat,
            moles=int(rng.integers(0, 4)),
            mirrored=bool(turn % 2),
            seed=int(rng.integers(2**31)),
        )


@dataclass
class Pose:
    """Where the head is in a frame. Lengths in pixels of the frame, angles in radians."""

    x: float
    y: float
    scale: float  # frame pixels per canvas pixel
    roll: float = 0.0
    yaw: float = 0.0  # canvas pixels that the nose moves to the right
    pitch: float = 0.0  # canvas pixels that the nose moves down
    smile: float = 0.0  # canvas pixels that the mouth corners go up
    brow: float = 0.0
    blink: float = 0.0  # 0 open .. 1 shut
    drift: tuple[float, float] = (0.0, 0.0)  # of the background


def _filled(points: np.ndarray, soft: float = 1.5) -> np.ndarray:
    """A polygon on the canvas as a soft mask, float32 0..1."""
    mask = np.zeros((CANVAS_H, CANVAS_W), np.uint8)
    cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return cv2.GaussianBlur(mask, (0, 0), soft).astype(np.float32) / 255


def _smooth(points: np.ndarray, count: int = 160) -> np.ndarray:
    """A closed smooth curve through ``points`` (periodic cubic spline)."""
    from scipy.interpolate import CubicSpline

    closed = np.r_[points, points[:1]]
    length = np.r_[0, np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))]
    return CubicSpline(length, closed, bc_type="periodic")(np.linspace(0, length[-1], count, endpoint=False))


def _over(picture: np.ndarray, alpha: np.ndarray, tone: np.ndarray | tuple) -> None:
    """Paint ``tone`` (a colour or a picture) over ``picture`` (float32 HxWx3) with weight ``alpha`` (HxW), in place."""
    picture += (np.asarray(tone, np.float32) - picture) * alpha[..., None]


@lru_cache(maxsize=1)
def _cut_out() -> np.ndarray:
    """The portrait's head on the canvas, float32: RGB (0..255), and alpha, skin, hair (0..1)."""
    from skimage import data

    source = data.astronaut()
    matrix = np.c_[np.eye(2) * SCALE, SHIFT]
    rgb = cv2.warpAffine(source, matrix, (CANVAS_W, CANVAS_H), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    outline = np.clip(_filled(canvas(HEAD), 2.0) * 2 - 1, 0, 1)  # a little inside, free of the studio's wall
    # Only the hair's edge needs looking at: polygon for the face, GrabCut for the strands.
    trimap = np.full(source.shape[:2], cv2.GC_BGD, np.uint8)
    polygon = np.round(HEAD).astype(np.int32)
    cv2.fillPoly(trimap, [polygon], int(cv2.GC_PR_FGD))
    core = cv2.erode(cv2.fillPoly(np.zeros_like(trimap), [polygon], 1), np.ones((9, 9)))
    near = cv2.dilate(cv2.fillPoly(np.zeros_like(trimap), [polygon], 1), np.ones((5, 5)))
    trimap[(near == 1) & (trimap == cv2.GC_BGD)] = cv2.GC_PR_BGD
    trimap[core == 1] = cv2.GC_FGD
    window = (slice(0, 200), slice(130, 325))
    part = np.ascontiguousarray(trimap[window])
    cv2.setRNGSeed(7)
    cv2.grabCut(np.ascontiguousarray(source[window][..., ::-1]), part, None, np.zeros((1, 65)), np.zeros((1, 65)), 3,
                cv2.GC_INIT_WITH_MASK)  # fmt: skip
    found = np.zeros(source.shape[:2], np.float32)
    found[window] = np.isin(part, (cv2.GC_FGD, cv2.GC_PR_FGD))
    found = cv2.warpAffine(cv2.GaussianBlur(found, (0, 0), 0.9), matrix, (CANVAS_W, CANVAS_H), flags=cv2.INTER_CUBIC)
    strands = np.clip((found - 0.45) * 2.2, 0, 1)
    below = np.clip((np.arange(CANVAS_H, dtype=np.float32) - canvas([(0, 122)])[0, 1]) / 20, 0, 1)[:, None]
    alpha = strands * (1 - below) + outline * below
    skin = _filled(np.r_[canvas(HAIRLINE), canvas(JAW)], 4.0)
    ears = np.maximum(_filled(canvas(np.array([(171, 119), (183, 112), (184, 137), (176, 131)])), 2.0),
                      _filled(canvas(np.array([(268, 120), (280, 126), (274, 138), (267, 137)])), 2.0))  # fmt: skip
    skin = np.maximum(skin, ears)
    return np.dstack([rgb, alpha, skin, np.clip(alpha - skin, 0, 1)]).astype(np.float32)


def _retone(rgb: np.ndarray, weight: np.ndarray, lab: tuple, contrast: float, chroma: float) -> np.ndarray:
    """Shift the region ``weight`` of a canvas (float32 RGB 0..255) to a mean Lab colour."""
    space = cv2.cvtColor(rgb / np.float32(255), cv2.COLOR_RGB2LAB)
    inside = space[weight > 0.9]
    mean = inside.mean(0)
    target = np.float32(lab)
    moved = (space - mean) * np.float32([contrast, chroma, chroma]) + target
    moved[..., 0] = np.clip(moved[..., 0], 3, 99)
    mixed = space + (moved - space) * weight[..., None]
    return np.clip(cv2.cvtColor(mixed, cv2.COLOR_LAB2RGB), 0, 1) * np.float32(255)


class Head:
    """A person's head on the canvas, bare: what stays the same from clip to clip.

    ``open`` and ``shut`` (float32 CANVAS_H x CANVAS_W x 3, eyes open and shut), ``alpha`` (0..1), the tones of skin
    and hair, ``eyes`` (2 x 2, canvas pixels). Not to be changed: ``head_of`` hands it out again.
    """

    def __init__(self, person: Person):
        self.person = person
        own = np.random.default_rng(person.seed)
        layers = self._warped()
        rgb, self.alpha = self._toned(layers), np.clip(layers[..., 3], 0, 1)
        skin, hair = np.clip(layers[..., 4], 0, 1), np.clip(layers[..., 5], 0, 1)
        self.skin_tone = rgb[skin > 0.9].mean(0)
        self.hair_tone = rgb[hair > 0.9].mean(0)
        self._face(rgb, skin, self.hair_tone, own)
        self._fringe(rgb, self.hair_tone, own)
        self.open, self.shut = rgb, self._shut_eyes(rgb)

    def point(self, points: np.ndarray, part: str) -> np.ndarray:
        return canvas(self.person.shape.move(points, part))

    def _warped(self) -> np.ndarray:
        parts = [("hair", HAIR[::2]), ("jaw", JAW[::2]), ("hairline", HAIRLINE[::2]), ("brows", BROWS),
                 ("eyes", np.r_[EYES, EYES[0] + EYE_ROUND, EYES[1] + EYE_ROUND]), ("nose", NOSE),
                 ("mouth", MOUTH)]  # fmt: skip
        border = np.array([(x, y) for x in (0, 360, 719) for y in (0, 440, 879) if (x, y) != (360, 440)], float)
        source = np.r_[np.concatenate([canvas(points) for _, points in parts]), border]
        target = np.r_[np.concatenate([self.point(points, part) for part, points in parts]), border]
        self.eyes = self.point(EYES, "eyes")
        return warp_thin_plate(_cut_out(), source, target)

    def _toned(self, layers: np.ndarray) -> np.ndarray:
        rgb = np.clip(layers[..., :3], 0, 255)
        skin, hair = np.clip(layers[..., 4], 0, 1), np.clip(layers[..., 5], 0, 1)
        keep = np.zeros_like(skin)
        for eye in self.eyes:
            cv2.ellipse(keep, (int(eye[0]), int(eye[1])), (19, 8), 0, 0, 360, 0.85, -1)
        mouth = self.point(MOUTH, "mouth").mean(0)
        cv2.ellipse(keep, (int(mouth[0]), int(mouth[1] - 3)), (38, 10), 0, 0, 360, 0.7, -1)
        skin = skin * (1 - cv2.GaussianBlur(keep, (0, 0), 3))
        lightness = self.person.skin[0]
        rgb = _retone(rgb, skin, self.person.skin, 0.75 + lightness / 300, 0.8)
        return _retone(rgb, hair, self.person.hair[:3], self.person.hair[3], 0.35)

    def _face(self, rgb: np.ndarray, skin: np.ndarray, hair_tone: np.ndarray, own: np.random.Generator) -> None:
        """Lips, brows, beard, moles and skin texture, in place."""
        person = self.person
        if person.lips == "closed":
            self._closed_lips(rgb)
        brows = self.point(BROWS, "brows")
        thick = 3 + 5 * person.brows
        weight = np.zeros(rgb.shape[:2], np.float32)
        for line in (brows[:3], brows[3:]):
            cv2.polylines(weight, [np.round(line * 16).astype(np.int32)], False, 1.0, int(thick), cv2.LINE_AA, 4)
        rough = 0.75 + 0.25 * np.clip(draw_clouds(own, CANVAS_H, CANVAS_W, 4, 1), -1, 1)
        _over(rgb, cv2.GaussianBlur(weight, (0, 0), 2.2) * person.brows * rough, hair_tone * 0.6)
        if person.beard:
            self._beard(rgb, skin, hair_tone, own)
        for _ in range(person.moles):
            x, y = own.uniform(280, 440), own.uniform(330, 480)
            mole = np.zeros(rgb.shape[:2], np.float32)
            cv2.circle(mole, (int(x), int(y)), int(own.integers(2, 4)), 1.0, -1, cv2.LINE_AA)
            _over(rgb, cv2.GaussianBlur(mole, (0, 0), 1.0) * 0.7, (70, 42, 34))
        strands = draw_clouds(own, CANVAS_H, CANVAS_W, 2.5, 1) * 0.07 * (1 - skin)
        blotches = draw_clouds(own, CANVAS_H, CANVAS_W, 30, 2) * 0.02
        pores = strands + draw_clouds(own, CANVAS_H, CANVAS_W, 2.5, 1) * 0.022 + blotches
        rgb *= 1 + (pores * (0.3 + 0.7 * skin))[..., None]

    def _closed_lips(self, rgb: np.ndarray) -> None:
        left, right, top, bottom = self.point(MOUTH, "mouth")
        centre = (left + right) / 2 + (0, 8)
        half = (right[0] - left[0]) / 2
        patch = np.zeros(rgb.shape[:2], np.uint8)
        cv2.ellipse(patch, (int(centre[0]), int(centre[1])), (int(half + 6), int((bottom - top)[1] / 2 + 12)), 0, 0,
                    360, 255, -1)  # fmt: skip
        # Skin from below and beside the mouth, drawn over it: a heavy blur of what lies outside the patch.
        outside = (patch == 0).astype(np.float32)
        fill = cv2.GaussianBlur(rgb * outside[..., None], (0, 0), 14) / (
            cv2.GaussianBlur(outside, (0, 0), 14)[..., None] + 1e-3
        )
        _over(rgb, cv2.GaussianBlur(patch, (0, 0), 5).astype(np.float32) / 255, fill)
        y, w = centre[1], half * 0.86
        lip = np.clip(fill[int(y), int(centre[0])] * np.array([0.9, 0.66, 0.66]), 20, 255)
        u = np.linspace(-1, 1, 24)
        x = centre[0] + u * w
        seam = y - 2.5 * u**2
        upper = y - 9.5 * (1 - u**2) * (1 - 0.22 * np.exp(-((u / 0.18) ** 2))) - 2 * u**2
        lower = y + 13 * (1 - np.abs(u) ** 2.4) - 2 * u**2
        _over(rgb, _filled(np.r_[np.c_[x, upper], np.c_[x, seam][::-1]], 1.6) * 0.8, lip * 0.82)
        _over(rgb, _filled(np.r_[np.c_[x, lower], np.c_[x, seam][::-1]], 1.6) * 0.8, lip)
        shine = _filled(np.array([(centre[0] - w * 0.4, y + 4), (centre[0] + w * 0.4, y + 4), (centre[0], y + 8)]), 2.5)
        _over(rgb, shine * 0.3, lip * 1.35)
        line = np.zeros(rgb.shape[:2], np.float32)
        cv2.polylines(line, [np.round(np.c_[x, seam] * 16).astype(np.int32)], False, 1.0, 3, cv2.LINE_AA, 4)
        _over(rgb, cv2.GaussianBlur(line, (0, 0), 1.2) * 0.75, lip * 0.35)

    def _beard(self, rgb: np.ndarray, skin: np.ndarray, hair_tone: np.ndarray, own: np.random.Generator) -> None:
        mouth = self.point(MOUTH, "mouth")
        centre = mouth.mean(0)
        y, x = np.mgrid[0:CANVAS_H, 0:CANVAS_W].astype(np.float32)
        # The beard's upper edge runs from the ears down to the corners of the mouth.
        edge = mouth[0, 1] + 12 - 0.0035 * (x - centre[0]) ** 2 * 1.4
        weight = np.clip((y - edge) / 22, 0, 1) * skin
        lips = ((x - centre[0]) / 48) ** 2 + ((y - centre[1] + 2) / 19) ** 2
        weight *= np.clip((lips - 1) * 3, 0, 1)
        if self.person.moustache:
            band = np.exp(-(((y - mouth[2, 1] + 10) / 8) ** 2)) * np.clip(1.2 - (np.abs(x - centre[0]) / 52) ** 4, 0, 1)
            weight = np.maximum(weight, band * self.person.moustache * 1.2)
        rough = 0.86 + 0.14 * np.clip(draw_clouds(own, CANVAS_H, CANVAS_W, 5, 2), -1.5, 1.0)
        weight = cv2.GaussianBlur(weight, (0, 0), 3) * self.person.beard * rough
        _over(rgb, np.clip(weight, 0, 0.9), np.minimum(hair_tone, 110) * 0.7)

    def _fringe(self, rgb: np.ndarray, hair_tone: np.ndarray, own: np.random.Generator) -> None:
        if not self.person.fringe:
            return
        line = self.point(HAIRLINE[2:8], "hairline")
        depth = 10 + 22 * self.person.fringe
        lower = line + np.c_[np.zeros(len(line)), depth * np.sin(np.linspace(0.3, np.pi - 0.3, len(line)))]
        weight = _filled(np.r_[line - (0, 14), lower[::-1]], 6)
        ragged = cv2.resize(draw_clouds(own, 1, CANVAS_W, 9, 2), (CANVAS_W, CANVAS_H))
        weight = np.clip(weight * (1.0 + 0.22 * ragged), 0, 1) ** 1.3
        strands = draw_clouds(own, 4, CANVAS_W, 7, 2)
        strands = cv2.resize(strands, (CANVAS_W, CANVAS_H), interpolation=cv2.INTER_LINEAR)[..., None]
        _over(rgb, weight * 0.92, hair_tone * (0.85 + 0.07 * strands))

    def _shut_eyes(self, rgb: np.ndarray) -> np.ndarray:
        """The same face with closed lids."""
        size = 1 + self.person.shape.eye_size
        patch = np.zeros(rgb.shape[:2], np.uint8)
        for eye in self.eyes:
            cv2.ellipse(patch, (int(eye[0]), int(eye[1])), (int(24 * size), int(12 * size)), 0, 0, 360, 255, -1)
        shut = cv2.inpaint(rgb.clip(0, 255).astype(np.uint8), patch, 7, cv2.INPAINT_TELEA).astype(np.float32)
        shut = rgb + (shut - rgb) * (cv2.GaussianBlur(patch, (0, 0), 2).astype(np.float32) / 255)[..., None]
        lash = np.zeros(rgb.shape[:2], np.float32)
        u = np.linspace(-1, 1, 16)
        for eye in self.eyes:
            curve = np.c_[eye[0] + u * 20 * size, eye[1] + (7 - 4.5 * u**2) * size]
            cv2.polylines(lash, [np.round(curve * 16).astype(np.int32)], False, 1.0, 3, cv2.LINE_AA, 4)
        _over(shut, cv2.GaussianBlur(lash, (0, 0), 1.0) * 0.8, (38, 28, 26))
        return shut


@lru_cache(maxsize=2)  # 25 MiB each: clips of one person should follow each other
def head_of(person: Person) -> Head:
    return Head(person)


class Portrait:
    """A person on the canvas, as on one day.

    ``rng`` draws what changes from clip to clip: clothes, light. ``masked`` adds a medical mask.
    """

    def __init__(self, person: Person, rng: np.random.Generator, masked: bool = False):
        self.person, self.head = person, head_of(person)
        self.eyes = self.head.eyes
        self.open, self.shut = self._dressed(rng, masked)
        if person.mirrored:
            self.open, self.shut = (np.ascontiguousarray(p[:, ::-1]) for p in (self.open, self.shut))
            self.eyes = np.c_[CANVAS_W - 1 - self.eyes[:, 0], self.eyes[:, 1]]
        self._lid, self._lid_box = self._lids()

    def _lids(self) -> tuple[np.ndarray, tuple[slice, slice]]:
        """How far the lid must be down (0..1) to hide a pixel, in a box about both eyes; 9 = never hidden."""
        size = 1 + self.person.shape.eye_size
        (left, _), (right, _) = sorted(self.eyes.tolist())
        top, bottom = self.eyes[:, 1].min() - 22 * size, self.eyes[:, 1].max() + 22 * size
        box = (slice(int(top), int(bottom)), slice(int(left - 36 * size), int(right + 36 * size)))
        y, x = np.mgrid[box].astype(np.float32)
        level = np.full(y.shape, 9.0, np.float32)
        for eye in self.eyes:
            inside = ((x - eye[0]) / (25 * size)) ** 2 + ((y - eye[1]) / (14 * size)) ** 2 < 1
            level[inside] = ((y - eye[1] + 13 * size) / (24 * size))[inside]
        return level, box

    def _dressed(self, rng: np.random.Generator, masked: bool) -> list[np.ndarray]:
        """Body behind the head, accessories before it, and light, with eyes open and shut: RGBA uint8."""
        body, cover = self._body(self.head.skin_tone, self.head.hair_tone, rng)
        faces, state = [], rng.bit_generator.state
        for bare in (self.head.open, self.head.shut):
            rng.bit_generator.state = state
            face, alpha = bare.copy(), self.head.alpha
            if self.person.glasses:
                self._glasses(face)
            if masked:
                self._mask(face, rng)
            if self.person.hat:
                hat, alpha = self._hat(face, alpha)
                alpha = np.maximum(alpha, hat)
            faces.append((face, alpha))
        light, pictures = self._light(rng)[..., None], []
        for face, alpha in faces:
            whole = body.copy()
            _over(whole, alpha, face)
            whole *= light
            pictures.append(np.dstack([np.clip(whole, 0, 255), np.maximum(cover, alpha) * 255]).astype(np.uint8))
        return pictures

    def _body(self, skin_tone: np.ndarray, hair_tone: np.ndarray, rng: np.random.Generator):
        chin = self.head.point(JAW[6:7], "jaw")[0]
        body = np.zeros((CANVAS_H, CANVAS_W, 3), np.float32)
        cover = np.zeros((CANVAS_H, CANVAS_W), np.float32)
        x0, y0 = chin
        if self.person.long_hair and self.person.hat != "scarf":
            w, end = FACE_WIDTH * 0.5 + 34, self.eyes[:, 1].mean() + self.person.long_hair
            points = np.array([(x0, 190), (x0 - w * 0.8, 220), (x0 - w, 330), (x0 - w * 1.04, end),
                               (x0 - w * 0.5, end + 26), (x0, end), (x0 + w * 0.5, end + 26),
                               (x0 + w * 1.04, end), (x0 + w, 330), (x0 + w * 0.8, 220)])  # fmt: skip
            fall = _filled(_smooth(points), 2.5)
            strands = cv2.resize(draw_clouds(rng, 3, CANVAS_W, 5, 2), (CANVAS_W, CANVAS_H))[..., None]
            _over(body, fall, hair_tone * (0.8 + 0.14 * strands))
            cover = np.maximum(cover, fall)
        half = FACE_WIDTH * (0.33 + 0.5 * self.person.shape.jaw)
        neck = _filled(np.array([(x0 - half, y0 - 70), (x0 + half, y0 - 70), (x0 + half * 0.97, y0 + 40),
                                 (x0 + half * 1.5, y0 + 95), (x0, y0 + 190), (x0 - half * 1.5, y0 + 95),
                                 (x0 - half * 0.97, y0 + 40)]), 2.0)  # fmt: skip
        y, x = np.mgrid[0:CANVAS_H, 0:CANVAS_W].astype(np.float32)
        shade = 0.9 - 0.32 * np.exp(-np.clip(y - y0, 0, None) / 26) - 0.16 * np.clip(np.abs(x - x0) / half, 0, 1.3) ** 2
        _over(body, neck, skin_tone * shade[..., None])
        cover = np.maximum(cover, neck)
        wide = rng.uniform(245, 290)
        points = np.array([(x0 - half * 1.12, y0 + 57), (x0, y0 + rng.uniform(58, 92)), (x0 + half * 1.12, y0 + 57),
                           (x0 + wide * 0.72, y0 + 98), (x0 + wide, y0 + 180), (x0 + wide + 28, CANVAS_H + 90),
                           (x0 - wide - 28, CANVAS_H + 90), (x0 - wide, y0 + 180),
                           (x0 - wide * 0.72, y0 + 98)])  # fmt: skip
        cloth = _filled(_smooth(points), 1.6)
        weave = draw_clouds(rng, CANVAS_H, CANVAS_W, 2.5, 1) * rng.uniform(0.02, 0.05)
        folds = draw_clouds(rng, CANVAS_H, CANVAS_W, 90, 3) * 0.09 + weave
        tone = np.ones((CANVAS_H, CANVAS_W, 1), np.float32) * draw_colour(rng, 25, 220, 18)
        kind = rng.random()
        if kind < 0.3:
            stripes = np.sin((y + 8 * folds) * 2 * np.pi / rng.uniform(22, 60)) > rng.uniform(-0.4, 0.6)
            tone = np.where(stripes[..., None], tone, draw_colour(rng, 25, 230, 26))
        elif kind < 0.45:
            size = rng.uniform(26, 60)
            checks = (np.sin(x * 2 * np.pi / size) > 0).astype(np.float32) + (np.sin(y * 2 * np.pi / size) > 0)
            tone = tone * (1 - 0.16 * checks[..., None])
        _over(body, cloth, tone * (1 + folds[..., None]))
        collar = cv2.GaussianBlur(cloth, (0, 0), 5) - cv2.GaussianBlur(cloth, (0, 0), 1)
        body *= 1 - 0.45 * np.clip(collar, 0, 1)[..., None]
        return body, np.maximum(cover, cloth)

    def _glasses(self, head: np.ndarray) -> None:
        frame = np.zeros(head.shape[:2], np.float32)
        own = np.random.default_rng(self.person.seed + 1)
        wide, thick = own.uniform(38, 44), int(own.integers(3, 6))
        for eye in self.eyes:
            x, y = eye + (0, 5)
            if self.person.glasses == "round":
                cv2.ellipse(frame, (int(x), int(y)), (int(wide), int(wide * 0.86)), 0, 0, 360, 1.0, thick, cv2.LINE_AA)
            else:
                t = np.linspace(0, 2 * np.pi, 60)
                box = np.c_[x + wide * np.sign(np.cos(t)) * np.abs(np.cos(t)) ** 0.35,
                            y + wide * 0.68 * np.sign(np.sin(t)) * np.abs(np.sin(t)) ** 0.35]  # fmt: skip
                cv2.polylines(frame, [np.round(box).astype(np.int32)], True, 1.0, thick, cv2.LINE_AA)
        (xl, yl), (xr, yr) = self.eyes.tolist()
        cv2.line(frame, (int(xl + wide), int(yl)), (int(xr - wide), int(yr)), 1.0, thick, cv2.LINE_AA)
        cv2.line(frame, (int(xl - wide), int(yl)), (int(xl - wide - 34), int(yl - 6)), 1.0, thick, cv2.LINE_AA)
        cv2.line(frame, (int(xr + wide), int(yr)), (int(xr + wide + 34), int(yr - 6)), 1.0, thick, cv2.LINE_AA)
        shadow = np.roll(cv2.GaussianBlur(frame, (0, 0), 4), 5, 0)
        _over(head, shadow * 0.35, (20, 14, 12))
        _over(head, cv2.GaussianBlur(frame, (0, 0), 0.8) * 0.92, draw_colour(own, 18, 90, 9))

    def _mask(self, head: np.ndarray, rng: np.random.Generator) -> None:
        points = self.head.point(MASK, "jaw")
        weight = _filled(_smooth(points), 1.3)
        y, x = np.mgrid[0:CANVAS_H, 0:CANVAS_W].astype(np.float32)
        middle, span = points[:, 0].mean(), np.ptp(points[:, 0]) / 2
        top, bottom = points[:, 1].min(), points[:, 1].max()
        tone = np.float32(MASK_COLOURS[int(rng.integers(len(MASK_COLOURS)))]) + rng.normal(0, 5, 3).astype(np.float32)
        u, v = (x - middle) / span, (y - top) / (bottom - top)
        shade = 1.02 - 0.26 * np.abs(u) ** 2.5 - 0.12 * np.clip(v - 0.55, 0, 1) + 0.05 * np.exp(-((u / 0.12) ** 2))
        for level in (0.36, 0.52, 0.68):  # pleats, sagging in the middle
            line = v - level - 0.05 * (1 - u * u)
            shade += -0.15 * np.exp(-((line / 0.011) ** 2)) + 0.05 * np.exp(-(((line + 0.03) / 0.02) ** 2))
        shade += 0.018 * draw_clouds(rng, CANVAS_H, CANVAS_W, 40, 3)
        drop = cv2.GaussianBlur(weight, (0, 0), 6) * 0.4
        _over(head, np.clip(drop, 0, 1), (40, 26, 22))
        loops = np.zeros(head.shape[:2], np.float32)
        for corner, low, ear in ((0, 13, (177, 118)), (6, 7, (274, 120))):
            tip = self.head.point(np.array([ear], float), "jaw")[0]
            for end in (points[corner], points[low]):
                cv2.line(loops, tuple(np.int32(end)), tuple(np.int32(tip)), 1.0, 3, cv2.LINE_AA)
        _over(head, cv2.GaussianBlur(loops, (0, 0), 0.8) * 0.9, tone * 0.95)
        _over(head, weight, tone * shade[..., None])

    def _hat(self, head: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Paint the hat on the head, in place: its mask, and the head's without the hair that it tucks away."""
        own = np.random.default_rng(self.person.seed + 2)
        tone = draw_colour(own, 30, 200, 26)
        eye = self.eyes.mean(0)
        face = self.head.point(JAW, "jaw")
        left, right, chin = face[:, 0].min(), face[:, 0].max(), face[:, 1].max()
        brow = self.head.point(HAIRLINE[3:6], "hairline")[:, 1].mean()
        y, x = np.mgrid[0:CANVAS_H, 0:CANVAS_W].astype(np.float32)
        texture = 1 + 0.06 * draw_clouds(own, CANVAS_H, CANVAS_W, 60, 3) + 0.05 * np.sin(x * 0.55)
        wide = (right - left) / 2 + (26 if self.person.hat == "beanie" else 38)
        shown = alpha * (np.abs(x - (left + right) / 2) < (right - left) / 2 + 8)
        if self.person.hat == "beanie":
            points = np.array([(eye[0] - wide, brow + 4), (eye[0] - wide * 0.9, brow - 85), (eye[0], brow - 150),
                               (eye[0] + wide * 0.9, brow - 85), (eye[0] + wide, brow + 4),
                               (eye[0], brow - 16)])  # fmt: skip
            weight = _filled(_smooth(points), 1.6)
            rim = np.clip(1 - np.abs(y - brow + 22) / 26, 0, 1)
            texture = texture * (1 + 0.12 * rim)
            tucked = np.clip((brow + 30 - y) / 20, 0, 1)
            alpha = alpha * (1 - tucked) + np.minimum(alpha, shown) * tucked
            alpha = alpha * np.clip((y - brow + 60) / 20, 0, 1)
        else:
            outer = np.array([(eye[0], brow - 120), (eye[0] - wide, brow - 40), (eye[0] - wide - 4, eye[1] + 60),
                              (eye[0] - wide * 0.95, chin + 60), (eye[0], chin + 130),
                              (eye[0] + wide * 0.95, chin + 60), (eye[0] + wide + 4, eye[1] + 60),
                              (eye[0] + wide, brow - 40)])  # fmt: skip
            inner = np.array([(eye[0], brow - 12), (left + 8, brow + 20), (left + 2, eye[1] + 60),
                              (left + 32, chin - 40), (eye[0], chin + 4), (right - 32, chin - 40),
                              (right - 2, eye[1] + 60), (right - 8, brow + 20)])  # fmt: skip
            hole = _filled(_smooth(inner), 1.6)
            weight = _filled(_smooth(outer), 1.6) * (1 - hole)
            head *= 1 - 0.3 * (hole * cv2.GaussianBlur(1 - hole, (0, 0), 9))[..., None]
            alpha = alpha * hole
            texture = texture * (1 - 0.25 * cv2.GaussianBlur(hole, (0, 0), 7))
        round_off = 1.05 - 0.4 * np.clip(np.abs(x - eye[0]) / wide, 0, 1) ** 3
        _over(head, weight, tone * (texture * round_off)[..., None])
        return weight, alpha

    def _light(self, rng: np.random.Generator) -> np.ndarray:
        """Shading by a soft light from one side, on an ellipsoid head and a cylinder body: CANVAS_H x CANVAS_W."""
        y, x = np.mgrid[0:CANVAS_H, 0:CANVAS_W].astype(np.float32)
        nx = np.clip((x - FACE[0]) / 190, -1, 1)
        ny = np.clip((y - FACE[1]) / 260, -1, 1)
        angle, power = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 0.34)
        shade = 1 + power * (np.cos(angle) * nx + 0.7 * np.sin(angle) * ny) - 0.1 * (nx * nx + ny * ny)
        return np.clip(shade, 0.45, 1.35)

    def render(self, pose: Pose, background: np.ndarray, height: int, width: int) -> np.ndarray:
        """A frame, uint8 RGB height x width x 3, before ``background`` (uint8, at least as large)."""
        picture = self.open
        if pose.blink > 0.02:
            picture = picture.copy()
            weight = np.clip((pose.blink * 1.05 - self._lid) * 9 + 0.5, 0, 1)[..., None]
            part = picture[self._lid_box]
            part[:] = (part + (self.shut[self._lid_box].astype(np.float32) - part) * weight).astype(np.uint8)
        x, y = place_nodes(height, width)
        cos, sin = np.cos(pose.roll), np.sin(pose.roll)
        dx, dy = (x - pose.x) / pose.scale, (y - pose.y) / pose.scale
        u, v = FACE[0] + cos * dx + sin * dy, FACE[1] - sin * dx + cos * dy
        u, v = self._expression(pose, u, v)
        field = upsample_nodes(np.dstack([u, v]), height, width)
        warped = cv2.remap(picture, field, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        alpha = warped[..., 3].astype(np.float32) * np.float32(1 / 255)
        # The canvas's upper rows and sides are empty, its last row is cloth: replicating is right on every side.
        room_h, room_w = background.shape[:2]
        left, top = (width - room_w) / 2 + pose.drift[0], (height - room_h) / 2 + pose.drift[1]
        shift = np.float32([[1, 0, left], [0, 1, top]])
        behind = cv2.warpAffine(background, shift, (width, height), flags=cv2.INTER_LINEAR,
                                borderMode=cv2.BORDER_REFLECT_101)  # fmt: skip
        return cv2.blendLinear(np.ascontiguousarray(warped[..., :3]), behind, alpha, 1 - alpha)

    def _expression(self, pose: Pose, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read positions on the canvas after head turning (depth parallax), smiling and raising the brows."""
        rx, ry = (u - FACE[0]) / 185, (v - FACE[1] + 30) / 240
        depth = np.sqrt(np.clip(1 - rx**2 - ry**2, 0, 1))
        nose = np.exp(-(((u - FACE[0]) / 34) ** 2) - ((v - 385) / 48) ** 2)
        depth = depth * 0.8 + nose * 0.3
        mouth_y = canvas(np.array([(0.0, 145.0)]))[0, 1]
        corners = np.exp(-(((np.abs(u - FACE[0]) - 48) / 26) ** 2) - ((v - mouth_y) / 26) ** 2)
        jaw = np.exp(-(((u - FACE[0]) / 90) ** 2) - ((v - 500) / 60) ** 2)
        brow = np.exp(-(((v - self.eyes[:, 1].mean() + 34) / 22) ** 2) - ((u - FACE[0]) / 110) ** 2)
        side = np.sign(u - FACE[0])
        u = u - pose.yaw * depth - side * 0.5 * pose.smile * corners
        v = v - pose.pitch * depth + pose.smile * corners - 0.35 * pose.smile * jaw + pose.brow * brow
        return u, v
