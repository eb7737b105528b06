"""Scopes of API keys: what the holder of a key may do.

A route needs the scopes that it names and no others. No scope includes another one, so a key for everything has all.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

from looper.platform.domain.errors import InvalidInput


class Scope(StrEnum):
    """One thing that a key may allow. The values are stored in the catalog, and keys are issued with them."""

    INFER = "infer"
    """Ask models: ``/v1``."""
    SUBMIT = "submit"
    """Hand in trajectories, submit and cancel consolidations, and read what the tenant has."""
    ADMIN = "admin"
    """Promote, roll back, revoke and drop what is served. List and revoke keys, and read limits and the audit trail."""
    OPERATOR = "operator"
    """Act across tenants: metrics, the list of tenants, and their limits."""


DEFAULT_SCOPES: Final = frozenset({Scope.INFER, Scope.SUBMIT})
"""Scopes of a key that is issued without any. An agent asks models and hands in its trajectories, and no more."""

TENANT_SCOPES: Final = frozenset({Scope.INFER, Scope.SUBMIT, Scope.ADMIN})
"""All that a key may do for its own tenant. Keys of releases without scopes have these."""


def parse_scopes(text: str) -> frozenset[Scope]:
    """Read scopes from ``text``, such as ``infer,submit``.

    Returns:
        The scopes, at least one.

    Raises:
        InvalidInput: A scope is unknown, or there is none.
    """
    names = text.replace(",", " ").split()
    unknown = [name for name in names if name not in set(Scope)]
    if unknown or not names:
        raise InvalidInput(f"scopes {text!r} are not valid: give some of {format_scopes(Scope)}, with commas between")
    return frozenset(map(Scope, names))


def format_scopes(scopes: Iterable[Scope]) -> str:
    """Return ``scopes`` as ``parse_scopes`` reads them, in the order in which they are defined."""
    wanted = set(scopes)
    return ",".join(scope for scope in Scope if scope in wanted)
