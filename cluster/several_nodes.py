"""Settings that cannot work where Looper runs on several nodes."""

from urllib.parse import urlsplit

from looper.platform.domain.errors import InvalidInput
from looper.platform.settings import Settings
from looper.platform.settings.names import variable_of

_FOLDER_SCHEMES = ("", "file", "local", "memory")


def find_unshared(settings: Settings) -> str | None:
    """Return why several nodes cannot share the catalog or the object store, or None if they can.

    Args:
        settings: Settings of the cluster.

    Returns:
        The setting and the way out, in one line.
    """
    if urlsplit(settings.catalog_url).scheme.startswith("sqlite"):
        return (
            f"catalog.url is {settings.catalog.url or 'not set'}, so every node would have a SQLite file of its own: "
            f"set {variable_of('catalog.url')} to a PostgreSQL database, postgresql://USER:PASSWORD@HOST/DATABASE"
        )
    if urlsplit(settings.store_url).scheme in _FOLDER_SCHEMES:
        return (
            f"store.url is {settings.store.url or 'not set'}, so every node would have a folder of its own: set "
            f"{variable_of('store.url')} to a bucket, s3://BUCKET/PREFIX"
        )
    return None


def require_fixed_port(settings: Settings) -> None:
    """Refuse a port that each node would choose for itself.

    Args:
        settings: Settings of the cluster.

    Raises:
        InvalidInput: ``serve.port`` is 0.
    """
    if settings.serve.port == 0:
        raise InvalidInput(
            "serve.port is 0, and a free port would be another one on each node: name a port, such as 8000"
        )
