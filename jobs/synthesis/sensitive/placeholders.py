"""What stands for a value: of the same form, and the same for the same value wherever it occurs, in every episode.

It is drawn by a hash of the value, so nothing has to be remembered. Seeding it by the episode too would make one email
two in two episodes of a task, and the stages that compare the episodes of a task would see two different requests.
It is no encryption: who guesses a value can check the guess.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Iterator

from looper.jobs.synthesis.sensitive.dates import parse_date, put
from looper.jobs.synthesis.sensitive.kinds import SensitiveKind
from looper.jobs.synthesis.sensitive.people import passes_luhn
from looper.jobs.synthesis.sensitive.words import FAMILIES, GIVEN, STREETS, WAYS

_DIGITS = re.compile(r"\d")
_DIGIT_OR_LETTER = re.compile(r"[A-Za-z\d]")
_TOWN = re.compile(r"[^\d#]*\b(?P<code>\d{5}(?:-\d{4})?)")
_TRIES = 100

_Maker = Callable[[str, bytes], str]


class Placeholders:
    """The placeholders of one trajectory: different values get different ones, and none is a word of ``text``."""

    def __init__(self, text: str, taken: Collection[str] = ()) -> None:
        """``taken`` are values that no placeholder may be."""
        self._text = text.lower()
        self._used = set(taken)
        self._made: dict[tuple[str, str], str] = {}
        self._kinds: dict[str, SensitiveKind] = {}

    def of(self, kind: SensitiveKind, value: str) -> str:
        """What stands for ``value``, in its form: groups of digits and an address's parts stay where they are."""
        if kind is SensitiveKind.ADDRESS:
            return ",".join(self._part(part) for part in value.split(","))
        if kind in _PLAIN:  # what is a password here and a key there is one value all the same
            kind = self._kinds.setdefault(re.sub(r"\W", "", value).lower(), kind)
        key = canonical(kind, value)
        made = self._draw(kind.value, key, _MAKERS[kind])
        if kind is SensitiveKind.BIRTH:
            return _put_date(value, made)
        return _put_digits(value, made) if kind in _BY_DIGITS else made

    def name(self, word: str, *, family: bool) -> str:
        """What stands for one word of a name, written small or large as ``word`` is."""
        made = self._draw("family" if family else "given", word.lower(), _family if family else _given)
        if len(word) > 1 and word.isupper():
            return made.upper()
        return made.lower() if word.islower() else made

    def _part(self, part: str) -> str:
        plain = part.strip()
        if not _DIGITS.search(plain):
            return part
        town = _TOWN.fullmatch(plain)
        if town:
            return part.replace(town["code"], self.of(SensitiveKind.POSTCODE, town["code"]))
        return part.replace(plain, self._draw(SensitiveKind.ADDRESS.value, plain, _street))

    def _draw(self, what: str, key: str, make: _Maker) -> str:
        made = self._made.get((what, key))
        if made is None:
            for attempt in range(_TRIES):
                made = make(key, _noise(f"{what}\0{key}\0{attempt}", len(key) + 64))
                if made not in self._used and made != key and made.lower() not in self._text:
                    break
            assert made is not None
            if made in self._used and make in (_given, _family):  # of which there are only so many
                made = f"{made}-{make(key, _noise(f'{key}{len(self._made)}', 8))}"
            self._used.add(made)
            self._made[what, key] = made
        return made


def canonical(kind: SensitiveKind, value: str) -> str:
    """The same for the same value in other forms: ``(415) 555-0199`` and ``+1 415 555 0199``."""
    match kind:
        case SensitiveKind.EMAIL:
            return value.strip().lower()
        case SensitiveKind.PHONE:
            return digits_of(value)[-10:] if not value.startswith("+") else _national(value)
        case SensitiveKind.CARD | SensitiveKind.CODE:
            return digits_of(value)
        case SensitiveKind.IDENTITY | SensitiveKind.ACCOUNT | SensitiveKind.POSTCODE:
            return re.sub(r"[^A-Za-z0-9]", "", value).upper()
        case SensitiveKind.BIRTH:
            date = parse_date(value)
            return f"{date.year:04d}-{date.month:02d}-{date.day:02d}" if date else value
        case _:
            return value


def digits_of(value: str) -> str:
    return "".join(_DIGITS.findall(value))


def _national(value: str) -> str:
    """A phone's number without the country's code."""
    import phonenumbers

    try:
        return str(phonenumbers.parse(value).national_number)[-10:]
    except phonenumbers.NumberParseException:
        return digits_of(value)[-10:]


def _noise(seed: str, size: int) -> bytes:
    return hashlib.shake_256(seed.encode("utf-8", "surrogatepass")).digest(size)


def _put_digits(value: str, new: str) -> str:
    """``value`` with its letters and digits, from the end, replaced by those of ``new``; what is left over stays."""
    rest = list(new)
    put = [rest.pop() if rest and _DIGIT_OR_LETTER.match(each) else each for each in reversed(value)]
    return "".join(reversed(put))


def _put_date(value: str, new: str) -> str:
    date = parse_date(value)
    _, month, day = new.split("-")
    return put(value, date, int(month), int(day)) if date else new


def _alike(key: str, noise: bytes) -> str:
    """Each letter and digit by another of its sort. What an escape, such as a line's end, is made of stays."""
    out = []
    for at, (each, byte) in enumerate(zip(key, noise, strict=False)):
        if at and key[at - 1] == "\\":
            out.append(each)
        elif each.isdecimal():
            out.append(str(byte % 10))
        elif "a" <= each <= "z":
            out.append(chr(97 + byte % 26))
        elif "A" <= each <= "Z":
            out.append(chr(65 + byte % 26))
        elif each.isalpha():
            out.append(chr(97 + byte % 26))
        else:
            out.append(each)
    return "".join(out)


_PREFIX = re.compile(
    r"(?:sk-(?:ant-(?:api\d\d-)?|proj-|svcacct-|or-)?|[srp]k_(?:live|test)_|github_pat_|gh[pousr]_|gl[a-z]{2,8}-|"
    r"xox[a-z]-|xapp-|AKIA|ASIA|ABIA|ACCA|AIza|ya29\.|hf_|npm_|pypi-|SG\.|whsec_|dop_v1_|shp[a-z]{2}_|sq0csp-|AC|SK|"
    r"AccountKey=|AGE-SECRET-KEY-1|https://hooks\.slack\.com/services/)"
)


def _key(key: str, noise: bytes) -> str:
    """The maker's prefix stays, so that a key still shows whose it is; hexadecimal digits stay so."""
    if key.startswith("eyJ"):
        return ".".join(
            part[:3] * part.startswith("eyJ") + _alike(part, noise[at:])[3 * part.startswith("eyJ") :]
            for at, part in enumerate(key.split("."))
        )
    prefix = _PREFIX.match(key)
    start = prefix.end() if prefix else 0
    if re.fullmatch(r"[0-9a-f-]+", key[start:]):
        drawn = iter(noise)
        return key[:start] + "".join("-" if each == "-" else f"{next(drawn) % 16:x}" for each in key[start:])
    return key[:start] + _alike(key[start:], noise)


def _email(key: str, noise: bytes) -> str:
    return f"person{1000 + _number(noise) % 9000}@example.com"


def _phone(key: str, noise: bytes) -> str:
    """In North America's form a number that is kept for fiction, else the same beginning and other digits."""
    if len(key) == 10 and key[0] >= "2":
        return f"{200 + _number(noise[4:]) % 800}55501{_number(noise) % 100:02d}"
    kept = 1 if len(key) < 9 else 2
    return key[:kept] + _alike(key[kept:], noise)


def _card(key: str, noise: bytes) -> str:
    """The maker's digit and the last four stay, by which people speak of a card, and the check digit still agrees."""
    new = key[:1] + _alike(key[1:-5], noise)
    candidates = (f"{new}{digit}{key[-4:]}" for digit in range(10))
    return next(each for each in candidates if passes_luhn(each) or not passes_luhn(key))


def _identity(key: str, noise: bytes) -> str:
    """A social security number gets one of those that are never given out."""
    if len(key) == 9 and key.isdigit():
        return f"9{_alike(key[1:3], noise)}{1 + noise[-1] % 49:02d}{_alike(key[5:], noise[5:])}"
    return _alike(key, noise)


def _account(key: str, noise: bytes) -> str:
    if not re.match(r"[A-Z]{2}\d\d[A-Z0-9]{11}", key):
        return _alike(key, noise)
    body = _alike(key[4:], noise)
    rest = int("".join(str(int(each, 36)) for each in f"{body}{key[:2]}00")) % 97
    return f"{key[:2]}{98 - rest:02d}{body}"


def _wallet(key: str, noise: bytes) -> str:
    if key.startswith("0x"):
        return "0x" + noise.hex()[: len(key) - 2]
    kept = 3 if key.startswith("bc1") else 1
    return key[:kept] + _alike(key[kept:], noise)


def _postcode(key: str, noise: bytes) -> str:
    return key[:1] + _alike(key[1:], noise)


def _birth(key: str, noise: bytes) -> str:
    """Another day of the same year: how old somebody is, the agent may have to know."""
    return f"{key[:4]}-{1 + noise[0] % 12:02d}-{1 + noise[1] % 28:02d}"


def _ip(key: str, noise: bytes) -> str:
    """Of the ranges for benchmarks and for documentation, which lead nowhere."""
    if ":" in key:
        return f"2001:db8:{noise[:2].hex()}:{noise[2:4].hex()}::{noise[4:6].hex()}"
    return f"198.{18 + noise[0] % 2}.{noise[1]}.{1 + noise[2] % 254}"


def _street(key: str, noise: bytes) -> str:
    """``281 Spruce Street`` becomes ``637 Fern Street``: what tells a sort of street or room stays."""
    drawn = iter(noise)

    def other(match: re.Match[str]) -> str:
        word = match[0]
        if word.isdigit():
            return _number_alike(word, drawn)
        if word.lower() in WAYS or len(word) < 3:
            return word
        new = STREETS[next(drawn) % len(STREETS)]
        return new.upper() if word.isupper() else new.lower() if word.islower() else new

    return re.sub(r"\d+|[^\W\d_]+(?:['’][^\W\d_]+)?", other, key)


def _number_alike(digits: str, drawn: Iterator[int]) -> str:
    return "".join(str(1 + next(drawn) % 9 if at == 0 else next(drawn) % 10) for at in range(len(digits)))


def _given(key: str, noise: bytes) -> str:
    return _of(GIVEN, noise)


def _family(key: str, noise: bytes) -> str:
    return _of(FAMILIES, noise)


def _of(names: tuple[str, ...], noise: bytes) -> str:
    return names[_number(noise) % len(names)]


def _number(noise: bytes) -> int:
    return int.from_bytes(noise[:4], "big")


_BY_DIGITS = frozenset(
    {
        SensitiveKind.PHONE,
        SensitiveKind.CARD,
        SensitiveKind.IDENTITY,
        SensitiveKind.ACCOUNT,
        SensitiveKind.POSTCODE,
        SensitiveKind.CODE,
    }
)
"""Written with and without spaces, brackets and dashes."""

_PLAIN = _BY_DIGITS | {SensitiveKind.PASSWORD, SensitiveKind.KEY}

_MAKERS: dict[SensitiveKind, _Maker] = {
    SensitiveKind.EMAIL: _email,
    SensitiveKind.PHONE: _phone,
    SensitiveKind.CARD: _card,
    SensitiveKind.IDENTITY: _identity,
    SensitiveKind.ACCOUNT: _account,
    SensitiveKind.WALLET: _wallet,
    SensitiveKind.POSTCODE: _postcode,
    SensitiveKind.BIRTH: _birth,
    SensitiveKind.IP: _ip,
    SensitiveKind.CODE: _alike,
    SensitiveKind.PASSWORD: _alike,
    SensitiveKind.KEY: _key,
}
