"""SQL expressions for the queue: which consolidations may be claimed, and in which order.

``queue.py`` uses them. The order of claiming is described in docs/consolidation.md.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
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
        A subquery with the columns ``id``, ``tenant``, ``base``, ``shape``, ``priority``, ``attempts``, ``created_at``,
        ``updated_at``, ``fair_share_rank``, and ``in_stage``, how many the tenant would have leased in this stage.
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
            c.tenant,
            c.updated_at,
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


MAX_SHARED_ATTEMPTS = 2
"""Attempts at a consolidation beside others. After so many dead trainers without a checkpoint it runs alone, until its
next checkpoint shows that it is not the cause."""


def count_claimable_together(waiting_attempts: Sequence[int], leased_attempts: Sequence[int], max_attempts: int) -> int:
    """Count how many waiting consolidations an owner may claim, so that suspects run alone.

    A suspect is a consolidation of which ``MAX_SHARED_ATTEMPTS`` trainers may have died, or which has its last attempt.

    Args:
        waiting_attempts: Attempts made at each waiting consolidation, in the order of claiming.
        leased_attempts: Attempts made at each consolidation that the owner has leased, including the present one.
        max_attempts: Number of attempts after which a consolidation fails.

    Returns:
        Number of consolidations to claim, from the front of ``waiting_attempts``.
    """
    alone_from = min(MAX_SHARED_ATTEMPTS + 1, max_attempts)
    if any(attempts >= alone_from for attempts in leased_attempts):
        return 0
    first_suspect = next(
        (i for i, attempts in enumerate(waiting_attempts) if attempts + 1 >= alone_from), len(waiting_attempts)
    )
    if first_suspect == 0 and waiting_attempts and not leased_attempts:
        return 1
    return first_suspect


@dataclass(frozen=True)
class Place:
    """A consolidation that has a place in a trainer, or waits for one."""

    id: str
    """The consolidation."""
    tenant: str
    """Its tenant."""
    priority: int
    """Its priority."""
    held_s: float = 0.0
    """How long it has had its place, in seconds."""


def choose_to_pause(waiting: Sequence[Place], held: Sequence[Place], min_held_s: float) -> str | None:
    """Choose which consolidation gives its place in a full trainer to one that has waited too long.

    It is one of the tenant with the most places. That tenant keeps at least as many places as the other one then has,
    unless the other one has none: then the two take turns. A place is never given to a lower priority.

    Args:
        waiting: Consolidations that have waited too long, in the order of claiming.
        held: Consolidations that have places.
        min_held_s: Seconds that a consolidation keeps its place at least. Without, many that wait would only take
            turns and hardly train.

    Returns:
        The id of one of ``held``, or None if nobody has to give a place.
    """
    places = Counter(place.tenant for place in held)
    for next_one in waiting:
        own = places[next_one.tenant]
        most = max((places[place.tenant] for place in held if place.tenant != next_one.tenant), default=0)
        if most < own + 2 and own > 0:
            continue
        may_be_paused = [
            place
            for place in held
            if place.tenant != next_one.tenant
            and places[place.tenant] == most
            and place.priority <= next_one.priority
            and place.held_s >= min_held_s
        ]
        if may_be_paused:
            return max(may_be_paused, key=lambda place: (place.held_s, place.id)).id
    return None


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
