"""Images as a server that judges gets them."""

import io

from ppd.errors import InputError
from ppd.preferences.images import FORMATS, MOST_PIXELS, fault_of, open_rgb, opened, orientation_of


def as_sent(encoded: bytes) -> tuple[str, bytes]:
    """(MIME type, bytes) of an image for a server, which may show it otherwise than a browser does.

    The bytes as they came where there is nothing to interpret, else a PNG of `open_rgb`, whose errors it raises.
    """
    try:
        with opened(encoded, MOST_PIXELS) as image:
            still = getattr(image, "n_frames", 1) == 1
            upright = orientation_of(image) == 1
            plain = image.mode in ("RGB", "L") and image.format in FORMATS and not image.has_transparency_data
            if plain and still and upright:
                return f"image/{str(image.format).lower()}", encoded
    except Exception as error:
        fault = fault_of(error, encoded)
        raise InputError(f"an image of {len(encoded)} bytes cannot be decoded: {fault.detail}") from error
    buffer = io.BytesIO()
    open_rgb(encoded).save(buffer, "PNG")
    return "image/png", buffer.getvalue()
