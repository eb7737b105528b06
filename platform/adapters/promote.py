"""Move a channel to another version, or back. The API and the command line call it."""

from collections.abc import Callable

from looper.platform.adapters.publish import fetch
from looper.platform.catalog import Catalog
from looper.platform.catalog.rows import check_expected
from looper.platform.domain.errors import NotFound
from looper.platform.domain.names import InstanceName, ModelName
from looper.platform.domain.version import Version
from looper.platform.objectstore import ObjectStore
from looper.platform.revocation import is_marked


def promote(
    catalog: Catalog,
    store: ObjectStore,
    instance: InstanceName,
    channel: str,
    digest: str,
    share: float = 0.0,
    prefetch: Callable[[Version], None] = lambda version: None,
    *,
    expected: str | None = None,
) -> None:
    """Point a channel to a version, after the version's files were read back and verified.

    Args:
        catalog: Catalog of the channel.
        store: Object store of the adapter.
        instance: Instance of the channel and of the version.
        channel: Name of the channel.
        digest: Version to point to.
        share: Canary share of the requests for the instance's plain name, from 0 to 1.
        prefetch: Called with the version just before the channel moves, to load it before requests arrive.
        expected: Digest that the channel must point to when it moves. None: it may point anywhere, or not exist.

    Raises:
        NotFound: The digest is not a version of the instance, it is revoked, or a file is missing.
        CorruptAdapter: The stored files do not match the digest.
        Conflict: The channel does not point to ``expected``.
    """
    if is_marked(store, digest):  # the catalog may be an older one, which does not know
        raise NotFound(f"version {digest} of {instance} was revoked: looper skills show {instance}")
    fetch(store, instance.tenant, catalog.resolve(ModelName(instance, digest)))
    prefetch(catalog.get_version(digest))
    catalog.set_channel(instance, channel, digest, share, expected=expected)


def rollback(
    catalog: Catalog,
    store: ObjectStore,
    instance: InstanceName,
    channel: str,
    prefetch: Callable[[Version], None] = lambda version: None,
    *,
    expected: str | None = None,
) -> str:
    """Point a channel to the parent of its version. Revoked versions are skipped.

    Args:
        catalog: Catalog of the channel.
        store: Object store of the adapter.
        instance: Instance of the channel.
        channel: Name of the channel.
        prefetch: As in ``promote``.
        expected: Version to roll back from. None: the one that the channel points to.

    Returns:
        The digest that the channel points to now.

    Raises:
        NotFound: The channel does not exist, or its version has no parent that is not revoked.
        CorruptAdapter: The stored files of the parent do not match its digest.
        Conflict: The channel does not point to ``expected``, or it was moved meanwhile, for example to a version that
            was published.
    """
    from_digest = catalog.resolve(ModelName(instance, channel))
    check_expected(instance, channel, expected, from_digest)
    current, *ancestors = catalog.get_lineage(from_digest)
    previous = next((version.digest for version in ancestors if version.revoked_at is None), None)
    if previous is None:
        raise NotFound(f"version {current.digest} of {instance} has no earlier version to roll back to")
    share = catalog.get_channel_shares(instance).get(channel, 0.0)
    promote(catalog, store, instance, channel, previous, share, prefetch, expected=current.digest)
    return previous
