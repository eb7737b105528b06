"""Scopes of API keys: what the holder of a key may do.

A route needs the scopes that it names and no others. No scope of a tenant's key includes another one, so a key for
everything has all. Operators' keys have scopes of their own.
"""

from collections.abc import Iterable, Set
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
    """Act across tenants: create tenants, issue their keys, set limits, and do for a tenant that the request names what
    ``submit`` and ``admin`` allow. Only an operator's key has it."""
    METRICS = "metrics"
    """Read ``/metrics``, and nothing else. Only an operator's key has it."""


DEFAULT_SCOPES: Final = frozenset({Scope.INFER, Scope.SUBMIT})
"""Scopes of a key that is issued without any. An agent asks models and hands in its trajectories, and no more."""

TENANT_SCOPES: Final = frozenset({Scope.INFER, Scope.SUBMIT, Scope.ADMIN})
"""All that a key may do for its own tenant. Keys of releases without scopes have these."""

OPERATOR_SCOPES: Final = frozenset({Scope.OPERATOR, Scope.METRICS})
"""All that an operator's key may have. It belongs to no tenant."""


def granted_scopes(tenant: str | None, scopes: Set[Scope]) -> frozenset[Scope]:
    """Return what a key with certain scopes opens.

    Args:
        tenant: Tenant that the key belongs to. None: it is an operator's.
        scopes: Scopes of the key.

    Returns:
        Of a tenant's key, the scopes that a tenant's key may have: earlier releases gave it others, too. ``operator``
        of an operator's key stands for all but ``infer``, because tokens are paid by tenants.
    """
    if tenant is not None:
        return TENANT_SCOPES.intersection(scopes)
    granted = OPERATOR_SCOPES.intersection(scopes)
    return granted | {Scope.SUBMIT, Scope.ADMIN, Scope.METRICS} if Scope.OPERATOR in granted else granted


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
