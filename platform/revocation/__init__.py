"""Revoking versions and keys, in the catalog and in the object store, so that an older catalog cannot undo it."""

from looper.platform.revocation.markers import (
    is_marked,
    list_markers,
    reconcile,
    revoke_key,
    revoke_tenant_key,
    revoke_version,
)

__all__ = ["is_marked", "list_markers", "reconcile", "revoke_key", "revoke_tenant_key", "revoke_version"]
