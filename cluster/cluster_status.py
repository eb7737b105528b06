"""What ``looper status`` shows on a machine of the cluster: what the catalog has, and this machine's state file.

It asks no Ray.
"""

from pydantic import BaseModel, ConfigDict

from looper.cluster.control import is_healthy
from looper.cluster.state import ClusterState, read_state
from looper.platform.api.cluster_models import ClusterInfo
from looper.platform.api.cluster_routes import read_cluster
from looper.platform.catalog import Catalog
from looper.platform.settings import Settings

EXISTING_RAY = "existing ray"
"""Name of the report that ``looper up`` writes on a Ray that exists."""


class ExistingRay(BaseModel):
    """A Ray that existed before Looper was brought up on it."""

    model_config = ConfigDict(frozen=True)

    address: str
    """Its address, as ``looper up`` was given it."""
    urls: list[str]
    """URLs of the HTTP API, one for each node that answers."""
    started_serve: bool
    """Whether Ray Serve runs on it only because of Looper."""


class ClusterStatus(ClusterInfo):
    """Everything that is known of the cluster, on one of its machines."""

    cluster: ClusterState | None
    """The private cluster of this machine and home, if one runs."""
    existing_ray: ExistingRay | None
    """The Ray that Looper was brought up on, if it is not a private one."""
    home: str
    """Home folder on this machine."""


def find_urls(settings: Settings, catalog: Catalog) -> list[str]:
    """Return the URLs of the HTTP API: of the private cluster of this machine, or of the Ray that Looper was put on.

    Args:
        settings: Settings with the home folder.
        catalog: The catalog.

    Returns:
        The URLs, none of them if nothing runs.
    """
    if state := read_state(settings):
        return [state.url] if state.url else []
    existing = read_existing_ray(catalog)
    return existing.urls if existing else []


def read_existing_ray(catalog: Catalog) -> ExistingRay | None:
    """Return the Ray that existed and that Looper was brought up on, or None if there is none.

    Args:
        catalog: The catalog.
    """
    found = catalog.get_cluster_report(EXISTING_RAY)
    return ExistingRay.model_validate(found[0]) if found else None


def read_status(settings: Settings) -> ClusterStatus:
    """Return the status of the cluster that the settings name.

    Args:
        settings: Settings with catalog and home folder.

    Returns:
        The status.

    Raises:
        StoreUnavailable: The catalog cannot be read.
    """
    catalog = Catalog.open(settings)
    urls = find_urls(settings, catalog)
    found = read_cluster(catalog).model_copy(
        update={"urls": urls, "healthy": any(is_healthy(url, settings) for url in urls)}
    )
    return ClusterStatus(
        **dict(found),
        cluster=read_state(settings),
        existing_ray=read_existing_ray(catalog),
        home=str(settings.home),
    )
