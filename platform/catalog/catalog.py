"""The catalog class, put together from its groups of operations. Every room of Looper uses it."""

from looper.platform.catalog.bases import BaseOperations
from looper.platform.catalog.budgets import BudgetOperations
from looper.platform.catalog.cluster_reports import ClusterReportOperations
from looper.platform.catalog.consolidations import ConsolidationOperations
from looper.platform.catalog.events import EventOperations
from looper.platform.catalog.instances import InstanceOperations
from looper.platform.catalog.keys import KeyOperations
from looper.platform.catalog.leaders import LeaderOperations
from looper.platform.catalog.leased_work import LeasedWorkOperations
from looper.platform.catalog.pages import PageOperations
from looper.platform.catalog.queue import QueueOperations
from looper.platform.catalog.revocations import RevocationOperations
from looper.platform.catalog.skills import SkillOperations
from looper.platform.catalog.tenants import TenantOperations
from looper.platform.catalog.trainers import TrainerOperations
from looper.platform.catalog.uploads import UploadOperations


class Catalog(
    TenantOperations,
    KeyOperations,
    InstanceOperations,
    BaseOperations,
    UploadOperations,
    ConsolidationOperations,
    QueueOperations,
    LeasedWorkOperations,
    SkillOperations,
    RevocationOperations,
    EventOperations,
    BudgetOperations,
    PageOperations,
    LeaderOperations,
    TrainerOperations,
    ClusterReportOperations,
):
    """The SQL database of tenants, keys, instances, consolidations, versions, channels and trainers. Thread-safe.

    Every change of state is a compare-and-swap, so any number of processes may work on one catalog. All methods raise
    StoreUnavailable if the database fails; each method lists its other errors.
    """
