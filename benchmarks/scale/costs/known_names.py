"""What a gateway remembers of the catalog for an outage: how much memory it takes, and whom it can serve."""

import time
import tracemalloc
from datetime import UTC, datetime
from typing import Any, cast

import numpy as np

from looper.benchmarks.capacity.load.workload import adapter_popularity
from looper.benchmarks.scale.costs.rows import CostRow
from looper.platform.catalog import ApiKey, Catalog, Quota, RouteTarget
from looper.platform.domain.errors import StoreUnavailable
from looper.platform.domain.names import InstanceName, ModelName
from looper.serve.gateway.known_catalog import KnownCatalog
from looper.serve.gateway.revocation import RevocationWatcher


class _AnsweringCatalog:
    """A catalog that knows every name."""

    def get_key(self, id: str) -> ApiKey:
        return ApiKey(
            id=id,
            tenant=f"tenant-{id}",
            name="",
            scopes="infer",
            secret_sha256="0" * 64,
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
            last_used_at=None,
            expires_at=None,
            revoked_at=None,
        )

    def get_quota(self, tenant: str) -> Quota:
        return Quota()

    def resolve_targets(self, model: ModelName) -> list[RouteTarget]:
        return [RouteTarget(channel="prod", digest=f"{hash(model):064x}"[-64:], rank=16, base="base", share=1.0)]


class _KnowingWatcher:
    """A watcher that has just read the catalog, or cannot read it."""

    is_reading = is_confirmed = True

    @property
    def confirmed_at(self) -> float:
        return time.monotonic()

    def is_revoked(self, revocation: object) -> bool:
        return False


def measure_known_names(gateways: int, adapters: int, tenants: int, requests: int, alpha: float) -> list[CostRow]:
    """Let one of several gateways serve requests, then take the catalog away.

    Args:
        gateways: Number of gateways that share the requests.
        adapters: Number of adapters, whose popularity is a power law.
        tenants: Number of tenants.
        requests: Number of requests of all gateways within the time for which answers are used.
        alpha: Exponent of the power law.

    Returns:
        The share of the next requests that is served, and the memory of what is known.
    """
    random, shares = np.random.default_rng(0), np.cumsum(adapter_popularity(adapters, alpha))
    watcher = _KnowingWatcher()
    tracemalloc.start()
    known = KnownCatalog(cast(Catalog, _AnsweringCatalog()), cast(RevocationWatcher, watcher), outage_s=1e9)

    def ask(adapter: int) -> None:
        tenant = adapter % tenants
        known.get_key(f"{tenant}")
        known.get_quota(f"tenant-{tenant}")
        known.resolve_targets(ModelName(InstanceName(f"tenant-{tenant}", f"agent-{adapter}"), "prod"))

    chosen = np.searchsorted(shares, random.random(requests // gateways))
    for adapter in np.minimum(chosen, adapters - 1):
        ask(int(adapter))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    answers = len(cast(Any, known)._known)
    watcher.is_reading = False
    served, asked = 0, 10_000
    for adapter in np.minimum(np.searchsorted(shares, random.random(asked)), adapters - 1):
        try:
            ask(int(adapter))
            served += 1
        except StoreUnavailable:
            pass
    return [
        CostRow("requests served while the catalog is away", "gateways", gateways, "share", served / asked),
        CostRow("answers that a gateway knows", "gateways", gateways, "answers", answers),
        CostRow("memory of an answer that a gateway knows", "answers", answers, "bytes", size / answers),
    ]
