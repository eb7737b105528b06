"""Dates as people and machines write them: enough to find a date of birth again in another form."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from looper.jobs.synthesis.sensitive.words import ENGLISH_MONTHS, SPANISH_MONTHS

_MONTHS = (ENGLISH_MONTHS, SPANISH_MONTHS, tuple(month[:3] for month in ENGLISH_MONTHS))
_NUMBERS = {month.lower(): number for months in _MONTHS for number, month in enumerate(months, 1)}
_MONTH = "(?P<name>" + "|".join(sorted(_NUMBERS, key=len, reverse=True)) + ")"
_NUMERIC = re.compile(
    r"(?<![\w/.-])(?:(?P<y1>\d{4})(?P<s1>[-/.])(?P<m1>\d{1,2})(?P=s1)(?P<d1>\d{1,2})"
    r"|(?P<a>\d{1,2})(?P<s2>[-/.])(?P<b>\d{1,2})(?P=s2)(?P<y2>\d{4}))(?![\w/-]*\d)"
)
_SPELLED = re.compile(
    rf"(?<!\w)(?:{_MONTH}\.? (?P<d1>\d{{1,2}})(?:st|nd|rd|th)?,? (?P<y1>\d{{4}})"
    rf"|(?P<d2>\d{{1,2}})(?:st|nd|rd|th)? (?:of |de )?{_MONTH.replace('name', 'name2')}\.?,? (?:de |of )?"
    r"(?P<y2>\d{4}))"
    r"(?!\w)",
    re.IGNORECASE,
)


class Date(NamedTuple):
    """A date and where its month and day stand in the text, as ``(start, end)``."""

    start: int
    end: int
    year: int
    month: int
    day: int
    month_at: tuple[int, int]
    day_at: tuple[int, int]


def dates_in(text: str) -> Iterator[Date]:
    """All dates of ``text`` with a year. ``04/05/1990`` is read as April 5."""
    for match in _NUMERIC.finditer(text):
        if match["y1"]:
            date = Date(*match.span(), int(match["y1"]), int(match["m1"]), int(match["d1"]), *_at(match, "m1", "d1"))
        elif int(match["a"]) > 12:
            date = Date(*match.span(), int(match["y2"]), int(match["b"]), int(match["a"]), *_at(match, "b", "a"))
        else:
            date = Date(*match.span(), int(match["y2"]), int(match["a"]), int(match["b"]), *_at(match, "a", "b"))
        if 1 <= date.month <= 12 and 1 <= date.day <= 31:
            yield date
    for match in _SPELLED.finditer(text):
        day, month, year = ("d1", "name", "y1") if match["name"] else ("d2", "name2", "y2")
        number = _NUMBERS[match[month].lower()]
        if 1 <= int(match[day]) <= 31:
            yield Date(*match.span(), int(match[year]), number, int(match[day]), *_at(match, month, day))


def parse_date(text: str) -> Date | None:
    """The date that ``text`` begins with, a time after it allowed, or None."""
    if not 8 <= len(text) <= 40:
        return None
    date = next(dates_in(text.split("T")[0] if text[4:5] == "-" else text), None)
    return date if date is not None and not text[: date.start].strip() else None


def put(text: str, date: Date, month: int, day: int) -> str:
    """``text`` with ``month`` and ``day`` in the place, and the form, of those of ``date``."""
    numeric = text[slice(*date.month_at)].isdigit()
    for (start, end), number in sorted([(date.month_at, month), (date.day_at, day)], reverse=True):
        text = text[:start] + _like(text[start:end], number, padded=numeric) + text[end:]
    return text


def _like(old: str, number: int, *, padded: bool) -> str:
    if old.isdigit():
        return f"{number:02d}" if old.startswith("0") or (padded and len(old) == 2) else str(number)
    months = next(months for months in _MONTHS if old.lower() in (month.lower() for month in months))
    new = months[number - 1]
    return new.upper() if old.isupper() else new.lower() if old.islower() else new.capitalize()


def _at(match: re.Match[str], month: str, day: str) -> tuple[tuple[int, int], tuple[int, int]]:
    return match.span(month), match.span(day)
