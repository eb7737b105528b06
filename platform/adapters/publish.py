"""Write adapters to the object store and read them back. Both verify the digest.

Queue workers publish. Serving, promotion and the command line fetch. Starts (``starts.py``) are verified here, too.
"""

from collections.abc import Mapping

from looper.platform.adapters.files import AdapterFiles
from looper.platform.domain.adapter_digest import FILE_NAMES
from looper.platform.domain.errors import CorruptAdapter, InvalidInput, NotFound
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.revocation import is_marked


def publish(store: ObjectStore, tenant: str, files: AdapterFiles) -> str:
    """Upload an adapter, read it back and verify it. Publishing the same adapter again changes nothing.

    Args:
        store: Object store to write to.
        tenant: Tenant that the adapter belongs to.
        files: The adapter.

    Returns:
        The adapter's digest.

    Raises:
        CorruptAdapter: The store returned other bytes than were written.
        InvalidInput: The same adapter was published before, and was revoked.
        StoreUnavailable: The object store failed.
    """
    digest = files.digest
    if is_marked(store, digest):
        raise InvalidInput(f"version {digest} was revoked and is not published again: change the data or the recipe")
    for name, content in files.to_dict().items():
        store.put(keys.adapter(tenant, digest, name), content)
    fetch(store, tenant, digest)
    return digest


def fetch(store: ObjectStore, tenant: str, digest: str, *, max_bytes: int | None = None) -> AdapterFiles:
    """Download an adapter and verify its digest.

    Args:
        store: Object store to read from.
        tenant: Tenant that the adapter belongs to.
        digest: Digest of the adapter.
        max_bytes: Maximum size of each file. No more bytes are read. None: no limit.

    Returns:
        The adapter.

    Raises:
        NotFound: A file is missing.
        CorruptAdapter: The content does not match the digest.
        InvalidInput: A file is larger than ``max_bytes``.
        StoreUnavailable: The object store failed.
    """
    keys_by_name = {name: keys.adapter(tenant, digest, name) for name in FILE_NAMES}
    way_out = "point the channel to another version (looper skills rollback) or consolidate again"
    return read_verified(store, digest, keys_by_name, f"adapter {digest} of tenant {tenant}", way_out, max_bytes)


def read_verified(
    store: ObjectStore, digest: str, keys_by_name: Mapping[str, str], what: str, way_out: str, max_bytes: int | None
) -> AdapterFiles:
    """Download the three files of an adapter and verify their digest.

    Args:
        store: Object store to read from.
        digest: Digest that they must have.
        keys_by_name: Key of each file, by its name.
        what: What the adapter is, for error messages.
        way_out: What to do if it is corrupt.
        max_bytes: Maximum size of each file. No more bytes are read. None: no limit.

    Returns:
        The adapter.

    Raises:
        NotFound: A file is missing.
        CorruptAdapter: The content does not match the digest.
        InvalidInput: A file is larger than ``max_bytes``.
        StoreUnavailable: The object store failed.
    """
    # One more byte than allowed shows that a file is too large.
    read_limit = None if max_bytes is None else max_bytes + 1
    try:
        contents = store.get_all(list(keys_by_name.values()), read_limit)
    except NotFound as error:
        raise NotFound(f"{what} is incomplete in the object store") from error
    content_by_name = dict(zip(keys_by_name, contents, strict=True))
    for name, content in content_by_name.items():
        if len(content) == read_limit:
            raise InvalidInput(f"adapter {digest}: {name} is larger than {max_bytes} bytes, the maximum size here")
    files = AdapterFiles.from_dict(content_by_name)
    if files.digest != digest:
        raise CorruptAdapter(
            f"{what} is corrupt in the object store: its content's digest is {files.digest}; {way_out}"
        )
    return files
