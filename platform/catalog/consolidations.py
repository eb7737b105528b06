"""Consolidations as who submits them sees them: queued, looked at, cancelled."""

import secrets
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import insert, select, update

from looper.platform.catalog import rows
from looper.platform.catalog import tables as t
from looper.platform.catalog.database import Database
from looper.platform.catalog.records import Event
from looper.platform.domain.consolidation import (
    HIGHEST_PRIORITY,
    LOWEST_PRIORITY,
    Consolidation,
    ConsolidationState,
    Recipe,
)
from looper.platform.domain.errors import Conflict, InvalidInput
from looper.platform.domain.names import InstanceName


class ConsolidationOperations(Database):
    def submit(self, instance: InstanceName, *, base: str, recipe: Recipe, priority: int = 0) -> Consolidation:
        """Queue a consolidation of the batches that no published or waiting one holds.

        Submitted again before it has ended, the same is not queued twice: the one that waits takes the priority and is
        returned. Raises NotFound for an unknown instance and InvalidInput when there is nothing new.
        """
        if not LOWEST_PRIORITY <= priority <= HIGHEST_PRIORITY:
            raise InvalidInput(f"priority {priority} is not from {LOWEST_PRIORITY} to {HIGHEST_PRIORITY}")
        with self._write() as sql:
            # The instance's row is locked, so that two submissions at once do not take the same batches.
            rows.require(sql, instance, lock=True)
            now = rows.now()
            taken: set[str] = set()
            waiting: Consolidation | None = None
            for row in sql.execute(
                select(t.consolidations)
                .where(
                    rows.belongs(t.consolidations, instance),
                    t.consolidations.c.state.not_in(
                        [ConsolidationState.REJECTED, ConsolidationState.FAILED, ConsolidationState.CANCELLED]
                    ),
                )
                .order_by(t.consolidations.c.created_at)
            ):
                taken.update(row.batches)
                if row.state != ConsolidationState.PUBLISHED:
                    waiting = rows.to_consolidation(row)
            known = sql.scalars(
                select(t.batches.c.id)
                .where(rows.belongs(t.batches, instance))
                .order_by(t.batches.c.created_at, t.batches.c.id)
            )
            new = [batch for batch in known if batch not in taken]
            if not new and waiting is not None and (waiting.base, waiting.recipe) == (base, recipe):
                if waiting.priority != priority:
                    sql.execute(
                        update(t.consolidations)
                        .where(t.consolidations.c.id == waiting.id)
                        .values(priority=priority, updated_at=now)
                    )
                    rows.record(sql, instance, waiting.id, f"priority {priority}")
                return rows.consolidation(sql, waiting.id)
            if not new:
                raise InvalidInput(
                    f"instance {instance} has no new trajectories to consolidate: "
                    f"looper ingest PATH --instance {instance}"
                )
            if waiting is not None:
                # The queue works an instance's consolidations in the order of these, whatever the machines' clocks say.
                now = max(now, waiting.created_at + timedelta(microseconds=1))
            id = secrets.token_hex(16)
            sql.execute(
                insert(t.consolidations).values(
                    id=id,
                    **rows.of(instance),
                    state=ConsolidationState.QUEUED,
                    base=base,
                    recipe=recipe.model_dump(mode="json"),
                    batches=new,
                    shape=recipe.trainer_shape,
                    priority=priority,
                    created_at=now,
                    updated_at=now,
                )
            )
            rows.record(sql, instance, id, f"queued with {len(new)} batches")
            return rows.consolidation(sql, id)

    def consolidation(self, id: str) -> Consolidation:
        """Raises NotFound if there is none."""
        with self._read() as sql:
            return rows.consolidation(sql, id)

    def consolidations(
        self, tenant: str | None = None, instance: InstanceName | None = None, limit: int = 200
    ) -> list[Consolidation]:
        """Newest first."""
        query = select(t.consolidations).order_by(t.consolidations.c.created_at.desc(), t.consolidations.c.id)
        if tenant is not None:
            query = query.where(t.consolidations.c.tenant == tenant)
        if instance is not None:
            query = query.where(rows.belongs(t.consolidations, instance))
        with self._read() as sql:
            return [rows.to_consolidation(row) for row in sql.execute(query.limit(limit))]

    def consolidations_by_id(self, ids: Sequence[str]) -> list[Consolidation]:
        """In the order of ``ids``. Raises NotFound for the first that does not exist."""
        with self._read() as sql:
            query = select(t.consolidations).where(t.consolidations.c.id.in_(ids))
            found = {row.id: rows.to_consolidation(row) for row in sql.execute(query)}
        for id in ids:
            if id not in found:
                raise rows.no_consolidation(id)
        return [found[id] for id in ids]

    def unfinished(self) -> list[Consolidation]:
        """All that wait or are worked on, oldest first."""
        c = t.consolidations.c
        query = select(t.consolidations).where(c.ended_at.is_(None)).order_by(c.created_at, c.id)
        with self._read() as sql:
            return [rows.to_consolidation(row) for row in sql.execute(query)]

    def cancel(self, id: str) -> None:
        """Stop a consolidation at whatever stage it is. Raises Conflict if it has ended."""
        c, now = t.consolidations.c, rows.now()
        with self._write() as sql:
            job = rows.consolidation(sql, id)
            done = sql.execute(
                update(t.consolidations)
                .where(c.id == id, c.ended_at.is_(None))
                .values(
                    state=ConsolidationState.CANCELLED,
                    owner=None,
                    lease_until=None,
                    reason="cancelled on request",
                    ended_at=now,
                    updated_at=now,
                )
            )
            if done.rowcount == 0:
                raise Conflict(f"consolidation {id} is {job.state} already")
            rows.record(sql, job.instance, id, "cancelled")

    def events(self, *, consolidation: str | None = None, instance: InstanceName | None = None) -> list[Event]:
        """Oldest first."""
        query = select(t.events).order_by(t.events.c.id)
        if consolidation is not None:
            query = query.where(t.events.c.consolidation == consolidation)
        if instance is not None:
            query = query.where(rows.belongs(t.events, instance))
        with self._read() as sql:
            return [
                Event(
                    id=row.id,
                    at=row.at,
                    instance=f"{row.tenant}/{row.instance}",
                    consolidation=row.consolidation,
                    what=row.what,
                )
                for row in sql.execute(query)
            ]
