"""Catalog operations on tenants and their rate limits."""

from sqlalchemy import bindparam, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from looper.platform.catalog import rows
from looper.platform.catalog import tables as t
from looper.platform.catalog.clock import read_clock
from looper.platform.catalog.database import Database
from looper.platform.catalog.records import Quota, TenantOverview
from looper.platform.domain.errors import Conflict
from looper.platform.domain.names import check_name

# Each request for inference runs it. To build a statement takes longer than to run it.
_QUOTA = select(t.tenants.c.requests_per_minute, t.tenants.c.tokens_per_minute).where(
    t.tenants.c.name == bindparam("tenant")
)


class TenantOperations(Database):
    """Tenants and rate limits."""

    def create_tenant(self, name: str) -> None:
        """Create a tenant.

        Args:
            name: Name of the tenant.

        Raises:
            Conflict: The tenant exists already.
            InvalidInput: The name is not valid.
        """
        check_name(name, "tenant")
        with self._write_transaction() as sql:
            try:
                sql.execute(insert(t.tenants).values(name=name, created_at=read_clock(sql)))
            except IntegrityError as error:
                raise Conflict(f"tenant {name} exists already: use it, or choose another name") from error
            rows.insert_tenant_event(sql, name, "the tenant was created")

    def list_tenants(self) -> list[str]:
        """Return the names of all tenants, sorted."""
        with self._read_transaction() as sql:
            return list(sql.scalars(select(t.tenants.c.name).order_by(t.tenants.c.name)))

    def page_tenants(self, *, after: str | None = None, limit: int) -> list[TenantOverview]:
        """List tenants with the numbers of their instances, sorted by name.

        Args:
            after: Only those whose names sort after this one.
            limit: Maximum length of the list.

        Returns:
            The tenants.
        """
        name = t.tenants.c.name
        query = (
            select(name, func.count(t.instances.c.instance).label("instances"))
            .outerjoin(t.instances, t.instances.c.tenant == name)
            .group_by(name)
            .order_by(name)
            .limit(limit)
        )
        if after is not None:
            query = query.where(name > after)
        with self._read_transaction() as sql:
            return [TenantOverview(**row._mapping) for row in sql.execute(query)]

    def get_quota(self, tenant: str) -> Quota:
        """Return the rate limits of ``tenant``.

        Raises:
            NotFound: The tenant does not exist.
        """
        with self._read_transaction() as sql:
            row = sql.execute(_QUOTA, {"tenant": tenant}).one_or_none()
        if row is None:
            raise rows.tenant_not_found(tenant)
        return Quota(**row._mapping)

    def set_quota(self, tenant: str, quota: Quota) -> None:
        """Set the rate limits of a tenant.

        Args:
            tenant: Name of the tenant.
            quota: New limits. They replace both old ones.

        Raises:
            NotFound: The tenant does not exist.
        """
        with self._write_transaction() as sql:
            result = sql.execute(update(t.tenants).where(t.tenants.c.name == tenant).values(**quota.model_dump()))
            if result.rowcount == 0:
                raise rows.tenant_not_found(tenant)
            own = ", ".join(f"{limit} {value}" for limit, value in quota.model_dump(exclude_none=True).items())
            rows.insert_tenant_event(sql, tenant, f"limits: {own or 'those of the settings'}")
