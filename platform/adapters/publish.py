"""Publishing and fetching: nothing is pointed to, or served, that was not read back and verified."""

from looper.platform.adapters.files import FILES, AdapterFiles
from looper.platform.domain.errors import CorruptAdapter, NotFound
from looper.platform.objectstore import ObjectStore, keys


def publish(store: ObjectStore, tenant: str, files: AdapterFiles) -> str:
    """Upload, read back, verify; return the digest. May be repeated: the same adapter is the same objects."""
    digest = files.digest
    for name, content in files.by_name().items():
        store.put(keys.adapter(tenant, digest, name), content)
    fetch(store, tenant, digest)
    return digest


def fetch(store: ObjectStore, tenant: str, digest: str) -> AdapterFiles:
    """The adapter's files, verified. Raises NotFound if one is missing and CorruptAdapter if a byte has changed."""
    try:
        files = AdapterFiles.of({name: store.get(keys.adapter(tenant, digest, name)) for name in FILES})
    except NotFound as error:
        raise NotFound(f"adapter {digest} of tenant {tenant} is not whole in the store {store.url}") from error
    if files.digest != digest:
        raise CorruptAdapter(
            f"adapter {digest} of tenant {tenant} is corrupt in the store {store.url}: its content's digest is "
            f"{files.digest}; point the channel to another version (looper skills rollback) or consolidate again"
        )
    return files
