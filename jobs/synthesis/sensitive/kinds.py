"""The kinds of what is replaced."""

from enum import StrEnum
from typing import NamedTuple


class SensitiveKind(StrEnum):
    """The value is how a verdict calls it."""

    NAME = "name"
    FAMILY = "family name"
    EMAIL = "email"
    PHONE = "phone"
    ADDRESS = "address"
    POSTCODE = "postcode"
    BIRTH = "date of birth"
    IDENTITY = "identity number"
    CARD = "card"
    ACCOUNT = "bank account"
    WALLET = "wallet"
    IP = "ip address"
    CODE = "security code"
    """A PIN, a card's check number: a secret that is too short to be told from any other number elsewhere."""
    PASSWORD = "password"
    KEY = "key"

    @property
    def secret(self) -> bool:
        return self in (SensitiveKind.CODE, SensitiveKind.PASSWORD, SensitiveKind.KEY)


class Found(NamedTuple):
    """A stretch of a text."""

    start: int
    end: int
    kind: SensitiveKind
