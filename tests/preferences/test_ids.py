"""One name for one user, however a table holds it."""

import uuid
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppd.preferences.ids import BadValue, id_text

SOME = uuid.UUID("12345678-1234-5678-1234-567812345678")


@pytest.mark.parametrize(
    ("value", "name"),
    [
        *((value, "1") for value in (1, 1.0, "1", "1.0", " 1 ", "1.000", Decimal("1"), Decimal("1.00"), b"1.0")),
        *((value, "-3") for value in (-3, -3.0, "-3", "-3.0")),
        *((value, "0") for value in (0, 0.0, -0.0, "0", "0.0")),
        *((value, None) for value in (None, "", "  ", float("nan"), b"", Decimal("NaN"))),
        *((value, value) for value in ("007", "007.0", "1.5", "1e3", "1.", ".0", "v1.0", "ann", "狐", "a b", "...")),
        ("\tann\n", "ann"),
        ("cafe\u0301", "café"),
        ("9007199254740993", "9007199254740993"),
        (2**70, str(2**70)),
        (SOME, str(SOME)),
    ],
)
def test_names(value, name):
    assert id_text(value) == name


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (True, "wrong_type"),
        (False, "wrong_type"),
        (1.5, "wrong_type"),
        (Decimal("1.5"), "wrong_type"),
        (float("inf"), "wrong_type"),
        (1e20, "wrong_type"),
        (["a"], "wrong_type"),
        ({"id": 1}, "wrong_type"),
        ("a\nb", "wrong_type"),
        ("a\0", "wrong_type"),
        ("a\x1b[31m", "wrong_type"),
        (b"\xff", "text_not_utf8"),
        ("F\udcfcchslein", "text_not_utf8"),
        ("\ud800", "text_not_utf8"),
    ],
)
def test_values_that_are_no_names(value, reason):
    with pytest.raises(BadValue) as problem:
        id_text(value)
    assert problem.value.args[0] == reason


def test_a_byte_of_another_code_page_is_named():
    with pytest.raises(BadValue, match="byte 0xfc; is the file in Windows-1252"):
        id_text("F\udcfcchslein")


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])) | st.integers())
def test_a_name_is_its_own_name(value):
    name = id_text(value)
    assert name is None or id_text(name) == name
