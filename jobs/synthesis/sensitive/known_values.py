"""Further occurrences of values that are known to be sensitive, also where no form, field or label shows them.

A tool result names a customer in the field ``full_name``, for example, and later messages call the customer by first
name. ``replacement_plan.py`` collects the known values of an episode and calls this module.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from looper.jobs.synthesis.sensitive.dates import find_dates
from looper.jobs.synthesis.sensitive.fields import looks_like_password
from looper.jobs.synthesis.sensitive.kinds import SensitiveKind, SensitiveSpan
from looper.jobs.synthesis.sensitive.names import find_known_names, split_person_name
from looper.jobs.synthesis.sensitive.personal_data import find_long_numbers
from looper.jobs.synthesis.sensitive.placeholders import canonical_form, extract_digits

MIN_NUMBER_DIGITS = 7
"""Minimum number of digits of a number that is found again without a label."""

_NUMBER_KINDS = (
    SensitiveKind.PHONE,
    SensitiveKind.CARD_NUMBER,
    SensitiveKind.IDENTITY_NUMBER,
    SensitiveKind.BANK_ACCOUNT,
)
"""Kinds that are written with and without spaces, brackets and dashes, so they are recognized by their digits."""

_OTHER_NUMBER_PREFIXES = frozenset("#$€£.,/-")
_OTHER_NUMBER_SUFFIX = re.compile(r"[/-]|[.,]\d")
"""What stands beside the number of an order, an amount, or a part of a path or of a longer number."""


@dataclass(frozen=True)
class KnownValues:
    """All values of an episode that are known to be sensitive."""

    values: tuple[tuple[SensitiveKind, str], ...]
    """Kind and value, except names."""
    name_words: dict[str, bool]
    """The words of people's names in lower case, and whether each belongs to a family name."""
    numbers: dict[str, SensitiveKind]
    """The kinds of long numbers, by their digits."""

    @classmethod
    def from_findings(cls, findings: Sequence[tuple[SensitiveKind, str]]) -> Self:
        """Collect the known values of an episode.

        Args:
            findings: Kind and value of each field and each span that was found. The first one of a name word tells
                whether the word belongs to a family name.

        Returns:
            The values without repetitions.
        """
        name_words: dict[str, bool] = {}
        for kind, value in findings:
            if kind.is_name:
                is_family_name = kind is SensitiveKind.FAMILY_NAME
                for word, is_family_word in split_person_name(value, is_family_name=is_family_name):
                    name_words.setdefault(word, is_family_word)
        values = tuple(dict.fromkeys(finding for finding in findings if not finding[0].is_name))
        numbers = {
            digits: kind
            for kind, value in values
            if kind in _NUMBER_KINDS
            and (digits := canonical_form(kind, value)).isdigit()
            and len(digits) >= MIN_NUMBER_DIGITS
        }
        return cls(values, name_words, numbers)


def find_known_values(text: str, known: KnownValues) -> Iterator[SensitiveSpan]:
    """Find all occurrences of known values, in any form that can be recognized.

    Args:
        text: The text to search.
        known: The values to search for.

    Yields:
        Spans, which may overlap.
    """
    for kind, value in known.values:
        for literal in _literals(kind, value):
            yield from (SensitiveSpan(start, start + len(literal), kind) for start in _occurrences(text, literal))
    if known.numbers:
        for start, end in find_long_numbers(text):
            number_kind = _kind_of_number(text[start:end], known.numbers)
            if number_kind:
                yield SensitiveSpan(start, end, number_kind)
    birth_dates = {canonical_form(kind, value) for kind, value in known.values if kind is SensitiveKind.BIRTH_DATE}
    for year in {birth_date[:4] for birth_date in birth_dates}:
        yield from _find_birth_dates(text, year, birth_dates)
    if known.name_words:
        for name in find_known_names(text, known.name_words):
            yield SensitiveSpan(name.start, name.end, SensitiveKind.NAME)


def _find_birth_dates(text: str, year: str, birth_dates: Collection[str]) -> Iterator[SensitiveSpan]:
    """Find the dates of ``birth_dates`` (``YYYY-MM-DD``) in that year, in any form."""
    position = text.find(year)
    while position >= 0:
        start = max(0, position - 24)
        for date in find_dates(text[start : position + 12]):
            if f"{date.year:04d}-{date.month:02d}-{date.day:02d}" in birth_dates:
                yield SensitiveSpan(start + date.start, start + date.end, SensitiveKind.BIRTH_DATE)
        position = text.find(year, position + 4)


def _kind_of_number(value: str, numbers: dict[str, SensitiveKind]) -> SensitiveKind | None:
    """Return the kind of a known number. A phone number may have a country code or a leading zero in front."""
    digits = extract_digits(value)
    return next((numbers[form] for form in (digits, digits[-10:], digits[-9:]) if form in numbers), None)


def _literals(kind: SensitiveKind, value: str) -> Iterator[str]:
    """Yield the parts of a value that cannot be mistaken for anything else."""
    match kind:
        case SensitiveKind.ADDRESS:
            for part in value.split(","):
                if len(part.strip()) > 6 and re.search(r"\d", part) and re.search(r"[^\W\d_]{3}", part):
                    yield part.strip()
        case SensitiveKind.EMAIL | SensitiveKind.IP_ADDRESS | SensitiveKind.WALLET | SensitiveKind.KEY:
            yield value
        case SensitiveKind.POSTCODE if len(value) >= 5:
            yield value
        case SensitiveKind.IDENTITY_NUMBER | SensitiveKind.BANK_ACCOUNT if extract_digits(value) != value:
            yield value
            yield canonical_form(kind, value)
        case SensitiveKind.PASSWORD if looks_like_password(value) or (len(value) >= 12 and " " not in value):
            yield value


def _occurrences(text: str, literal: str) -> Iterator[int]:
    """Yield the positions where ``literal`` is a complete token.

    It must not be a part of a longer word or number. A number must not be that of an order or an amount.
    """
    is_number = literal.isdigit()
    start = text.find(literal)
    while start >= 0:
        end = start + len(literal)
        before, after = text[start - 1 : start], text[end : end + 1]
        is_part = (_is_word_character(before) and _is_word_character(literal[0])) or (
            _is_word_character(after) and _is_word_character(literal[-1])
        )
        is_other = is_number and (before in _OTHER_NUMBER_PREFIXES or _OTHER_NUMBER_SUFFIX.match(text, end))
        if not (is_part or is_other):
            yield start
        start = text.find(literal, end)


def _is_word_character(character: str) -> bool:
    return character.isalnum() or character == "_"
