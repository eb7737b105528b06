"""Dates as people and machines write them, in enough forms to find a date of birth again in another form.

``fields.py`` and ``labeled_values.py`` parse dates of birth with it, ``known_values.py`` searches for them, and
``placeholders.py`` replaces month and day.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from looper.jobs.synthesis.sensitive.word_lists import ENGLISH_MONTHS, SPANISH_MONTHS

_MONTHS = (ENGLISH_MONTHS, SPANISH_MONTHS, tuple(month[:3] for month in ENGLISH_MONTHS))
_MONTH_NUMBERS = {month.lower(): number for months in _MONTHS for number, month in enumerate(months, 1)}
_MONTH = "(?P<name>" + "|".join(sorted(_MONTH_NUMBERS, key=len, reverse=True)) + ")"
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
    """A date, and the positions of the date, its month and its day in the text."""

    start: int
    """Index of the first character."""
    end: int
    """Index after the last character."""
    year: int
    """Year with four digits."""
    month: int
    """Month from 1 to 12."""
    day: int
    """Day from 1 to 31. It is not checked against the month."""
    month_span: tuple[int, int]
    """Start and end of the month in the text."""
    day_span: tuple[int, int]
    """Start and end of the day in the text."""


def find_dates(text: str) -> Iterator[Date]:
    """Yield all dates of ``text`` that have a year, first numeric ones, then those with a month's name.

    ``04/05/1990`` is read as April 5.
    """
    for match in _NUMERIC.finditer(text):
        if match["y1"]:
            date = Date(*match.span(), int(match["y1"]), int(match["m1"]), int(match["d1"]), *_spans(match, "m1", "d1"))
        elif int(match["a"]) > 12:
            date = Date(*match.span(), int(match["y2"]), int(match["b"]), int(match["a"]), *_spans(match, "b", "a"))
        else:
            date = Date(*match.span(), int(match["y2"]), int(match["a"]), int(match["b"]), *_spans(match, "a", "b"))
        if 1 <= date.month <= 12 and 1 <= date.day <= 31:
            yield date
    for match in _SPELLED.finditer(text):
        day, month, year = ("d1", "name", "y1") if match["name"] else ("d2", "name2", "y2")
        number = _MONTH_NUMBERS[match[month].lower()]
        if 1 <= int(match[day]) <= 31:
            yield Date(*match.span(), int(match[year]), number, int(match[day]), *_spans(match, month, day))


def parse_date(text: str) -> Date | None:
    """Return the date at the beginning of ``text``, or None if there is none. A time may follow the date."""
    if not 8 <= len(text) <= 40:
        return None
    date = next(find_dates(text.split("T")[0] if text[4:5] == "-" else text), None)
    return date if date is not None and not text[: date.start].strip() else None


def replace_date(text: str, date: Date, month: int, day: int) -> str:
    """Replace month and day of a date and keep its form.

    Args:
        text: The text that holds the date.
        date: The date, with positions in ``text``.
        month: The new month, from 1 to 12.
        day: The new day of the month.

    Returns:
        The changed text. A month's name is replaced by a name in the same language and case.
    """
    is_numeric = text[slice(*date.month_span)].isdigit()
    for (start, end), number in sorted([(date.month_span, month), (date.day_span, day)], reverse=True):
        text = text[:start] + _format_like(text[start:end], number, is_padded=is_numeric) + text[end:]
    return text


def _format_like(old: str, number: int, *, is_padded: bool) -> str:
    if old.isdigit():
        return f"{number:02d}" if old.startswith("0") or (is_padded and len(old) == 2) else str(number)
    months = next(months for months in _MONTHS if old.lower() in (month.lower() for month in months))
    new = months[number - 1]
    return new.upper() if old.isupper() else new.lower() if old.islower() else new.capitalize()


def _spans(match: re.Match[str], month: str, day: str) -> tuple[tuple[int, int], tuple[int, int]]:
    return match.span(month), match.span(day)
