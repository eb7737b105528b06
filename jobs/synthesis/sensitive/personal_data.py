"""Personal data in free text with a recognizable form: emails, phone and card numbers, addresses, introduced names.

A number counts as personal only if its form or the words in front of it say so, and if its check digits are right. Most
numbers of a trajectory are orders, amounts and times, and the agent needs them. phonenumbers, Google's library, decides
whether a number with a country code is a possible phone number. ``replacement_plan.py`` calls this module.

Each pattern begins with a character or a character set and looks behind only after it. Python's ``re`` then skips to
the next such character, which is ten times as fast as a try at each position.
"""

import hashlib
import re
from collections.abc import Iterator

from looper.jobs.synthesis.sensitive.fields import is_person_name, is_public_ip, is_role_mailbox
from looper.jobs.synthesis.sensitive.kinds import SensitiveKind, SensitiveSpan
from looper.jobs.synthesis.sensitive.word_lists import NON_NAME_WORDS, TOP_LEVEL_DOMAINS

_LOCAL = re.compile(r"(?<![\w.+%-])[^\W_][\w.+%-]{0,63}\Z")
_DOMAIN = re.compile(r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,4}(?P<top>[A-Za-z]{2,24})(?![\w(@-])")

_LONG_NUMBER = re.compile(r"\d(?<![\w#$€£.,/]\d)(?:[ ().-]{0,2}\d){5,21}(?![\w/]|[.,]\d)")
_PHONE_WITH_COUNTRY = re.compile(r"\+(?<![\w+]\+)\d{1,3}(?:[ ().-]{1,2}\d|\d)[\d ().-]{4,16}\d(?![\w-])")
_PHONE_WITH_BRACKETS = re.compile(r"\((?<![\w.,/$#+-]\()\d{3}\) ?\d{3}[-. ]\d{4}(?![\w-]|[.,]\d)")
_PHONE_NORTH_AMERICAN = re.compile(
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

_STREET_TYPES = "Street|Avenue|Boulevard|Lane|Road|Terrace|Parkway|Highway|Crescent|Alley|St|Ave|Blvd|Ln|Rd|Pkwy|Hwy"
_AMBIGUOUS_STREET_TYPES = "Drive|Court|Place|Way|Circle|Square|Trail|Close|Row|Dr|Ct|Pl"
_STREET = re.compile(
    r"\d(?<![\w#$€£.,/-]\d)(?:\d{0,4}[A-Za-z]? (?:[NSEW]\.? )?(?:[^\W\d_a-z][^\W\d_'’]+(?:['’]s)?,? ){1,3}"
    rf"(?:{_STREET_TYPES})\b"
    r"|\d{1,4} (?:(?!(?:Hard|Flash|Thumb|Pen|Test|Disk|Google|First|Second|Third|Hour|Day|Star|Pack|Piece|GB|TB|MB)\b)"
    rf"[^\W\d_a-z][^\W\d_'’]+(?:['’]s)? ){{1,3}}(?:{_AMBIGUOUS_STREET_TYPES})\b)\.?"
    r"(?:,? (?:Apt|Apartment|Suite|Unit|Ste|Floor)\.? ?#?\w{1,5})?"
)
_STREET_TYPE_FIRST = re.compile(
    r"(?:Calle|Avenida|Av\.|Avda|Jr\.|Jir[oó]n|Paseo|Plaza|Camino|Carretera|Rue|Via)\.? "
    r"(?:(?:de |del |la |las |los |el )*[^\W\d_a-z][^\W\d_]+ ){1,4}(?:N[°º]? ?)?\d{1,5}(?!\w)"
)

_NAME = r"[^\W\d_a-zà-öø-ÿ][^\W\d_]+(?:['’-][^\W\d_]+)?"
_INTRODUCED_NAME = re.compile(
    r"(?:name(?: is|'s|’s| ?:| of)?|llamo|nombre(?: completo)? es|nombre de|signed,)[^\S\n]+"
    rf"(?P<name>{_NAME}(?: (?:de |la |del |van |von |bin |al-)?{_NAME}){{0,3}})"
)
_BEFORE_NAME = re.compile(
    r"\b(?:(?:my|his|her|their|(?P<the>the))(?: full| own)?|(?:on|under|in) (?:the|my)|me|mi|a) \Z", re.IGNORECASE
)
_SELF_INTRODUCTION = re.compile(
    r"(?:This is|this is|I am|I'm|I’m|Soy|soy|Habla|habla)[^\S\n]+"
    rf"(?P<name>{_NAME}(?: {_NAME}){{1,2}})(?=[\s.,;!?]|$)"
)
_TITLED_NAME = re.compile(
    rf"(?:Mr|Ms|Mx|Sr|Señor|Herr|Frau|Monsieur|Madame)(?:s|a|ta)?\.? (?P<name>{_NAME}(?: {_NAME})?)"
)


def find_personal_data(text: str) -> Iterator[SensitiveSpan]:
    """Find personal data that its own form or an introduction shows.

    Args:
        text: The text to search.

    Yields:
        Spans, which may overlap. The span of a name does not include the words that introduce it.
    """
    yield from _find_emails(text)
    yield from _find_phones(text)
    yield from _find_numbers(text)
    for match in _STREET.finditer(text):
        yield SensitiveSpan(match.start(), match.start() + len(match[0].rstrip(".")), SensitiveKind.ADDRESS)
    for match in _STREET_TYPE_FIRST.finditer(text):
        if not text[match.start() - 1 : match.start()].isalnum():
            yield SensitiveSpan(*match.span(), SensitiveKind.ADDRESS)
    if "name" in text or "llamo" in text or "nombre" in text or "signed" in text:
        for match in _INTRODUCED_NAME.finditer(text):
            before = _BEFORE_NAME.search(text[max(0, match.start() - 14) : match.start()])
            if before or match[0].startswith("signed"):
                yield from _find_name(match, min_words=2 if before and before["the"] else 1)
    for match in _TITLED_NAME.finditer(text):
        if not text[match.start() - 1 : match.start()].isalnum():
            yield from _find_name(match)


def find_self_introductions(text: str) -> Iterator[SensitiveSpan]:
    """Find the names of users who introduce themselves, as in ``I am Ann Bell``.

    Args:
        text: A message of a user. In other texts ``I am Feeling Lucky`` would be found too.

    Yields:
        The spans of the names.
    """
    for match in _SELF_INTRODUCTION.finditer(text):
        if not text[match.start() - 1 : match.start()].isalnum():
            yield from _find_name(match, min_words=2)


def find_long_numbers(text: str) -> Iterator[tuple[int, int]]:
    """Find numbers of six digits or more.

    Args:
        text: The text to search.

    Yields:
        Start and end of each number, with the spaces and signs that group its digits.
    """
    for match in _LONG_NUMBER.finditer(text):
        start = match.start()
        yield start - (text[start - 1 : start] in ("+", "(")), match.end()


def _find_emails(text: str) -> Iterator[SensitiveSpan]:
    sign = text.find("@")
    while sign >= 0:
        domain = _DOMAIN.match(text, sign + 1)
        local = _LOCAL.search(text, max(0, sign - 65), sign) if domain else None
        if local and domain:
            top = domain["top"].lower()
            if (len(top) == 2 or top in TOP_LEVEL_DOMAINS) and not is_role_mailbox(text[local.start() : domain.end()]):
                yield SensitiveSpan(local.start(), domain.end(), SensitiveKind.EMAIL)
        sign = text.find("@", sign + 1)


def _find_name(match: re.Match[str], *, min_words: int = 1) -> Iterator[SensitiveSpan]:
    words = match["name"].split(" ")
    kept = next((index for index, word in enumerate(words) if word.lower() in NON_NAME_WORDS), len(words))
    name = " ".join(words[:kept])
    if kept >= min_words and is_person_name(name):
        yield SensitiveSpan(match.start("name"), match.start("name") + len(name), SensitiveKind.NAME)


def _find_phones(text: str) -> Iterator[SensitiveSpan]:
    for match in _PHONE_WITH_COUNTRY.finditer(text):
        if _is_possible_phone(match[0]):
            yield SensitiveSpan(*match.span(), SensitiveKind.PHONE)
    for pattern in (_PHONE_WITH_BRACKETS, _PHONE_NORTH_AMERICAN):
        for match in pattern.finditer(text):
            yield SensitiveSpan(*match.span(), SensitiveKind.PHONE)
    for start, end in find_long_numbers(text):
        if _has_phone_length(text[start:end]) and _PHONE_BEFORE.search(_text_before(text, start, 40)):
            yield SensitiveSpan(start, end, SensitiveKind.PHONE)


def _text_before(text: str, position: int, size: int) -> str:
    """Return up to ``size`` characters before ``position``, without what belongs to another text.

    A null character separates the texts that ``replacement_plan.py`` joins.
    """
    return text[max(0, position - size) : position].rpartition("\x00")[2]


def _has_phone_length(value: str) -> bool:
    """Return whether a number can be a phone number if the words in front of it say so."""
    return 7 <= sum(char.isdigit() for char in value) <= 15 and not re.search(r"\d{4}-\d\d-\d\d|  ", value)


def _is_possible_phone(value: str) -> bool:
    import phonenumbers  # imported late: most trajectories have no such number

    try:
        return phonenumbers.is_possible_number(phonenumbers.parse(value))
    except phonenumbers.NumberParseException:
        return False


def _find_numbers(text: str) -> Iterator[SensitiveSpan]:
    for match in _CARD.finditer(text):
        is_marked = not match[0].isdigit() or _CARD_BEFORE.search(_text_before(text, match.start(), 40))
        if is_marked and _is_card_number(re.sub(r"\D", "", match[0])):
            yield SensitiveSpan(*match.span(), SensitiveKind.CARD_NUMBER)
    for match in _SSN.finditer(text):
        yield SensitiveSpan(*match.span(), SensitiveKind.IDENTITY_NUMBER)
    for match in _IBAN.finditer(text):
        if passes_mod97(match[0]):
            yield SensitiveSpan(*match.span(), SensitiveKind.BANK_ACCOUNT)
    for match in _WALLET.finditer(text):
        if match[0].startswith(("0x", "bc1")) or passes_base58check(match[0]):
            yield SensitiveSpan(*match.span(), SensitiveKind.WALLET)
    for pattern in (_IPV4, _IPV6):
        for match in pattern.finditer(text):
            before = _text_before(text, match.start(), 24)
            if is_public_ip(match[0]) and _IP_BEFORE.search(before) and not _VERSION_BEFORE.search(before):
                yield SensitiveSpan(*match.span(), SensitiveKind.IP_ADDRESS)


def _is_card_number(digits: str) -> bool:
    return 13 <= len(digits) <= 19 and _CARD_RANGES.match(digits) is not None and passes_luhn(digits)


def passes_luhn(digits: str) -> bool:
    """Return whether the check digit of a card number is right, by the Luhn formula of ISO/IEC 7812-1, annex B.

    Args:
        digits: The digits of the number, without spaces.

    Returns:
        True if the check digit is right.
    """
    total = sum(int(digit) for digit in digits[-1::-2])
    return (total + sum(2 * int(digit) - 9 * (digit > "4") for digit in digits[-2::-2])) % 10 == 0


def passes_mod97(account: str) -> bool:
    """Return whether the check digits of an IBAN are right (ISO 13616, modulo 97).

    For the check, letters count as numbers from 10 on, and the first four characters move to the end.

    Args:
        account: The IBAN, with or without spaces.

    Returns:
        True if the length is possible and the check digits are right.
    """
    plain = account.replace(" ", "")
    return 15 <= len(plain) <= 34 and int("".join(str(int(char, 36)) for char in plain[4:] + plain[:4])) % 97 == 1


def passes_base58check(address: str) -> bool:
    """Return whether the checksum of a Base58Check address is right, as in Bitcoin addresses that begin with 1 or 3.

    Args:
        address: Characters of the Base58 alphabet.

    Returns:
        True if the last 4 of the 25 bytes are the checksum of the others.
    """
    number = 0
    for char in address:
        number = number * 58 + "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz".index(char)
    if number.bit_length() > 200:
        return False
    content = number.to_bytes(25, "big")
    return hashlib.sha256(hashlib.sha256(content[:21]).digest()).digest()[:4] == content[21:]
