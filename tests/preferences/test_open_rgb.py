"""Images look to every stage as they looked to the person who chose."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features

from ppd.errors import InputError
from ppd.preferences.images import BadImage, open_rgb
from ppd.preferences.inspection import GoodImage, inspect
from ppd.vlm.sent_images import as_sent

LIMIT = 10_000
RNG = np.random.default_rng(0)
COLOURS = Image.fromarray(RNG.integers(0, 256, (16, 24, 3), dtype=np.uint8))
GREY = COLOURS.convert("L")


def encoded(image: Image.Image, kind: str = "PNG", **how) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(depth: int, colour_type: int, rows: list[bytes], size: tuple[int, int], *more: bytes) -> bytes:
    """A PNG written by hand, for what Pillow does not write."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour_type, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + pixels + chunk(b"IEND", b"")


def pixels(image: bytes) -> list:
    return np.asarray(open_rgb(image)).tolist()


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("PNG", {}),
        ("PNG", {"optimize": True}),
        ("JPEG", {"quality": 80}),
        ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True}),
        ("WEBP", {"quality": 80, "method": 6}),
        ("WEBP", {"lossless": True}),
    ],
)
@pytest.mark.parametrize("image", [COLOURS, GREY], ids=["rgb", "grey"])
def test_what_is_plain_already_keeps_every_pixel(image, kind, how):
    data = encoded(image, kind, **how)
    assert open_rgb(data).tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def sticker() -> Image.Image:
    """An opaque red disc's worth of pixels on a ground that is transparent and black beneath."""
    rgba = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    rgba.paste((200, 0, 0, 255), (2, 2, 6, 6))
    return rgba


@pytest.mark.parametrize(
    ("data", "ink"),
    [
        (encoded(sticker()), (200, 0, 0)),
        (encoded(sticker(), "WEBP", lossless=True), (200, 0, 0)),
        (encoded(sticker().convert("LA")), (60, 60, 60)),
        (encoded(sticker().quantize(4)), (200, 0, 0)),
    ],
    ids=["rgba", "webp", "la", "palette"],
)
def test_alpha_lies_on_white(data, ink):
    image = open_rgb(data)
    assert image.mode == "RGB"
    assert (image.getpixel((0, 0)), image.getpixel((3, 3))) == ((255, 255, 255), ink)


def test_half_alpha_is_mixed_with_white():
    assert open_rgb(encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 128)))).getpixel((0, 0)) == (127, 127, 127)


def test_a_transparent_palette_entry_and_a_transparent_colour():
    palette = sticker().convert("RGB").quantize(4)
    assert open_rgb(encoded(palette, transparency=palette.getpixel((0, 0)))).getpixel((0, 0)) == (255, 255, 255)
    rgb = encoded(sticker().convert("RGB"), transparency=(0, 0, 0))
    assert open_rgb(rgb).getpixel((0, 0)) == (255, 255, 255)
    assert open_rgb(rgb).getpixel((3, 3)) == (200, 0, 0)
    grey = encoded(sticker().convert("RGB").convert("L"), transparency=0)
    assert open_rgb(grey).getpixel((0, 0)) == (255, 255, 255)
    bit = encoded(Image.new("1", (8, 8), 0), transparency=0)
    assert open_rgb(bit).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("depth", [2, 4])
def test_few_greys_are_spread_and_their_transparent_one_is_white(depth):
    top = (1 << depth) - 1
    row = bytes([0x1B]) if depth == 2 else bytes([0x0F])  # 0 1 2 3, and 0 15
    plain = png(depth, 0, [row], (8 // depth, 1))
    assert pixels(plain)[0][0] == [0, 0, 0]
    assert pixels(plain)[0][-1] == [255, 255, 255]
    keyed = png(depth, 0, [row[::-1]], (8 // depth, 1), chunk(b"tRNS", struct.pack(">H", 0)))
    assert pixels(keyed)[0][0] == [255, 255, 255]
    keyed_top = png(depth, 0, [row], (8 // depth, 1), chunk(b"tRNS", struct.pack(">H", top - 1)))
    assert pixels(keyed_top)[0][0] == [0, 0, 0]
    assert depth == 4 or pixels(keyed_top)[0][2] == [255, 255, 255]


def test_16_bits_are_scaled_and_not_clipped():
    grey = Image.fromarray(np.array([[0, 256, 32768, 65535]], np.uint16))
    assert pixels(encoded(grey)) == [[[v] * 3 for v in (0, 1, 128, 255)]]
    keyed = png(16, 0, [struct.pack(">2H", 300, 301)], (2, 1), chunk(b"tRNS", struct.pack(">H", 300)))
    assert pixels(keyed) == [[[255] * 3, [1] * 3]]
    colour = png(16, 2, [struct.pack(">6H", 65535, 32768, 0, 256, 512, 1024)], (2, 1))
    assert pixels(colour) == [[[255, 128, 0], [1, 2, 4]]]
    keyed = png(16, 2, [struct.pack(">3H", 256, 512, 1024)], (1, 1), chunk(b"tRNS", struct.pack(">3H", 256, 512, 1024)))
    assert pixels(keyed) == [[[255, 255, 255]]]
    alpha = png(16, 6, [struct.pack(">8H", 65535, 0, 0, 65535, 0, 0, 0, 0)], (2, 1))
    assert pixels(alpha) == [[[255, 0, 0], [255, 255, 255]]]
    grey_alpha = png(16, 4, [struct.pack(">4H", 32768, 65535, 0, 0)], (2, 1))
    assert pixels(grey_alpha) == [[[128] * 3, [255] * 3]]


def test_one_bit():
    assert open_rgb(encoded(Image.new("1", (2, 2), 1))).getpixel((0, 0)) == (255, 255, 255)


def test_cmyk_as_printers_and_adobe_write_it():
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    data = encoded(red, "JPEG", quality=100)  # Pillow writes it inverted, with Adobe's mark, as Photoshop does
    assert b"Adobe" in data
    r, g, b = open_rgb(data).getpixel((8, 8))
    assert r > 250
    assert max(g, b) < 5


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_picture(kind, orientation):
    corners = Image.new("RGB", (32, 16))
    corners.paste((255, 0, 0), (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(corners, kind, exif=exif, **({} if kind == "PNG" else {"quality": 100}))
    image = open_rgb(data)
    size = (16, 32) if orientation >= 5 else (32, 16)
    assert image.size == size
    right = orientation in (2, 3, 6, 7)
    bottom = orientation in (3, 4, 7, 8)
    assert image.getpixel((size[0] - 3 if right else 2, size[1] - 3 if bottom else 2))[0] > 240
    found = inspect(data, LIMIT)
    assert isinstance(found, GoodImage)
    assert (found.width, found.height) == size


@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"\0", b"Exif\0\0"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_damaged_exif_block_costs_nothing(kind, exif):
    data = encoded(COLOURS, kind, exif=exif)
    assert open_rgb(data).size == (24, 16)
    assert isinstance(inspect(data, LIMIT), GoodImage)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_shown(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    how = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **how)
    assert open_rgb(data).getpixel((0, 0)) == (255, 0, 0)
    assert isinstance(inspect(data, LIMIT), GoodImage)


def test_the_still_image_of_an_animated_png_is_not_its_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    data = encoded(frames[0], save_all=True, append_images=frames[1:], default_image=True)
    assert open_rgb(data).getpixel((0, 0)) == (0, 128, 0)


BIG = 3 << 20
BESIDE = {
    "profile": chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(BIG))),
    "packed international text": chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(b"{" * BIG)),
    "packed text": chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"{" * BIG)),
    "text": chunk(b"tEXt", b"workflow\0" + b"{" * BIG),
    "texts that are large together": b"".join(
        chunk(b"iTXt", b"k%d\0\1\0\0\0" % i + zlib.compress(b"{" * (900 << 10))) for i in range(80)
    ),
    "a broken profile": chunk(b"iCCP", b"no end of the name"),
    "a private chunk": chunk(b"prVt", bytes(BIG)),
    "a text with a wrong checksum": chunk(b"tEXt", b"a\0b")[:-4] + b"\0\0\0\0",
}


@pytest.mark.parametrize("what", BESIDE)
@pytest.mark.parametrize("behind", [False, True], ids=["before the pixels", "behind them"])
def test_what_lies_beside_the_pixels_refuses_no_sound_picture(what, behind):
    plain = encoded(COLOURS)
    at = len(plain) - 12 if behind else 33
    data = plain[:at] + BESIDE[what] + plain[at:]
    assert isinstance(inspect(data, LIMIT), GoodImage)
    assert open_rgb(data).tobytes() == COLOURS.tobytes()
    cut = data[: 33 + len(BESIDE[what]) + 200] if not behind else data[:300]
    assert inspect(cut, LIMIT).reason == "image_truncated"


def test_a_jpeg_with_much_beside_the_pixels():
    profile = RNG.bytes(3 << 20)
    assert isinstance(inspect(encoded(COLOURS, "JPEG", icc_profile=profile), LIMIT), GoodImage)
    assert isinstance(inspect(encoded(COLOURS, "WEBP", icc_profile=profile, xmp=profile), LIMIT), GoodImage)


def test_a_chunk_that_a_decoder_must_know_is_left_to_it():
    plain = encoded(COLOURS)
    assert isinstance(inspect(plain[:33] + chunk(b"CgBI", b"\0\0\0\0") + plain[33:], LIMIT), GoodImage | BadImage)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("kind", ["EPS", "GIF", "BMP", "PPM", "TIFF", "PSD"])
def test_no_other_decoder_is_reachable(kind, monkeypatch):
    Image.init()
    reached = []
    for name, (_, accept) in list(Image.OPEN.items()):
        if name not in {"JPEG", "PNG", "WEBP"}:
            monkeypatch.setitem(Image.OPEN, name, (lambda *a, name=name, **k: reached.append(name), accept))
    data = EPS if kind == "EPS" else b"8BPS" + bytes(40) if kind == "PSD" else encoded(COLOURS, kind)
    for opened in (open_rgb, as_sent):
        with pytest.raises(InputError, match="no JPEG, PNG, WEBP image"):
            opened(data)
    assert inspect(data, LIMIT).reason == "image_undecodable"
    assert reached == []


def test_the_limit_is_checked_before_any_pixel_is_decoded():
    with pytest.raises(InputError, match="24 x 16 pixels; at most 383 in all"):
        open_rgb(encoded(COLOURS), 383)
    assert open_rgb(encoded(COLOURS), 384).size == (24, 16)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_image_is_refused(kind):
    data = encoded(COLOURS, kind)
    with pytest.raises(InputError, match=f"an image of {len(data) // 2} bytes cannot be decoded"):
        open_rgb(data[: len(data) // 2])


def test_a_server_gets_the_bytes_as_they_are_only_where_they_leave_nothing_to_interpret():
    for kind in ("JPEG", "PNG", "WEBP"):
        data = encoded(COLOURS, kind)
        assert as_sent(data) == (f"image/{kind.lower()}", data)
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green")]
    for data in (
        encoded(COLOURS, "JPEG", exif=exif),
        encoded(sticker()),
        encoded(COLOURS.convert("CMYK"), "JPEG"),
        encoded(frames[0], save_all=True, append_images=frames[1:]),
        encoded(COLOURS.convert("P")),
    ):
        kind, sent = as_sent(data)
        assert kind == "image/png"
        assert Image.open(io.BytesIO(sent)).mode == "RGB"
        assert Image.open(io.BytesIO(sent)).tobytes() == open_rgb(data).tobytes()


def test_this_pillow_reads_webp():
    assert features.check("webp")
