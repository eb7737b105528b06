"""Catalog operations on what tenants may use per minute. Several gateways share it: ``serve/gateway/budgets.py``."""

from sqlalchemy import insert, select, update

from looper.platform.catalog import rows
from looper.platform.catalog import tables as t
from looper.platform.catalog.clock import read_clock
from looper.platform.catalog.database import Database


class BudgetOperations(Database):
    """Budgets of tenants."""

    def lease_budget(
        self, tenant: str, unit: str, per_minute: int, left: float, needed: float, wanted: float
    ) -> tuple[float, float]:
        """Exchange what is left of a lease for a new one. The time is that of the database's clock.

        Args:
            tenant: Name of the tenant.
            unit: "requests" or "tokens".
            per_minute: The limit. The first lease finds so much.
            left: What the caller has not used. Negative: what it has used beyond its leases.
            needed: Lease nothing if there is less than this whole number.
            wanted: Lease at most so much, rounded down.

        Returns:
            The amount leased, and the seconds until there is as much as needed.

        Raises:
            NotFound: The tenant does not exist.
        """
        b = t.budgets.c
        is_bucket = (b.tenant == tenant) & (b.unit == unit)
        with self._write_transaction() as sql:
            # The tenant's row is locked, because the bucket's may not exist yet.
            if sql.scalar(select(t.tenants.c.name).where(t.tenants.c.name == tenant).with_for_update()) is None:
                raise rows.tenant_not_found(tenant)
            row = sql.execute(select(b.level, b.updated_at).where(is_bucket)).one_or_none()
            now = read_clock(sql)
            if row is None:
                sql.execute(insert(t.budgets).values(tenant=tenant, unit=unit, level=per_minute, updated_at=now))
            level, updated_at = (per_minute, now) if row is None else (row.level, row.updated_at)
            elapsed_s = max(0.0, (now - updated_at).total_seconds())  # a failover may set the clock back
            level = min(per_minute, level + elapsed_s * per_minute / 60)
            level = min(per_minute, level + left)
            wait_s = max(0.0, (needed - level) * 60 / per_minute)
            # Whole numbers: a fraction of a request at each gateway would be of use to nobody.
            granted = 0.0 if wait_s else float(int(min(wanted, level)))
            sql.execute(update(t.budgets).where(is_bucket).values(level=level - granted, updated_at=now))
            return granted, wait_s
