"""What the pages share: templates that escape, pictures inside the page, words.

A page is one file that asks for nothing else: templates/house.css is its look, templates/house.html
has its building blocks, pictures are data URIs.
"""

import base64
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from liveness.evaluation.format import counted

TEMPLATES = Path(__file__).resolve().parent / "templates"
THUMB = 120  # pixels of a thumbnail's longer side; about 4 kB as a JPEG of this quality
THUMB_QUALITY = 70
UNPRINTABLE = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def make_environment() -> Environment:
    """Jinja2 on our templates: everything escaped, an unknown name is an error."""
    found = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_replace_unprintable,
    )
    found.filters.update(counted=counted, breakable=allow_breaks, command=format_command)
    return found


def _replace_unprintable(value: object) -> object:
    """Text without the characters that HTML forbids; markup and numbers as they are."""
    return UNPRINTABLE.sub("\ufffd", value) if type(value) is str else value


def allow_breaks(name: object) -> Markup:
    """A name that a narrow column may break after ``_``, ``-``, ``.`` and the like; copied, it is the name."""
    return Markup(re.sub(r"([_\-./])(?=\w)", r"\1<wbr>", str(escape(_replace_unprintable(str(name))))))


def format_command(text: str) -> Markup:
    """A command to copy, in code type; it is broken between its words alone."""
    words = Markup(" ").join(Markup("<bdi>{}</bdi>").format(_replace_unprintable(word)) for word in text.split(" "))
    return Markup("<code>{}</code>").format(words)


def read_written_time(path: Path) -> str:
    """When a file was written, in UTC to the minute."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M UTC")


def spread_evenly(items: Sequence, most: int) -> list:
    """At most ``most`` of the items, evenly spread over them, in their order."""
    if len(items) <= most:
        return list(items)
    return [items[int((i + 0.5) * len(items) / most)] for i in range(most)]


def read_image(path: Path, mode: int = cv2.IMREAD_COLOR) -> np.ndarray | None:
    """An image, or None where it is missing or damaged (imread itself would complain on stderr)."""
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError:
        return None
    return cv2.imdecode(data, mode) if data.size else None


def make_thumbnail(path: Path, box: list[float] | None = None, side: int = THUMB) -> dict | None:
    """A small JPEG as {src, width, height}, with a box (x, y, w, h in pixels) drawn; None if unreadable."""
    full = read_image(path)
    if full is None:
        return None
    scale = min(1.0, side / max(full.shape[:2]))
    width, height = (max(1, round(length * scale)) for length in (full.shape[1], full.shape[0]))
    small = cv2.resize(full, (width, height), interpolation=cv2.INTER_AREA)
    if box is not None and np.isfinite(box).all():
        x, y, w, h = box
        corner, end = (round(x * scale), round(y * scale)), (round((x + w) * scale), round((y + h) * scale))
        cv2.rectangle(small, corner, end, (80, 220, 80), 1)
    data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, THUMB_QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1])[1]
    uri = "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")
    return {"src": uri, "width": width, "height": height}
