"""Generators of placeholder values, one for each kind of sensitive data.

Each generator takes a value in its canonical form and random bytes, and returns a value of the same form.
The same bytes give the same result. ``placeholders.py`` calls them with the hash of the value, and tries again if a
result occurs elsewhere in the episode.
"""

import re
from collections.abc import Callable, Iterator

from looper.jobs.synthesis.sensitive.kinds import SensitiveKind
from looper.jobs.synthesis.sensitive.personal_data import passes_luhn
from looper.jobs.synthesis.sensitive.word_lists import (
    PLACEHOLDER_FAMILY_NAMES,
    PLACEHOLDER_GIVEN_NAMES,
    PLACEHOLDER_STREETS,
    STREET_WORDS,
)

ValueGenerator = Callable[[str, bytes], str]
"""Takes a value in canonical form and random bytes, and returns a value of the same form."""

_KEY_PREFIX = re.compile(
    r"(?:sk-(?:ant-(?:api\d\d-)?|proj-|svcacct-|or-)?|[srp]k_(?:live|test)_|github_pat_|gh[pousr]_|gl[a-z]{2,8}-|"
    r"xox[a-z]-|xapp-|AKIA|ASIA|ABIA|ACCA|AIza|ya29\.|hf_|npm_|pypi-|SG\.|whsec_|dop_v1_|shp[a-z]{2}_|sq0csp-|AC|SK|"
    r"AccountKey=|AGE-SECRET-KEY-1|https://hooks\.slack\.com/services/)"
)


def generate_given_name(value: str, noise: bytes) -> str:
    """Return the given name that ``noise`` chooses; ``value`` has no influence."""
    return _choose(PLACEHOLDER_GIVEN_NAMES, noise)


def generate_family_name(value: str, noise: bytes) -> str:
    """Return the family name that ``noise`` chooses; ``value`` has no influence."""
    return _choose(PLACEHOLDER_FAMILY_NAMES, noise)


def generate_street(value: str, noise: bytes) -> str:
    """Replace the numbers and the name of a street or room, and keep words for their kind.

    Args:
        value: A part of an address, such as ``281 Spruce Street``.
        noise: Random bytes.

    Returns:
        Another address part, such as ``637 Fern Street``.
    """
    rest = iter(noise)

    def replace_word(match: re.Match[str]) -> str:
        word = match[0]
        if word.isdigit():
            return _generate_number(word, rest)
        if word.lower() in STREET_WORDS or len(word) < 3:
            return word
        new = PLACEHOLDER_STREETS[next(rest) % len(PLACEHOLDER_STREETS)]
        return new.upper() if word.isupper() else new.lower() if word.islower() else new

    return re.sub(r"\d+|[^\W\d_]+(?:['’][^\W\d_]+)?", replace_word, value)


def _generate_number(digits: str, rest: Iterator[int]) -> str:
    return "".join(str(1 + next(rest) % 9 if index == 0 else next(rest) % 10) for index in range(len(digits)))


def _replace_characters(value: str, noise: bytes) -> str:
    """Replace each letter and digit by another of the same class. Escaped characters stay as they are."""
    out = []
    for index, (char, byte) in enumerate(zip(value, noise, strict=False)):
        if index and value[index - 1] == "\\":
            out.append(char)
        elif char.isdecimal():
            out.append(str(byte % 10))
        elif "a" <= char <= "z":
            out.append(chr(97 + byte % 26))
        elif "A" <= char <= "Z":
            out.append(chr(65 + byte % 26))
        elif char.isalpha():
            out.append(chr(97 + byte % 26))
        else:
            out.append(char)
    return "".join(out)


def _generate_key(value: str, noise: bytes) -> str:
    """Keep the prefix, which shows the provider of a key. Hexadecimal digits are replaced by such digits."""
    if value.startswith("eyJ"):
        return ".".join(
            part[:3] * part.startswith("eyJ") + _replace_characters(part, noise[index:])[3 * part.startswith("eyJ") :]
            for index, part in enumerate(value.split("."))
        )
    prefix = _KEY_PREFIX.match(value)
    start = prefix.end() if prefix else 0
    if re.fullmatch(r"[0-9a-f-]+", value[start:]):
        rest = iter(noise)
        return value[:start] + "".join("-" if char == "-" else f"{next(rest) % 16:x}" for char in value[start:])
    return value[:start] + _replace_characters(value[start:], noise)


def _generate_email(value: str, noise: bytes) -> str:
    return f"person{1000 + _to_integer(noise) % 9000}@example.com"


def _generate_phone(value: str, noise: bytes) -> str:
    """Return a North American number that is reserved for fiction, else a number with the same first digits."""
    if len(value) == 10 and value[0] >= "2":
        return f"{200 + _to_integer(noise[4:]) % 800}55501{_to_integer(noise) % 100:02d}"
    kept = 1 if len(value) < 9 else 2
    return value[:kept] + _replace_characters(value[kept:], noise)


def _generate_card(value: str, noise: bytes) -> str:
    """Keep the first digit and the last four, which people use to name a card. The check digit stays right."""
    new = value[:1] + _replace_characters(value[1:-5], noise)
    candidates = (f"{new}{digit}{value[-4:]}" for digit in range(10))
    return next(number for number in candidates if passes_luhn(number) or not passes_luhn(value))


def _generate_identity_number(value: str, noise: bytes) -> str:
    """Replace a US social security number by one from a range that is never assigned."""
    if len(value) == 9 and value.isdigit():
        rest = _replace_characters(value[5:], noise[5:])
        return f"9{_replace_characters(value[1:3], noise)}{1 + noise[-1] % 49:02d}{rest}"
    return _replace_characters(value, noise)


def _generate_account(value: str, noise: bytes) -> str:
    """Keep the country of an IBAN and compute its check digits (ISO 13616)."""
    if not re.match(r"[A-Z]{2}\d\d[A-Z0-9]{11}", value):
        return _replace_characters(value, noise)
    body = _replace_characters(value[4:], noise)
    remainder = int("".join(str(int(char, 36)) for char in f"{body}{value[:2]}00")) % 97
    return f"{value[:2]}{98 - remainder:02d}{body}"


def _generate_wallet(value: str, noise: bytes) -> str:
    if value.startswith("0x"):
        return "0x" + noise.hex()[: len(value) - 2]
    kept = 3 if value.startswith("bc1") else 1
    return value[:kept] + _replace_characters(value[kept:], noise)


def _generate_postcode(value: str, noise: bytes) -> str:
    return value[:1] + _replace_characters(value[1:], noise)


def _generate_birth_date(value: str, noise: bytes) -> str:
    """Return another day of the same year, because the agent may need the age."""
    return f"{value[:4]}-{1 + noise[0] % 12:02d}-{1 + noise[1] % 28:02d}"


def _generate_ip_address(value: str, noise: bytes) -> str:
    """Return an address from the ranges for benchmarks (RFC 2544) or documentation (RFC 3849), which are not routed."""
    if ":" in value:
        return f"2001:db8:{noise[:2].hex()}:{noise[2:4].hex()}::{noise[4:6].hex()}"
    return f"198.{18 + noise[0] % 2}.{noise[1]}.{1 + noise[2] % 254}"


def _choose(names: tuple[str, ...], noise: bytes) -> str:
    return names[_to_integer(noise) % len(names)]


def _to_integer(noise: bytes) -> int:
    return int.from_bytes(noise[:4], "big")


GENERATORS: dict[SensitiveKind, ValueGenerator] = {
    SensitiveKind.EMAIL: _generate_email,
    SensitiveKind.PHONE: _generate_phone,
    SensitiveKind.CARD_NUMBER: _generate_card,
    SensitiveKind.IDENTITY_NUMBER: _generate_identity_number,
    SensitiveKind.BANK_ACCOUNT: _generate_account,
    SensitiveKind.WALLET: _generate_wallet,
    SensitiveKind.POSTCODE: _generate_postcode,
    SensitiveKind.BIRTH_DATE: _generate_birth_date,
    SensitiveKind.IP_ADDRESS: _generate_ip_address,
    SensitiveKind.SECURITY_CODE: _replace_characters,
    SensitiveKind.PASSWORD: _replace_characters,
    SensitiveKind.KEY: _generate_key,
}
"""The generator of each kind. Names and addresses are missing: they are replaced word by word and part by part."""
