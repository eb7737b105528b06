"""Catalog operations for those who submit consolidations: submit, look up, list and cancel.

The API and the command line call them. Workers use the operations in ``queue.py``.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, select, update

from looper.platform.catalog import rows, submitted_rows
from looper.platform.catalog import tables as t
from looper.platform.catalog.clock import read_clock
from looper.platform.catalog.database import Database
from looper.platform.domain.consolidation import Consolidation, check_priority
from looper.platform.domain.errors import Conflict, InvalidInput
from looper.platform.domain.names import PROD, InstanceName
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.states import ConsolidationState

_UNSUCCESSFUL = (ConsolidationState.REJECTED, ConsolidationState.FAILED, ConsolidationState.CANCELLED)
"""States that give a consolidation's batches back: the next consolidation trains on them again."""


class ConsolidationOperations(Database):
    """Consolidations, as their submitter sees them."""

    def submit_all(
        self, bases: Mapping[InstanceName, str], *, recipe: Recipe, priority: int = 0, served: Collection[str] = ()
    ) -> list[Consolidation]:
        """Queue one consolidation for each instance, or none at all. ``submit`` says what a consolidation contains.

        Args:
            bases: Base model, as the settings name it, by the instance to train an adapter for.
            recipe: Hyperparameters.
            priority: From ``MIN_PRIORITY`` to ``MAX_PRIORITY``. Higher priorities are claimed first.
            served: All base models of the cluster. What an instance has learned on another one of them counts as new.
                What it has learned on one that is not among them does not, because that may be an earlier name.

        Returns:
            The new or unfinished consolidations, in the order of ``bases``.

        Raises:
            NotFound: An instance does not exist.
            InvalidInput: The priority is out of range, or an instance has no new trajectories.
            Conflict: An instance has an unfinished consolidation on another base model of the cluster.
        """
        check_priority(priority)
        with self._write_transaction() as sql:
            for instance in sorted(bases):  # in one order, so that two submissions never wait for each other
                rows.require_instance(sql, instance, lock=True)
            return [_submit(sql, instance, base, recipe, priority, served) for instance, base in bases.items()]

    def submit(self, instance: InstanceName, *, base: str, recipe: Recipe, priority: int = 0) -> Consolidation:
        """Queue a consolidation of all batches that no published or unfinished consolidation contains.

        Submitting the same base and recipe again, without new batches, does not queue a second consolidation. The
        unfinished one gets the new priority instead.

        Args:
            instance: Instance to train an adapter for.
            base: Base model, as the settings name it.
            recipe: Hyperparameters.
            priority: From ``MIN_PRIORITY`` to ``MAX_PRIORITY``. Higher priorities are claimed first.

        Returns:
            The new consolidation, or the unfinished one.

        Raises:
            NotFound: The instance does not exist.
            InvalidInput: The priority is out of range, or there are no new trajectories.
        """
        (job,) = self.submit_all({instance: base}, recipe=recipe, priority=priority)
        return job

    def get_consolidation(self, id: str) -> Consolidation:
        """Return the consolidation with this ``id``.

        Raises:
            NotFound: There is no such consolidation.
        """
        with self._read_transaction() as sql:
            return rows.load_consolidation(sql, id)

    def list_consolidations(
        self,
        tenant: str | None = None,
        instance: InstanceName | None = None,
        *,
        unfinished: bool = False,
        after: tuple[datetime, str] | None = None,
        limit: int | None = None,
    ) -> list[Consolidation]:
        """List consolidations, newest first.

        Args:
            tenant: Only those of this tenant.
            instance: Only those of this instance.
            unfinished: Only those that have not ended.
            after: Only those that are listed after the one with this time of submission and id.
            limit: Maximum length of the list.

        Returns:
            The consolidations.
        """
        c = t.consolidations.c
        query = select(t.consolidations).where(rows.is_listed_after(c.created_at, c.id, after))
        if tenant is not None:
            query = query.where(c.tenant == tenant)
        if instance is not None:
            query = query.where(rows.in_instance(t.consolidations, instance))
        if unfinished:
            query = query.where(c.ended_at.is_(None))
        query = query.order_by(c.created_at.desc(), c.id).limit(limit)
        with self._read_transaction() as sql:
            return [rows.to_consolidation(row) for row in sql.execute(query)]

    def count_consolidations(self) -> dict[ConsolidationState, int]:
        """Return how many consolidations are in each state, of those states that any is in."""
        state = t.consolidations.c.state
        with self._read_transaction() as sql:
            counted = sql.execute(select(state, func.count()).group_by(state).order_by(state)).all()
        return {ConsolidationState(name): count for name, count in counted}

    def get_consolidations(self, ids: Sequence[str], tenant: str | None = None) -> list[Consolidation]:
        """Return several consolidations.

        Args:
            ids: Their ids.
            tenant: Only those of this tenant exist. None: those of all tenants.

        Returns:
            The consolidations, in the order of ``ids``.

        Raises:
            NotFound: One of them does not exist. The error names the first one.
        """
        c = t.consolidations.c
        with self._read_transaction() as sql:
            query = select(t.consolidations).where(c.id.in_(ids))
            if tenant is not None:
                query = query.where(c.tenant == tenant)
            found = {row.id: rows.to_consolidation(row) for row in sql.execute(query)}
        for id in ids:
            if id not in found:
                raise rows.consolidation_not_found(id)
        return [found[id] for id in ids]

    def list_unfinished(self, tenant: str | None = None, *, limit: int | None = None) -> list[Consolidation]:
        """List consolidations that have not ended, oldest first.

        Args:
            tenant: Only those of this tenant.
            limit: Maximum length of the list.

        Returns:
            The consolidations.
        """
        c = t.consolidations.c
        query = select(t.consolidations).where(c.ended_at.is_(None)).order_by(c.created_at, c.id).limit(limit)
        if tenant is not None:
            query = query.where(c.tenant == tenant)
        with self._read_transaction() as sql:
            return [rows.to_consolidation(row) for row in sql.execute(query)]

    def cancel(self, id: str) -> None:
        """Cancel the consolidation with this ``id``, whatever stage it is in.

        Its worker loses the lease and gets Conflict at its next write.

        Raises:
            NotFound: There is no such consolidation.
            Conflict: The consolidation has ended already.
        """
        c = t.consolidations.c
        with self._write_transaction() as sql:
            now = read_clock(sql)
            job = rows.load_consolidation(sql, id)
            result = sql.execute(
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
            if result.rowcount == 0:
                raise Conflict(f"consolidation {id} is {job.state} already")
            rows.insert_event(sql, job.instance, id, "cancelled")


def _submit(
    sql: Connection, instance: InstanceName, base: str, recipe: Recipe, priority: int, served: Collection[str]
) -> Consolidation:
    """Submit one instance, whose row is locked, so that two submissions do not take the same batches."""
    unfinished = submitted_rows.find_unfinished(sql, instance)
    if unfinished is not None and unfinished.base != base and unfinished.base in served:
        raise submitted_rows.refuse_beside(unfinished)
    new_batches = _find_new_batches(sql, instance, [other for other in served if other != base])
    if not new_batches:
        if unfinished is not None and (unfinished.base, unfinished.recipe) == (base, recipe):
            return _set_priority(sql, unfinished, priority)
        raise InvalidInput(
            f"instance {instance} has no new trajectories to consolidate: looper ingest PATH --instance {instance}"
        )
    created_at = read_clock(sql)
    if unfinished is not None:
        # The queue orders an instance's consolidations by creation time. A clock may be set back.
        created_at = max(created_at, unfinished.created_at + timedelta(microseconds=1))
    return submitted_rows.insert_consolidation(sql, instance, base, recipe, new_batches, priority, created_at)


def _find_new_batches(sql: Connection, instance: InstanceName, other_bases: Collection[str]) -> list[str]:
    """Return the batches that no published or unfinished consolidation contains, except on ``other_bases``.

    A version that the gate left undecided counts only if ``prod`` leads back to it. Otherwise the next version, which
    does not continue from it, would never learn what it has.
    """
    c = t.consolidations.c
    query = select(c.batches, c.digest, c.verdict).where(
        rows.in_instance(t.consolidations, instance), c.state.not_in(_UNSUCCESSFUL), c.base.not_in(other_bases)
    )
    lineage: set[str] | None = None
    used: set[str] = set()
    for row in sql.execute(query):
        if (row.verdict or {}).get("undecided"):
            lineage = _load_prod_lineage(sql, instance) if lineage is None else lineage
            if row.digest not in lineage:
                continue
        used.update(row.batches)
    return [batch for batch in submitted_rows.list_batch_ids(sql, instance) if batch not in used]


def _load_prod_lineage(sql: Connection, instance: InstanceName) -> set[str]:
    prod = rows.channel_digest(sql, instance, PROD)
    return set() if prod is None else {version.digest for version in rows.load_lineage(sql, prod)}


def _set_priority(sql: Connection, job: Consolidation, priority: int) -> Consolidation:
    if job.priority != priority:
        sql.execute(
            update(t.consolidations)
            .where(t.consolidations.c.id == job.id)
            .values(priority=priority, updated_at=read_clock(sql))
        )
        rows.insert_event(sql, job.instance, job.id, f"priority {priority}")
    return rows.load_consolidation(sql, job.id)
