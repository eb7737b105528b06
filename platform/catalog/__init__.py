"""The catalog: tenants, keys, instances, batches, consolidations, versions, channels and events in a SQL database.

``Catalog`` is the only entry point. Its operations are grouped in one module per subject.
"""

from looper.platform.catalog.catalog import Catalog
from looper.platform.catalog.records import (
    ApiKey,
    Batch,
    Changes,
    Event,
    InstanceOverview,
    Quota,
    Revocation,
    RouteTarget,
    SkillSummary,
    TenantOverview,
    TrainingDemand,
    Upload,
)

__all__ = [
    "ApiKey",
    "Batch",
    "Catalog",
    "Changes",
    "Event",
    "InstanceOverview",
    "Quota",
    "Revocation",
    "RouteTarget",
    "SkillSummary",
    "TenantOverview",
    "TrainingDemand",
    "Upload",
]
