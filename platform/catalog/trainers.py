"""Catalog operations on trainers: whether one may go on, what it works on, and why one could not start.

A trainer's workers may be on any node, so that they share no files with the queue worker that started it.
"""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, insert, select, update

from looper.platform.catalog import tables as t
from looper.platform.catalog.clock import read_clock
from looper.platform.catalog.database import Database
from looper.platform.domain.cluster_report import TrainerFailure, TrainerRecord
from looper.platform.domain.recipe import TrainerShape

c, f = t.trainers.c, t.trainer_failures.c


class TrainerOperations(Database):
    """Trainers and their failures to start."""

    def add_trainer(self, name: str, queue_worker: str, base: str, shape: TrainerShape) -> None:
        """Record a trainer that is about to start.

        Args:
            name: Name of the trainer. It leases consolidations under this name.
            queue_worker: Name of the queue worker that starts it.
            base: Its base model.
            shape: How it stores the base model.
        """
        with self._write_transaction() as sql:
            now = read_clock(sql)
            sql.execute(
                insert(t.trainers).values(
                    name=name,
                    queue_worker=queue_worker,
                    base=base,
                    shape=shape,
                    is_stopping=False,
                    started_at=now,
                    seen_at=now,
                )
            )

    def report_trainer_ready(self, name: str, node: str) -> None:
        """Record that a trainer has loaded its base model, catalog and store.

        Args:
            name: Name of the trainer.
            node: Where its first worker runs.
        """
        with self._write_transaction() as sql:
            now = read_clock(sql)
            mine = sql.execute(
                update(t.trainers)
                .where(c.name == name)
                .values(node=node, ready_at=now, seen_at=now)
                .returning(c.base, c.shape)
            ).one_or_none()
            if mine is not None:
                sql.execute(delete(t.trainer_failures).where(f.base == mine.base, f.shape == mine.shape))

    def is_trainer_ready(self, name: str) -> bool:
        """Return whether a trainer has become ready."""
        with self._read_transaction() as sql:
            return sql.scalar(select(c.ready_at).where(c.name == name)) is not None

    def may_go_on(self, name: str) -> bool:
        """Record that a trainer lives, and return whether it may go on: it was neither told to stop nor removed."""
        with self._write_transaction() as sql:
            is_stopping = sql.scalar(
                update(t.trainers).where(c.name == name).values(seen_at=read_clock(sql)).returning(c.is_stopping)
            )
            return is_stopping is False

    def set_suspects(self, name: str, ids: Iterable[str]) -> None:
        """Record what a trainer works on from now on, for the case that it dies of it.

        Args:
            name: Name of the trainer.
            ids: Ids of the consolidations.
        """
        with self._write_transaction() as sql:
            sql.execute(update(t.trainers).where(c.name == name).values(suspects=list(ids)))

    def get_suspects(self, name: str) -> list[str] | None:
        """Return the ids of the consolidations that a trainer worked on last, or None if that is not known."""
        with self._read_transaction() as sql:
            return sql.scalar(select(c.suspects).where(c.name == name))

    def stop_trainers(self, queue_worker: str) -> None:
        """Tell the trainers that a queue worker started to save their members, release them and end."""
        with self._write_transaction() as sql:
            sql.execute(update(t.trainers).where(c.queue_worker == queue_worker).values(is_stopping=True))

    def remove_trainer(self, name: str) -> None:
        """Forget a trainer that has ended."""
        with self._write_transaction() as sql:
            sql.execute(delete(t.trainers).where(c.name == name))

    def remove_silent_trainers(self, silence_s: float) -> None:
        """Forget trainers that have not been heard of for ``silence_s`` seconds: nobody was left to remove them."""
        with self._write_transaction() as sql:
            oldest = read_clock(sql) - timedelta(seconds=silence_s)
            sql.execute(delete(t.trainers).where(c.seen_at < oldest))

    def list_trainers(self) -> list[TrainerRecord]:
        """Return all trainers, oldest first."""
        with self._read_transaction() as sql:
            rows = sql.execute(select(t.trainers).order_by(c.started_at)).mappings().all()
            return [TrainerRecord.model_validate(dict(row)) for row in rows]

    def record_trainer_failure(
        self, base: str, shape: TrainerShape, reason: str, *, delay_s: float, max_delay_s: float
    ) -> TrainerFailure:
        """Record that a trainer could not start. Each time in a row, the next attempt waits twice as long.

        Args:
            base: Base model of the trainer.
            shape: How it stores the base model.
            reason: Why, in one line.
            delay_s: Delay of the attempt after the first failure, in seconds.
            max_delay_s: Maximum delay in seconds.

        Returns:
            The failure, with the time of the next attempt.
        """
        this = (f.base == base) & (f.shape == shape)
        with self._write_transaction() as sql:
            now = read_clock(sql)
            failures = 1 + (sql.scalar(select(f.failures).where(this)) or 0)
            wait = timedelta(seconds=min(max_delay_s, delay_s * 2 ** min(failures - 1, 30)))
            values: dict[str, Any] = {"base": base, "shape": shape, "failures": failures, "reason": reason}
            values |= {"failed_at": now, "retry_at": now + wait}
            sql.execute(delete(t.trainer_failures).where(this))
            sql.execute(insert(t.trainer_failures).values(values))
            return TrainerFailure.model_validate(values)

    def forget_trainers(self) -> None:
        """Begin with no trainers, and with none that could not start.

        Those of an earlier queue worker that still run notice that they are forgotten: they save their members and end.
        """
        with self._write_transaction() as sql:
            sql.execute(delete(t.trainers))
            sql.execute(delete(t.trainer_failures))

    def list_trainer_failures(self) -> list[TrainerFailure]:
        """Return the trainers that could not start when they were last tried."""
        with self._read_transaction() as sql:
            rows = sql.execute(select(t.trainer_failures).order_by(f.base, f.shape)).mappings().all()
            return [TrainerFailure.model_validate(dict(row)) for row in rows]
