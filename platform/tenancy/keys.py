"""Issuing and checking keys.

A key reads ``looper_<id>_<secret>``. The secret has 256 random bits, so a plain SHA-256 of it is safe to store: there
is nothing to guess that a slow hash would slow down.
"""

import hashlib
import hmac
import secrets
from datetime import UTC, datetime, timedelta

from looper.platform.catalog import ApiKey, Catalog
from looper.platform.domain.errors import NotFound, Unauthorized


def issue_key(catalog: Catalog, tenant: str, *, lifetime: timedelta | None = None) -> str:
    """Make a key of ``tenant`` and return it. This is the only time that it can be seen."""
    id, secret, now = secrets.token_hex(8), secrets.token_hex(32), datetime.now(UTC)
    catalog.add_key(
        ApiKey(
            id=id,
            tenant=tenant,
            secret_sha256=_hash(secret),
            created_at=now,
            expires_at=now + lifetime if lifetime else None,
            revoked_at=None,
        )
    )
    return f"looper_{id}_{secret}"


def authenticate(catalog: Catalog, bearer: str | None) -> str:
    """The tenant whose key this is. Raises Unauthorised, which never says which part was wrong."""
    if not bearer:
        raise Unauthorized("no API key was given: send it as 'Authorization: Bearer looper_...'")
    prefix, _, rest = bearer.partition("_")
    id, _, secret = rest.partition("_")
    wrong = Unauthorized("the API key is wrong, expired or revoked: looper tenant key TENANT issues another")
    if prefix != "looper" or not id.isalnum() or len(id) > 32:
        raise wrong
    try:
        key = catalog.key(id)
    except NotFound as error:
        raise wrong from error
    expired = key.expires_at is not None and key.expires_at <= datetime.now(UTC)
    if expired or key.revoked_at is not None or not hmac.compare_digest(key.secret_sha256, _hash(secret)):
        raise wrong
    return key.tenant


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
