"""Moving a channel by hand."""

from collections.abc import Callable

from looper.platform.adapters.publish import fetch
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Version
from looper.platform.domain.errors import NotFound
from looper.platform.domain.names import InstanceName, ModelName
from looper.platform.objectstore import ObjectStore


def promote(
    catalog: Catalog,
    store: ObjectStore,
    instance: InstanceName,
    channel: str,
    digest: str,
    share: float = 0.0,
    bring: Callable[[Version], None] = lambda version: None,
) -> None:
    """Point ``channel`` to a version of ``instance``, once its bytes were read back and verified.

    It answers ``share`` of the requests for the instance's plain name from then on. ``bring`` is called just before,
    with what will be asked for.

    Raises NotFound for another instance's version, CorruptAdapter if the stored bytes have changed.
    """
    fetch(store, instance.tenant, catalog.resolve(ModelName(instance, digest)))
    bring(catalog.version(digest))
    catalog.point(instance, channel, digest, share)


def rollback(
    catalog: Catalog,
    store: ObjectStore,
    instance: InstanceName,
    channel: str,
    bring: Callable[[Version], None] = lambda version: None,
) -> str:
    """Point ``channel`` to the version that the one it points to was made from, and return that digest.

    What was revoked is passed over. Raises NotFound if the channel does not exist or there is nothing to go back to.
    """
    current, *before = catalog.lineage(catalog.resolve(ModelName(instance, channel)))
    last = next((version.digest for version in before if version.revoked_at is None), None)
    if last is None:
        raise NotFound(f"version {current.digest} is the first of {instance}: there is nothing to roll back to")
    share = catalog.shares(instance).get(channel, 0.0)
    promote(catalog, store, instance, channel, last, share, bring)
    return last
