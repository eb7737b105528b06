"""Marks each revocation by an immutable object in the object store, besides the catalog.

A catalog that is restored from a backup, or a replica that lacks the last commits, does not know the latest
revocations. The markers outlive it: gateways and publication honor them, and ``reconcile`` writes them back into the
catalog.
"""

import logging
from contextlib import suppress

from looper.platform.catalog import ApiKey, Catalog, Revocation
from looper.platform.catalog.rows import key_not_found
from looper.platform.domain.errors import NotFound, StoreUnavailable
from looper.platform.domain.names import InstanceName
from looper.platform.objectstore import ObjectStore, keys

log = logging.getLogger(__name__)


def revoke_version(catalog: Catalog, store: ObjectStore, instance: InstanceName, digest: str) -> dict[str, str | None]:
    """Revoke a version, so that it is never served or published again.

    Args:
        catalog: Catalog of the version.
        store: Object store of the marker.
        instance: Instance of the version.
        digest: Version to revoke.

    Returns:
        As ``Catalog.revoke_version``.

    Raises:
        NotFound: The digest is not a version of the instance.
        StoreUnavailable: The catalog failed. If the object store fails, the version is revoked in the catalog, and the
            next ``reconcile`` writes the marker.
    """
    # A tenant must not be able to mark a version of another one.
    if digest in {version.digest for version in catalog.list_versions(instance)}:
        _mark(store, Revocation("version", digest))
    return catalog.revoke_version(instance, digest)


def revoke_key(catalog: Catalog, store: ObjectStore, key: str, *, tenant: str | None = None) -> ApiKey:
    """Revoke a key, so that it never authenticates anybody again.

    Args:
        catalog: Catalog of the key.
        store: Object store of the marker.
        key: Id of the key or, where ``tenant`` is given, also its name.
        tenant: Only a key of this tenant. None: of any.

    Returns:
        The revoked key.

    Raises:
        NotFound: There is no such key, or it is revoked already.
        StoreUnavailable: The catalog failed. If the object store fails, the key is revoked in the catalog, and the next
            ``reconcile`` writes the marker.
    """
    id = catalog.find_valid_key(key, tenant=tenant).id
    _mark(store, Revocation("key", id))
    return catalog.revoke_key(id, tenant=tenant)


def revoke_tenant_key(catalog: Catalog, store: ObjectStore, key: str, tenant: str | None) -> ApiKey:
    """Revoke a key of a tenant, and no operator's key.

    Args:
        catalog: Catalog of the key.
        store: Object store of the marker.
        key: Id of the key or, where ``tenant`` is given, also its name.
        tenant: Only a key of this tenant. None: of any.

    Returns:
        The revoked key.

    Raises:
        NotFound: There is no such key, or it is revoked already, or it is an operator's.
        StoreUnavailable: As ``revoke_key``.
    """
    found = catalog.find_valid_key(key, tenant=tenant)
    if found.tenant is None:
        raise key_not_found(key)
    return revoke_key(catalog, store, found.id, tenant=found.tenant)


def is_marked(store: ObjectStore, digest: str) -> bool:
    """Return whether the version ``digest`` is marked as revoked in ``store``."""
    return store.exists(keys.revocation("version", digest))


def list_markers(store: ObjectStore) -> set[Revocation]:
    """Return all revocations that are marked in ``store``."""
    parts = (key.split("/") for key in store.list(keys.REVOCATIONS))
    return {Revocation(kind, id) for _, kind, id in parts}  # type: ignore[arg-type]  # only ``_mark`` writes there


def reconcile(catalog: Catalog, store: ObjectStore, marked: set[Revocation]) -> None:
    """Give the catalog and the object store the revocations that the other one has. It may run anywhere, repeatedly.

    Args:
        catalog: The catalog. It may be older than the object store.
        store: The object store.
        marked: The revocations that are marked in the object store.
    """
    recorded = catalog.list_all_revocations()
    for revocation in recorded - marked:
        _mark(store, revocation)
    for revocation in marked - recorded:
        with suppress(NotFound):  # the catalog does not have it, or another process was faster
            if revocation.kind == "version":
                catalog.revoke_version(catalog.get_version(revocation.id).instance, revocation.id)
            else:
                catalog.revoke_key(revocation.id)
            log.warning("%s %s was revoked, but the catalog did not know: it is older", *revocation)


def _mark(store: ObjectStore, revocation: Revocation) -> None:
    try:
        store.put(keys.revocation(*revocation), b"")
    except StoreUnavailable as error:
        # The revocation itself must not wait for the object store.
        log.warning("%s %s is revoked, but its marker must wait: %s", *revocation, error.detail)
