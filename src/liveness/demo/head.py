"""A person's bare head: the portrait cut out, warped, recoloured, with brows, lips, beard, moles and fringe.

It is what stays the same from clip to clip; ``portrait`` dresses it. Nothing is written.
"""

from functools import lru_cache

import cv2
import numpy as np

from liveness.demo.canvas import (
    BROWS,
    CANVAS_H,
    CANVAS_W,
    EYE_ROUND,
    EYES,
    HAIR,
    HAIRLINE,
    HEAD_OUTLINE,
    JAW,
    MOUTH,
    NOSE,
    SCALE,
    SHIFT,
    fill_polygon,
    paint_over,
    to_canvas,
)
from liveness.demo.persons import Person
from liveness.simulation.scenes import draw_clouds
from liveness.simulation.warp import warp_thin_plate


class Head:
    """A person's head on the canvas, bare: what stays the same from clip to clip.

    ``open`` and ``shut`` (float32 CANVAS_H x CANVAS_W x 3, eyes open and shut), ``alpha`` (0..1), the tones of skin
    and hair, ``eyes`` (2 x 2, canvas pixels). Not to be changed: ``draw_head`` hands it out again.
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
        return to_canvas(self.person.shape.move(points, part))

    def _warped(self) -> np.ndarray:
        parts = [("hair", HAIR[::2]), ("jaw", JAW[::2]), ("hairline", HAIRLINE[::2]), ("brows", BROWS),
                 ("eyes", np.r_[EYES, EYES[0] + EYE_ROUND, EYES[1] + EYE_ROUND]), ("nose", NOSE),
                 ("mouth", MOUTH)]  # fmt: skip
        border = np.array([(x, y) for x in (0, 360, 719) for y in (0, 440, 879) if (x, y) != (360, 440)], float)
        source = np.r_[np.concatenate([to_canvas(points) for _, points in parts]), border]
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
        paint_over(rgb, cv2.GaussianBlur(weight, (0, 0), 2.2) * person.brows * rough, hair_tone * 0.6)
        if person.beard:
            self._beard(rgb, skin, hair_tone, own)
        for _ in range(person.moles):
            x, y = own.uniform(280, 440), own.uniform(330, 480)
            mole = np.zeros(rgb.shape[:2], np.float32)
            cv2.circle(mole, (int(x), int(y)), int(own.integers(2, 4)), 1.0, -1, cv2.LINE_AA)
            paint_over(rgb, cv2.GaussianBlur(mole, (0, 0), 1.0) * 0.7, (70, 42, 34))
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
        paint_over(rgb, cv2.GaussianBlur(patch, (0, 0), 5).astype(np.float32) / 255, fill)
        y, w = centre[1], half * 0.86
        lip = np.clip(fill[int(y), int(centre[0])] * np.array([0.9, 0.66, 0.66]), 20, 255)
        u = np.linspace(-1, 1, 24)
        x = centre[0] + u * w
        seam = y - 2.5 * u**2
        upper = y - 9.5 * (1 - u**2) * (1 - 0.22 * np.exp(-((u / 0.18) ** 2))) - 2 * u**2
        lower = y + 13 * (1 - np.abs(u) ** 2.4) - 2 * u**2
        paint_over(rgb, fill_polygon(np.r_[np.c_[x, upper], np.c_[x, seam][::-1]], 1.6) * 0.8, lip * 0.82)
        paint_over(rgb, fill_polygon(np.r_[np.c_[x, lower], np.c_[x, seam][::-1]], 1.6) * 0.8, lip)
        shine = np.array([(centre[0] - w * 0.4, y + 4), (centre[0] + w * 0.4, y + 4), (centre[0], y + 8)])
        paint_over(rgb, fill_polygon(shine, 2.5) * 0.3, lip * 1.35)
        line = np.zeros(rgb.shape[:2], np.float32)
        cv2.polylines(line, [np.round(np.c_[x, seam] * 16).astype(np.int32)], False, 1.0, 3, cv2.LINE_AA, 4)
        paint_over(rgb, cv2.GaussianBlur(line, (0, 0), 1.2) * 0.75, lip * 0.35)

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
        paint_over(rgb, np.clip(weight, 0, 0.9), np.minimum(hair_tone, 110) * 0.7)

    def _fringe(self, rgb: np.ndarray, hair_tone: np.ndarray, own: np.random.Generator) -> None:
        if not self.person.fringe:
            return
        line = self.point(HAIRLINE[2:8], "hairline")
        depth = 10 + 22 * self.person.fringe
        lower = line + np.c_[np.zeros(len(line)), depth * np.sin(np.linspace(0.3, np.pi - 0.3, len(line)))]
        weight = fill_polygon(np.r_[line - (0, 14), lower[::-1]], 6)
        ragged = cv2.resize(draw_clouds(own, 1, CANVAS_W, 9, 2), (CANVAS_W, CANVAS_H))
        weight = np.clip(weight * (1.0 + 0.22 * ragged), 0, 1) ** 1.3
        strands = draw_clouds(own, 4, CANVAS_W, 7, 2)
        strands = cv2.resize(strands, (CANVAS_W, CANVAS_H), interpolation=cv2.INTER_LINEAR)[..., None]
        paint_over(rgb, weight * 0.92, hair_tone * (0.85 + 0.07 * strands))

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
        paint_over(shut, cv2.GaussianBlur(lash, (0, 0), 1.0) * 0.8, (38, 28, 26))
        return shut


@lru_cache(maxsize=2)  # 25 MiB each: clips of one person should follow each other
def draw_head(person: Person) -> Head:
    """The person's head, drawn once while its clips follow each other."""
    return Head(person)


@lru_cache(maxsize=1)
def _cut_out() -> np.ndarray:
    """The portrait's head on the canvas, float32: RGB (0..255), and alpha, skin, hair (0..1)."""
    from skimage import data

    source = data.astronaut()
    matrix = np.c_[np.eye(2) * SCALE, SHIFT]
    rgb = cv2.warpAffine(source, matrix, (CANVAS_W, CANVAS_H), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    # A little inside the outline, free of the studio's wall.
    outline = np.clip(fill_polygon(to_canvas(HEAD_OUTLINE), 2.0) * 2 - 1, 0, 1)
    # Only the hair's edge needs looking at: polygon for the face, GrabCut for the strands.
    trimap = np.full(source.shape[:2], cv2.GC_BGD, np.uint8)
    polygon = np.round(HEAD_OUTLINE).astype(np.int32)
    cv2.fillPoly(trimap, [polygon], int(cv2.GC_PR_FGD))
    core = cv2.erode(cv2.fillPoly(np.zeros_like(trimap), [polygon], 1), np.ones((9, 9)))
    near = cv2.dilate(cv2.fillPoly(np.zeros_like(trimap), [polygon], 1), np.ones((5, 5)))
    trimap[(near == 1) & (trimap == cv2.GC_BGD)] = cv2.GC_PR_BGD
    trimap[core == 1] = cv2.GC_FGD
    window = (slice(0, 200), slice(130, 325))
    part = np.ascontiguousarray(trimap[window])
    cv2.setRNGSeed(7)
    # No rectangle is read where the mask is given.
    cv2.grabCut(np.ascontiguousarray(source[window][..., ::-1]), part, (0, 0, 1, 1), np.zeros((1, 65)),
                np.zeros((1, 65)), 3, cv2.GC_INIT_WITH_MASK)  # fmt: skip
    found = np.zeros(source.shape[:2], np.float32)
    found[window] = np.isin(part, (cv2.GC_FGD, cv2.GC_PR_FGD))
    found = cv2.warpAffine(cv2.GaussianBlur(found, (0, 0), 0.9), matrix, (CANVAS_W, CANVAS_H), flags=cv2.INTER_CUBIC)
    strands = np.clip((found - 0.45) * 2.2, 0, 1)
    below = np.clip((np.arange(CANVAS_H, dtype=np.float32) - to_canvas(np.array([(0, 122)]))[0, 1]) / 20, 0, 1)[:, None]
    alpha = strands * (1 - below) + outline * below
    skin = fill_polygon(np.r_[to_canvas(HAIRLINE), to_canvas(JAW)], 4.0)
    for ear in ([(171, 119), (183, 112), (184, 137), (176, 131)], [(268, 120), (280, 126), (274, 138), (267, 137)]):
        skin = np.maximum(skin, fill_polygon(to_canvas(np.array(ear)), 2.0))
    return np.dstack([rgb, alpha, skin, np.clip(alpha - skin, 0, 1)]).astype(np.float32)


def _retone(rgb: np.ndarray, weight: np.ndarray, lab: tuple, contrast: float, chroma: float) -> np.ndarray:
    """Shift the region ``weight`` of a canvas (float32 RGB 0..255) to a mean Lab colour."""
    space = cv2.cvtColor(rgb / np.float32(255), cv2.COLOR_RGB2LAB)
    inside = space[weight > 0.9]
    mean = inside.mean(0)
    target = np.array(lab, np.float32)
    moved = (space - mean) * np.array([contrast, chroma, chroma], np.float32) + target
    moved[..., 0] = np.clip(moved[..., 0], 3, 99)
    mixed = space + (moved - space) * weight[..., None]
    return np.clip(cv2.cvtColor(mixed, cv2.COLOR_LAB2RGB), 0, 1) * np.float32(255)
