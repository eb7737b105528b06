"""Issue and check API keys. The command line issues them; the gateway and the API check them.

A key has the form ``looper_<id>_<secret>``. The secret has 256 random bits, so storing its plain SHA-256 is safe.
A slow password hash protects secrets that can be guessed, and this one cannot.
"""

import hashlib
import hmac
import secrets
from datetime import UTC, datetime, timedelta

from looper.platform.catalog import ApiKey, Catalog
from looper.platform.domain.errors import NotFound, Unauthorized


def issue_key(catalog: Catalog, tenant: str, *, lifetime: timedelta | None = None) -> str:
    """Create an API key.

    Args:
        catalog: Catalog to store the key's hash in.
        tenant: Tenant that the key belongs to.
        lifetime: Time until the key expires. None: it does not expire.

    Returns:
        The key. It cannot be shown again, because only its hash is stored.

    Raises:
        NotFound: The tenant does not exist.
    """
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
    """Check an API key.

    Args:
        catalog: Catalog that the key was issued in.
        bearer: The key, or None if the request had none.

    Returns:
        The tenant that the key belongs to.

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
    expired = key.expires_at is not None and key.expires_at <= datetime.now(UTC)
    if expired or key.revoked_at is not None or not hmac.compare_digest(key.secret_sha256, _hash(secret)):
        raise refusal
    return key.tenant


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
