"""Which channel moves to a version that was just published. ``leased_work.py`` calls it in its transaction.

A version that has passed the gate goes to ``prod``. One with too little evidence goes to ``canary`` beside ``prod``,
where a person sees what it does and decides. A canary that a person has set is never taken away: the event log tells
who moved a channel last.
"""

from sqlalchemy import Connection, func, select

from looper.platform.catalog import rows
from looper.platform.catalog import tables as t
from looper.platform.domain.actor import QUEUE_WORKER
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.names import CANARY, PROD


def move_prod(sql: Connection, job: Consolidation, digest: str, *, is_revoked: bool) -> bool:
    """Point ``prod`` to a version that has passed, and end the canary that an undecided one before it has got.

    Args:
        sql: Open transaction, with the instance locked.
        job: The consolidation that has made the version.
        digest: Digest of the version.
        is_revoked: Whether the version is revoked already.

    Returns:
        Whether ``prod`` moved.
    """
    moved = not is_revoked and rows.swap_channel(sql, job.instance, PROD, job.parent, digest)
    reason = "the version is revoked" if is_revoked else "it was changed during the consolidation"
    _record(sql, job, f"{PROD} -> {digest}" if moved else f"{PROD} was not moved: {reason}")
    canary = rows.channel_digest(sql, job.instance, CANARY)
    if moved and canary is not None and _is_automatic(sql, job):
        rows.delete_channel(sql, job.instance, CANARY)
        _record(sql, job, f"{CANARY} is deleted: {digest} has passed, and {canary} was undecided")
    return moved


def move_canary(
    sql: Connection, job: Consolidation, digest: str, share: float, *, is_revoked: bool
) -> tuple[bool, str]:
    """Point ``canary`` to a version that is undecided.

    It replaces only what the queue worker has put there, or the version that ``prod`` points to, which needs no canary.

    Args:
        sql: Open transaction, with the instance locked.
        job: The consolidation that has made the version.
        digest: Digest of the version.
        share: Share of the requests for the plain name, where there is a ``prod`` that gets the rest.
        is_revoked: Whether the version is revoked already.

    Returns:
        Whether ``canary`` moved, and a sentence that says where the version is and how it gets to ``prod``.
    """
    way_on = f"to serve it: looper skills promote {job.instance} {digest[:12]}"
    if is_revoked:
        return False, "the version is revoked"
    prod = rows.channel_digest(sql, job.instance, PROD)
    if prod != job.parent:
        return False, f"{CANARY} was not moved, because {PROD} was changed during the consolidation; {way_on}"
    canary = rows.channel_digest(sql, job.instance, CANARY)
    if canary is not None and canary != prod and not _is_automatic(sql, job):
        return False, f"{CANARY} was not moved, because somebody has pointed it to {canary}; {way_on}"
    share = min(share, _share_left(sql, job)) if prod is not None else 0.0
    rows.swap_channel(sql, job.instance, CANARY, canary, digest, share)
    _record(sql, job, f"{CANARY} -> {digest}" + (f" for {share:.0%}" if share else ""))
    answers = f"{CANARY} answers {share:.0%} of the requests for {job.instance} with it"
    if prod is None:
        answers = f"{job.instance} is not served yet, and {job.instance}@{CANARY} answers with it"
    return True, f"{answers}; {way_on}"


def _is_automatic(sql: Connection, job: Consolidation) -> bool:
    """Return whether the queue worker moved the instance's ``canary`` last, by the event log."""
    e = t.events.c
    query = (
        select(e.actor)
        .where(rows.in_instance(t.events, job.instance), e.what.startswith(f"{CANARY} -> "))
        .order_by(e.id.desc())
        .limit(1)
    )
    return sql.scalar(query) == QUEUE_WORKER


def _share_left(sql: Connection, job: Consolidation) -> float:
    """Return the share of requests that no other channel has taken from ``prod``."""
    c = t.channels.c
    taken = sql.scalar(select(func.sum(c.share)).where(rows.in_instance(t.channels, job.instance), c.name != CANARY))
    return max(0.0, 1 - (taken or 0.0))


def _record(sql: Connection, job: Consolidation, what: str) -> None:
    rows.insert_event(sql, job.instance, job.id, what, actor=QUEUE_WORKER)
