"""Images from outside, opened as they looked to whoever chose between them.

One function, `open_rgb`, for every stage: turned as EXIF says, alpha over white, 16 bits scaled to 8, CMYK and palettes
as RGB, of an animation the first frame. A colour profile is left aside: the values are taken as sRGB. What is plain RGB
or grey already keeps every pixel.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from ppd.errors import InputError

FORMATS = ("JPEG", "PNG", "WEBP")
"""The only decoders that bytes from outside may reach (Pillow's EPS one, for example, starts a program)."""

READING = "rgb-2"
"""Names how `open_rgb` reads an image; goes up when any image would look otherwise. Part of every content key."""

MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)
"""What Pillow opens at most. Where images come in, `preferences.max_image_pixels` is the limit."""

_ORIENTATION = 0x0112
_PNG = b"\x89PNG\r\n\x1a\n"
_SHOWN = {b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"IDAT", b"IEND"}


class BadImage(NamedTuple):
    """Why an image is refused: see `ppd.preferences.rows.Refusal`."""

    reason: str
    detail: str


class _TooLarge(Exception):
    pass


def open_rgb(encoded: bytes, max_pixels: int = MOST_PIXELS) -> Image.Image:
    """The picture that a browser shows for these bytes, as RGB.

    Raises `InputError` for what is no JPEG, PNG or WebP, is damaged, or has more pixels than `max_pixels`.
    """
    try:
        with opened(encoded, max_pixels) as image:
            orientation = orientation_of(image)
            return _upright(_over_white(image), orientation)
    except Exception as error:
        fault = fault_of(error, encoded)
        raise InputError(f"an image of {len(encoded)} bytes cannot be decoded: {fault.detail}") from error


@contextmanager
def opened(encoded: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """The image at the frame that is shown first, its size checked, nothing decoded yet."""
    with Image.open(io.BytesIO(_without_metadata(encoded)), formats=FORMATS) as image:
        if image.width * image.height > max_pixels:
            raise _TooLarge(f"{image.width} x {image.height} pixels; at most {max_pixels} in all")
        if image.info.get("default_image"):
            image.seek(1)  # an animated PNG whose still image is for those who cannot show animations
        yield image


def _without_metadata(encoded: bytes) -> bytes:
    """The same picture without texts, colour profiles and the like; anything but a PNG as it came.

    Pillow refuses a picture whose texts or profile are larger than it likes to unpack (a workflow of ComfyUI, the
    profile of a calibrated screen), though nothing of them is wanted. Chunks that nobody knows are kept where they are
    marked as critical, so that a decoder still refuses what it cannot show. What is cut off stays cut off.
    """
    if not encoded.startswith(_PNG):
        return encoded
    kept, start, at, n = [], 0, len(_PNG), len(encoded)
    while at + 8 <= n:
        end = at + 12 + int.from_bytes(encoded[at : at + 4])
        kind = encoded[at + 4 : at + 8]
        if end > n:
            break
        ancillary = bool(kind[0] & 0x20)
        if ancillary and kind not in _SHOWN:
            kept.append(encoded[start:at])
            start = end
        at = end
        if kind == b"IEND":
            break
    return b"".join([*kept, encoded[start:]]) if kept else encoded


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8. What cannot be read counts as upright, as in a browser."""
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif") or b"")
        value = int(exif.get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - a damaged EXIF block raises anything, and is no reason to refuse a picture
        return 1
    return value if 1 <= value <= 8 else 1


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _over_white(image: Image.Image) -> Image.Image:
    transparent = image.info.get("transparency")
    rawmode = _rawmode(image)
    if image.mode.startswith("I;16"):
        return _from_16_bits(image, transparent)
    if image.mode in ("1", "L", "RGB") and transparent is not None:
        # PNG names the colour in the file's own depth, Pillow's pixels have 8 bits.
        scale = {"L;2": 85, "L;4": 17}.get(rawmode, 1)
        shift = 8 if rawmode == "RGB;16B" else 0
        colour = transparent if isinstance(transparent, tuple) else (transparent,)
        key = np.array([(value >> shift) * scale for value in colour])
        grey_or_rgb = np.asarray(image.convert("RGB" if image.mode == "RGB" else "L"))
        pixels = grey_or_rgb.reshape(image.height, image.width, -1)
        shown = np.where((pixels == key).all(axis=2, keepdims=True), 255, pixels).astype(np.uint8)
        return Image.fromarray(np.broadcast_to(shown, (*shown.shape[:2], 3)).copy())
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _rawmode(image: Image.Image) -> str:
    """How the file keeps its pixels, such as L;4 where Pillow's mode is L."""
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    return str(tiles[0].args) if tiles else image.mode


def _from_16_bits(image: Image.Image, transparent: int | None) -> Image.Image:
    """Grey of 16 bits to 8, by the high byte as Pillow does for colour; it would clip what is above 255."""
    values = np.asarray(image)
    grey = (values >> 8).astype(np.uint8)
    if transparent is not None:
        grey = np.where(values == transparent, np.uint8(255), grey)
    return Image.fromarray(grey).convert("RGB")


def fault_of(error: Exception, encoded: bytes) -> BadImage:
    """Why Pillow, or a limit of ours, refuses these bytes."""
    if isinstance(error, _TooLarge | Image.DecompressionBombError | Image.DecompressionBombWarning):
        return BadImage("image_too_large", str(error))
    if isinstance(error, UnidentifiedImageError):  # its own message holds a memory address, which differs in each run
        return BadImage("image_undecodable", f"no {', '.join(FORMATS)} image")
    truncated = "truncated" in str(error).lower() or _is_short_webp(encoded)
    reason = "image_truncated" if truncated else "image_undecodable"
    return BadImage(reason, f"{type(error).__name__}: {error}"[:200])


def _is_short_webp(encoded: bytes) -> bool:
    """Whether this is a WebP with fewer bytes than its RIFF header announces, of which its decoder says nothing."""
    return encoded[:4] == b"RIFF" and int.from_bytes(encoded[4:8], "little") + 8 > len(encoded)
