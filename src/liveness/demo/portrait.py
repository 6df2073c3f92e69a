"""One person on the canvas on one day: clothes, light, accessories, and frames at any pose.

``Portrait.render`` gives a frame with head motion, blinking and expression over a background that moves less than
the head (parallax). Nothing is written.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from liveness.demo.canvas import (
    CANVAS_H,
    CANVAS_W,
    FACE,
    FACE_WIDTH,
    HAIRLINE,
    JAW,
    MASK,
    fill_polygon,
    paint_over,
    smooth_curve,
    to_canvas,
)
from liveness.demo.head import draw_head
from liveness.demo.persons import Person
from liveness.simulation.scenes import draw_clouds, draw_colour
from liveness.simulation.warp import place_nodes, remap, upsample_nodes

MASK_COLOURS = [(158, 196, 214), (222, 228, 230), (150, 200, 190), (84, 86, 94), (205, 178, 190)]


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


class Portrait:
    """A person on the canvas, as on one day.

    ``rng`` draws what changes from clip to clip: clothes, light. ``masked`` adds a medical mask.
    """

    def __init__(self, person: Person, rng: np.random.Generator, masked: bool = False):
        self.person, self.head = person, draw_head(person)
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
            paint_over(whole, alpha, face)
            whole *= light
            pictures.append(np.dstack([np.clip(whole, 0, 255), np.maximum(cover, alpha) * 255]).astype(np.uint8))
        return pictures

    def _body(
        self, skin_tone: np.ndarray, hair_tone: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Long hair, neck and clothes behind the head: float32 RGB, and how far they cover (0..1)."""
        chin = self.head.point(JAW[6:7], "jaw")[0]
        body = np.zeros((CANVAS_H, CANVAS_W, 3), np.float32)
        cover = np.zeros((CANVAS_H, CANVAS_W), np.float32)
        x0, y0 = chin
        if self.person.long_hair and self.person.hat != "scarf":
            w, end = FACE_WIDTH * 0.5 + 34, self.eyes[:, 1].mean() + self.person.long_hair
            points = np.array([(x0, 190), (x0 - w * 0.8, 220), (x0 - w, 330), (x0 - w * 1.04, end),
                               (x0 - w * 0.5, end + 26), (x0, end), (x0 + w * 0.5, end + 26),
                               (x0 + w * 1.04, end), (x0 + w, 330), (x0 + w * 0.8, 220)])  # fmt: skip
            fall = fill_polygon(smooth_curve(points), 2.5)
            strands = cv2.resize(draw_clouds(rng, 3, CANVAS_W, 5, 2), (CANVAS_W, CANVAS_H))[..., None]
            paint_over(body, fall, hair_tone * (0.8 + 0.14 * strands))
            cover = np.maximum(cover, fall)
        half = FACE_WIDTH * (0.33 + 0.5 * self.person.shape.jaw)
        neck = fill_polygon(np.array([(x0 - half, y0 - 70), (x0 + half, y0 - 70), (x0 + half * 0.97, y0 + 40),
                                 (x0 + half * 1.5, y0 + 95), (x0, y0 + 190), (x0 - half * 1.5, y0 + 95),
                                 (x0 - half * 0.97, y0 + 40)]), 2.0)  # fmt: skip
        y, x = np.mgrid[0:CANVAS_H, 0:CANVAS_W].astype(np.float32)
        shade = 0.9 - 0.32 * np.exp(-np.clip(y - y0, 0, None) / 26) - 0.16 * np.clip(np.abs(x - x0) / half, 0, 1.3) ** 2
        paint_over(body, neck, skin_tone * shade[..., None])
        cover = np.maximum(cover, neck)
        wide = rng.uniform(245, 290)
        points = np.array([(x0 - half * 1.12, y0 + 57), (x0, y0 + rng.uniform(58, 92)), (x0 + half * 1.12, y0 + 57),
                           (x0 + wide * 0.72, y0 + 98), (x0 + wide, y0 + 180), (x0 + wide + 28, CANVAS_H + 90),
                           (x0 - wide - 28, CANVAS_H + 90), (x0 - wide, y0 + 180),
                           (x0 - wide * 0.72, y0 + 98)])  # fmt: skip
        cloth = fill_polygon(smooth_curve(points), 1.6)
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
        paint_over(body, cloth, tone * (1 + folds[..., None]))
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
                cv2.polylines(frame, [box.round().astype(np.int32)], True, 1.0, thick, cv2.LINE_AA)
        (xl, yl), (xr, yr) = self.eyes.tolist()
        cv2.line(frame, (int(xl + wide), int(yl)), (int(xr - wide), int(yr)), 1.0, thick, cv2.LINE_AA)
        cv2.line(frame, (int(xl - wide), int(yl)), (int(xl - wide - 34), int(yl - 6)), 1.0, thick, cv2.LINE_AA)
        cv2.line(frame, (int(xr + wide), int(yr)), (int(xr + wide + 34), int(yr - 6)), 1.0, thick, cv2.LINE_AA)
        shadow = np.roll(cv2.GaussianBlur(frame, (0, 0), 4), 5, 0)
        paint_over(head, shadow * 0.35, (20, 14, 12))
        paint_over(head, cv2.GaussianBlur(frame, (0, 0), 0.8) * 0.92, draw_colour(own, 18, 90, 9))

    def _mask(self, head: np.ndarray, rng: np.random.Generator) -> None:
        points = self.head.point(MASK, "jaw")
        weight = fill_polygon(smooth_curve(points), 1.3)
        y, x = np.mgrid[0:CANVAS_H, 0:CANVAS_W].astype(np.float32)
        middle, span = points[:, 0].mean(), np.ptp(points[:, 0]) / 2
        top, bottom = points[:, 1].min(), points[:, 1].max()
        tone = np.array(MASK_COLOURS[int(rng.integers(len(MASK_COLOURS)))], np.float32) + rng.normal(0, 5, 3).astype(
            np.float32
        )
        u, v = (x - middle) / span, (y - top) / (bottom - top)
        shade = 1.02 - 0.26 * np.abs(u) ** 2.5 - 0.12 * np.clip(v - 0.55, 0, 1) + 0.05 * np.exp(-((u / 0.12) ** 2))
        for level in (0.36, 0.52, 0.68):  # pleats, sagging in the middle
            line = v - level - 0.05 * (1 - u * u)
            shade += -0.15 * np.exp(-((line / 0.011) ** 2)) + 0.05 * np.exp(-(((line + 0.03) / 0.02) ** 2))
        shade += 0.018 * draw_clouds(rng, CANVAS_H, CANVAS_W, 40, 3)
        drop = cv2.GaussianBlur(weight, (0, 0), 6) * 0.4
        paint_over(head, np.clip(drop, 0, 1), (40, 26, 22))
        loops = np.zeros(head.shape[:2], np.float32)
        for corner, low, ear in ((0, 13, (177, 118)), (6, 7, (274, 120))):
            tip = self.head.point(np.array([ear], float), "jaw")[0]
            for end in (points[corner], points[low]):
                cv2.line(loops, end.astype(np.int32).tolist(), tip.astype(np.int32).tolist(), 1.0, 3, cv2.LINE_AA)
        paint_over(head, cv2.GaussianBlur(loops, (0, 0), 0.8) * 0.9, tone * 0.95)
        paint_over(head, weight, tone * shade[..., None])

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
            weight = fill_polygon(smooth_curve(points), 1.6)
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
            hole = fill_polygon(smooth_curve(inner), 1.6)
            weight = fill_polygon(smooth_curve(outer), 1.6) * (1 - hole)
            head *= 1 - 0.3 * (hole * cv2.GaussianBlur(1 - hole, (0, 0), 9))[..., None]
            alpha = alpha * hole
            texture = texture * (1 - 0.25 * cv2.GaussianBlur(hole, (0, 0), 7))
        round_off = 1.05 - 0.4 * np.clip(np.abs(x - eye[0]) / wide, 0, 1) ** 3
        paint_over(head, weight, tone * (texture * round_off)[..., None])
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
        warped = remap(picture, field)
        alpha = warped[..., 3].astype(np.float32) * np.float32(1 / 255)
        # The canvas's upper rows and sides are empty, its last row is cloth: replicating is right on every side.
        room_h, room_w = background.shape[:2]
        left, top = (width - room_w) / 2 + pose.drift[0], (height - room_h) / 2 + pose.drift[1]
        shift = np.array([[1, 0, left], [0, 1, top]], np.float32)
        behind = cv2.warpAffine(background, shift, (width, height), flags=cv2.INTER_LINEAR,
                                borderMode=cv2.BORDER_REFLECT_101)  # fmt: skip
        return cv2.blendLinear(np.ascontiguousarray(warped[..., :3]), behind, alpha, 1 - alpha)

    def _expression(self, pose: Pose, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read positions on the canvas after head turning (depth parallax), smiling and raising the brows."""
        rx, ry = (u - FACE[0]) / 185, (v - FACE[1] + 30) / 240
        depth = np.sqrt(np.clip(1 - rx**2 - ry**2, 0, 1))
        nose = np.exp(-(((u - FACE[0]) / 34) ** 2) - ((v - 385) / 48) ** 2)
        depth = depth * 0.8 + nose * 0.3
        mouth_y = to_canvas(np.array([(0.0, 145.0)]))[0, 1]
        corners = np.exp(-(((np.abs(u - FACE[0]) - 48) / 26) ** 2) - ((v - mouth_y) / 26) ** 2)
        jaw = np.exp(-(((u - FACE[0]) / 90) ** 2) - ((v - 500) / 60) ** 2)
        brow = np.exp(-(((v - self.eyes[:, 1].mean() + 34) / 22) ** 2) - ((u - FACE[0]) / 110) ** 2)
        side = np.sign(u - FACE[0])
        u = u - pose.yaw * depth - side * 0.5 * pose.smile * corners
        v = v - pose.pitch * depth + pose.smile * corners - 0.35 * pose.smile * jaw + pose.brow * brow
        return u, v
