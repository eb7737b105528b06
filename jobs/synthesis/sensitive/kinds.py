"""The kinds of sensitive data, and the span of text that holds a value of one kind.

All modules of this package use these types; ``stages/scrub.py`` reports the kinds in its verdicts.
"""

from enum import StrEnum
from typing import NamedTuple


class SensitiveKind(StrEnum):
    """A kind of secret or personal data. Verdicts show the value of the member."""

    NAME = "name"
    FAMILY_NAME = "family name"
    EMAIL = "email"
    PHONE = "phone"
    ADDRESS = "address"
    POSTCODE = "postcode"
    BIRTH_DATE = "date of birth"
    IDENTITY_NUMBER = "identity number"
    CARD_NUMBER = "card"
    BANK_ACCOUNT = "bank account"
    WALLET = "wallet"
    """The address of a cryptocurrency wallet."""
    IP_ADDRESS = "ip address"
    SECURITY_CODE = "security code"
    """A PIN or the check number of a card. It is too short to be recognized where no label stands in front of it."""
    PASSWORD = "password"
    KEY = "key"
    """An API key, an access token or a private key."""

    @property
    def is_secret(self) -> bool:
        """Whether values of this kind give access to something. The other kinds are personal data."""
        return self in (SensitiveKind.SECURITY_CODE, SensitiveKind.PASSWORD, SensitiveKind.KEY)

    @property
    def is_name(self) -> bool:
        """Whether values of this kind are names of people, which are replaced word by word."""
        return self in (SensitiveKind.NAME, SensitiveKind.FAMILY_NAME)


class SensitiveSpan(NamedTuple):
    """A span of text that holds one sensitive value."""

    start: int
    """Index of the first character."""
    end: int
    """Index after the last character."""
    kind: SensitiveKind
    """What the value is."""
