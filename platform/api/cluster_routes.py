"""The route of the cluster itself, for operators."""

from collections import Counter

from fastapi import APIRouter
from fastapi.routing import APIRoute

from looper.platform.api.authenticated_route import needs
from looper.platform.api.cluster_models import ClusterInfo
from looper.platform.catalog import Catalog
from looper.platform.catalog.cluster_reports import REPORT
from looper.platform.domain.cluster_report import ClusterReport
from looper.platform.domain.scopes import Scope


def cluster_router(catalog: Catalog, route_class: type[APIRoute]) -> APIRouter:
    """Return the route ``/cluster``.

    Args:
        catalog: Catalog of the cluster.
        route_class: Class of the routes, which authenticates requests.

    Returns:
        The router.
    """
    router = APIRouter(route_class=route_class)

    @router.get(
        "/cluster", summary="Show what runs where, and what waits for what", dependencies=[needs(Scope.OPERATOR)]
    )
    def show_cluster() -> ClusterInfo:
        """The list of URLs is empty: the one of this request is one of them."""
        return read_cluster(catalog).model_copy(update={"healthy": True})

    return router


def read_cluster(catalog: Catalog) -> ClusterInfo:
    """Return what the catalog has of the cluster.

    Args:
        catalog: Catalog of the cluster.

    Returns:
        The cluster, without its URLs.
    """
    report = catalog.get_cluster_report(REPORT)
    return ClusterInfo(
        urls=[],
        healthy=False,
        leader=catalog.get_leader(),
        report=ClusterReport.model_validate(report[0]) if report else None,
        reported_at=report[1] if report else None,
        report_age_s=(catalog.now() - report[1]).total_seconds() if report else None,
        trainers=catalog.list_trainers(),
        trainer_failures=catalog.list_trainer_failures(),
        consolidations={str(state): count for state, count in catalog.count_consolidations().items()},
        waits=Counter(job.reason for job in catalog.list_unfinished() if job.reason),
    )
