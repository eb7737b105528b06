"""Publishing and fetching: nothing is pointed to, or served, that was not read back and verified."""

from looper.platform.adapters.files import FILES, AdapterFiles
from looper.platform.domain.errors import CorruptAdapter, InvalidInput, NotFound
from looper.platform.objectstore import ObjectStore, keys


def publish(store: ObjectStore, tenant: str, files: AdapterFiles) -> str:
    """Upload, read back, verify; return the digest. May be repeated: the same adapter is the same objects."""
    digest = files.digest
    for name, content in files.by_name().items():
        store.put(keys.adapter(tenant, digest, name), content)
    fetch(store, tenant, digest)
    return digest


def fetch(store: ObjectStore, tenant: str, digest: str, *, at_most: int | None = None) -> AdapterFiles:
    """The adapter's files, verified. Raises NotFound if one is missing and CorruptAdapter if a byte has changed.

    Raises InvalidInput if one has more bytes than ``at_most``, of which no more are read.
    """
    beyond = None if at_most is None else at_most + 1
    try:
        found = store.get_all([keys.adapter(tenant, digest, name) for name in FILES], beyond)
    except NotFound as error:
        raise NotFound(f"adapter {digest} of tenant {tenant} is not whole in the store {store.url}") from error
    content = dict(zip(FILES, found, strict=True))
    for name in FILES:
        if len(content[name]) == beyond:
            raise InvalidInput(f"adapter {digest}: {name} is larger than {at_most} bytes, the most that is served here")
    files = AdapterFiles.of(content)
    if files.digest != digest:
        raise CorruptAdapter(
            f"adapter {digest} of tenant {tenant} is corrupt in the store {store.url}: its content's digest is "
            f"{files.digest}; point the channel to another version (looper skills rollback) or consolidate again"
        )
    return files
