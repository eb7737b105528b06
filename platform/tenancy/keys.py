"""Issue and check API keys. The command line issues them; the gateway and the API check them.

A key has the form ``looper_<id>_<secret>``. The secret has 256 random bits, so storing its plain SHA-256 is safe.
A slow password hash protects secrets that can be guessed, and this one cannot.
"""

import hashlib
import hmac
import secrets
from collections.abc import Set
from datetime import datetime, timedelta
from typing import Protocol

from looper.platform.catalog import ApiKey, Catalog
from looper.platform.domain.errors import InvalidInput, NotFound, Unauthorized
from looper.platform.domain.scopes import DEFAULT_SCOPES, OPERATOR_SCOPES, TENANT_SCOPES, Scope, format_scopes


class KeyReader(Protocol):
    """What checking a key needs of the catalog."""

    def get_key(self, id: str) -> ApiKey:
        """Return the key with this ``id``. Raises NotFound if there is none."""

    def now(self) -> datetime:
        """Return the current time by the catalog's clock."""

    def record_key_use(self, id: str) -> None:
        """Write that the key with this ``id`` is in use now."""


def issue_key(
    catalog: Catalog,
    tenant: str | None,
    *,
    name: str | None = None,
    scopes: Set[Scope] = DEFAULT_SCOPES,
    lifetime: timedelta | None = None,
) -> str:
    """Create an API key.

    Args:
        catalog: Catalog to store the key's hash in.
        tenant: Tenant that the key belongs to. None: it is an operator's.
        name: Name by which the key is found again. None: its id.
        scopes: What the key may be used for.
        lifetime: Time until the key expires. None: it does not expire.

    Returns:
        The key. It cannot be shown again, because only its hash is stored.

    Raises:
        NotFound: The tenant does not exist.
        InvalidInput: The name is not valid, or such a key cannot have one of the scopes.
        Conflict: The owner has another key of this name that is not revoked.
    """
    allowed, kind, others = TENANT_SCOPES, "a tenant's", "looper operator key NAME"
    if tenant is None:
        allowed, kind, others = OPERATOR_SCOPES, "an operator's", "looper tenant key TENANT"
    if wrong := scopes - allowed:
        raise InvalidInput(
            f"{kind} key cannot have scope {format_scopes(wrong)}, only {format_scopes(allowed)}: {others}"
        )
    id, secret, now = secrets.token_hex(8), secrets.token_hex(32), catalog.now()
    catalog.add_key(
        ApiKey(
            id=id,
            tenant=tenant,
            name=name if name is not None else id,
            scopes=frozenset(scopes),
            secret_sha256=_hash(secret),
            created_at=now,
            expires_at=now + lifetime if lifetime else None,
            revoked_at=None,
        )
    )
    return f"looper_{id}_{secret}"


def authenticate(catalog: KeyReader, bearer: str | None) -> ApiKey:
    """Check an API key.

    Args:
        catalog: Catalog that the key was issued in, or what is known of it.
        bearer: The key, or None if the request had none.

    Returns:
        What is stored of the key: its tenant, its scopes, its name.

    Raises:
        Unauthorized: The key is missing, wrong, expired or revoked. The error does not say which part is wrong.
    """
    if not bearer:
        raise Unauthorized("no API key was given: send it as 'Authorization: Bearer looper_...'")
    prefix, _, rest = bearer.partition("_")
    id, _, secret = rest.partition("_")
    refusal = Unauthorized("the API key is wrong, expired or revoked: looper tenant key TENANT issues another")
    if prefix != "looper" or not id.isalnum() or len(id) > 32:
        raise refusal
    try:
        key = catalog.get_key(id)
    except NotFound as error:
        raise refusal from error
    expired = key.expires_at is not None and key.expires_at <= catalog.now()
    if expired or key.revoked_at is not None or not hmac.compare_digest(key.secret_sha256, _hash(secret)):
        raise refusal
    return key


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
