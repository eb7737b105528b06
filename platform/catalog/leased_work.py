"""Catalog operations for workers that hold a lease: change the state, report progress, fail, reject and publish.

Every write checks that the worker still holds the lease. If a process is suspended until its lease expires and another
worker claims the consolidation, then all later writes of the suspended process fail with Conflict.
"""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, insert, select, update

from looper.platform.catalog import publication, rows
from looper.platform.catalog import tables as t
from looper.platform.catalog.claim_order import is_leased_by
from looper.platform.catalog.clock import read_clock
from looper.platform.catalog.database import Database
from looper.platform.domain.actor import QUEUE_WORKER
from looper.platform.domain.consolidation import Consolidation, TrainingProgress
from looper.platform.domain.errors import Conflict
from looper.platform.domain.scores import GateVerdict
from looper.platform.domain.states import ConsolidationState

_ACTIVE_STATES = (ConsolidationState.SYNTHESISING, ConsolidationState.TRAINING, ConsolidationState.EVALUATING)

MAX_IDS = 10_000
"""Maximum number of ids in one statement. PostgreSQL takes 65,535 parameters, and SQLite 32,766."""

c = t.consolidations.c


class LeasedWorkOperations(Database):
    """Changes of a consolidation by the worker that holds its lease."""

    def advance(self, id: str, owner: str, state: ConsolidationState) -> None:
        """Enter a state and keep the lease.

        Args:
            id: The consolidation.
            owner: Worker that holds the lease.
            state: State to enter. It must not be a final state.

        Raises:
            Conflict: The consolidation was cancelled, has ended, or was claimed by another worker.
        """
        self._enter_state(id, owner, state)

    def hand_over(self, id: str, owner: str, state: ConsolidationState) -> None:
        """Enter a state and give the lease back in the same transaction, for the next stage's worker to claim.

        Args:
            id: The consolidation.
            owner: Worker that holds the lease.
            state: State to enter. It must not be a final state.

        Raises:
            Conflict: The consolidation was cancelled, has ended, or was claimed by another worker.
        """
        self._enter_state(id, owner, state, owner=None, lease_until=None)

    def report_progress(self, id: str, owner: str, progress: TrainingProgress, *, checkpointed: bool = False) -> None:
        """Store the training progress.

        Args:
            id: The consolidation.
            owner: Worker that holds the lease.
            progress: Progress of its training.
            checkpointed: Whether a checkpoint was saved. Then the attempts before this one are no longer counted.

        Raises:
            Conflict: The consolidation was cancelled, has ended, or was claimed by another worker.
        """
        with self._write_transaction() as sql:
            attempts = {"attempts": 1} if checkpointed else {}
            _update_leased(sql, id, owner, progress=progress.model_dump(mode="json"), **attempts)

    def record_event(self, id: str, owner: str, what: str) -> None:
        """Add a line to the event log, for the user to read.

        Args:
            id: The consolidation.
            owner: Worker that holds the lease.
            what: Text of the event, in one line.

        Raises:
            Conflict: The consolidation was cancelled, has ended, or was claimed by another worker.
        """
        with self._write_transaction() as sql:
            rows.insert_event(sql, _update_leased(sql, id, owner).instance, id, what, actor=QUEUE_WORKER)

    def filter_ended(self, ids: Iterable[str]) -> list[str]:
        """Return those of ``ids`` whose consolidations have ended."""
        asked = list(ids)
        with self._read_transaction() as sql:
            return [
                id
                for begin in range(0, len(asked), MAX_IDS)
                for id in sql.scalars(
                    select(c.id).where(c.id.in_(asked[begin : begin + MAX_IDS]), c.ended_at.is_not(None))
                )
            ]

    def fail(self, id: str, owner: str, reason: str) -> None:
        """End a consolidation as failed.

        Args:
            id: The consolidation.
            owner: Worker that holds the lease.
            reason: Why it failed, in one line.

        Raises:
            Conflict: The consolidation was cancelled, has ended, or was claimed by another worker.
        """
        with self._write_transaction() as sql:
            job = _end(sql, id, owner, state=ConsolidationState.FAILED, reason=reason)
            rows.insert_event(sql, job.instance, id, f"failed: {reason}", actor=QUEUE_WORKER)

    def reject(self, id: str, owner: str, verdict: GateVerdict) -> None:
        """End a consolidation whose candidate did not pass the gate.

        Args:
            id: The consolidation.
            owner: Worker that holds the lease.
            verdict: Verdict of the gate.

        Raises:
            Conflict: The consolidation was cancelled, has ended, or was claimed by another worker.
        """
        stored = verdict.model_dump(mode="json")
        with self._write_transaction() as sql:
            job = _end(sql, id, owner, state=ConsolidationState.REJECTED, reason=verdict.reason, verdict=stored)
            rows.insert_event(sql, job.instance, id, f"rejected: {verdict.reason}", actor=QUEUE_WORKER)

    def publish(
        self,
        id: str,
        owner: str,
        *,
        digest: str,
        verdict: GateVerdict,
        base_revision: str,
        canary_share: float = 0.1,
    ) -> bool:
        """End a consolidation as published: record its version and point a channel to it, in one transaction.

        If the verdict passed, that is ``prod``. It moves only if it still points to the version that the consolidation
        started from, and never to a version that is revoked already. A promotion or a rollback that was made in the
        meantime is kept. If the verdict is undecided, ``prod`` stays and the channel is ``canary``, unless somebody
        else has set that.

        Args:
            id: The consolidation.
            owner: Worker that holds the lease.
            digest: Digest of the adapter. Its files are in the object store already.
            verdict: Verdict of the gate.
            base_revision: Digest of the base model's weights.
            canary_share: Share of the requests for the plain name that ``canary`` gets beside ``prod``.

        Returns:
            Whether the channel moved.

        Raises:
            Conflict: The consolidation was cancelled, has ended, or was claimed by another worker.
        """
        stored = verdict.model_dump(mode="json")
        with self._write_transaction() as sql:
            # Whoever moves a channel holds this lock. It comes first, as in ``submit``, so that nobody deadlocks.
            rows.require_instance(sql, rows.load_consolidation(sql, id).instance, lock=True)
            job = _end(sql, id, owner, state=ConsolidationState.PUBLISHED, digest=digest, verdict=stored)
            v = t.versions.c
            recorded = sql.execute(select(v.digest, v.revoked_at).where(v.digest == digest)).one_or_none()
            if recorded is None:
                sql.execute(
                    insert(t.versions).values(
                        digest=digest,
                        **rows.instance_columns(job.instance),
                        base=job.base,
                        base_revision=base_revision,
                        rank=job.recipe.rank,
                        parent=job.parent,
                        consolidation=id,
                        verdict=stored,
                        created_at=read_clock(sql),
                    )
                )
            is_revoked = recorded is not None and recorded.revoked_at is not None
            rows.insert_event(sql, job.instance, id, f"published {digest}", actor=QUEUE_WORKER)
            if verdict.passed:
                return publication.move_prod(sql, job, digest, is_revoked=is_revoked)
            moved, what = publication.move_canary(sql, job, digest, canary_share, is_revoked=is_revoked)
            reason = f"undecided: {verdict.reason}; {what}"
            sql.execute(update(t.consolidations).where(c.id == id).values(reason=reason))
            rows.insert_event(sql, job.instance, id, reason, actor=QUEUE_WORKER)
            return moved

    def _enter_state(self, id: str, holder: str, state: ConsolidationState, /, **values: Any) -> None:
        if state not in _ACTIVE_STATES:
            raise ValueError(f"{state} is not the state of a stage: use fail, reject, publish or cancel")
        with self._write_transaction() as sql:
            job = _update_leased(sql, id, holder, state=state, **values)
            rows.insert_event(sql, job.instance, id, str(state), actor=QUEUE_WORKER)


def _update_leased(sql: Connection, id: str, holder: str, /, **values: Any) -> Consolidation:
    """Write ``values`` if ``holder`` holds the lease (compare-and-swap). Raise Conflict otherwise."""
    row = sql.execute(
        update(t.consolidations)
        .where(c.id == id, is_leased_by(holder))
        .values(**{"updated_at": read_clock(sql)} | values)
        .returning(t.consolidations)
    ).one_or_none()
    if row is None:
        raise Conflict(f"consolidation {id} was cancelled, has ended, or was claimed by another worker")
    return rows.to_consolidation(row)


def _end(sql: Connection, id: str, holder: str, /, **values: Any) -> Consolidation:
    now = read_clock(sql)
    return _update_leased(sql, id, holder, owner=None, lease_until=None, ended_at=now, updated_at=now, **values)
