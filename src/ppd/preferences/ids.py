"""Names of users, images and rankings as text, however a table holds them.

Spreadsheets and pandas turn whole numbers into floats as soon as one is missing, so 1, 1.0, "1" and "1.0" are one name.
Text keeps its leading zeros; white space around it does not count, and neither does its Unicode form.
"""

import math
import re
import unicodedata
import uuid
from decimal import Decimal
from typing import Any

_WHOLE = re.compile(r"(-?(?:0|[1-9]\d*))\.0+")
_EXACT = 1 << 53  # floats beyond it no longer tell neighbouring integers apart


class BadValue(Exception):
    """A value that cannot be taken: (reason, detail), of which the caller makes a `Refusal`."""


def id_text(value: Any) -> str | None:
    """A name as text; None for a missing one (null, NaN, empty). Raises `BadValue` for what is no name."""
    if value is None:
        return None
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise BadValue("text_not_utf8", f"is no valid UTF-8 ({value[:20]!r})") from None
    if isinstance(value, bool):
        raise BadValue("wrong_type", f"is {value}; expected text or a whole number")
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float | Decimal):
        return _whole(value)
    if isinstance(value, uuid.UUID):
        return str(value)
    if not isinstance(value, str):
        raise BadValue("wrong_type", f"is {type(value).__name__}; expected text or a whole number")
    return _from_text(value)


def _whole(value: float | Decimal) -> str | None:
    if math.isnan(value):
        return None
    if math.isinf(value) or value != int(value):
        raise BadValue("wrong_type", f"is {value}; expected text or a whole number")
    if isinstance(value, float) and abs(value) > _EXACT:
        raise BadValue("wrong_type", f"is {value:g}, a float too large to tell neighbouring numbers apart; write text")
    return str(int(value))


def _from_text(value: str) -> str | None:
    text = unicodedata.normalize("NFC", caption_text(value).strip())
    if not text.isprintable() and any(unicodedata.category(character) == "Cc" for character in text):
        raise BadValue("wrong_type", f"holds a control character ({text[:40]!r})")
    if whole := _WHOLE.fullmatch(text):
        return str(int(whole[1]))
    return text or None


def _probably(text: str) -> str:
    """Where a CSV's stray byte became a surrogate, what was found."""
    stray = next((ord(character) for character in text if 0xDC80 <= ord(character) <= 0xDCFF), None)
    if stray is None:
        return ""
    return f" (byte 0x{stray - 0xDC00:02x}; is the file in Windows-1252 or another code page? Save it as UTF-8)"


def caption_text(value: str | bytes) -> str:
    """A caption as it is. Raises `BadValue` where it is not UTF-8."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise BadValue("text_not_utf8", f"is no valid UTF-8 ({value[:20]!r})") from None
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadValue("text_not_utf8", f"is no valid UTF-8{_probably(value)}") from None
    return value
