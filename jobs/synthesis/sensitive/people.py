"""Personal data in free text that shows by its look: emails, phone and card numbers, streets, people introduced.

A number is taken for personal only if its form or the words before it say so, and its check digits, where it has some,
agree: most numbers of a trajectory are orders, amounts and times, and the agent needs them. Whether a number with a
country code can be a phone's, phonenumbers says, Google's library for it.

Each pattern begins with a character or a set of them, and looks back only after it: Python's ``re`` then skips to where
one stands, ten times as fast as trying everywhere.
"""

import hashlib
import re
from collections.abc import Iterator

from looper.jobs.synthesis.sensitive.fields import is_personal_name, is_public, is_role
from looper.jobs.synthesis.sensitive.kinds import Found, SensitiveKind
from looper.jobs.synthesis.sensitive.words import DOMAINS, NO_NAMES

_LOCAL = re.compile(r"(?<![\w.+%-])[^\W_][\w.+%-]{0,63}\Z")
_DOMAIN = re.compile(r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,4}(?P<top>[A-Za-z]{2,24})(?![\w(@-])")

_NUMBER = re.compile(r"\d(?<![\w#$€£.,/]\d)(?:[ ().-]{0,2}\d){5,21}(?![\w/]|[.,]\d)")
_WITH_COUNTRY = re.compile(r"\+(?<![\w+]\+)\d{1,3}(?:[ ().-]{1,2}\d|\d)[\d ().-]{4,16}\d(?![\w-])")
_AREA_IN_BRACKETS = re.compile(r"\((?<![\w.,/$#+-]\()\d{3}\) ?\d{3}[-. ]\d{4}(?![\w-]|[.,]\d)")
_NORTH_AMERICAN = re.compile(
    r"\d(?<![\w.,/$#+-]\d)(?:(?<=1)[-. ]\d{3}|\d\d)(?:-\d{3}-\d{4}|(?<=[2-9]\d\d)\.\d{3}\.\d{4})(?![\w-]|[.,]\d)"
)
_PHONE_BEFORE = re.compile(
    r"(?:(?:phone|mobile|cell|whatsapp|tel[eé]fono|m[oó]vil|celular|\btel|\bfax|hotline)\.?"
    r"(?: (?:number|no\.?|nr\.?|line))?"
    r"|\b(?:call|text|reach|dial|ring|sms|ll[aá]m\w+)(?: (?:me|us|him|her|them))?(?: back)?|contact number)"
    r"(?: is| at| on| under| al| es)*[\s:=\"'(+]*\Z",
    re.IGNORECASE,
)
_CARD = re.compile(
    r"[2-6](?<![\w.,/$#+-][2-6])(?:\d{3}([ -])\d{4}\1\d{4}\1\d{1,7}|\d{3}([ -])\d{6}\2\d{5}|\d{12,18})(?![\w-]|[.,]\d)"
)
_CARD_RANGES = re.compile(r"4|5[1-5]|2[2-7]|3[47]|30|36|38|35|60|62|64|65")
_CARD_BEFORE = re.compile(
    r"card|visa|master|amex|american express|discover|tarjeta|credit|debit|pa(?:y|id)\b|charge|billing|karte",
    re.IGNORECASE,
)
_SSN = re.compile(r"[0-8](?<![\w.,/$#+-]\d)\d\d(?<!000)(?<!666)-(?!00)\d{2}-(?!0000)\d{4}(?![\w-]|[.,]\d)")
_IBAN = re.compile(
    r"[A-Z](?<![\w-][A-Z])[A-Z]\d{2}(?:[A-Z0-9]{11,30}|(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,4})?)(?![\w-])"
)
_WALLET = re.compile(
    r"[01b3](?<!\w[01b3])(?:(?<=0)x[0-9a-fA-F]{40}|(?<=b)c1[02-9ac-hj-np-z]{25,62}|(?<=[13])[1-9A-HJ-NP-Za-km-z]{25,34})"
    r"(?!\w)"
)
_IPV4 = re.compile(r"\d(?<![\w.-]\d)\d{0,2}(?:\.\d{1,3}){3}(?!\.?[\w-])")
_IPV6 = re.compile(
    r"[0-9a-fA-F](?<![\w:.][0-9a-fA-F])[0-9a-fA-F]{0,3}:(?:[0-9a-fA-F]{1,4}:){1,6}(?::?[0-9a-fA-F]{1,4}){1,6}(?![\w:])"
)
_IP_BEFORE = re.compile(
    r"(?:\b(?:ips?|addr(?:ess)?|hosts?|from|server|ping(?:ed)?|ssh|client|remote|peer|via|login|inet6?|connect\w*|to|by|"
    r"session|origin|gateway|blocked|allow|deny|src|dst|source|visitor)\b[^\n.]{0,16}|@|//)\Z",
    re.IGNORECASE,
)
_VERSION_BEFORE = re.compile(r"version|release|upgrad|updat|bump|install|build|driver|firmware", re.IGNORECASE)

_WAYS = "Street|Avenue|Boulevard|Lane|Road|Terrace|Parkway|Highway|Crescent|Alley|St|Ave|Blvd|Ln|Rd|Pkwy|Hwy"
_OTHER_WAYS = "Drive|Court|Place|Way|Circle|Square|Trail|Close|Row|Dr|Ct|Pl"
_STREET = re.compile(
    r"\d(?<![\w#$€£.,/-]\d)(?:\d{0,4}[A-Za-z]? (?:[NSEW]\.? )?(?:[^\W\d_a-z][^\W\d_'’]+(?:['’]s)?,? ){1,3}"
    rf"(?:{_WAYS})\b"
    r"|\d{1,4} (?:(?!(?:Hard|Flash|Thumb|Pen|Test|Disk|Google|First|Second|Third|Hour|Day|Star|Pack|Piece|GB|TB|MB)\b)"
    rf"[^\W\d_a-z][^\W\d_'’]+(?:['’]s)? ){{1,3}}(?:{_OTHER_WAYS})\b)\.?"
    r"(?:,? (?:Apt|Apartment|Suite|Unit|Ste|Floor)\.? ?#?\w{1,5})?"
)
_CALLE = re.compile(
    r"(?:Calle|Avenida|Av\.|Avda|Jr\.|Jir[oó]n|Paseo|Plaza|Camino|Carretera|Rue|Via)\.? "
    r"(?:(?:de |del |la |las |los |el )*[^\W\d_a-z][^\W\d_]+ ){1,4}(?:N[°º]? ?)?\d{1,5}(?!\w)"
)

_NAME = r"[^\W\d_a-zà-öø-ÿ][^\W\d_]+(?:['’-][^\W\d_]+)?"
_INTRODUCED = re.compile(
    r"(?:name(?: is|'s|’s| ?:| of)?|llamo|nombre(?: completo)? es|nombre de|signed,)[^\S\n]+"
    rf"(?P<name>{_NAME}(?: (?:de |la |del |van |von |bin |al-)?{_NAME}){{0,3}})"
)
_BEFORE_NAME = re.compile(
    r"\b(?:(?:my|his|her|their|(?P<the>the))(?: full| own)?|(?:on|under|in) (?:the|my)|me|mi|a) \Z", re.IGNORECASE
)
_SELF = re.compile(
    r"(?:This is|this is|I am|I'm|I’m|Soy|soy|Habla|habla)[^\S\n]+"
    rf"(?P<name>{_NAME}(?: {_NAME}){{1,2}})(?=[\s.,;!?]|$)"
)
_TITLED = re.compile(rf"(?:Mr|Ms|Mx|Sr|Señor|Herr|Frau|Monsieur|Madame)(?:s|a|ta)?\.? (?P<name>{_NAME}(?: {_NAME})?)")


def people(text: str) -> Iterator[Found]:
    """All personal data of ``text`` that shows by itself. Names come with the words that introduce them left out."""
    yield from _emails(text)
    yield from _phones(text)
    yield from _numbers(text)
    for match in _STREET.finditer(text):
        yield Found(match.start(), match.start() + len(match[0].rstrip(".")), SensitiveKind.ADDRESS)
    for match in _CALLE.finditer(text):
        if not text[match.start() - 1 : match.start()].isalnum():
            yield Found(*match.span(), SensitiveKind.ADDRESS)
    if "name" in text or "llamo" in text or "nombre" in text or "signed" in text:
        for match in _INTRODUCED.finditer(text):
            before = _BEFORE_NAME.search(text[max(0, match.start() - 14) : match.start()])
            if before or match[0].startswith("signed"):
                yield from _name(match, least=2 if before and before["the"] else 1)
    for match in _TITLED.finditer(text):
        if not text[match.start() - 1 : match.start()].isalnum():
            yield from _name(match)


def speakers(text: str) -> Iterator[Found]:
    """Who says who they are, in what a user says. Elsewhere ``I am Feeling Lucky`` is no person."""
    for match in _SELF.finditer(text):
        if not text[match.start() - 1 : match.start()].isalnum():
            yield from _name(match, least=2)


def numbers_in(text: str) -> Iterator[tuple[int, int]]:
    """Where numbers of six digits or more stand, with what groups their digits."""
    for match in _NUMBER.finditer(text):
        start = match.start()
        yield start - (text[start - 1 : start] in ("+", "(")), match.end()


def _emails(text: str) -> Iterator[Found]:
    at = text.find("@")
    while at >= 0:
        domain = _DOMAIN.match(text, at + 1)
        local = _LOCAL.search(text, max(0, at - 65), at) if domain else None
        if local and domain:
            top = domain["top"].lower()
            if (len(top) == 2 or top in DOMAINS) and not is_role(text[local.start() : domain.end()]):
                yield Found(local.start(), domain.end(), SensitiveKind.EMAIL)
        at = text.find("@", at + 1)


def _name(match: re.Match[str], *, least: int = 1) -> Iterator[Found]:
    words = match["name"].split(" ")
    kept = next((at for at, word in enumerate(words) if word.lower() in NO_NAMES), len(words))
    name = " ".join(words[:kept])
    if kept >= least and is_personal_name(name):
        yield Found(match.start("name"), match.start("name") + len(name), SensitiveKind.NAME)


def _phones(text: str) -> Iterator[Found]:
    for match in _WITH_COUNTRY.finditer(text):
        if _can_be_called(match[0]):
            yield Found(*match.span(), SensitiveKind.PHONE)
    for pattern in (_AREA_IN_BRACKETS, _NORTH_AMERICAN):
        for match in pattern.finditer(text):
            yield Found(*match.span(), SensitiveKind.PHONE)
    for start, end in numbers_in(text):
        if _could_be_called(text[start:end]) and _PHONE_BEFORE.search(_before(text, start, 40)):
            yield Found(start, end, SensitiveKind.PHONE)


def _before(text: str, at: int, size: int) -> str:
    """What stands before it in the same text."""
    return text[max(0, at - size) : at].rpartition("\x00")[2]


def _could_be_called(value: str) -> bool:
    """Where a word before it says that it is a phone's."""
    return 7 <= sum(each.isdigit() for each in value) <= 15 and not re.search(r"\d{4}-\d\d-\d\d|  ", value)


def _can_be_called(value: str) -> bool:
    import phonenumbers  # late: most trajectories hold no such number

    try:
        return phonenumbers.is_possible_number(phonenumbers.parse(value))
    except phonenumbers.NumberParseException:
        return False


def _numbers(text: str) -> Iterator[Found]:
    for match in _CARD.finditer(text):
        told = not match[0].isdigit() or _CARD_BEFORE.search(_before(text, match.start(), 40))
        if told and _is_card(re.sub(r"\D", "", match[0])):
            yield Found(*match.span(), SensitiveKind.CARD)
    for match in _SSN.finditer(text):
        yield Found(*match.span(), SensitiveKind.IDENTITY)
    for match in _IBAN.finditer(text):
        if passes_mod97(match[0]):
            yield Found(*match.span(), SensitiveKind.ACCOUNT)
    for match in _WALLET.finditer(text):
        if match[0].startswith(("0x", "bc1")) or is_base58check(match[0]):
            yield Found(*match.span(), SensitiveKind.WALLET)
    for pattern in (_IPV4, _IPV6):
        for match in pattern.finditer(text):
            before = _before(text, match.start(), 24)
            if is_public(match[0]) and _IP_BEFORE.search(before) and not _VERSION_BEFORE.search(before):
                yield Found(*match.span(), SensitiveKind.IP)


def _is_card(digits: str) -> bool:
    return 13 <= len(digits) <= 19 and _CARD_RANGES.match(digits) is not None and passes_luhn(digits)


def passes_luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    total = sum(int(digit) for digit in digits[-1::-2])
    return (total + sum(2 * int(digit) - 9 * (digit > "4") for digit in digits[-2::-2])) % 10 == 0


def passes_mod97(account: str) -> bool:
    """ISO 13616: an IBAN's letters are numbers from 10 on, and its first four stand at the end."""
    plain = account.replace(" ", "")
    return 15 <= len(plain) <= 34 and int("".join(str(int(each, 36)) for each in plain[4:] + plain[:4])) % 97 == 1


def is_base58check(address: str) -> bool:
    """Whether it is a Bitcoin address of the first kind, by its checksum."""
    number = 0
    for each in address:
        number = number * 58 + "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz".index(each)
    if number.bit_length() > 200:
        return False
    content = number.to_bytes(25, "big")
    return hashlib.sha256(hashlib.sha256(content[:21]).digest()).digest()[:4] == content[21:]
