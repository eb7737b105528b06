"""Which settings may be told to others: into a file, or into the catalog's report of the cluster."""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from looper.platform.settings import Settings
from looper.platform.settings.names import settings_by_path

CATALOG_URL = "catalog.url"

OF_THIS_MACHINE = frozenset({"home", "cluster.address"})
"""Settings that say where this machine's files and its Ray are."""


def list_changed(settings: Settings) -> Iterator[tuple[str, Any]]:
    """Yield path and value of each setting that is given and is not the default, but for this machine's own.

    Args:
        settings: The settings.
    """
    given, defaults = settings.model_dump(mode="json", exclude_unset=True), Settings().model_dump(mode="json")
    for path in settings_by_path():
        try:
            value = _get(given, path)
        except KeyError:
            continue
        if path not in OF_THIS_MACHINE and value != _get(defaults, path):
            yield path, value


def is_secret(path: str, value: Any) -> bool:
    """Return whether a setting is secret.

    Args:
        path: Its path.
        value: Its value, which may be a URL with a password.
    """
    if path == CATALOG_URL or settings_by_path()[path].is_secret:
        return True
    return isinstance(value, str) and "://" in value and "@" in urlsplit(value).netloc


def list_public(settings: Settings) -> dict[str, Any]:
    """Return the settings that are not the default, by path, without secrets and without this machine's own.

    Args:
        settings: The settings.
    """
    return {path: value for path, value in list_changed(settings) if not is_secret(path, value)}


def _get(tree: Mapping[str, Any], path: str) -> Any:
    value: Any = tree
    for name in path.split("."):
        value = value[name]
    return value
