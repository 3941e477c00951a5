"""Which encoded images pass."""

import io
import struct
import warnings
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ppd.preferences.images import BadImage
from ppd.preferences.inspection import GoodImage, digest, inspect

LIMIT = 10_000


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + size + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_sound_image_passes_with_its_size_and_digest(logs, kind):
    encoded = logs.image("x", (40, 24), kind)
    assert inspect(encoded, LIMIT) == GoodImage(digest(encoded), 40, 24)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@given(share=st.floats(0, 0.95))
def test_a_truncated_image_is_refused_wherever_it_ends(logs, kind, share):
    encoded = logs.image("x", (40, 24), kind)
    cut = encoded[: int(len(encoded) * share)]
    finding = inspect(cut, LIMIT)
    assert isinstance(finding, BadImage)
    assert finding.reason in {"image_truncated", "image_undecodable", "image_missing"}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_image_is_called_so(logs, kind):
    encoded = logs.image("x", (40, 24), kind)
    assert inspect(encoded[: len(encoded) * 3 // 4], LIMIT).reason == "image_truncated"


@pytest.mark.parametrize("size", [(101, 100), (20_000, 20_000), (2**31 - 1, 2**31 - 1), (12_000, 9_000)])
def test_huge_dimensions_are_refused_before_anything_is_decoded(size):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow warns from 89 megapixels on and raises from twice that
        finding = inspect(png_header(*size), LIMIT)
    assert finding.reason == "image_too_large"


@pytest.mark.parametrize("kind", ["GIF", "BMP", "PPM", "EPS", "TIFF"])
def test_other_formats_never_reach_their_decoder(kind):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, kind)
    assert inspect(buffer.getvalue(), LIMIT).reason == "image_undecodable"


@pytest.mark.parametrize("nothing", [None, b""])
def test_no_bytes(nothing):
    assert inspect(nothing, LIMIT).reason == "image_missing"


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"RIFF\x40\0\0\0WEBPVP8 "]),
)
def test_any_bytes_get_an_answer(rest, magic):
    assert isinstance(inspect(magic + rest, LIMIT), BadImage)


@given(at=st.integers(0, 900), value=st.integers(0, 255))
def test_a_flipped_byte_gets_an_answer(logs, at, value):
    encoded = bytearray(logs.image("x", (40, 24)))
    encoded[at % len(encoded)] = value
    assert isinstance(inspect(bytes(encoded), LIMIT), GoodImage | BadImage)


def test_a_single_pixel_is_an_image():
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1), "red").save(buffer, "PNG")
    found = inspect(buffer.getvalue(), 50_000_000)
    assert not isinstance(found, BadImage)
    assert (found.width, found.height) == (1, 1)
