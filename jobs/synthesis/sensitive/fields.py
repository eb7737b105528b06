"""What the name of a field says about its value: ``customer_email``, ``phoneNumber``, ``date of birth``, ``apellido``.

A name is read from its end, so ``billing_contact_email`` is an email and ``email_verified`` is not. The value has the
last word: what is called ``token`` and holds ``T5`` is no secret.
"""

import ipaddress
import re
import unicodedata
from functools import lru_cache

from looper.jobs.synthesis.sensitive.dates import parse_date
from looper.jobs.synthesis.sensitive.kinds import SensitiveKind
from looper.jobs.synthesis.sensitive.kinds import SensitiveKind as K
from looper.jobs.synthesis.sensitive.words import ABOUT_FIELDS, NO_PASSWORDS, OFFICES, ORGANISATIONS, PEOPLE

_ENDINGS: dict[SensitiveKind, str] = {
    K.EMAIL: "email, e mail, email address, mail address, emails, correo, correo electronico, correo facturacion, "
    "email envio",
    K.PHONE: "phone, phones, telephone, telefono, telefono contacto, phone number, phone no, telephone number, "
    "mobile, mobile number, mobile phone, cell, cellphone, cell number, celular, movil, fax, fax number, whatsapp, "
    "msisdn, contact number, phonenumber, numero telefono, numero de telefono",
    K.FAMILY: "last name, lastname, lname, surname, family name, maiden name, apellido, apellidos",
    K.NAME: "first name, firstname, fname, given name, given names, middle name, full name, fullname, nombres, "
    "primer nombre, nombre completo, nombre contacto, nombre cliente, nombre usuario, persona contacto, "
    "emergency contact, contact person, passenger names, guest names, name on card, "
    + ", ".join(f"{person} name" for person in PEOPLE),
    K.BIRTH: "dob, date of birth, birth date, birthdate, birthday, birth day, fecha nacimiento, fecha de nacimiento",
    K.ADDRESS: "address, addresses, address line, street, street address, street name, home address, addr, "
    "direccion, direcciones, domicilio, direccion entrega, direcciones entrega, direccion fiscal, direccion envio",
    K.POSTCODE: "zip, zip code, zipcode, postal code, postcode, postalcode, codigo postal",
    K.IDENTITY: "ssn, social security number, social security, social security no, passport, passport number, "
    "passport no, driver license, drivers license, driver license number, drivers license number, driving licence, "
    "driving licence number, national id, national id number, national insurance number, nino, dni, nif, nie, rut, "
    "patient run, curp, cpf, aadhaar, tax id, tin, identity number, id card number, numero documento, pasaporte",
    K.CARD: "card number, cc number, credit card, credit card number, debit card, debit card number, cardnumber, "
    "card no, numero tarjeta, numero de tarjeta, tarjeta",
    K.ACCOUNT: "iban, bank account, bank account number, routing number, sort code, clabe, cuenta bancaria",
    K.WALLET: "wallet, wallet address, bitcoin address, eth address, btc address",
    K.IP: "ip, ip address, ipaddress, ip addr, client ip, remote addr, remote address, source ip",
    K.CODE: "cvv, cvc, cvv2, card code, card security code, pin code, otp, passcode, one time password, "
    "one time code, verification code",
    K.PASSWORD: "password, passwd, pwd, passphrase, pass phrase, contrasena, user pass, db pass",
    K.KEY: "token, secret, api key, apikey, api token, access key, secret key, secret access key, private key, "
    "signing key, encryption key, service key, master key, account key, auth key, client secret, credential, "
    "authorization, auth, bearer, cookie, webhook secret",
}
_ALONE: dict[SensitiveKind, str] = {
    SensitiveKind.EMAIL: "mail",
    SensitiveKind.IDENTITY: "run",
    SensitiveKind.CARD: "card, pan",
    SensitiveKind.CODE: "pin",
    SensitiveKind.PHONE: "tel",
}
"""Names that say it only if they are all there is."""

_NOTHING = """username, user name, tokens, page token, next token, next page token, continuation token, sync token,
    eos token, bos token, pad token, unk token, sep token, cls token, mask token, special token, stop token, new token,
    email token count, mac address, memory address, web address, base address, start address, end address,
    contract address, server address, url address, host address, bind address, listen address, public key,
    street number"""


def _table() -> dict[tuple[str, ...], SensitiveKind | None]:
    table: dict[tuple[str, ...], SensitiveKind | None] = {}
    for kind, names in _ENDINGS.items():
        table |= {tuple(name.replace("_", " ").split()): kind for name in names.split(", ")}
    return table | {tuple(" ".join(name.split()).split()): None for name in _NOTHING.split(",")}


_BY_ENDING = _table()
_BY_NAME = {(name,): kind for kind, names in _ALONE.items() for name in names.split(", ")}
_LONGEST = max(map(len, _BY_ENDING))
LAST_WORDS = frozenset(name[-1] for name in (*_BY_ENDING, *_BY_NAME))
"""No name of a field that says something ends otherwise."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_MASK = re.compile(r"[*xX•#_.\- ]*")


@lru_cache(maxsize=4096)
def words_of(name: str) -> tuple[str, ...]:
    """The words of a field's name in lower case, without accents and without numbers at its end."""
    if len(name) > 64:
        return ()
    plain = "".join(each for each in unicodedata.normalize("NFKD", name) if not unicodedata.combining(each))
    words = [word.lower() for word in _WORD.findall(plain)]
    while words and words[-1].isdecimal():
        words.pop()
    return tuple(words)


@lru_cache(maxsize=4096)
def kind_of(name: str) -> SensitiveKind | None:
    """What a field of that name holds, or None if that is nothing to replace, or not told by the name alone."""
    words = words_of(name)
    if not words or (words[-1] in ABOUT_FIELDS and words[-2:] not in _BY_ENDING):
        return None
    if words in _BY_NAME:
        return _BY_NAME[words]
    for length in range(min(_LONGEST, len(words)), 0, -1):
        if words[-length:] in _BY_ENDING:
            return _BY_ENDING[words[-length:]]
    return None


@lru_cache(maxsize=4096)
def is_bare_name(name: str) -> bool:
    """Whether a field of that name holds the name of something, which may be a person."""
    return words_of(name) in (("name",), ("nombre",))


@lru_cache(maxsize=4096)
def is_somebody(name: str) -> bool:
    """Whether what is called so is a person."""
    return not PEOPLE.isdisjoint({word.removesuffix("s") for word in words_of(name)} | set(words_of(name)))


def holds(kind: SensitiveKind, value: str) -> bool:
    """Whether the value of a field of ``kind`` looks it."""
    size = len(value)
    if size > 10_000 or not value.strip():
        return False
    digits = sum(each.isdecimal() for each in value)
    match kind:
        case SensitiveKind.EMAIL:
            return value.count("@") == 1 and not is_role(value) and " " not in value.strip()
        case SensitiveKind.PHONE:
            return 6 <= digits <= 15 and size <= digits * 2 + 4 and re.search(r"[A-Za-z]{3}", value) is None
        case SensitiveKind.NAME | SensitiveKind.FAMILY:
            return is_personal_name(value)
        case SensitiveKind.BIRTH:
            return parse_date(value) is not None
        case SensitiveKind.ADDRESS:
            return is_street(value)
        case SensitiveKind.POSTCODE:
            return 3 <= size <= 10 and digits >= 2 and value.replace(" ", "").replace("-", "").isalnum()
        case SensitiveKind.IDENTITY:
            return 5 <= digits <= 20 and size <= 24 and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ./-]*", value) is not None
        case SensitiveKind.CARD:
            return 12 <= digits <= 19 and re.fullmatch(r"[\d -]+", value) is not None
        case SensitiveKind.ACCOUNT:
            return digits >= 6 and re.fullmatch(r"[A-Za-z0-9 -]{6,42}", value) is not None
        case SensitiveKind.WALLET:
            return size >= 20 and value.isalnum()
        case SensitiveKind.IP:
            return is_public(value)
        case SensitiveKind.CODE:
            return 3 <= size <= 8 and value.isdecimal()
        case SensitiveKind.PASSWORD:
            return 3 <= size <= 200 and not _is_no_password(value)
        case SensitiveKind.KEY:
            return size >= 8 and looks_random(value.rpartition(" ")[2])


def is_personal_name(value: str) -> bool:
    """One to five words of letters, none of them an organisation's."""
    words = value.replace(",", " ").split()
    if not 1 <= len(words) <= 5 or len(value) > 60 or any(each.isdecimal() for each in value):
        return False
    if any(word.strip(".").lower() in ORGANISATIONS for word in words):
        return False
    return all(re.fullmatch(r"[^\W\d_][^\W\d_'’.\-]*(?:['’.\-][^\W\d_'’.\-]*)*", word) for word in words)


def is_role(email: str) -> bool:
    """Whether a mailbox is nobody's: an office's, such as ``returns@shop.com``, or a placeholder."""
    local = email.partition("@")[0].lower()
    if re.fullmatch(r"person\d{4}@example\.com", email):
        return True
    return local in OFFICES or re.split(r"[._+]", local)[0] in OFFICES


def is_street(value: str) -> bool:
    """Whether it has a part with a word and a number: a building somewhere. Towns and countries are kept."""
    if not 5 <= len(value) <= 200 or "@" in value or "://" in value or value.startswith("/"):
        return False
    return any(_is_building(part) for part in value.split(","))


def _is_building(part: str) -> bool:
    return re.search(r"\d", part) is not None and re.search(r"[^\W\d_]{3}", part) is not None and " " in part.strip()


def is_public(value: str) -> bool:
    """Whether it is an address on the internet, and nobody's well-known one."""
    if value in ("8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9"):
        return False
    try:
        return ipaddress.ip_address(value).is_global
    except ValueError:
        return False


def looks_random(value: str) -> bool:
    """Whether it is drawn rather than named: letters and digits without words, eight at least."""
    if len(value) < 8 or not re.fullmatch(r"[!-~]+", value) or not re.search(r"\d", value):
        return False
    if not re.search(r"[A-Za-z]", value) or is_expression(value):
        return False
    parts = [part for part in re.split(r"[^A-Za-z0-9]+", value) if part]
    return not all(re.fullmatch(r"[A-Za-z]{1,14}\d{0,3}|v?\d{1,4}", part) for part in parts)


def is_expression(value: str) -> bool:
    """Whether it is code, a template or a path rather than a value: ``${TOKEN}``, ``os.environ["X"]``, ``/run/x``."""
    if re.search(r"[(){}\[\]<>]|^\$|://|^\.{1,2}/|^/[^/]*[/.]|%s|\.\.\.", value):
        return True
    return re.fullmatch(r"[A-Za-z_]\w{0,30}(?:\.[A-Za-z_]\w{0,30})+", value) is not None


def looks_password(value: str) -> bool:
    """Whether it is a password where only a word before it says so: no plain word, number or code."""
    if not 6 <= len(value) <= 200 or is_expression(value) or _is_no_password(value):
        return False
    letters, digits = re.search(r"[A-Za-z]", value), re.search(r"\d", value)
    symbols = re.search(r"[!@#$%^&*?~+=]", value)
    if not letters or not (digits or symbols):
        return False
    return not re.fullmatch(
        r"[a-z]+(?:[_-](?:[a-z]+\d{0,2}|\d{1,2}))+|(?:password|passwd|pwd|pass|token|secret|key)_?\d?", value
    )


def _is_no_password(value: str) -> bool:
    if _MASK.fullmatch(value) or is_expression(value):
        return True
    return value.lower() in NO_PASSWORDS
