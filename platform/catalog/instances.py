"""Catalog operations on instances and on the trajectory batches that were ingested for them."""

from datetime import datetime

from sqlalchemy import and_, insert, or_, select
from sqlalchemy.exc import IntegrityError

from looper.platform.catalog import rows
from looper.platform.catalog import tables as t
from looper.platform.catalog.clock import read_clock
from looper.platform.catalog.database import Database
from looper.platform.catalog.records import Batch
from looper.platform.domain.names import InstanceName


class InstanceOperations(Database):
    """Instances and batches."""

    def ensure_instance(self, instance: InstanceName) -> None:
        """Create ``instance`` unless it exists.

        Raises:
            NotFound: Its tenant does not exist.
        """
        with self._write_transaction() as sql:
            rows.require_tenant(sql, instance.tenant)
            rows.insert_instance(sql, instance)

    def list_instances(self, tenant: str | None = None) -> list[InstanceName]:
        """Return the instances of ``tenant``, or of all tenants if it is None, sorted by name."""
        query = select(t.instances.c.tenant, t.instances.c.instance).order_by(
            t.instances.c.tenant, t.instances.c.instance
        )
        if tenant is not None:
            query = query.where(t.instances.c.tenant == tenant)
        with self._read_transaction() as sql:
            return [InstanceName(*row) for row in sql.execute(query)]

    def add_batch(self, instance: InstanceName, batch_id: str, *, source: str, trajectories: int) -> bool:
        """Register a batch whose object is in the object store already.

        Args:
            instance: Instance that the trajectories belong to.
            batch_id: Digest of the batch's content.
            source: Path or name that the trajectories were read from.
            trajectories: Number of trajectories.

        Returns:
            True if the batch is new. False if it is registered already; then nothing changes.

        Raises:
            NotFound: The instance does not exist.
        """
        with self._write_transaction() as sql:
            rows.require_instance(sql, instance)
            try:
                with sql.begin_nested():
                    sql.execute(
                        insert(t.batches).values(
                            **rows.instance_columns(instance),
                            id=batch_id,
                            source=source,
                            trajectories=trajectories,
                            created_at=read_clock(sql),
                        )
                    )
            except IntegrityError:
                return False
            rows.insert_event(sql, instance, None, f"ingested {trajectories} trajectories as batch {batch_id}")
            return True

    def list_batches(
        self, instance: InstanceName, *, after: tuple[datetime, str] | None = None, limit: int | None = None
    ) -> list[Batch]:
        """List the batches of an instance, oldest first.

        Args:
            instance: The instance.
            after: Only batches that are listed after the one with this time of ingestion and id.
            limit: Maximum length of the list.

        Returns:
            The batches.

        Raises:
            NotFound: The instance does not exist.
        """
        b = t.batches.c
        query = select(b.id, b.source, b.trajectories, b.created_at).where(rows.in_instance(t.batches, instance))
        if after is not None:
            query = query.where(or_(b.created_at > after[0], and_(b.created_at == after[0], b.id > after[1])))
        with self._read_transaction() as sql:
            rows.require_instance(sql, instance)
            found = sql.execute(query.order_by(b.created_at, b.id).limit(limit))
            return [Batch(**row._mapping) for row in found]
