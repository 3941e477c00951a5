"""Images as a chat server takes them: JPEG, PNG, WebP or GIF, one frame, upright; everything else as a new PNG."""

import base64
import io

from PIL import Image, ImageOps

from ppd.errors import InputError

_TAKEN = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}
_ORIENTATION = 0x0112


def data_url(image: bytes) -> str:
    """The encoded image in a data URL. Raises InputError where it cannot be decoded."""
    try:
        with Image.open(io.BytesIO(image)) as picture:
            kind = _TAKEN.get(str(picture.format)) if _as_it_is(picture) else None
            if kind is None:
                kind, image = "image/png", _png(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"an image of {len(image)} bytes cannot be decoded: {error}") from error
    return f"data:{kind};base64,{base64.b64encode(image).decode()}"


def _as_it_is(picture: Image.Image) -> bool:
    """Whether every reader sees the same in it: no animation, nothing to turn, no print colours."""
    turned = picture.getexif().get(_ORIENTATION, 1) != 1
    return not turned and not getattr(picture, "is_animated", False) and picture.mode != "CMYK"


def _png(picture: Image.Image) -> bytes:
    """The first frame, upright."""
    upright = ImageOps.exif_transpose(picture)
    buffer = io.BytesIO()
    upright.convert("RGBA" if upright.has_transparency_data else "RGB").save(buffer, "PNG")
    return buffer.getvalue()
