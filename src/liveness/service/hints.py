"""Hints on a picture's quality, for whoever took it. They touch neither the score nor the decision.

Measures are those of frames/quality.py, medians over the frames that were scored. The bounds are rules of thumb: of
200 webcam frames, all of them usable, 1 % were darker, 1 % had a smaller face and none was less sharp; blurred with a
standard deviation of a 40th of the face's width, 3 of 4 were less sharp.
"""

DARK, BRIGHT = 50.0, 220.0  # mean luma of the face, 0 to 255
BLURRED = 0.12  # sharpness
SMALL = 80.0  # pixels of the face's width


def find_hints(measures: dict[str, float] | None, most_faces: int, turn: int) -> list[dict[str, str]]:
    """What to do better, as {kind, text} each.

    measures: None without a face; most_faces: in one frame; turn: by how many degrees clockwise the picture has to
    be turned for its face to be upright.
    """
    hints: list[tuple[str, str]] = []
    if measures is not None:
        if measures["brightness"] < DARK:
            hints.append(("dark", "The face is dark: turn towards the light."))
        if measures["brightness"] > BRIGHT:
            hints.append(("bright", "The face is overexposed: turn away from the light."))
        if measures["face_width"] < SMALL:
            hints.append(("small", f"The face is only {measures['face_width']:.0f} pixels wide: come nearer."))
        if measures["sharpness"] < BLURRED:
            hints.append(("blurred", "The face is blurred: hold still and clean the lens."))
    if turn:
        hints.append(("rotated", f"The face is not upright: turn the picture clockwise by {turn} degrees."))
    elif measures is None:
        hints.append(("no_face", "No face was found: look into the camera, with the whole face in the picture."))
    if most_faces > 1:
        hints.append(("several_faces", f"There are {most_faces} faces in the picture: be alone in it."))
    return [{"kind": kind, "text": text} for kind, text in hints]
