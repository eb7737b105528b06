"""Secrets and personal data, and what only looks like them.

Nothing here is real: keys and numbers are drawn, addresses and numbers are those kept for examples.
"""

import string
from collections.abc import Callable
from random import Random
from uuid import UUID

from looper.benchmarks.synthesis.planted_defects.truth import DefectKind

_Drawn = tuple[str, tuple[str, ...]]
"""A sentence, and the parts of it that count."""

_ALPHANUMERIC = string.ascii_letters + string.digits
_BASE64 = _ALPHANUMERIC + "+/"


def draw_text(kind: DefectKind, number: int, rng: Random, *, harmless: bool = False) -> _Drawn:
    """A sentence with a secret or with personal data, or with what only looks like it, and the parts that count.

    ``number`` chooses the sort: each of them comes in turn.
    """
    sorts = _SORTS[kind, harmless]
    return sorts[number % len(sorts)](rng)


def _key(sentence: str, prefix: str, length: int, alphabet: str = _ALPHANUMERIC) -> Callable[[Random], _Drawn]:
    def draw(rng: Random) -> _Drawn:
        value = prefix + _letters(rng, length, alphabet)
        return sentence.format(value), (value,)

    return draw


def _token(rng: Random) -> _Drawn:
    value = ".".join(("ey" + "J" + _letters(rng, 17), "ey" + "J" + _letters(rng, 40), _letters(rng, 43)))
    return f"Authorization: Bearer {value}", (value,)


def _password(sentence: str) -> Callable[[Random], _Drawn]:
    def draw(rng: Random) -> _Drawn:
        word = rng.choice(("Lantern", "Pickle", "Walrus", "Meadow", "Copper"))
        value = f"{word}{rng.choice('!#$%')}{rng.randrange(1000, 10000)}{_letters(rng, 3)}"
        return sentence.format(value), (value,)

    return draw


def _private_key(rng: Random) -> _Drawn:
    name = rng.choice(("RSA PRIVATE", "PRIVATE", "OPENSSH PRIVATE"))
    lines = tuple(_letters(rng, 64, _BASE64) for _ in range(4))
    return "\n".join((f"-----BEGIN {name} KEY-----", *lines, f"-----END {name} KEY-----")), lines


def _email(rng: Random) -> _Drawn:
    name = rng.choice(("mary.long", "j_park", "Tom.White", "rose", "victor-hall"))
    domain = rng.choice(("example.com", "mail.example.org", "post.example.co.uk"))
    value = f"{name}{rng.randrange(100)}@{domain}"
    return rng.choice(("Write to {}.", "Contact: {}", "Their address is <{}>.")).format(value), (value,)


def _phone(rng: Random) -> _Drawn:
    line = f"01{rng.randrange(100):02d}"
    value = rng.choice(
        (f"+1 415 555 {line}", f"(212) 555-{line}", f"415-555-{line}", f"+44 20 7946 {line}", f"+1-202-555-{line}")
    )
    return rng.choice(("Call me at {}.", "Phone: {}", "I can be reached on {} all day.")).format(value), (value,)


def _card(rng: Random) -> _Drawn:
    digits = _with_check_digit(rng.choice(("4", "51", "55")), 16, rng)
    fours = [digits[start : start + 4] for start in range(0, 16, 4)]
    value = rng.choice((" ", "-", "")).join(fours)
    return rng.choice(("Use the card {}.", "Card number: {}", "It was paid with {}.")).format(value), (value,)


def _address(rng: Random) -> _Drawn:
    name = rng.choice(("Harbour", "Maple", "Station", "Church", "Orchard", "King's"))
    value = f"{rng.randrange(1, 200)} {name} {rng.choice(('Street', 'Road', 'Avenue', 'Lane'))}"
    town = f"{rng.choice(('Springfield', 'Riverton', 'Oakdale'))} {rng.randrange(10000, 99999)}"
    return rng.choice(("I live at {}, {}.", "Address: {}, {}", "Deliver to {}, {}.")).format(value, town), (value,)


def _looks(sentence: str, draw: Callable[[Random], str]) -> Callable[[Random], _Drawn]:
    def drawn(rng: Random) -> _Drawn:
        value = draw(rng)
        return sentence.format(value), (value,)

    return drawn


def _parcel(rng: Random) -> str:
    """Sixteen digits as of a card, but for the check digit."""
    digits = _with_check_digit("7", 16, rng)
    return digits[:-1] + str((int(digits[-1]) + rng.randrange(1, 10)) % 10)


def _day(rng: Random) -> str:
    return f"2025-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d}"


def _camel(rng: Random) -> str:
    words = rng.sample(("Account", "Settings", "Ledger", "Order", "History", "Queue", "Report", "Access"), 4)
    return "get" + "".join(words) + "ById"


def _with_check_digit(prefix: str, length: int, rng: Random) -> str:
    """Digits that pass Luhn's check, as the numbers of cards do."""
    digits = prefix + "".join(rng.choice(string.digits) for _ in range(length - 1 - len(prefix)))
    doubled = [int(digit) * (2 if place % 2 == 0 else 1) for place, digit in enumerate(reversed(digits))]
    return digits + str(-sum(value - 9 if value > 9 else value for value in doubled) % 10)


def _letters(rng: Random, length: int, alphabet: str = _ALPHANUMERIC) -> str:
    return "".join(rng.choices(alphabet, k=length))


_SORTS: dict[tuple[DefectKind, bool], tuple[Callable[[Random], _Drawn], ...]] = {
    (DefectKind.SECRET, False): (
        _key("My API key is {}, use that.", "sk-proj-", 48),
        _password("The password is {} for now."),
        _key("aws_access_key_id = {}", "AKIA", 16, string.ascii_uppercase + string.digits),
        _key("aws_secret_access_key={}", "", 40, _BASE64),
        _key("Push with {} as the token.", "ghp_", 36),
        _password('{{"login": "desk", "password": "{}"}}'),
        _token,
        _key("The bot posts with {}.", "xoxb-2481632-", 24),
        _private_key,
        _password("postgres://app:{}@db.internal:5432/main"),
        _key("Billing runs on {}.", "sk_" + "live_", 24),
        _key("api_key: {}", "", 32, string.hexdigits[:16]),
        _key("Maps: {}", "AI" + "za", 35),
        _password("DB_PASSWORD={}"),
    ),
    (DefectKind.PERSONAL, False): (_email, _phone, _card, _address),
    (DefectKind.SECRET, True): (
        _looks("Checksum sha256:{}", lambda rng: rng.randbytes(32).hex()),
        _looks("Built from commit {}.", lambda rng: rng.randbytes(20).hex()),
        _looks("Request id {}", lambda rng: str(UUID(bytes=rng.randbytes(16), version=4))),
        _looks("See {} in the handbook.", _camel),
        _looks("Log: /var/log/desk/{}/run.log", lambda rng: f"{_day(rng)}T10-22"),
        _looks("Asked about the {}.", lambda rng: rng.choice(("password policy", "token budget", "secret ballot"))),
        _looks("Image registry/desk:{}", lambda rng: f"v{rng.randrange(9)}.4.1-{rng.randbytes(4).hex()}"),
    ),
    (DefectKind.PERSONAL, True): (
        _looks("Parcel {}", _parcel),
        _looks("The total is {}.", lambda rng: f"{rng.randrange(1, 90)},{rng.randrange(100, 1000)}.50 EUR"),
        _looks("Order no. {}", lambda rng: f"HD-{rng.randrange(10**7, 10**8)}"),
        _looks("Entered on {}.", lambda rng: f"{_day(rng)} 14:05"),
        _looks("ts={}", lambda rng: str(rng.randrange(1_700_000_000, 1_760_000_000))),
        _looks("Runs release {}.", lambda rng: f"{rng.randrange(1, 20)}.{rng.randrange(20)}.{rng.randrange(20)}"),
        _looks("Goes with {}.", lambda rng: f"{rng.randrange(2, 90)} pallets to dock {rng.randrange(1, 9)}"),
    ),
}
