"""Whose blocks of an engine's prefix cache a request may find: its tenant's only.

Shared, the cache tells by the time to the first token whether another tenant has asked a prompt, block by block.
"""

import hmac
import secrets

KEY_BYTES = 32


def new_key() -> bytes:
    """Make a key for one engine, from which it need not go out: the cache does not, either."""
    return secrets.token_bytes(KEY_BYTES)


def tenant_salt(key: bytes, tenant: str, given: str | None) -> str:
    """The ``cache_salt`` that vLLM hashes into the first block of a prompt, and so into all.

    Args:
        key: Of the engine.
        tenant: Hexadecimal, as in ``Ask.tenant``.
        given: The client's own salt, which divides its tenant's part of the cache further.
    """
    return hmac.digest(key, f"{tenant}:{given or ''}".encode(), "sha256").hex()
