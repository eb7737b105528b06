"""Placeholders for sensitive values: of the same form, and the same for a value wherever it occurs, in every episode.

A placeholder is derived from a hash of the value, so nothing needs to be stored. If the episode were part of the hash,
one email would become two in two episodes of a task, and the stages that compare episodes of a task would see two
different requests. This is no encryption: a person who guesses a value can verify the guess. ``replacement_plan.py``
calls this module, and ``placeholder_values.py`` generates the values.
"""

import hashlib
import re
from collections.abc import Collection

from looper.jobs.synthesis.sensitive.dates import parse_date, replace_date
from looper.jobs.synthesis.sensitive.kinds import SensitiveKind
from looper.jobs.synthesis.sensitive.placeholder_values import (
    GENERATORS,
    ValueGenerator,
    generate_family_name,
    generate_given_name,
    generate_street,
)

_DIGITS = re.compile(r"\d")
_DIGIT_OR_LETTER = re.compile(r"[A-Za-z\d]")
_TOWN = re.compile(r"[^\d#]*\b(?P<code>\d{5}(?:-\d{4})?)")
_MAX_ATTEMPTS = 100

_GROUPED_KINDS = frozenset(
    {
        SensitiveKind.PHONE,
        SensitiveKind.CARD_NUMBER,
        SensitiveKind.IDENTITY_NUMBER,
        SensitiveKind.BANK_ACCOUNT,
        SensitiveKind.POSTCODE,
        SensitiveKind.SECURITY_CODE,
    }
)
"""Kinds that are written with and without spaces, brackets and dashes."""

_MERGED_KINDS = _GROUPED_KINDS | {SensitiveKind.PASSWORD, SensitiveKind.KEY}
"""Kinds whose values get one placeholder even if an episode gives one value two of these kinds."""


class Placeholders:
    """The placeholders of one episode. Different values get different ones, and none occurs in the episode's text."""

    def __init__(self, text: str, reserved: Collection[str] = ()) -> None:
        """Prepare the placeholders of one episode.

        Args:
            text: All text of the episode.
            reserved: Values that no placeholder may be equal to.
        """
        self._text = text.lower()
        self._used = set(reserved)
        self._placeholders: dict[tuple[str, str], str] = {}
        self._kinds: dict[str, SensitiveKind] = {}

    def for_value(self, kind: SensitiveKind, value: str) -> str:
        """Return the placeholder of a value that is not a name.

        Args:
            kind: What the value is.
            value: The value as the text writes it.

        Returns:
            A value of the same form: groups of digits and the parts of an address stay where they are.
        """
        if kind is SensitiveKind.ADDRESS:
            return ",".join(self._replace_address_part(part) for part in value.split(","))
        if kind in _MERGED_KINDS:  # a value that is called a password here and a key there is still one value
            kind = self._kinds.setdefault(re.sub(r"\W", "", value).lower(), kind)
        key = canonical_form(kind, value)
        placeholder = self._generate(kind.value, key, GENERATORS[kind])
        if kind is SensitiveKind.BIRTH_DATE:
            return _write_date_like(value, placeholder)
        return _write_digits_like(value, placeholder) if kind in _GROUPED_KINDS else placeholder

    def for_name_word(self, word: str, *, is_family_name: bool) -> str:
        """Return the placeholder of one word of a person's name.

        Args:
            word: The word as the text writes it.
            is_family_name: Whether it belongs to the family name.

        Returns:
            Another name in upper or lower case like ``word``.
        """
        generator = generate_family_name if is_family_name else generate_given_name
        placeholder = self._generate("family" if is_family_name else "given", word.lower(), generator)
        if len(word) > 1 and word.isupper():
            return placeholder.upper()
        return placeholder.lower() if word.islower() else placeholder

    def _replace_address_part(self, part: str) -> str:
        plain = part.strip()
        if not _DIGITS.search(plain):
            return part
        town = _TOWN.fullmatch(plain)
        if town:
            return part.replace(town["code"], self.for_value(SensitiveKind.POSTCODE, town["code"]))
        return part.replace(plain, self._generate(SensitiveKind.ADDRESS.value, plain, generate_street))

    def _generate(self, category: str, key: str, generator: ValueGenerator) -> str:
        placeholder = self._placeholders.get((category, key))
        if placeholder is None:
            for attempt in range(_MAX_ATTEMPTS):
                placeholder = generator(key, _noise(f"{category}\0{key}\0{attempt}", len(key) + 64))
                if placeholder not in self._used and placeholder != key and placeholder.lower() not in self._text:
                    break
            assert placeholder is not None
            # The lists of names are short, so an episode with many people can use them up.
            if placeholder in self._used and generator in (generate_given_name, generate_family_name):
                placeholder = f"{placeholder}-{generator(key, _noise(f'{key}{len(self._placeholders)}', 8))}"
            self._used.add(placeholder)
            self._placeholders[category, key] = placeholder
        return placeholder


def canonical_form(kind: SensitiveKind, value: str) -> str:
    """Return a form that is equal for the same value in other forms.

    Args:
        kind: What the value is.
        value: The value as the text writes it, such as ``(415) 555-0199`` or ``+1 415 555 0199``.

    Returns:
        The canonical form, such as ``4155550199``. A date has the form ``YYYY-MM-DD``.
    """
    match kind:
        case SensitiveKind.EMAIL:
            return value.strip().lower()
        case SensitiveKind.PHONE:
            return extract_digits(value)[-10:] if not value.startswith("+") else _national_number(value)
        case SensitiveKind.CARD_NUMBER | SensitiveKind.SECURITY_CODE:
            return extract_digits(value)
        case SensitiveKind.IDENTITY_NUMBER | SensitiveKind.BANK_ACCOUNT | SensitiveKind.POSTCODE:
            return re.sub(r"[^A-Za-z0-9]", "", value).upper()
        case SensitiveKind.BIRTH_DATE:
            date = parse_date(value)
            return f"{date.year:04d}-{date.month:02d}-{date.day:02d}" if date else value
        case _:
            return value


def extract_digits(value: str) -> str:
    """Return the digits of ``value`` without the characters between them."""
    return "".join(_DIGITS.findall(value))


def _national_number(value: str) -> str:
    """Return a phone number without its country code."""
    import phonenumbers

    try:
        return str(phonenumbers.parse(value).national_number)[-10:]
    except phonenumbers.NumberParseException:
        return extract_digits(value)[-10:]


def _noise(seed: str, size: int) -> bytes:
    return hashlib.shake_256(seed.encode("utf-8", "surrogatepass")).digest(size)


def _write_digits_like(value: str, new: str) -> str:
    """Replace letters and digits of ``value`` by those of ``new``, from the end. What ``new`` does not reach stays."""
    rest = list(new)
    chars = [rest.pop() if rest and _DIGIT_OR_LETTER.match(char) else char for char in reversed(value)]
    return "".join(reversed(chars))


def _write_date_like(value: str, new: str) -> str:
    date = parse_date(value)
    _, month, day = new.split("-")
    return replace_date(value, date, int(month), int(day)) if date else new
