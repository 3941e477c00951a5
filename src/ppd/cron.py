"""Cron expressions: the five fields that every cron understands, checked before a clock is set by them."""

import calendar

_RANGES = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
_NAMES = {
    "month": {name.lower(): at for at, name in enumerate(calendar.month_abbr) if name},
    "weekday": {name.lower(): (at + 1) % 7 for at, name in enumerate(calendar.day_abbr)},
}


def check_cron(expression: str) -> str:
    """The expression, if it is one and comes up at all. Raises ValueError that says which field is wrong and why."""
    fields = expression.split()
    if len(fields) != len(_RANGES):
        raise ValueError(f"{len(fields)} fields; a cron expression has 5: minute, hour, day, month, weekday")
    values = [_values(text, *about) for text, about in zip(fields, _RANGES, strict=True)]
    days, months = values[2], values[3]
    # A day and a weekday together mean either, so with a weekday it always comes.
    if fields[4] == "*" and min(days) > max(calendar.monthrange(2024, month)[1] for month in months):
        raise ValueError(f"it never comes: no month in {fields[3]!r} has a day in {fields[2]!r}")
    return " ".join(fields)


def _values(text: str, field: str, low: int, high: int) -> set[int]:
    return {value for part in text.split(",") for value in _part(part, field, low, high)}


def _part(part: str, field: str, low: int, high: int) -> range:
    """`*`, `5`, `1-5`, each with a step or without: `*/15`, `8-18/2`."""
    span, slash, step = part.partition("/")
    first, dash, last = span.partition("-")
    start = low if span == "*" else _number(first, part, field, low, high)
    end = high if span == "*" else _number(last, part, field, low, high) if dash else start
    if end < start:
        raise ValueError(f"{field} {part!r}: {last} comes before {first}")
    if slash and not (span == "*" or dash):
        raise ValueError(f"{field} {part!r}: a step goes with * or a range, such as */{step} or {first}-{high}/{step}")
    every = _number(step, part, field, 1, high) if slash else 1
    return range(start, end + 1, every)


def _number(text: str, part: str, field: str, low: int, high: int) -> int:
    names = _NAMES.get(field, {})
    value = names[text.lower()] if text.lower() in names else int(text) if text.isascii() and text.isdigit() else None
    if value is None or not low <= value <= high:
        raise ValueError(f"{field} {part!r}: {text!r} is none of {low} to {high}")
    return value
