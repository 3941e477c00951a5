"""Cron expressions: what is accepted Dagster understands, and it comes up; what is refused says why."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppd.cron import check_cron
from ppd.errors import InputError
from ppd.settings import load_settings

FIELDS = (("*", 0, 59), ("*", 0, 23), ("*", 1, 31), ("*", 1, 12), ("*", 0, 7))


@pytest.mark.parametrize(
    "expression",
    ["0 6 * * 1", "*/5 * * * *", "0 6,18 1-7 jan-jun/2 MON-FRI", "0 0 29 2 *", "0 0 30 2 1", "59 23 31 12 7"],
)
def test_what_cron_understands_is_accepted(expression):
    assert check_cron(f"  {expression} ") == expression


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("0 6 * *", "4 fields"),
        ("0 0 6 * * 1", "6 fields"),
        ("@weekly", "1 fields"),
        ("60 * * * *", "'60' is none of 0 to 59"),
        ("0 24 * * *", "hour"),
        ("0 0 0 * *", "day '0'"),
        ("0 0 * 13 *", "month"),
        ("0 0 * * 8", "weekday"),
        ("0 0 * * moon", "'moon' is none"),
        ("*/0 * * * *", "'0' is none of 1"),
        ("*/90 * * * *", "'90' is none"),
        ("30-10 * * * *", "10 comes before 30"),
        ("5/15 * * * *", "a step goes with"),
        ("0 0 30 2 *", "never comes"),
        ("0 0 31 4,6,9,11 *", "never comes"),
        ("0 0 ١ * *", "none of 1"),
        ("0, * * * *", "'' is none"),
        ("-5 * * * *", "'' is none"),
    ],
)
def test_what_is_refused_says_which_field_and_why(expression, why):
    with pytest.raises(ValueError, match=".*") as refused:
        check_cron(expression)
    assert why in str(refused.value)


def test_a_settings_file_with_a_time_that_never_comes_is_refused(tmp_path):
    (tmp_path / "params.yaml").write_text("reevaluation: {cron: 0 6 30 2 *}\n")
    with pytest.raises(InputError, match=r"reevaluation\.cron.*never comes"):
        load_settings(tmp_path / "params.yaml")


@st.composite
def expressions(draw: st.DrawFn) -> str:
    fields = []
    for star, low, high in FIELDS:
        one, other = sorted(draw(st.tuples(st.integers(low - 1, high + 1), st.integers(low - 1, high + 1))))
        step = draw(st.integers(0, high + 1))
        fields.append(
            draw(
                st.sampled_from(
                    [star, str(one), f"{one}-{other}", f"*/{step}", f"{one}-{other}/{step}", f"{one},{other}"]
                )
            )
        )
    return " ".join(fields)


@given(expressions())
@settings(max_examples=300, deadline=None)
def test_whatever_is_accepted_dagster_schedules(expression):
    from dagster._utils.schedules import cron_string_iterator, is_valid_cron_schedule

    try:
        check_cron(expression)
    except ValueError:
        return
    assert is_valid_cron_schedule(expression)
    start = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    assert next(cron_string_iterator(start, expression, "UTC"))
