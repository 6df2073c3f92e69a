"""Hints for whoever is before the camera: what about a clip's picture would let it be judged better.

They never touch a score or a decision (an ensemble's own limits do that, prediction/limits.py). Works on what
``prepare_video`` found; reads and writes nothing.
"""

from liveness.frames.views import VideoViews

# Medians of the scored frames (quality.py). Beyond them lay none, or 1 %, of 360 frames of live people (NUAA, ten other
# cameras, the demo); SMALL is what the day-one networks ask for.
DARK, BRIGHT = 45.0, 215.0  # brightness, 0 to 255
SMALL = 88.0  # face_width, pixels
BLURRED = 0.15  # sharpness
CLOSE = 1.0  # room: the face reaches over the frame


def list_hints(video: VideoViews) -> list[str]:
    """Words, the gravest first: no_face, rotated, several_faces, small, close, dark, bright, blurred."""
    found = []
    if any(one.turned for one in video.seen):
        found.append("rotated")
    elif video.faces == 0 and video.frames:
        found.append("no_face")
    if video.most_faces > 1:
        found.append("several_faces")
    if video.measures is not None:
        measures = video.measures
        found += ["small"] * (measures["face_width"] < SMALL)
        found += ["close"] * (measures["room"] < CLOSE)
        found += ["dark"] * (measures["brightness"] < DARK)
        found += ["bright"] * (measures["brightness"] > BRIGHT)
        found += ["blurred"] * (measures["sharpness"] < BLURRED)
    return found
