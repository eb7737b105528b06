"""The catalog: tenants, keys, instances, batches, consolidations, versions, channels and events, in SQL."""

from looper.platform.catalog.catalog import Catalog
from looper.platform.catalog.records import ApiKey, Batch, Event, Quota, Target, TrainingDemand

__all__ = ["ApiKey", "Batch", "Catalog", "Event", "Quota", "Target", "TrainingDemand"]
