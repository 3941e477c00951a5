"""Images reach a server in the few formats that all servers take."""

import base64
import io

import pytest
from PIL import Image

from ppd.errors import InputError
from ppd.vlm.sendable import data_url


def encoded(image: Image.Image, kind: str, **how: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def sent(image: bytes) -> tuple[str, bytes]:
    kind, _, data = data_url(image).partition(";base64,")
    return kind, base64.b64decode(data)


RED = Image.new("RGB", (6, 4), "red")
BLUE = Image.new("RGB", (6, 4), "blue")


@pytest.mark.parametrize(("kind", "mime"), [("JPEG", "jpeg"), ("PNG", "png"), ("WEBP", "webp"), ("GIF", "gif")])
def test_what_servers_take_is_sent_as_it_is(kind, mime):
    image = encoded(RED, kind)
    assert sent(image) == (f"data:image/{mime}", image)


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "JPEG2000", "PPM", "ICO", "TGA", "AVIF"])
def test_other_formats_become_png(kind):
    mime, data = sent(encoded(RED, kind))
    assert mime == "data:image/png"
    picture = Image.open(io.BytesIO(data))
    assert (picture.format, picture.size) == ("PNG", RED.size)
    red, green, blue = picture.convert("RGB").getpixel((2, 2))
    assert red > 240 > 30 > max(green, blue)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_of_an_animation_the_first_frame_is_sent(kind):
    mime, data = sent(encoded(RED, kind, save_all=True, append_images=[BLUE]))
    assert mime == "data:image/png"
    picture = Image.open(io.BytesIO(data))
    assert getattr(picture, "n_frames", 1) == 1
    assert picture.convert("RGB").getpixel((2, 2))[0] > 240


def test_a_photograph_is_sent_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    mime, data = sent(encoded(RED, "JPEG", exif=exif))
    assert (mime, Image.open(io.BytesIO(data)).size) == ("data:image/png", (4, 6))


def test_print_colours_become_those_of_a_screen():
    mime, data = sent(encoded(RED.convert("CMYK"), "JPEG"))
    assert (mime, Image.open(io.BytesIO(data)).mode) == ("data:image/png", "RGB")


@pytest.mark.parametrize("image", [b"", b"no image", encoded(RED, "BMP")[:60]], ids=["empty", "text", "cut"])
def test_what_is_no_image_is_an_input_error(image):
    with pytest.raises(InputError, match=f"image of {len(image)} bytes cannot be decoded"):
        data_url(image)
