"""Instances, and the batches of trajectories that were ingested for them."""

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from looper.platform.catalog import rows
from looper.platform.catalog import tables as t
from looper.platform.catalog.database import Database
from looper.platform.catalog.records import Batch
from looper.platform.domain.names import InstanceName


class InstanceOperations(Database):
    def ensure_instance(self, instance: InstanceName) -> None:
        """Make the instance if it is not there. Raises NotFound if its tenant is not."""
        with self._write() as sql:
            if sql.scalar(select(t.tenants.c.name).where(t.tenants.c.name == instance.tenant)) is None:
                raise rows.no_tenant(instance.tenant)
            if not rows.exists(sql, instance):
                try:
                    with sql.begin_nested():
                        sql.execute(insert(t.instances).values(**rows.of(instance), created_at=rows.now()))
                except IntegrityError:
                    pass  # another process made it between the look and the write

    def instances(self, tenant: str | None = None) -> list[InstanceName]:
        query = select(t.instances.c.tenant, t.instances.c.instance).order_by(
            t.instances.c.tenant, t.instances.c.instance
        )
        if tenant is not None:
            query = query.where(t.instances.c.tenant == tenant)
        with self._read() as sql:
            return [InstanceName(*row) for row in sql.execute(query)]

    def check_instance(self, instance: InstanceName) -> None:
        """Raise NotFound unless the instance exists."""
        with self._read() as sql:
            rows.require(sql, instance)

    def add_batch(self, instance: InstanceName, batch_id: str, *, source: str, trajectories: int) -> bool:
        """Register a batch whose object is in the store. False if it is known already: nothing changes then."""
        with self._write() as sql:
            rows.require(sql, instance)
            try:
                with sql.begin_nested():
                    sql.execute(
                        insert(t.batches).values(
                            **rows.of(instance),
                            id=batch_id,
                            source=source,
                            trajectories=trajectories,
                            created_at=rows.now(),
                        )
                    )
            except IntegrityError:
                return False
            return True

    def batches(self, instance: InstanceName) -> list[Batch]:
        """Oldest first."""
        with self._read() as sql:
            rows.require(sql, instance)
            found = sql.execute(
                select(t.batches.c.id, t.batches.c.source, t.batches.c.trajectories, t.batches.c.created_at)
                .where(rows.belongs(t.batches, instance))
                .order_by(t.batches.c.created_at, t.batches.c.id)
            )
            return [Batch(**row._mapping) for row in found]
