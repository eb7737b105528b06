"""Sensitive values with a label in front of them in free text, such as ``password: x`` or ``My phone number is x``.

Text that is almost JSON (``"ssn": "x"``) is searched as well. ``fields.py`` tells the kind of a label, as it does for
the names of JSON fields. ``replacement_plan.py`` calls this module.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

from looper.jobs.synthesis.sensitive.dates import parse_date
from looper.jobs.synthesis.sensitive.fields import (
    FIELD_LAST_WORDS,
    is_plausible_value,
    kind_of_field,
    looks_like_key,
    looks_like_password,
)
from looper.jobs.synthesis.sensitive.kinds import SensitiveKind, SensitiveSpan
from looper.jobs.synthesis.sensitive.word_lists import lower_same_length

_NO_LABEL_CHARACTERS = re.compile(r"[^\w'’ -]+")
_COMMAND_OPTION = re.compile(r"--(?<!\S--)(?P<word>[a-z][a-z-]{2,30})[ =](?P<quote>[\"']?)")
_CAPITALIZED = r"[^\W\d_a-zß-öø-ÿ][\w'’-]+"

_VALUE_PATTERNS = {
    SensitiveKind.PHONE: re.compile(r"[+(]?\d[\d ().-]{5,20}\d(?!\w)"),
    SensitiveKind.CARD_NUMBER: re.compile(r"\d[\d -]{10,22}\d(?!\w)"),
    SensitiveKind.SECURITY_CODE: re.compile(r"\d{3,8}(?![\w.-])"),
    SensitiveKind.POSTCODE: re.compile(
        r"\d{5}(?:-\d{4})?(?!\w)|[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}(?!\w)|[A-Z]\d[A-Z] ?\d[A-Z]\d(?!\w)"
    ),
    SensitiveKind.IDENTITY_NUMBER: re.compile(
        r"(?=(?:[A-Z.-]*\d){5})[A-Z\d][A-Z\d.-]{4,18}[A-Z\d](?!\w)|\d{3} \d{2} \d{4}(?!\w)"
    ),
    SensitiveKind.BANK_ACCOUNT: re.compile(r"(?=(?:[A-Z -]*\d){6})[A-Z\d](?:[ -]?[A-Z\d]){5,33}(?!\w)"),
    SensitiveKind.IP_ADDRESS: re.compile(r"\d{1,3}(?:\.\d{1,3}){3}(?!\.?\w)|[0-9a-fA-F]{1,4}:[0-9a-fA-F:]{3,34}(?!\w)"),
    SensitiveKind.WALLET: re.compile(r"\w{20,100}"),
    SensitiveKind.NAME: re.compile(rf"{_CAPITALIZED}(?: (?:de |la |del |van |von )?{_CAPITALIZED}){{0,3}}(?!\w)"),
    SensitiveKind.ADDRESS: re.compile(r"""[^\n"'`;|<>{}\\\t]{5,120}"""),
}
_QUOTED_VALUE = re.compile(r"""[^\n"'`]{3,4000}(?=["'`])""")
_UNQUOTED_VALUE = re.compile(r"""[^\s"'`,;<>()\[\]]{3,4000}""")
_ADDRESS_END = re.compile(
    r"[.!?] |\. ?$| (?:and|but|please|y) |,? \(?(?:phone|tel|mobile|call|e-?mail|contact)\b|,? \S*@|\+\d|\d{7}",
    re.IGNORECASE,
)
_AUTH_SCHEME = re.compile(r"(?:bearer|basic|token)\s+", re.IGNORECASE)


def find_labeled_values(text: str) -> Iterator[SensitiveSpan]:
    """Find values that the words right before them call sensitive.

    Args:
        text: The text to search.

    Yields:
        The spans of the values, without their labels.
    """
    lower = lower_same_length(text)
    present = tuple(word for word in _LABEL_WORDS if word in lower)
    if present:
        for match in _label_pattern(present).finditer(lower):
            name = _NO_LABEL_CHARACTERS.split(text[max(0, match.start() - 40) : match.end("word")])[-1]
            kind = kind_of_field(" ".join(name.split(" ")[-4:]).replace("'", "").replace("’", ""))
            found = _match_value(text, match, kind, is_sentence=match["verb"] is not None) if kind else None
            if found:
                yield found
    for match in _COMMAND_OPTION.finditer(text):
        kind = kind_of_field(match["word"])
        if kind is not None and kind.is_secret:
            found = _match_value(text, match, kind, is_sentence=False)
            if found:
                yield found


_LABEL_WORDS = tuple(sorted({*FIELD_LAST_WORDS, "contraseña", "dirección", "teléfono", "móvil", "número"}))


@lru_cache(maxsize=1024)
def _label_pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    """Return the pattern of a label in lower case that ends with one of ``words``, then a colon, ``=`` or a verb."""
    return re.compile(
        rf"(?P<word>(?:{'|'.join(words)})s?_?\d{{0,2}})(?![^\W_])[\"'`*\\]{{0,4}}"
        r"(?:[ \t]{0,3}(?:=>|[:=])|[ \t]+(?P<verb>is|was|es|to|as)\b[ \t]*:?)[ \t]{0,4}(?P<quote>[\"'`*\\]{0,4})"
    )


def _match_value(text: str, label: re.Match[str], kind: SensitiveKind, *, is_sentence: bool) -> SensitiveSpan | None:
    start = label.end()
    if kind in (SensitiveKind.PASSWORD, SensitiveKind.KEY):
        return _match_secret(text, start, kind, is_quoted=bool(label["quote"]))
    if kind is SensitiveKind.BIRTH_DATE:
        date = parse_date(text[start : start + 30].split("\n")[0].ljust(8))
        return SensitiveSpan(start + date.start, start + date.end, kind) if date else None
    pattern = _VALUE_PATTERNS.get(SensitiveKind.NAME if kind is SensitiveKind.FAMILY_NAME else kind)
    match = pattern.match(text, start) if pattern else None
    if match is None or (is_sentence and kind is SensitiveKind.ADDRESS and not text[start].isdigit()):
        return None
    value = match[0]
    if kind is SensitiveKind.ADDRESS:
        value = _ADDRESS_END.split(value, maxsplit=1)[0].rstrip(" .,(")
        if re.match(r"\d", value) and not re.match(r"\d+\w? ", value):
            return None
    return SensitiveSpan(start, start + len(value), kind) if is_plausible_value(kind, value) else None


def _match_secret(text: str, start: int, kind: SensitiveKind, *, is_quoted: bool) -> SensitiveSpan | None:
    scheme = _AUTH_SCHEME.match(text, start)
    start = scheme.end() if scheme else start
    match = (_QUOTED_VALUE.match(text, start) if is_quoted else None) or _UNQUOTED_VALUE.match(text, start)
    if match is None:
        return None
    value = match[0].rstrip("\\")
    if not is_quoted:
        value = value.rstrip(".,:!?")
    if " " in value or text[start + len(value) : start + len(value) + 1] in ("(", "["):
        return None
    fits = looks_like_password(value) if kind is SensitiveKind.PASSWORD else looks_like_key(value)
    return SensitiveSpan(start, start + len(value), kind) if fits else None
