"""Catalog operations on events: what happened to instances and consolidations, and a tenant's audit trail.

Every operation that changes something writes an event in its own transaction, so no change is without one.
"""

from typing import Any

from sqlalchemy import Row, select

from looper.platform.catalog import rows
from looper.platform.catalog import tables as t
from looper.platform.catalog.database import Database
from looper.platform.catalog.records import Event
from looper.platform.domain.names import InstanceName


class EventOperations(Database):
    """Events."""

    def list_events(
        self,
        *,
        consolidation: str | None = None,
        instance: InstanceName | None = None,
        after: int | None = None,
        limit: int | None = None,
    ) -> list[Event]:
        """List events, oldest first.

        Args:
            consolidation: Only those of the consolidation with this id.
            instance: Only those of this instance.
            after: Only those after the event with this id.
            limit: Maximum length of the list.

        Returns:
            The events.
        """
        query = select(t.events).order_by(t.events.c.id)
        if consolidation is not None:
            query = query.where(t.events.c.consolidation == consolidation)
        if instance is not None:
            query = query.where(rows.in_instance(t.events, instance))
        if after is not None:
            query = query.where(t.events.c.id > after)
        with self._read_transaction() as sql:
            return [_to_event(row) for row in sql.execute(query.limit(limit))]

    def list_audit_trail(self, tenant: str | None, *, before: int | None = None, limit: int = 100) -> list[Event]:
        """List all changes of what a tenant has, newest first: of the tenant itself, its keys, limits and instances.

        Args:
            tenant: Name of the tenant. None: the operators' audit trail, which has what happened to their keys.
            before: Only events whose id is lower: the last id of the page before.
            limit: Maximum length of the list.

        Returns:
            The events.

        Raises:
            NotFound: The tenant does not exist.
        """
        query = select(t.events).where(t.events.c.tenant == (tenant or "")).order_by(t.events.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(t.events.c.id < before)
        with self._read_transaction() as sql:
            if tenant is not None:
                rows.require_tenant(sql, tenant)
            return [_to_event(row) for row in sql.execute(query)]


def _to_event(row: Row[Any]) -> Event:
    return Event(
        id=row.id,
        at=row.at,
        actor=row.actor,
        instance=f"{row.tenant}/{row.instance}" if row.instance else None,
        consolidation=row.consolidation,
        what=row.what,
    )
