"""The catalog as one thing. Its parts are apart in the files that they are named for."""

from looper.platform.catalog.consolidations import Consolidations
from looper.platform.catalog.instances import Instances
from looper.platform.catalog.queue import Queue
from looper.platform.catalog.skills import Skills
from looper.platform.catalog.tenants import Tenants


class Catalog(Tenants, Instances, Consolidations, Queue, Skills):
    """Every change of state is a compare-and-swap, so that two of anything may run.

    Thread-safe. Methods raise NotFound, Conflict or InvalidInput as they say, StoreUnavailable if SQL fails.
    """
