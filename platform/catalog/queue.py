"""The queue of consolidations, as who works it sees it: claimed, held, handed on, ended.

A consolidation waits in one of three stages, each worked by another kind of worker. Who works on one holds a lease on
it and renews it by heartbeat. What a dead process held is claimed by another once the lease runs out; the dead one,
should it wake, finds each of its writes refused with Conflict. The order of claiming is told in docs/consolidation.md.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Subquery,
    and_,
    case,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    text,
    union_all,
    update,
)

from looper.platform.catalog import rows
from looper.platform.catalog import tables as t
from looper.platform.catalog.database import Database
from looper.platform.catalog.records import TrainingDemand
from looper.platform.domain.consolidation import (
    Consolidation,
    ConsolidationState,
    GateVerdict,
    QueueStage,
    TrainerShape,
    TrainingProgress,
)
from looper.platform.domain.errors import Conflict
from looper.platform.domain.names import PROD

_STAGES = (ConsolidationState.SYNTHESISING, ConsolidationState.TRAINING, ConsolidationState.EVALUATING)
_CLAIM_LOCK = 0x6C6F6F71  # any fixed number: PostgreSQL's advisory locks are named by one

c = t.consolidations.c


class QueueOperations(Database):
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
        attempts: int | None = None,
    ) -> list[Consolidation]:
        """Take up to ``limit`` consolidations that wait for ``stage``, first those whose turn it is.

        Waiting are those that nobody holds, and those whose holder let its lease run out; of an instance's unfinished
        ones only the oldest. ``base`` and ``shape`` narrow them to what one trainer can train. Higher priorities go
        first; among equals the tenant of whom fewer are worked on or taken here; then the oldest. With
        ``tenant_limit``, no tenant has more than so many held in the stage. The first claim sets the ``parent``.

        With ``attempts``, one whose last attempt of so many this is goes alone: only to an ``owner`` who holds nothing,
        and who is given nothing beside it. Should the owner die, it is known of what.
        """
        now = rows.now()
        with self._read() as sql:  # an empty queue is looked at often: that takes no lock
            if sql.scalar(select(c.id).where(_waits(stage, now)).limit(1)) is None:
                return []
        with self._write() as sql:
            _take_turn(sql)
            turns = _turns(stage, now, tenant_limit, base, shape)
            waiting = sql.execute(
                select(turns.c.id, turns.c.attempts)
                .order_by(turns.c.priority.desc(), turns.c.turn, turns.c.created_at, turns.c.id)
                .limit(limit)
            ).all()
            chosen = [row.id for row in waiting]
            if attempts is not None:
                held = sql.scalars(select(c.attempts).where(_held(owner))).all()
                chosen = chosen[: _together([row.attempts for row in waiting], held, attempts)]
            # PostgreSQL locks no rows under a window function. One that is written to at this moment, by a cancellation
            # or by a holder who woke up, is left out rather than waited for.
            free = sql.scalars(
                select(c.id).where(c.id.in_(chosen), _waits(stage, now)).with_for_update(skip_locked=True)
            ).all()
            taken = sql.execute(
                update(t.consolidations)
                .where(c.id.in_(free))
                .values(
                    owner=owner,
                    lease_until=now + timedelta(seconds=lease_s),
                    parent=case((c.started_at.is_(None), _prod()), else_=c.parent),
                    attempts=c.attempts + (1 if stage is QueueStage.TRAINING else 0),
                    started_at=func.coalesce(c.started_at, literal(now, t.Instant())),
                    updated_at=now,
                )
                .returning(t.consolidations)
            )
            claimed = {row.id: rows.to_consolidation(row) for row in taken}
            for job in claimed.values():
                if stage is QueueStage.TRAINING and job.attempts > 1:
                    rows.record(sql, job.instance, job.id, f"its trainer died: attempt {job.attempts}")
        return [claimed[id] for id in chosen if id in claimed]

    def training_demand(self, tenant_limit: int | None = None) -> list[TrainingDemand]:
        """The trainers that are wanted: how many consolidations wait for each, the most urgent first.

        Those that are still before or in synthesis count, too: a trainer takes longer to start than they to get there.
        """
        turns = _turns(QueueStage.TRAINING, rows.now(), tenant_limit)
        ready = select(turns.c.base, turns.c.shape, turns.c.priority, turns.c.created_at)
        coming = select(c.base, c.shape, c.priority, c.created_at).where(
            c.state.in_(QueueStage.SYNTHESIS.states), ~_behind_another()
        )
        wanted = union_all(ready, coming).subquery()
        query = (
            select(wanted.c.base, wanted.c.shape, func.count().label("waiting"))
            .group_by(wanted.c.base, wanted.c.shape)
            .order_by(func.max(wanted.c.priority).desc(), func.min(wanted.c.created_at))
        )
        with self._read() as sql:
            return [TrainingDemand(**row._mapping) for row in sql.execute(query)]

    def heartbeat(self, ids: Iterable[str], owner: str, *, lease_s: float) -> set[str]:
        """Renew the leases; return the ids that ``owner`` still holds. A cancelled or lost one is missing."""
        lease_until = rows.now() + timedelta(seconds=lease_s)
        with self._write() as sql:
            held = sql.scalars(
                update(t.consolidations)
                .where(c.id.in_(list(ids)), _held(owner))
                .values(lease_until=lease_until)
                .returning(c.id)
            )
            return set(held)

    def held_by(self, owner: str) -> list[str]:
        """The ids of what ``owner`` has claimed and has not ended, handed over or lost."""
        with self._read() as sql:
            return list(sql.scalars(select(c.id).where(_held(owner))))

    def release(self, ids: Iterable[str], owner: str, *, died: bool = False) -> None:
        """Give unfinished work back, for anyone to go on with. Training that nobody ``died`` of was no attempt."""
        attempts = (
            c.attempts if died else case((c.state == ConsolidationState.TRAINING, c.attempts - 1), else_=c.attempts)
        )
        with self._write() as sql:
            sql.execute(
                update(t.consolidations)
                .where(c.id.in_(list(ids)), _held(owner))
                .values(owner=None, lease_until=None, attempts=attempts, updated_at=rows.now())
            )

    def advance(self, id: str, owner: str, state: ConsolidationState) -> None:
        """Enter a stage and hold on. Raises Conflict if the consolidation was cancelled or is another's by now."""
        self._enter(id, owner, state)

    def hand_over(self, id: str, owner: str, state: ConsolidationState) -> None:
        """Enter a stage for another to claim: its state and its being held change at once. Raises as ``advance``."""
        self._enter(id, owner, state, owner=None, lease_until=None)

    def progress(self, id: str, owner: str, progress: TrainingProgress, *, saved: bool = False) -> None:
        """Say how far training is; once that is ``saved``, earlier attempts are forgotten. Raises as ``advance``."""
        with self._write() as sql:
            attempts = {"attempts": 1} if saved else {}
            _swap(sql, id, owner, progress=progress.model_dump(mode="json"), **attempts)

    def note(self, id: str, owner: str, what: str) -> None:
        """Record something that its user may want to know. Raises as ``advance``."""
        with self._write() as sql:
            rows.record(sql, _swap(sql, id, owner).instance, id, what)

    def ended(self, ids: Iterable[str]) -> list[str]:
        """Those of ``ids`` that have."""
        with self._read() as sql:
            return list(sql.scalars(select(c.id).where(c.id.in_(list(ids)), c.ended_at.is_not(None))))

    def fail(self, id: str, owner: str, reason: str) -> None:
        """Raises Conflict as ``advance`` does; so do ``reject`` and ``publish``."""
        with self._write() as sql:
            job = _end(sql, id, owner, state=ConsolidationState.FAILED, reason=reason)
            rows.record(sql, job.instance, id, f"failed: {reason}")

    def reject(self, id: str, owner: str, verdict: GateVerdict) -> None:
        stored = verdict.model_dump(mode="json")
        with self._write() as sql:
            job = _end(sql, id, owner, state=ConsolidationState.REJECTED, reason=verdict.reason, verdict=stored)
            rows.record(sql, job.instance, id, f"rejected: {verdict.reason}")

    def publish(self, id: str, owner: str, *, digest: str, verdict: GateVerdict, base_revision: str) -> bool:
        """Record the version, which is in the store by now, and point ``prod`` to it, all at once.

        ``prod`` moves only if it still points to the version that the consolidation started from: a promotion or a
        rollback made meanwhile stays. Returns whether it moved.
        """
        stored = verdict.model_dump(mode="json")
        with self._write() as sql:
            job = _end(sql, id, owner, state=ConsolidationState.PUBLISHED, digest=digest, verdict=stored)
            if sql.scalar(select(t.versions.c.digest).where(t.versions.c.digest == digest)) is None:
                sql.execute(
                    insert(t.versions).values(
                        digest=digest,
                        **rows.of(job.instance),
                        base=job.base,
                        base_revision=base_revision,
                        rank=job.recipe.rank,
                        parent=job.parent,
                        consolidation=id,
                        verdict=stored,
                        created_at=rows.now(),
                    )
                )
            moved = rows.swap(sql, job.instance, PROD, job.parent, digest)
            rows.record(sql, job.instance, id, f"published {digest}")
            rows.record(sql, job.instance, id, f"prod -> {digest}" if moved else "prod left alone: it moved meanwhile")
            return moved

    def _enter(self, id: str, holder: str, state: ConsolidationState, /, **values: Any) -> None:
        if state not in _STAGES:
            raise ValueError(f"{state} is not a stage: use fail, reject, publish or cancel")
        with self._write() as sql:
            job = _swap(sql, id, holder, state=state, **values)
            rows.record(sql, job.instance, id, str(state))


def _take_turn(sql: Connection) -> None:
    """Wait until no other claims, to the end of this transaction: each sees what the others took, and stays in the
    limits. On SQLite, every writer does."""
    if sql.dialect.name == "postgresql":
        sql.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _CLAIM_LOCK})


def _turns(
    stage: QueueStage,
    now: datetime,
    tenant_limit: int | None,
    base: str | None = None,
    shape: TrainerShape | None = None,
) -> Subquery:
    """What may be claimed, each with its ``turn``: how many of its tenant's are worked on once it is claimed, too."""
    held = (
        select(
            c.tenant,
            func.count().label("anywhere"),
            func.count(case((c.state.in_(stage.states), 1))).label("in_stage"),
        )
        .where(c.ended_at.is_(None), c.owner.is_not(None), c.lease_until >= now)
        .group_by(c.tenant)
        .subquery()
    )
    of_tenant = func.row_number().over(partition_by=c.tenant, order_by=(c.priority.desc(), c.created_at, c.id))
    waiting = (
        select(
            c.id,
            c.base,
            c.shape,
            c.priority,
            c.attempts,
            c.created_at,
            (func.coalesce(held.c.anywhere, 0) + of_tenant).label("turn"),
            (func.coalesce(held.c.in_stage, 0) + of_tenant).label("in_stage"),
        )
        .outerjoin(held, held.c.tenant == c.tenant)
        .where(_waits(stage, now), ~_behind_another())
    )
    if base is not None:
        waiting = waiting.where(c.base == base)
    if shape is not None:
        waiting = waiting.where(c.shape == shape)
    turns = waiting.subquery()
    if tenant_limit is None:
        return turns
    return select(turns).where(turns.c.in_stage <= tenant_limit).subquery()


def _together(waiting: Sequence[int], held: Sequence[int], attempts: int) -> int:
    """How many from the front of what ``waiting`` may be claimed beside what is ``held``, given the attempts made at
    each: at those held, the present one is among them."""
    if any(made >= attempts for made in held):
        return 0
    last = next((i for i, made in enumerate(waiting) if made + 1 >= attempts), len(waiting))
    return 1 if last == 0 and not held and waiting else last


def _waits(stage: QueueStage, now: datetime) -> ColumnElement[bool]:
    return and_(c.ended_at.is_(None), c.state.in_(stage.states), or_(c.owner.is_(None), c.lease_until < now))


def _behind_another() -> ColumnElement[bool]:
    """Whether an older one of the instance is unfinished. It goes on from what that one publishes."""
    older = t.consolidations.alias("older")
    return exists().where(
        older.c.tenant == c.tenant,
        older.c.instance == c.instance,
        older.c.ended_at.is_(None),
        older.c.created_at < c.created_at,
    )


def _prod() -> ColumnElement[str | None]:
    channel = t.channels.c
    return (
        select(channel.digest)
        .where(channel.tenant == c.tenant, channel.instance == c.instance, channel.name == PROD)
        .correlate(t.consolidations)
        .scalar_subquery()
    )


def _held(owner: str) -> ColumnElement[bool]:
    return and_(c.owner == owner, c.ended_at.is_(None))


def _swap(sql: Connection, id: str, holder: str, /, **values: Any) -> Consolidation:
    """Compare-and-swap: write ``values`` if ``holder`` holds it, or raise Conflict."""
    row = sql.execute(
        update(t.consolidations)
        .where(c.id == id, _held(holder))
        .values(**{"updated_at": rows.now()} | values)
        .returning(t.consolidations)
    ).one_or_none()
    if row is None:
        raise Conflict(f"consolidation {id} was cancelled, has ended, or is held by another process")
    return rows.to_consolidation(row)


def _end(sql: Connection, id: str, holder: str, /, **values: Any) -> Consolidation:
    now = rows.now()
    return _swap(sql, id, holder, owner=None, lease_until=None, ended_at=now, updated_at=now, **values)
