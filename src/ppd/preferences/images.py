"""Checking an encoded image: can all of it be decoded, and is it of a sane size?"""

import hashlib
import io
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP")
"""The only decoders that bytes from outside may reach (Pillow's EPS one, for example, starts a program)."""


class GoodImage(NamedTuple):
    """Width and height in pixels; `digest` tells two images apart by their encoded bytes."""

    digest: bytes
    width: int
    height: int


class BadImage(NamedTuple):
    """Why an image is refused: see `ppd.preferences.rows.Refusal`."""

    reason: str
    detail: str


def digest(encoded: bytes) -> bytes:
    """16 bytes that stand for the content of an image file."""
    return hashlib.blake2b(encoded, digest_size=16).digest()


def inspect(encoded: bytes | None, max_pixels: int) -> GoodImage | BadImage:
    """Decode an image to its last byte and throw the pixels away; the size is checked before any is decoded.

    A JPEG is decoded at 1/8 scale: the entropy-coded stream is still read in full, so a truncated file shows, but most
    of the inverse transform is saved. Pixels of a JPEG whose stream is intact are not judged.
    """
    if not encoded:
        return BadImage("image_missing", "no bytes")
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                return BadImage("image_too_large", f"{width} x {height} pixels; at most {max_pixels} in all")
            image.draft(None, (1, 1))
            image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return BadImage("image_too_large", str(error))
    except UnidentifiedImageError:  # its own message holds a memory address, which would differ from run to run
        return BadImage("image_undecodable", f"no {', '.join(FORMATS)} image")
    except Exception as error:  # noqa: BLE001 - Pillow's decoders raise anything when they stumble on hostile bytes
        truncated = "truncated" in str(error).lower() or _is_short_webp(encoded)
        reason = "image_truncated" if truncated else "image_undecodable"
        return BadImage(reason, f"{type(error).__name__}: {error}"[:200])
    return GoodImage(digest(encoded), width, height)


def _is_short_webp(encoded: bytes) -> bool:
    """Whether this is a WebP with fewer bytes than its RIFF header announces, of which its decoder says nothing."""
    return encoded[:4] == b"RIFF" and int.from_bytes(encoded[4:8], "little") + 8 > len(encoded)
