"""The kind of sensitive data that a field holds, judged by the name of the field and by the form of its value.

Examples of names are ``customer_email``, ``phoneNumber``, ``date of birth`` and ``apellido``. The end of a name
decides: ``billing_contact_email`` is an email and ``email_verified`` is not. The value must fit as well: a field
``token`` that holds ``T5`` is no secret. ``json_leaves.py`` and ``labeled_values.py`` ask for the kind of a name; the
checks of values are used by all modules that search free text.
"""

import ipaddress
import re
import unicodedata
from functools import lru_cache

from looper.jobs.synthesis.sensitive.dates import parse_date
from looper.jobs.synthesis.sensitive.kinds import SensitiveKind
from looper.jobs.synthesis.sensitive.kinds import SensitiveKind as K
from looper.jobs.synthesis.sensitive.word_lists import (
    METADATA_WORDS,
    NON_PASSWORDS,
    ORGANIZATION_WORDS,
    PERSON_WORDS,
    ROLE_MAILBOXES,
)

_NAME_ENDINGS: dict[SensitiveKind, str] = {
    K.EMAIL: "email, e mail, email address, mail address, emails, correo, correo electronico, correo facturacion, "
    "email envio",
    K.PHONE: "phone, phones, telephone, telefono, telefono contacto, phone number, phone no, telephone number, "
    "mobile, mobile number, mobile phone, cell, cellphone, cell number, celular, movil, fax, fax number, whatsapp, "
    "msisdn, contact number, phonenumber, numero telefono, numero de telefono",
    K.FAMILY_NAME: "last name, lastname, lname, surname, family name, maiden name, apellido, apellidos",
    K.NAME: "first name, firstname, fname, given name, given names, middle name, full name, fullname, nombres, "
    "primer nombre, nombre completo, nombre contacto, nombre cliente, nombre usuario, persona contacto, "
    "emergency contact, contact person, passenger names, guest names, name on card, "
    + ", ".join(f"{person} name" for person in PERSON_WORDS),
    K.BIRTH_DATE: "dob, date of birth, birth date, birthdate, birthday, birth day, fecha nacimiento, "
    "fecha de nacimiento",
    K.ADDRESS: "address, addresses, address line, street, street address, street name, home address, addr, "
    "direccion, direcciones, domicilio, direccion entrega, direcciones entrega, direccion fiscal, direccion envio",
    K.POSTCODE: "zip, zip code, zipcode, postal code, postcode, postalcode, codigo postal",
    K.IDENTITY_NUMBER: "ssn, social security number, social security, social security no, passport, passport number, "
    "passport no, driver license, drivers license, driver license number, drivers license number, driving licence, "
    "driving licence number, national id, national id number, national insurance number, nino, dni, nif, nie, rut, "
    "patient run, curp, cpf, aadhaar, tax id, tin, identity number, id card number, numero documento, pasaporte",
    K.CARD_NUMBER: "card number, cc number, credit card, credit card number, debit card, debit card number, "
    "cardnumber, card no, numero tarjeta, numero de tarjeta, tarjeta",
    K.BANK_ACCOUNT: "iban, bank account, bank account number, routing number, sort code, clabe, cuenta bancaria",
    K.WALLET: "wallet, wallet address, bitcoin address, eth address, btc address",
    K.IP_ADDRESS: "ip, ip address, ipaddress, ip addr, client ip, remote addr, remote address, source ip",
    K.SECURITY_CODE: "cvv, cvc, cvv2, card code, card security code, pin code, otp, passcode, one time password, "
    "one time code, verification code",
    K.PASSWORD: "password, passwd, pwd, passphrase, pass phrase, contrasena, user pass, db pass",
    K.KEY: "token, secret, api key, apikey, api token, access key, secret key, secret access key, private key, "
    "signing key, encryption key, service key, master key, account key, auth key, client secret, credential, "
    "authorization, auth, bearer, cookie, webhook secret",
}
_COMPLETE_NAMES: dict[SensitiveKind, str] = {
    SensitiveKind.EMAIL: "mail",
    SensitiveKind.IDENTITY_NUMBER: "run",
    SensitiveKind.CARD_NUMBER: "card, pan",
    SensitiveKind.SECURITY_CODE: "pin",
    SensitiveKind.PHONE: "tel",
}
"""Field names that tell the kind only if they are the complete name."""

_HARMLESS_ENDINGS = """username, user name, tokens, page token, next token, next page token, continuation token,
    sync token,
    eos token, bos token, pad token, unk token, sep token, cls token, mask token, special token, stop token, new token,
    email token count, mac address, memory address, web address, base address, start address, end address,
    contract address, server address, url address, host address, bind address, listen address, public key,
    street number"""


def _kinds_by_ending() -> dict[tuple[str, ...], SensitiveKind | None]:
    table: dict[tuple[str, ...], SensitiveKind | None] = {}
    for kind, names in _NAME_ENDINGS.items():
        table |= {tuple(name.replace("_", " ").split()): kind for name in names.split(", ")}
    return table | {tuple(" ".join(name.split()).split()): None for name in _HARMLESS_ENDINGS.split(",")}


_KIND_BY_ENDING = _kinds_by_ending()
_KIND_BY_NAME = {(name,): kind for kind, names in _COMPLETE_NAMES.items() for name in names.split(", ")}
_MAX_ENDING_WORDS = max(map(len, _KIND_BY_ENDING))
FIELD_LAST_WORDS = frozenset(name[-1] for name in (*_KIND_BY_ENDING, *_KIND_BY_NAME))
"""The last words of all field names that tell a kind."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_MASK = re.compile(r"[*xX•#_.\- ]*")


@lru_cache(maxsize=4096)
def split_field_name(name: str) -> tuple[str, ...]:
    """Split the name of a field into words.

    Args:
        name: A name in snake case, camel case or with spaces.

    Returns:
        The words in lower case, without accents and without numbers at the end. Empty for a name of more than 64
        characters.
    """
    if len(name) > 64:
        return ()
    plain = "".join(char for char in unicodedata.normalize("NFKD", name) if not unicodedata.combining(char))
    words = [word.lower() for word in _WORD.findall(plain)]
    while words and words[-1].isdecimal():
        words.pop()
    return tuple(words)


@lru_cache(maxsize=4096)
def kind_of_field(name: str) -> SensitiveKind | None:
    """Return the kind of data in a field called ``name``.

    Args:
        name: Name of the field.

    Returns:
        The kind, or None if the field is harmless or its name alone does not tell.
    """
    words = split_field_name(name)
    if not words or (words[-1] in METADATA_WORDS and words[-2:] not in _KIND_BY_ENDING):
        return None
    if words in _KIND_BY_NAME:
        return _KIND_BY_NAME[words]
    for length in range(min(_MAX_ENDING_WORDS, len(words)), 0, -1):
        if words[-length:] in _KIND_BY_ENDING:
            return _KIND_BY_ENDING[words[-length:]]
    return None


@lru_cache(maxsize=4096)
def is_name_field(name: str) -> bool:
    """Return whether a field called ``name`` holds a name, which may be that of a person."""
    return split_field_name(name) in (("name",), ("nombre",))


@lru_cache(maxsize=4096)
def is_about_person(name: str) -> bool:
    """Return whether ``name``, of a field or of a tool, has a word for a person, in singular or plural."""
    words = split_field_name(name)
    return not PERSON_WORDS.isdisjoint({*words, *(word.removesuffix("s") for word in words)})


def is_plausible_value(kind: SensitiveKind, value: str) -> bool:
    """Return whether ``value`` can be what the name of its field says.

    Args:
        kind: The kind that the name of the field tells.
        value: The value of the field, as text.

    Returns:
        True if the form of the value fits to the kind.
    """
    size = len(value)
    if size > 10_000 or not value.strip():
        return False
    digits = sum(char.isdecimal() for char in value)
    match kind:
        case SensitiveKind.EMAIL:
            return value.count("@") == 1 and not is_role_mailbox(value) and " " not in value.strip()
        case SensitiveKind.PHONE:
            return 6 <= digits <= 15 and size <= digits * 2 + 4 and re.search(r"[A-Za-z]{3}", value) is None
        case SensitiveKind.NAME | SensitiveKind.FAMILY_NAME:
            return is_person_name(value)
        case SensitiveKind.BIRTH_DATE:
            return parse_date(value) is not None
        case SensitiveKind.ADDRESS:
            return is_street_address(value)
        case SensitiveKind.POSTCODE:
            return 3 <= size <= 10 and digits >= 2 and value.replace(" ", "").replace("-", "").isalnum()
        case SensitiveKind.IDENTITY_NUMBER:
            return 5 <= digits <= 20 and size <= 24 and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ./-]*", value) is not None
        case SensitiveKind.CARD_NUMBER:
            return 12 <= digits <= 19 and re.fullmatch(r"[\d -]+", value) is not None
        case SensitiveKind.BANK_ACCOUNT:
            return digits >= 6 and re.fullmatch(r"[A-Za-z0-9 -]{6,42}", value) is not None
        case SensitiveKind.WALLET:
            return size >= 20 and value.isalnum()
        case SensitiveKind.IP_ADDRESS:
            return is_public_ip(value)
        case SensitiveKind.SECURITY_CODE:
            return 3 <= size <= 8 and value.isdecimal()
        case SensitiveKind.PASSWORD:
            return 3 <= size <= 200 and not _is_password_substitute(value)
        case SensitiveKind.KEY:
            return size >= 8 and looks_like_key(value.rpartition(" ")[2])


def is_person_name(value: str) -> bool:
    """Return whether ``value`` has one to five words of letters, and none that occurs in names of organizations."""
    words = value.replace(",", " ").split()
    if not 1 <= len(words) <= 5 or len(value) > 60 or any(char.isdecimal() for char in value):
        return False
    if any(word.strip(".").lower() in ORGANIZATION_WORDS for word in words):
        return False
    return all(re.fullmatch(r"[^\W\d_][^\W\d_'’.\-]*(?:['’.\-][^\W\d_'’.\-]*)*", word) for word in words)


def is_role_mailbox(email: str) -> bool:
    """Return whether ``email`` belongs to no person but to a role, as ``returns@shop.com``, or is a placeholder."""
    local = email.partition("@")[0].lower()
    if re.fullmatch(r"person\d{4}@example\.com", email):
        return True
    return local in ROLE_MAILBOXES or re.split(r"[._+]", local)[0] in ROLE_MAILBOXES


def is_street_address(value: str) -> bool:
    """Return whether ``value`` has a part with a word and a number, which is a building.

    Towns and countries alone are no street address, so they are kept.
    """
    if not 5 <= len(value) <= 200 or "@" in value or "://" in value or value.startswith("/"):
        return False
    return any(_is_building(part) for part in value.split(","))


def _is_building(part: str) -> bool:
    return re.search(r"\d", part) is not None and re.search(r"[^\W\d_]{3}", part) is not None and " " in part.strip()


def is_public_ip(value: str) -> bool:
    """Return whether ``value`` is an IP address on the internet. Well-known public DNS servers do not count."""
    if value in ("8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9"):
        return False
    try:
        return ipaddress.ip_address(value).is_global
    except ValueError:
        return False


def looks_like_key(value: str) -> bool:
    """Return whether ``value`` looks random: at least eight letters and digits that do not form words."""
    if len(value) < 8 or not re.fullmatch(r"[!-~]+", value) or not re.search(r"\d", value):
        return False
    if not re.search(r"[A-Za-z]", value) or is_code_expression(value):
        return False
    parts = [part for part in re.split(r"[^A-Za-z0-9]+", value) if part]
    return not all(re.fullmatch(r"[A-Za-z]{1,14}\d{0,3}|v?\d{1,4}", part) for part in parts)


def is_code_expression(value: str) -> bool:
    """Return whether ``value`` is code, a template or a path: ``${TOKEN}``, ``os.environ["X"]``, ``/run/x``."""
    if re.search(r"[(){}\[\]<>]|^\$|://|^\.{1,2}/|^/[^/]*[/.]|%s|\.\.\.", value):
        return True
    return re.fullmatch(r"[A-Za-z_]\w{0,30}(?:\.[A-Za-z_]\w{0,30})+", value) is not None


def looks_like_password(value: str) -> bool:
    """Return whether ``value`` has the form of a password, and not of a plain word, a number or code.

    It is used in free text, where only a word in front of the value says that it is a password.
    """
    if not 6 <= len(value) <= 200 or is_code_expression(value) or _is_password_substitute(value):
        return False
    letters, digits = re.search(r"[A-Za-z]", value), re.search(r"\d", value)
    symbols = re.search(r"[!@#$%^&*?~+=]", value)
    if not letters or not (digits or symbols):
        return False
    return not re.fullmatch(
        r"[a-z]+(?:[_-](?:[a-z]+\d{0,2}|\d{1,2}))+|(?:password|passwd|pwd|pass|token|secret|key)_?\d?", value
    )


def _is_password_substitute(value: str) -> bool:
    if _MASK.fullmatch(value) or is_code_expression(value):
        return True
    return value.lower() in NON_PASSWORDS
