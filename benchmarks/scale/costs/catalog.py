"""What PostgreSQL pays for what gateways and queue workers ask it, with a million instances in it.

Times are of the whole call with the real ``Catalog``. CPU times are measured apart for the database's processes and for
this one, because both share the machine here and do not in a cluster.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import numpy as np
import psutil
from sqlalchemy import Engine, text

from looper.benchmarks.capacity.load.workload import adapter_popularity
from looper.benchmarks.scale.costs.rows import CostRow
from looper.platform.catalog import Catalog
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.names import InstanceName, ModelName
from looper.platform.domain.states import QueueStage
from looper.platform.settings import load_settings

LOOKUPS = 500
"""Requests whose look-ups are measured, for each of those at once."""

CHANGES = (10, 100, 1000)
"""Promotions within the time that one poll covers."""

BACKLOGS = (1_000, 20_000)
"""Numbers of consolidations that wait."""

POLL_INDEXES = {"ix_channels_updated_at": "channels (updated_at)", "ix_keys_revoked_at": "keys (revoked_at)"}
"""Indexes of what gateways poll for, which are measured with and without."""

COMBINED_LOOKUP = text("""
    SELECT k.*, q.requests_per_minute, q.tokens_per_minute, v.digest, v.rank, c.name AS channel, c.share
    FROM keys k
    JOIN tenants q ON q.name = k.tenant
    LEFT JOIN channels c ON c.tenant = k.tenant AND c.instance = :instance AND (c.name = 'prod' OR c.share > 0)
    LEFT JOIN versions v ON v.digest = c.digest AND v.revoked_at IS NULL
    WHERE k.id = :key
""")
"""One statement in place of three, as a prototype."""


class CatalogCosts:
    """A database that is filled for the measurements.

    Args:
        url: URL of an empty PostgreSQL database, on this machine.
        instances: Number of instances, each with one version and one channel.
        tenants: Number of tenants, each with one key.
        notify: Called with a line of text before each step.
    """

    def __init__(self, url: str, instances: int, tenants: int, notify: Callable[[str], None]) -> None:
        self._instances, self._tenants, self._notify = instances, tenants, notify
        self._catalog = Catalog.open(load_settings(catalog={"url": url, "timeout_s": 600}))
        self._engine: Engine = self._catalog._engine
        if self._engine.dialect.name != "postgresql":
            raise InvalidInput(f"{url} is not PostgreSQL: give postgresql://USER@HOST/EMPTY_DATABASE")
        if self._scalar("SELECT count(*) FROM tenants"):
            raise InvalidInput("the database of --catalog has tenants already: give an empty one")

    def measure(self) -> list[CostRow]:
        """Fill the database and measure everything.

        Returns:
            The rows.
        """
        self._notify(f"catalog: {self._instances:,} instances")
        self._fill()
        rows = [*self._measure_lookups(), *self._measure_polls(), *self._measure_claims()]
        self._catalog.close()
        return rows

    def _fill(self) -> None:
        counts = {"instances": self._instances, "tenants": self._tenants}
        tenant = "'tenant-' || lpad((i % :tenants)::text, 6, '0')"
        instance = "'agent-' || lpad(i::text, 8, '0')"
        digest = "encode(sha256(i::text::bytea), 'hex')"
        tenant_series = "FROM generate_series(0, :tenants - 1) AS i"
        series = "FROM generate_series(0, :instances - 1) AS i"
        id = "substr(encode(sha256(i::text::bytea), 'hex'), 1, 32)"
        statements = (
            f"INSERT INTO tenants (name, requests_per_minute, created_at) SELECT {tenant}, 600, now() {tenant_series}",
            "INSERT INTO keys (id, tenant, name, scopes, secret_sha256, created_at) "
            f"SELECT lpad(i::text, 16, '0'), {tenant}, 'key', 'infer', {digest}, now() {tenant_series}",
            f"INSERT INTO instances (tenant, instance, created_at) SELECT {tenant}, {instance}, now() {series}",
            "INSERT INTO consolidations (id, tenant, instance, state, base, recipe, batches, created_at, started_at, "
            f"ended_at, updated_at) SELECT {id}, {tenant}, {instance}, 'published', 'base', '{{}}', '[]', now(), "
            f"now(), now(), now() {series}",
            "INSERT INTO versions (digest, tenant, instance, base, base_revision, rank, consolidation, verdict, "
            f"created_at) SELECT {digest}, {tenant}, {instance}, 'base', 'r', 16, {id}, '{{}}', now() {series}",
            "INSERT INTO channels (tenant, instance, name, digest, share, updated_at) "
            f"SELECT {tenant}, {instance}, 'prod', {digest}, 0, now() - interval '1 day' {series}",
        )
        for statement in statements:
            with self._engine.begin() as sql:
                sql.execute(text(statement), {name: n for name, n in counts.items() if f":{name}" in statement})
        with self._engine.connect() as sql:
            sql.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM ANALYZE"))

    def _measure_lookups(self) -> Iterator[CostRow]:
        numbers = self._popular(20_000)

        def ask(number: int) -> None:
            tenant = f"tenant-{number % self._tenants:06d}"
            self._catalog.get_key(f"{number % self._tenants:016d}")
            self._catalog.get_quota(tenant)
            self._catalog.resolve_targets(ModelName(InstanceName(tenant, f"agent-{number:08d}"), "prod"))

        def ask_once(number: int) -> None:
            tenant_number = number % self._tenants
            with self._catalog._read_transaction() as sql:
                values = {"key": f"{tenant_number:016d}", "instance": f"agent-{number:08d}"}
                assert sql.execute(COMBINED_LOOKUP, values).one().digest

        for what, action in (("the 3 look-ups of a request", ask), ("the same in one statement", ask_once)):
            for threads in (1, 8):
                self._notify(f"catalog: {what}, {threads} at once")
                per_s, server_us, client_us = self._throughput(action, numbers, threads)
                yield CostRow(f"{what}, requests answered", "at once", threads, "requests/s", per_s)
                yield CostRow(f"{what}, CPU of PostgreSQL", "at once", threads, "us", server_us)
                yield CostRow(f"{what}, CPU of the gateway", "at once", threads, "us", client_us)

    def _throughput(
        self, action: Callable[[int], None], numbers: Sequence[int], threads: int
    ) -> tuple[float, float, float]:
        """Return requests per second, and the microseconds of CPU per request of the server and of this process."""
        count = min(len(numbers), LOOKUPS * threads)
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(action, numbers[: LOOKUPS // 5]))
            server_s, client_s, begin_s = self._server_cpu_s(), time.process_time(), time.perf_counter()
            list(pool.map(action, numbers[:count]))
            seconds = time.perf_counter() - begin_s
            server_s, client_s = self._server_cpu_s() - server_s, time.process_time() - client_s
        return count / seconds, server_s / count * 1e6, client_s / count * 1e6

    def _measure_polls(self) -> Iterator[CostRow]:
        window = timedelta(seconds=3)
        for is_indexed in (False, True):
            for name, columns in POLL_INDEXES.items():
                self._execute(f"DROP INDEX IF EXISTS {name}" if not is_indexed else f"CREATE INDEX {name} ON {columns}")
            suffix = "" if is_indexed else ", without its index"
            for changes in CHANGES:
                self._notify(f"catalog: a poll for {changes} promotions{suffix}")
                self._execute(
                    "UPDATE channels SET updated_at = clock_timestamp() - interval '1 day' "
                    "WHERE updated_at > clock_timestamp() - interval '1 hour'"
                )
                numbers = [f"agent-{number:08d}" for number in range(changes)]
                self._execute(
                    "UPDATE channels SET updated_at = clock_timestamp() + interval '1 hour' "
                    "WHERE (tenant, instance) IN (SELECT tenant, instance FROM instances "
                    "WHERE instance = ANY(:names))",
                    names=numbers,
                )
                ms, server_ms = self._time_ms(lambda: self._catalog.list_updated_channels(self._catalog.now() - window))
                yield CostRow(f"a gateway's poll for promotions{suffix}", "promotions", changes, "ms", ms)
                yield CostRow(
                    f"a gateway's poll for promotions{suffix}, CPU of PostgreSQL",
                    "promotions",
                    changes,
                    "ms",
                    server_ms,
                )
            ms, server_ms = self._time_ms(lambda: self._catalog.list_revocations(self._catalog.now() - window))
            yield CostRow(f"a gateway's poll for revocations{suffix}", "keys", self._tenants, "ms", ms)
            yield CostRow(
                f"a gateway's poll for revocations{suffix}, CPU of PostgreSQL", "keys", self._tenants, "ms", server_ms
            )
        revoked = min(100_000, self._instances // 10)
        self._execute(
            "UPDATE versions SET revoked_at = now() WHERE digest IN (SELECT digest FROM versions LIMIT :n)", n=revoked
        )
        ms, server_ms = self._time_ms(self._catalog.list_all_revocations)
        yield CostRow("all revocations, which each gateway compares with the markers", "revocations", revoked, "ms", ms)

    def _measure_claims(self) -> Iterator[CostRow]:
        for backlog in BACKLOGS:
            backlog = min(backlog, self._instances)
            self._notify(f"catalog: a claim from {backlog:,} that wait")
            self._execute(
                "UPDATE consolidations SET state = 'queued', ended_at = NULL, owner = NULL, lease_until = NULL "
                "WHERE id IN (SELECT id FROM consolidations ORDER BY id LIMIT :n)",
                n=backlog,
            )
            self._execute("ANALYZE consolidations")
            ms, _ = self._time_ms(
                lambda: self._catalog.claim("bench", QueueStage.SYNTHESIS, limit=16, lease_s=600), repeats=5
            )
            yield CostRow("a worker's claim of 16 consolidations", "waiting", backlog, "ms", ms)

    def _popular(self, count: int) -> list[int]:
        shares = np.cumsum(adapter_popularity(self._instances, 1.0))
        found = np.searchsorted(shares, np.random.default_rng(0).random(count))
        return [int(number) for number in np.minimum(found, self._instances - 1)]

    def _time_ms(self, action: Callable[[], object], repeats: int = 20) -> tuple[float, float]:
        """Return the median time of a call and the database's mean CPU time, in milliseconds."""
        action()
        times_s, server_s = [], self._server_cpu_s()
        for _ in range(repeats):
            begin_s = time.perf_counter()
            action()
            times_s.append(time.perf_counter() - begin_s)
        return float(np.median(times_s)) * 1e3, (self._server_cpu_s() - server_s) / repeats * 1e3

    def _server_cpu_s(self) -> float:
        """Return the CPU time of all connections, and of all processes of the server that have ended."""
        with self._engine.connect() as sql:
            connections = sql.scalars(text("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'"))
            processes = [psutil.Process(pid) for pid in connections]
        times = [process.cpu_times() for process in processes]
        server = processes[0].parent()
        assert server is not None
        ended = server.cpu_times()  # of those that helped with a parallel scan
        return float(sum(each.user + each.system for each in times) + ended.children_user + ended.children_system)

    def _execute(self, statement: str, **values: Any) -> None:
        with self._engine.begin() as sql:
            sql.execute(text(statement), values)

    def _scalar(self, statement: str) -> Any:
        with self._engine.connect() as sql:
            return sql.scalar(text(statement))
