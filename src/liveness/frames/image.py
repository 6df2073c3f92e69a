"""Still images: a JPEG, PNG, WebP or BMP file as the only frame of a video, upright, in 8 bits.

Reads one file through Pillow, writes nothing. The rules, which are those of every contract version:

- the EXIF orientation is applied (turned and mirrored, as a video's display matrix);
- of 16 bits a channel the upper 8 count (the value divided by 256, rounded down);
- transparent pixels lie on white; a palette and grey become RGB; CMYK becomes (255 - C) * (255 - K) / 255 and so on;
- colour profiles and gamma are not applied, as in videos.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from liveness.base.files import IMAGE_ENDINGS, VIDEO_ENDINGS
from liveness.frames.container import HEAD, IMAGES, VideoError, describe_kind, why
from liveness.frames.display import MAX_PIXELS, turned, upright

if TYPE_CHECKING:
    from PIL import Image

GROUND = 255  # level of the white that transparent pixels lie on: what viewers and printed pages show there
_EXPECTED = "JPEG, PNG, WebP or BMP image"
_TOO_LARGE = f"an image of more than {MAX_PIXELS} pixels is too large; scale it down"
_ORIENTATION = 0x0112  # the EXIF tag
# Its values as display matrices (display.py): a pixel at (x, y) goes to (a x + c y, b x + d y).
_MATRICES = {
    2: ((-1, 0), (0, 1)),
    3: ((-1, 0), (0, -1)),
    4: ((1, 0), (0, -1)),
    5: ((0, 1), (1, 0)),
    6: ((0, 1), (-1, 0)),
    7: ((0, -1), (-1, 0)),
    8: ((0, -1), (1, 0)),
}


@dataclass
class StillImage:
    """A decoded image: ``rgb`` is uint8, height x width x 3, upright; ``rotation`` as in VideoInfo."""

    rgb: np.ndarray
    codec: str  # jpeg | png | webp | bmp
    rotation: int


def is_image(path: Path) -> bool:
    """Whether a file is to be read as a still image: by its ending, and where that says nothing by its first bytes."""
    ending = Path(path).suffix.lower()
    if ending in IMAGE_ENDINGS or ending in VIDEO_ENDINGS:
        return ending in IMAGE_ENDINGS
    try:
        return _format_of(_head(path)) != ""
    except OSError:
        return False


def decode_image(path: Path) -> StillImage:
    """The pixels of a still image; a VideoError says what the file is instead, or what is wrong with it."""
    from PIL import Image, UnidentifiedImageError

    try:
        head = _head(path)
        kind = _format_of(head)
        if not kind:
            raise VideoError(_instead(path, head))
        if kind == "WEBP" and _webp_pixels(head) > MAX_PIXELS:  # Pillow asks for its memory before it says the size
            raise VideoError(_TOO_LARGE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, on stderr in the middle of a progress bar
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=[kind]) as image:
                return _decode(image, kind)
    except (VideoError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise VideoError(_TOO_LARGE) from error
    except Exception as error:  # Pillow's readers raise all kinds on damaged files
        if isinstance(error, OSError) and error.errno is not None:
            raise VideoError(f"cannot be opened: {why(error)}") from error
        text = "its header is damaged" if isinstance(error, UnidentifiedImageError) else why(error)
        breaks = "truncated" in text.lower()
        raise VideoError(
            f"the image breaks off ({text}); copy or download it again" if breaks else f"does not decode: {text}"
        ) from error


def _decode(image: "Image.Image", kind: str) -> StillImage:
    if kind in ("PNG", "WEBP") and getattr(image, "is_animated", False):
        raise VideoError(
            f"an animated {'WebP' if kind == 'WEBP' else 'PNG'} image, not a still one; "
            "make a video of it (mp4), or save one of its frames as PNG"
        )
    if image.width * image.height > MAX_PIXELS:
        raise VideoError(_TOO_LARGE)
    image.load()
    matrix = _matrix_of(image)
    rgb = _to_rgb(image)
    return StillImage(upright(rgb, matrix), kind.lower(), turned(image.width, image.height, matrix)[2])


def _matrix_of(image: "Image.Image") -> np.ndarray | None:
    """The display matrix of an image's EXIF orientation; None for upright ones and where it cannot be read."""
    try:
        found = _MATRICES.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001  (damaged metadata of an image that decodes)
        return None
    return None if found is None else np.array(found, dtype=np.float64)


def _to_rgb(image: "Image.Image") -> np.ndarray:
    """uint8 RGB, height x width x 3, of any mode that the four formats decode to."""
    from PIL import Image

    if image.mode.startswith("I;16"):  # grey; Pillow itself takes the upper 8 bits of all other kinds
        values = np.asarray(image)
        grey = (values >> 8).astype(np.uint8)
        if image.info.get("transparency") is not None:  # one level stands for nothing
            grey[values == image.info["transparency"]] = GROUND
        return np.repeat(grey[..., None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGB", image.size, (GROUND, GROUND, GROUND))
        ground.paste(image, mask=image.getchannel("A"))
        image = ground
    return np.array(image.convert("RGB"))


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(HEAD)


def _format_of(head: bytes) -> str:
    """Pillow's name of an image's format by its first bytes; "" for all that is not read here."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    kinds = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"BM": "BMP"}
    return next((kind for magic, kind in kinds.items() if head.startswith(magic)), "")


def _webp_pixels(head: bytes) -> int:
    """Width times height by the header of a WebP file (RFC 9649); 0 where it is none."""
    chunk, at = head[12:16], {b"VP8X": 24, b"VP8L": 21, b"VP8 ": 26}.get(head[12:16])
    if at is None or len(head) < 30:
        return 0
    if chunk == b"VP8X":  # two numbers of 24 bits, each one less than the side
        return (int.from_bytes(head[24:27], "little") + 1) * (int.from_bytes(head[27:30], "little") + 1)
    bits = int.from_bytes(head[at : at + 4], "little")
    if chunk == b"VP8L":  # two numbers of 14 bits, each one less than the side
        return ((bits & 0x3FFF) + 1) * ((bits >> 14 & 0x3FFF) + 1)
    return (bits & 0x3FFF) * (bits >> 16 & 0x3FFF)


def _instead(path: Path, head: bytes) -> str:
    """What a file is that has an image's name and is none of the four kinds."""
    video = "give it a video's ending (.mp4, .avi, ...)"
    if head[4:8] == b"ftyp":
        other, how = IMAGES.get(head[8:12], ""), "convert it to JPEG or PNG"
        return f"{other or 'a video (mp4, mov)'}, not a {_EXPECTED}; {how if other else video}"
    if head.startswith(b"\x1a\x45\xdf\xa3") or (head[:4] == b"RIFF" and head[8:12] == b"AVI "):
        return f"a video, not a {_EXPECTED}; {video}"
    return describe_kind(path, _EXPECTED) or f"of no known kind, not a {_EXPECTED}; convert it, or delete it"
