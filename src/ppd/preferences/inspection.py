"""Whether an image from outside can be used, found out without keeping its pixels."""

import hashlib
from typing import NamedTuple

from ppd.preferences.images import BadImage, fault_of, opened, orientation_of


class GoodImage(NamedTuple):
    """Width and height in pixels, as shown; `digest` tells two images apart by their encoded bytes."""

    digest: bytes
    width: int
    height: int


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
        with opened(encoded, max_pixels) as image:
            width, height = image.size
            if orientation_of(image) >= 5:
                width, height = height, width
            image.draft(None, (1, 1))
            image.load()
    except Exception as error:  # noqa: BLE001 - Pillow's decoders raise anything when they stumble on hostile bytes
        return fault_of(error, encoded)
    return GoodImage(digest(encoded), width, height)
