"""Moving a channel by hand."""

from looper.platform.adapters.publish import fetch
from looper.platform.catalog import Catalog
from looper.platform.domain.errors import NotFound
from looper.platform.domain.names import InstanceName, ModelName
from looper.platform.objectstore import ObjectStore


def promote(catalog: Catalog, store: ObjectStore, instance: InstanceName, channel: str, digest: str) -> None:
    """Point ``channel`` to a version of ``instance``, once its bytes were read back and verified.

    Raises NotFound for another instance's version, CorruptAdapter if the stored bytes have changed.
    """
    fetch(store, instance.tenant, catalog.resolve(ModelName(instance, digest)))
    catalog.point(instance, channel, digest)


def rollback(catalog: Catalog, store: ObjectStore, instance: InstanceName, channel: str) -> str:
    """Point ``channel`` to the parent of the version it points to, and return that digest.

    Raises NotFound if the channel does not exist or its version is the first one.
    """
    current = catalog.version(catalog.resolve(ModelName(instance, channel)))
    if current.parent is None:
        raise NotFound(f"version {current.digest} is the first of {instance}: there is nothing to roll back to")
    promote(catalog, store, instance, channel, current.parent)
    return current.parent
