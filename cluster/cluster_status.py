"""What ``looper status`` shows: read from the catalog, and from the state file of this machine. It asks no Ray."""

from collections import Counter
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from looper.cluster.cluster_report import ClusterReport
from looper.cluster.control import is_healthy
from looper.cluster.state import ClusterState, read_state
from looper.platform.catalog import Catalog
from looper.platform.catalog.records import Leader, TrainerFailure, TrainerRecord
from looper.platform.settings import Settings

REPORT = "looper"
"""Name of the report that the leading control loop writes."""

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


class ClusterStatus(BaseModel):
    """Everything that is known of the cluster."""

    model_config = ConfigDict(frozen=True)

    cluster: ClusterState | None
    """The private cluster of this machine and home, if one runs."""
    existing_ray: ExistingRay | None
    """The Ray that Looper was brought up on, if it is not a private one."""
    healthy: bool
    """Whether the HTTP API answers this machine."""
    leader: Leader | None
    """The control loop that leads."""
    report: ClusterReport | None
    """What it has reported last."""
    reported_at: datetime | None
    """When that was."""
    report_age_s: float | None
    """How long ago that was by the catalog's clock, in seconds."""
    trainers: list[TrainerRecord]
    """The trainers."""
    trainer_failures: list[TrainerFailure]
    """Trainers that could not start."""
    consolidations: dict[str, int]
    """Number of consolidations in each state."""
    waits: dict[str, int]
    """Number of consolidations that wait, by what they wait for."""
    home: str
    """Home folder on this machine."""

    urls: list[str]
    """URLs of the HTTP API."""


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
    catalog, state = Catalog.open(settings), read_state(settings)
    report = catalog.get_cluster_report(REPORT)
    urls = find_urls(settings, catalog)
    return ClusterStatus(
        cluster=state,
        existing_ray=read_existing_ray(catalog),
        healthy=any(is_healthy(url, settings) for url in urls),
        leader=catalog.get_leader(),
        report=ClusterReport.model_validate(report[0]) if report else None,
        reported_at=report[1] if report else None,
        report_age_s=(catalog.now() - report[1]).total_seconds() if report else None,
        trainers=catalog.list_trainers(),
        trainer_failures=catalog.list_trainer_failures(),
        consolidations={str(state): count for state, count in catalog.count_consolidations().items()},
        waits=Counter(job.reason for job in catalog.list_unfinished() if job.reason),
        home=str(settings.home),
        urls=urls,
    )
