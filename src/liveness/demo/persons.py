"""Who the invented persons are: the shape of the face, tones, hair, beard, glasses, hat.

``Person.draw`` fixes an identity, all of them departures from one public-domain portrait (``canvas``). Nothing is
read or written.
"""

from dataclasses import dataclass, replace

import numpy as np

from liveness.demo.canvas import EYES
from liveness.simulation.camera import to_triple

SKINS = [(79, 9, 13), (76, 12, 15), (72, 12, 20), (67, 12, 22), (62, 13, 24), (56, 14, 25), (50, 14, 23), (45, 12, 18),
         (70, 10, 17), (65, 15, 18), (47, 14, 22), (74, 8, 19)]  # fmt: skip
HAIRS = [(13, 1, 1, 0.5), (17, 2, 3, 0.55), (23, 4, 7, 0.65), (31, 7, 13, 0.8), (36, 6, 17, 0.85), (52, 5, 24, 1.0),
         (33, 17, 20, 0.85), (55, 0, 2, 0.9), (70, 0, 3, 0.8), (20, 6, 6, 0.6)]  # fmt: skip


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
            skin=to_triple(np.add(SKINS[turn * 5 % 12], rng.normal(0, (1.5, 0.8, 1.2)))),
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
