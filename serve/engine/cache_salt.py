"""Salts that divide an engine's prefix cache between tenants. ``SkillServer.generate`` sets one on every request.

In a shared cache, the time to the first token would tell a tenant, block by block, whether another tenant has sent the
same prompt.
"""

import hmac
import secrets

KEY_BYTES = 32
"""Length of an engine's key, in bytes."""


def generate_key() -> bytes:
    """Generate a key for one engine. It never leaves the process: the prefix cache does not, either.

    Returns:
        Random bytes.
    """
    return secrets.token_bytes(KEY_BYTES)


def derive_cache_salt(key: bytes, tenant: str, client_salt: str | None) -> str:
    """Derive the ``cache_salt`` of a request. vLLM hashes it into a prompt's first block, and so into all blocks.

    Args:
        key: Key of the engine.
        tenant: The tenant's digest, in hexadecimal, as in ``EngineRequest.tenant_hash``.
        client_salt: The client's own salt, which divides its tenant's part of the cache further.

    Returns:
        The salt, in hexadecimal.
    """
    return hmac.digest(key, f"{tenant}:{client_salt or ''}".encode(), "sha256").hex()
