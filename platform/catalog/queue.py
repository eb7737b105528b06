"""Catalog operations on leases: claim consolidations, renew leases, and release them. Workers call them.

A consolidation waits in one of three stages. A different kind of worker claims from each stage. A worker holds a lease
on what it has claimed and renews it by heartbeat. If a process dies, its leases expire and another worker claims its
consolidations. The expressions for the order of claiming are in ``claim_order.py``. The writes of a worker that holds a
lease are in ``leased_work.py``.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from sqlalchemy import Connection, Select, case, func, literal, select, text, union_all, update

from looper.platform.catalog import claim_order, rows
from looper.platform.catalog import tables as t
from looper.platform.catalog.clock import read_clock
from looper.platform.catalog.database import Database
from looper.platform.catalog.records import TrainingDemand
from looper.platform.domain.actor import QUEUE_WORKER
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.names import InstanceName
from looper.platform.domain.recipe import TrainerShape
from looper.platform.domain.states import ConsolidationState, QueueStage

_CLAIM_LOCK_ID = 0x6C6F6F71
"""Name of PostgreSQL's advisory lock for claims. Any fixed number will do."""

c = t.consolidations.c


class QueueOperations(Database):
    """Leases on consolidations."""

    def claim(
        self,
        owner: str,
        stage: QueueStage,
        *,
        base: str | None = None,
        shape: TrainerShape | None = None,
        limit: int,
        lease_s: float,
        tenant_limit: int | None = None,
        max_attempts: int | None = None,
    ) -> list[Consolidation]:
        """Lease up to ``limit`` waiting consolidations in one transaction.

        A consolidation is waiting if it has no lease or an expired one. Of each instance, only the oldest unfinished
        consolidation can be claimed. Higher priorities are claimed first. Among equal priorities, the tenant with the
        fewest leased consolidations comes first, then the oldest consolidation. The first claim sets ``parent`` to what
        ``prod`` points to.

        Args:
            owner: Name of the claiming worker. It identifies the lease.
            stage: Stage to claim from.
            base: Only consolidations on this base model.
            shape: Only consolidations that need this trainer shape.
            limit: Maximum number of consolidations to claim.
            lease_s: Duration of the lease, in seconds.
            tenant_limit: Maximum number of consolidations that one tenant may have leased in this stage.
            max_attempts: Number of attempts after which a consolidation fails. The last attempt runs alone: it is only
                given to an owner without other leases, and nothing else is claimed with it. So does each attempt after
                ``claim_order.MAX_SHARED_ATTEMPTS``. If that trainer dies, this consolidation is the cause.

        Returns:
            The claimed consolidations, in the order of claiming. The list is empty if none is waiting.
        """
        with self._read_transaction() as sql:  # Workers poll an empty queue often. That must not take a lock.
            if sql.scalar(select(c.id).where(claim_order.is_waiting(stage, read_clock(sql))).limit(1)) is None:
                return []
        with self._write_transaction() as sql:
            _lock_claims(sql)
            now = read_clock(sql)
            candidates = claim_order.claimable(stage, now, tenant_limit, base, shape)
            waiting = sql.execute(
                select(candidates.c.id, candidates.c.attempts)
                .order_by(
                    candidates.c.priority.desc(),
                    candidates.c.fair_share_rank,
                    candidates.c.created_at,
                    candidates.c.id,
                )
                .limit(limit)
            ).all()
            chosen = [row.id for row in waiting]
            if max_attempts is not None:
                leased = sql.scalars(select(c.attempts).where(claim_order.is_leased_by(owner))).all()
                waiting_attempts = [row.attempts for row in waiting]
                chosen = chosen[: claim_order.count_claimable_together(waiting_attempts, leased, max_attempts)]
            claimed = _lease(sql, chosen, owner, stage, now, lease_s)
            for job in claimed.values():
                if stage is QueueStage.TRAINING and job.attempts > 1:
                    rows.insert_event(
                        sql, job.instance, job.id, f"its trainer died: attempt {job.attempts}", actor=QUEUE_WORKER
                    )
        return [claimed[id] for id in chosen if id in claimed]

    def choose_to_pause(
        self,
        held_s: Mapping[str, float],
        *,
        base: str,
        shape: TrainerShape,
        max_wait_s: float,
        tenant_limit: int | None = None,
    ) -> str | None:
        """Choose which consolidation of a full trainer gives its place to one of another tenant.

        Args:
            held_s: How long each consolidation has had its place in the trainer, in seconds, by id.
            base: The trainer's base model.
            shape: The trainer's shape.
            max_wait_s: Seconds that the one has had its place, and that the other one has waited for training.
            tenant_limit: Maximum number of consolidations that one tenant may have leased in training.

        Returns:
            One of the ids of ``held_s``, or None if nobody has to give a place.
        """
        now = self.now()
        candidates = claim_order.claimable(QueueStage.TRAINING, now, tenant_limit, base, shape).c
        overdue = (
            select(candidates.id, candidates.tenant, candidates.priority)
            .where(candidates.updated_at < now - timedelta(seconds=max_wait_s))
            .order_by(candidates.priority.desc(), candidates.fair_share_rank, candidates.created_at, candidates.id)
        )
        held = select(c.id, c.tenant, c.priority).where(c.id.in_(list(held_s)))
        with self._read_transaction() as sql:
            waiting = [claim_order.Place(*row) for row in sql.execute(overdue)]
            if not waiting:
                return None
            places = [claim_order.Place(*row, held_s=held_s[row.id]) for row in sql.execute(held)]
        return claim_order.choose_to_pause(waiting, places, max_wait_s)

    def list_training_demand(self, tenant_limit: int | None = None) -> list[TrainingDemand]:
        """List the kinds of trainers that waiting consolidations need.

        Consolidations that are queued or in synthesis count too, because a trainer takes longer to start than they take
        to reach training.

        Args:
            tenant_limit: Maximum number of consolidations that one tenant may have leased in training. Consolidations
                in training above it do not count.

        Returns:
            One entry for each base model and trainer shape, the most urgent first.
        """
        candidates = claim_order.claimable(QueueStage.TRAINING, self.now(), tenant_limit)
        ready = select(candidates.c.base, candidates.c.shape, candidates.c.priority, candidates.c.created_at)
        upcoming = select(c.base, c.shape, c.priority, c.created_at).where(
            c.state.in_(QueueStage.SYNTHESIS.states), ~claim_order.has_unfinished_predecessor()
        )
        demand = union_all(ready, upcoming).subquery()
        query = (
            select(demand.c.base, demand.c.shape, func.count().label("waiting"))
            .group_by(demand.c.base, demand.c.shape)
            .order_by(func.max(demand.c.priority).desc(), func.min(demand.c.created_at))
        )
        with self._read_transaction() as sql:
            return [TrainingDemand(**row._mapping) for row in sql.execute(query)]

    def explain_wait(self, reason: str | None, *, base: str, shape: TrainerShape) -> None:
        """Record why consolidations wait for a trainer. Whoever claims one deletes the reason.

        Args:
            reason: The reason, in one line. None: there is none any more.
            base: Only consolidations on this base model.
            shape: Only consolidations that need this trainer shape.
        """

        def unexplained(now: datetime) -> Select[tuple[str, str, str]]:
            return select(c.id, c.tenant, c.instance).where(
                claim_order.is_waiting(QueueStage.TRAINING, now),
                c.base == base,
                c.shape == shape,
                c.reason.is_distinct_from(reason),
            )

        with self._read_transaction() as sql:  # most often, nothing has changed, and that must not take a lock
            if sql.execute(unexplained(read_clock(sql)).limit(1)).first() is None:
                return
        with self._write_transaction() as sql:
            for job in sql.execute(unexplained(read_clock(sql)).with_for_update(skip_locked=True)).all():
                sql.execute(update(t.consolidations).where(c.id == job.id).values(reason=reason))
                if reason:
                    name = InstanceName(job.tenant, job.instance)
                    rows.insert_event(sql, name, job.id, reason, actor=QUEUE_WORKER)

    def heartbeat(self, ids: Iterable[str], owner: str, *, lease_s: float) -> set[str]:
        """Renew leases.

        Args:
            ids: Consolidations whose leases are renewed.
            owner: Worker that claimed them.
            lease_s: New duration of the leases, from now on, in seconds.

        Returns:
            The ids whose lease was renewed. Consolidations that were cancelled, or claimed by others, are missing.
        """
        with self._write_transaction() as sql:
            lease_until = read_clock(sql) + timedelta(seconds=lease_s)
            renewed = sql.scalars(
                update(t.consolidations)
                .where(c.id.in_(list(ids)), claim_order.is_leased_by(owner))
                .values(lease_until=lease_until)
                .returning(c.id)
            )
            return set(renewed)

    def list_leased(self, owner: str) -> list[str]:
        """Return the ids of the consolidations that ``owner`` has leased."""
        with self._read_transaction() as sql:
            return list(sql.scalars(select(c.id).where(claim_order.is_leased_by(owner))))

    def release(self, ids: Iterable[str], owner: str, *, crashed: bool = False) -> None:
        """Give leases back, so that any worker can continue at once. Ids that ``owner`` has not leased are ignored.

        Args:
            ids: Consolidations to release.
            owner: Worker that claimed them.
            crashed: Whether the worker crashed. Otherwise the present training attempt is not counted.
        """
        attempts = (
            c.attempts if crashed else case((c.state == ConsolidationState.TRAINING, c.attempts - 1), else_=c.attempts)
        )
        with self._write_transaction() as sql:
            sql.execute(
                update(t.consolidations)
                .where(c.id.in_(list(ids)), claim_order.is_leased_by(owner))
                .values(owner=None, lease_until=None, attempts=attempts, updated_at=read_clock(sql))
            )


def _lock_claims(sql: Connection) -> None:
    """Wait until no other transaction is claiming. Each claim sees the leases of the others and keeps the limits.

    SQLite needs no lock here, because all its write transactions wait for each other.
    """
    if sql.dialect.name == "postgresql":
        sql.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _CLAIM_LOCK_ID})


def _lease(
    sql: Connection, ids: list[str], owner: str, stage: QueueStage, now: datetime, lease_s: float
) -> dict[str, Consolidation]:
    """Lease those of ``ids`` that are still waiting, and return them by id."""
    # PostgreSQL cannot lock rows in a query with a window function, so the rows are locked here. A row that another
    # transaction is changing now, such as a cancellation or a late write of the former owner, is skipped.
    lockable = sql.scalars(
        select(c.id).where(c.id.in_(ids), claim_order.is_waiting(stage, now)).with_for_update(skip_locked=True)
    ).all()
    leased = sql.execute(
        update(t.consolidations)
        .where(c.id.in_(lockable))
        .values(
            owner=owner,
            lease_until=now + timedelta(seconds=lease_s),
            parent=case((c.started_at.is_(None), claim_order.prod_digest()), else_=c.parent),
            attempts=c.attempts + (1 if stage is QueueStage.TRAINING else 0),
            reason=None,  # why it waited
            started_at=func.coalesce(c.started_at, literal(now, t.UTCDateTime())),
            updated_at=now,
        )
        .returning(t.consolidations)
    )
    return {row.id: rows.to_consolidation(row) for row in leased}
