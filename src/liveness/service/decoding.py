"""What a worker process does with a clip: hold its size against the limits, then decode it and cut the views.

It runs in the processes of frames/workers.py, which may be killed at any time; nothing here imports the web
framework or a model.
"""

from dataclasses import dataclass
from pathlib import Path

from liveness.frames.image import is_image
from liveness.frames.video import VideoError, probe
from liveness.frames.views import VideoViews, ViewRequest, prepare_task


@dataclass(frozen=True)
class ClipTask:
    """A file, what the members need of it, and how long (seconds) and how large (pixels of a frame) it may be."""

    path: Path
    wanted: list[ViewRequest]
    seconds: float
    pixels: int


@dataclass
class TooMuch:
    """A clip that is larger than it may be: a word for programs, one line for people."""

    error: str
    reason: str


def decode_clip(task: ClipTask) -> VideoViews | TooMuch:
    """Never raises for a clip's own faults; a MemoryError is the worker's to tell."""
    return _exceeds(task) or prepare_task((task.path, task.wanted))


def _exceeds(task: ClipTask) -> TooMuch | None:
    """Whether a clip is too large, by what its packets say; None for what cannot be read, too."""
    try:
        if is_image(task.path):
            from PIL import Image

            with Image.open(task.path) as image:
                width, height, seconds = *image.size, 0.0
        else:
            info = probe(task.path)
            width, height, seconds = info.width, info.height, info.duration
    except (VideoError, OSError, ValueError, SyntaxError):
        return None  # whoever reads it next says what is wrong with it
    if width * height > task.pixels:
        return TooMuch("too_many_pixels", f"frames of {width}x{height}; expected at most {task.pixels} pixels")
    if seconds > task.seconds:
        return TooMuch("too_long", f"a clip of {seconds:.1f} s; expected at most {task.seconds:g} s")
    return None
