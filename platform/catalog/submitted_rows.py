"""What submissions read and write: the unfinished consolidation of an instance, its batches, and the new row."""

import secrets
from datetime import datetime

from sqlalchemy import Connection, insert, select

from looper.platform.catalog import rows
from looper.platform.catalog import tables as t
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.errors import Conflict
from looper.platform.domain.names import InstanceName
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.states import ConsolidationState


def find_unfinished(sql: Connection, instance: InstanceName) -> Consolidation | None:
    """Return the newest consolidation of ``instance`` that has not ended, or None."""
    c = t.consolidations.c
    query = select(t.consolidations).where(rows.in_instance(t.consolidations, instance), c.ended_at.is_(None))
    row = sql.execute(query.order_by(c.created_at.desc()).limit(1)).one_or_none()
    return None if row is None else rows.to_consolidation(row)


def refuse_beside(unfinished: Consolidation) -> Conflict:
    """Return the error to raise for what cannot be done while a consolidation is ``unfinished``."""
    return Conflict(
        f"instance {unfinished.instance} has an unfinished consolidation {unfinished.id} on base model "
        f"{unfinished.base}: wait until it has ended, or cancel it: looper jobs cancel {unfinished.id}"
    )


def list_batch_ids(sql: Connection, instance: InstanceName) -> list[str]:
    """Return the ids of all batches of ``instance``, oldest first."""
    b = t.batches.c
    query = select(b.id).where(rows.in_instance(t.batches, instance)).order_by(b.created_at, b.id)
    return list(sql.scalars(query))


def insert_consolidation(
    sql: Connection,
    instance: InstanceName,
    base: str,
    recipe: Recipe,
    batches: list[str],
    priority: int,
    created_at: datetime,
    *,
    is_move: bool = False,
) -> Consolidation:
    """Queue a consolidation.

    Args:
        sql: Open transaction, in which the instance's row is locked.
        instance: Instance to train an adapter for.
        base: Base model, as the settings name it.
        recipe: Hyperparameters.
        batches: Ids of the batches that it trains on.
        priority: Higher priorities are claimed first.
        created_at: Time of submission.
        is_move: Whether it moves the instance to ``base``.

    Returns:
        The consolidation.
    """
    id = secrets.token_hex(16)
    sql.execute(
        insert(t.consolidations).values(
            id=id,
            **rows.instance_columns(instance),
            state=ConsolidationState.QUEUED,
            base=base,
            is_move=is_move,
            recipe=recipe.model_dump(mode="json"),
            batches=batches,
            shape=recipe.trainer_shape,
            priority=priority,
            created_at=created_at,
            updated_at=created_at,
        )
    )
    to_base = f" to move to base model {base}" if is_move else ""
    rows.insert_event(sql, instance, id, f"queued with {len(batches)} batches{to_base}")
    return rows.load_consolidation(sql, id)
