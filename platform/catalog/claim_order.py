"""SQL expressions for the queue: which consolidations may be claimed, and in which order.

``queue.py`` uses them. The order of claiming is described in docs/consolidation.md.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Subquery, and_, case, exists, func, or_, select

from looper.platform.catalog import tables as t
from looper.platform.domain.names import PROD
from looper.platform.domain.recipe import TrainerShape
from looper.platform.domain.states import QueueStage

c = t.consolidations.c
"""Columns of the consolidations table."""


def claimable(
    stage: QueueStage,
    now: datetime,
    tenant_limit: int | None,
    base: str | None = None,
    shape: TrainerShape | None = None,
) -> Subquery:
    """Select the consolidations that may be claimed, each with its fair-share rank.

    The rank is the number of consolidations of the tenant that would be leased once this one is claimed. Claiming by
    ascending rank gives each tenant an equal share of the workers.

    Args:
        stage: Stage to claim from.
        now: Current time. A lease that ended before it has expired.
        tenant_limit: Maximum number of consolidations that one tenant may have leased in this stage. None: no limit.
        base: Only those on this base model.
        shape: Only those that need this trainer shape.

    Returns:
        A subquery with the columns ``id``, ``base``, ``shape``, ``priority``, ``attempts``, ``created_at``,
        ``fair_share_rank`` and ``in_stage``, the number that the tenant would have leased in this stage.
    """
    leased = (
        select(
            c.tenant,
            func.count().label("in_all_stages"),
            func.count(case((c.state.in_(stage.states), 1))).label("in_stage"),
        )
        .where(c.ended_at.is_(None), c.owner.is_not(None), c.lease_until >= now)
        .group_by(c.tenant)
        .subquery()
    )
    position_in_tenant = func.row_number().over(partition_by=c.tenant, order_by=(c.priority.desc(), c.created_at, c.id))
    query = (
        select(
            c.id,
            c.base,
            c.shape,
            c.priority,
            c.attempts,
            c.created_at,
            (func.coalesce(leased.c.in_all_stages, 0) + position_in_tenant).label("fair_share_rank"),
            (func.coalesce(leased.c.in_stage, 0) + position_in_tenant).label("in_stage"),
        )
        .outerjoin(leased, leased.c.tenant == c.tenant)
        .where(is_waiting(stage, now), ~has_unfinished_predecessor())
    )
    if base is not None:
        query = query.where(c.base == base)
    if shape is not None:
        query = query.where(c.shape == shape)
    candidates = query.subquery()
    if tenant_limit is None:
        return candidates
    return select(candidates).where(candidates.c.in_stage <= tenant_limit).subquery()


def count_claimable_together(waiting_attempts: Sequence[int], leased_attempts: Sequence[int], max_attempts: int) -> int:
    """Count how many waiting consolidations an owner may claim, so that a last attempt always runs alone.

    Args:
        waiting_attempts: Attempts made at each waiting consolidation, in the order of claiming.
        leased_attempts: Attempts made at each consolidation that the owner has leased, including the present one.
        max_attempts: Number of attempts after which a consolidation fails.

    Returns:
        Number of consolidations to claim, from the front of ``waiting_attempts``.
    """
    if any(attempts >= max_attempts for attempts in leased_attempts):
        return 0
    first_last_attempt = next(
        (i for i, attempts in enumerate(waiting_attempts) if attempts + 1 >= max_attempts), len(waiting_attempts)
    )
    if first_last_attempt == 0 and waiting_attempts and not leased_attempts:
        return 1
    return first_last_attempt


def is_waiting(stage: QueueStage, now: datetime) -> ColumnElement[bool]:
    """Return the condition that a consolidation is in ``stage`` and has no lease that is valid at ``now``."""
    return and_(c.ended_at.is_(None), c.state.in_(stage.states), or_(c.owner.is_(None), c.lease_until < now))


def has_unfinished_predecessor() -> ColumnElement[bool]:
    """Return the condition that an older consolidation of the same instance is unfinished.

    Such a consolidation cannot start yet, because it starts from the version that the older one publishes.
    """
    older = t.consolidations.alias("older")
    return exists().where(
        older.c.tenant == c.tenant,
        older.c.instance == c.instance,
        older.c.ended_at.is_(None),
        older.c.created_at < c.created_at,
    )


def prod_digest() -> ColumnElement[str | None]:
    """Return the digest that ``prod`` of the consolidation's instance points to, as a scalar subquery."""
    channel = t.channels.c
    return (
        select(channel.digest)
        .where(channel.tenant == c.tenant, channel.instance == c.instance, channel.name == PROD)
        .correlate(t.consolidations)
        .scalar_subquery()
    )


def is_leased_by(owner: str) -> ColumnElement[bool]:
    """Return the condition that ``owner`` has leased a consolidation and nobody has claimed it since.

    An expired lease that was not claimed again still belongs to its owner.
    """
    return and_(c.owner == owner, c.ended_at.is_(None))
