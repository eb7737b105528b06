"""Tenants and their keys."""

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError

from looper.platform.catalog import rows
from looper.platform.catalog import tables as t
from looper.platform.catalog.database import Database
from looper.platform.catalog.records import ApiKey, Quota
from looper.platform.domain.errors import Conflict, NotFound
from looper.platform.domain.names import check_name


class TenantOperations(Database):
    def create_tenant(self, name: str) -> None:
        """Raises Conflict if the tenant exists, InvalidInput if the name is not one."""
        check_name(name, "tenant")
        with self._write() as sql:
            try:
                sql.execute(insert(t.tenants).values(name=name, created_at=rows.now()))
            except IntegrityError as error:
                raise Conflict(f"tenant {name} exists already") from error

    def tenants(self) -> list[str]:
        with self._read() as sql:
            return list(sql.scalars(select(t.tenants.c.name).order_by(t.tenants.c.name)))

    def quota(self, tenant: str) -> Quota:
        columns = t.tenants.c.requests_per_minute, t.tenants.c.tokens_per_minute
        with self._read() as sql:
            row = sql.execute(select(*columns).where(t.tenants.c.name == tenant)).one_or_none()
        if row is None:
            raise rows.no_tenant(tenant)
        return Quota(**row._mapping)

    def set_quota(self, tenant: str, quota: Quota) -> None:
        with self._write() as sql:
            done = sql.execute(update(t.tenants).where(t.tenants.c.name == tenant).values(**quota.model_dump()))
            if done.rowcount == 0:
                raise rows.no_tenant(tenant)

    def add_key(self, key: ApiKey) -> None:
        with self._write() as sql:
            if sql.scalar(select(t.tenants.c.name).where(t.tenants.c.name == key.tenant)) is None:
                raise rows.no_tenant(key.tenant)
            sql.execute(insert(t.keys).values(**key.model_dump()))

    def key(self, id: str) -> ApiKey:
        with self._read() as sql:
            row = sql.execute(select(t.keys).where(t.keys.c.id == id)).one_or_none()
        if row is None:
            raise NotFound(f"key {id} does not exist")
        return ApiKey(**row._mapping)

    def revoke_key(self, id: str) -> None:
        with self._write() as sql:
            done = sql.execute(
                update(t.keys).where(t.keys.c.id == id, t.keys.c.revoked_at.is_(None)).values(revoked_at=rows.now())
            )
            if done.rowcount == 0:
                raise NotFound(f"key {id} does not exist or is revoked already")
