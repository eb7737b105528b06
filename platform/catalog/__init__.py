"""The catalog: tenants, keys, instances, batches, consolidations, versions, channels and events, in SQL."""

from looper.platform.catalog.catalog import Catalog
from looper.platform.catalog.records import Batch, Demand, Event, Key, Quota, Target

__all__ = ["Batch", "Catalog", "Demand", "Event", "Key", "Quota", "Target"]
