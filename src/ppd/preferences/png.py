"""PNG files without what is not needed to show them."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SHOWN = {b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"IDAT", b"IEND"}


def without_metadata(encoded: bytes) -> bytes:
    """The same picture without texts, colour profiles and the like; anything but a PNG as it came.

    Pillow refuses a picture whose texts or profile are larger than it likes to unpack (a workflow of ComfyUI, the
    profile of a calibrated screen), though nothing of them is wanted. Chunks that nobody knows are kept where they are
    marked as critical, so that a decoder still refuses what it cannot show. What is cut off stays cut off.
    """
    if not encoded.startswith(_SIGNATURE):
        return encoded
    kept, start, at, n = [], 0, len(_SIGNATURE), len(encoded)
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
