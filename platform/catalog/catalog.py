"""The catalog as one thing. Its parts are apart in the files that they are named for."""

from looper.platform.catalog.consolidations import ConsolidationOperations
from looper.platform.catalog.instances import InstanceOperations
from looper.platform.catalog.queue import QueueOperations
from looper.platform.catalog.skills import SkillOperations
from looper.platform.catalog.tenants import TenantOperations


class Catalog(TenantOperations, InstanceOperations, ConsolidationOperations, QueueOperations, SkillOperations):
    """Every change of state is a compare-and-swap, so that two of anything may run.

    Thread-safe. Methods raise NotFound, Conflict or InvalidInput as they say, StoreUnavailable if SQL fails.
    """
