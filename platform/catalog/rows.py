"""Helpers of the catalog's operations: conditions, rows converted to domain types, and writes that several share."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Table,
    and_,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.exc import IntegrityError

from looper.platform.catalog import tables as t
from looper.platform.catalog.clock import read_clock
from looper.platform.domain.actor import current_actor
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.errors import Conflict, NotFound
from looper.platform.domain.names import PROD, InstanceName
from looper.platform.domain.version import Version


def instance_columns(instance: InstanceName) -> dict[str, str]:
    """Return the values of the columns that name ``instance``, for an INSERT."""
    return {"tenant": instance.tenant, "instance": instance.instance}


def in_instance(table: Table, instance: InstanceName) -> ColumnElement[bool]:
    """Return the condition that a row of ``table`` belongs to ``instance``."""
    return and_(table.c.tenant == instance.tenant, table.c.instance == instance.instance)


def is_listed_after(
    created_at: ColumnElement[datetime], key: ColumnElement[str], last: tuple[datetime, str] | None
) -> ColumnElement[bool]:
    """Return the condition of the next page of a list with the newest first, and by a key where times are equal.

    Args:
        created_at: Column of the times.
        key: Column of the keys.
        last: Time and key of the last row of the page before. None: the first page.

    Returns:
        The condition.
    """
    if last is None:
        return true()
    return or_(created_at < last[0], and_(created_at == last[0], key > last[1]))


def tenant_not_found(tenant: str) -> NotFound:
    """Return the error to raise when ``tenant`` does not exist."""
    return NotFound(f"tenant {tenant} does not exist: looper tenant create {tenant}")


def key_not_found(key: str) -> NotFound:
    """Return the error to raise when there is no ``key`` that could be revoked."""
    return NotFound(f"key {key} does not exist or is revoked already: looper tenant keys TENANT")


def upload_not_found(id: str) -> NotFound:
    """Return the error to raise when there is no upload ``id``."""
    return NotFound(f"upload {id} does not exist: it ended or expired, begin again")


def consolidation_not_found(id: str) -> NotFound:
    """Return the error to raise when there is no consolidation ``id``."""
    return NotFound(f"consolidation {id} does not exist: looper jobs list")


def version_not_found(instance: InstanceName, digest: str) -> NotFound:
    """Return the error to raise when ``digest`` is not a usable version of ``instance``."""
    return NotFound(f"instance {instance} has no version {digest}: looper skills show {instance}")


def require_tenant(sql: Connection, tenant: str, *, lock: bool = False) -> None:
    """Raise an error unless a tenant exists.

    Args:
        sql: Open transaction.
        tenant: Name of the tenant.
        lock: Whether to lock the tenant's row until the transaction ends.

    Raises:
        NotFound: The tenant does not exist.
    """
    query = select(t.tenants.c.name).where(t.tenants.c.name == tenant)
    if sql.scalar(query.with_for_update() if lock else query) is None:
        raise tenant_not_found(tenant)


def instance_exists(sql: Connection, instance: InstanceName, *, lock: bool = False) -> bool:
    """Return whether ``instance`` exists.

    Args:
        sql: Open transaction.
        instance: Instance to look up.
        lock: Whether to lock the instance's row until the transaction ends.

    Returns:
        Whether the row exists.
    """
    query = select(t.instances.c.instance).where(in_instance(t.instances, instance))
    return sql.scalar(query.with_for_update() if lock else query) is not None


def insert_instance(sql: Connection, instance: InstanceName) -> None:
    """Create ``instance`` unless it exists. Its tenant does."""
    if instance_exists(sql, instance):
        return
    try:
        with sql.begin_nested():
            sql.execute(insert(t.instances).values(**instance_columns(instance), created_at=read_clock(sql)))
            insert_event(sql, instance, None, "the instance was created")
    except IntegrityError:
        pass  # Another process created it between the SELECT and the INSERT.


def require_instance(sql: Connection, instance: InstanceName, *, lock: bool = False) -> None:
    """Raise an error unless ``instance`` exists.

    Args:
        sql: Open transaction.
        instance: Instance to look up.
        lock: Whether to lock the instance's row until the transaction ends.

    Raises:
        NotFound: The instance does not exist.
    """
    if not instance_exists(sql, instance, lock=lock):
        raise NotFound(f"instance {instance} does not exist: looper ingest PATH --instance {instance}")


def load_instance_bases(sql: Connection, condition: ColumnElement[bool]) -> dict[InstanceName, str | None]:
    """Load the base models that instances are on: that of the version of ``prod``, or the one they were created with.

    Args:
        sql: Open transaction.
        condition: Which rows of the instances table are asked for.

    Returns:
        Name of the base model, None for the first one of the cluster, by instance.
    """
    i, c, v = t.instances.c, t.channels.c, t.versions.c
    is_prod = (c.tenant == i.tenant) & (c.instance == i.instance) & (c.name == PROD)
    query = select(i.tenant, i.instance, func.coalesce(v.base, i.base).label("base")).where(condition)
    query = query.outerjoin(t.channels, is_prod).outerjoin(t.versions, v.digest == c.digest)
    return {InstanceName(row.tenant, row.instance): row.base for row in sql.execute(query)}


def channel_digest(sql: Connection, instance: InstanceName, channel: str) -> str | None:
    """Return the digest that a channel points to.

    Args:
        sql: Open transaction.
        instance: Instance of the channel.
        channel: Name of the channel.

    Returns:
        The digest, or None if the channel does not exist.
    """
    digest: str | None = sql.scalar(
        select(t.channels.c.digest).where(in_instance(t.channels, instance), t.channels.c.name == channel)
    )
    return digest


def swap_channel(
    sql: Connection, instance: InstanceName, channel: str, expected: str | None, digest: str, share: float = 0.0
) -> bool:
    """Point a channel to another version, if it still points to the expected one (compare-and-swap).

    Args:
        sql: Open transaction.
        instance: Instance of the channel.
        channel: Name of the channel.
        expected: Digest that the channel must point to now. None: the channel must not exist yet.
        digest: Digest to point to.
        share: Canary share of the requests for the instance's plain name, from 0 to 1.

    Returns:
        Whether the channel was changed.
    """
    c = t.channels.c
    if expected is not None:
        result = sql.execute(
            update(t.channels)
            .where(in_instance(t.channels, instance), c.name == channel, c.digest == expected)
            .values(digest=digest, share=share, updated_at=read_clock(sql))
        )
        return result.rowcount == 1
    try:
        with sql.begin_nested():
            sql.execute(
                insert(t.channels).values(
                    **instance_columns(instance), name=channel, digest=digest, share=share, updated_at=read_clock(sql)
                )
            )
    except IntegrityError:
        return False
    return True


def delete_channel(sql: Connection, instance: InstanceName, channel: str) -> bool:
    """Delete a channel.

    Args:
        sql: Open transaction.
        instance: Instance of the channel.
        channel: Name of the channel.

    Returns:
        Whether there was such a channel.
    """
    condition = in_instance(t.channels, instance) & (t.channels.c.name == channel)
    return sql.execute(delete(t.channels).where(condition)).rowcount == 1


def check_expected(instance: InstanceName, channel: str, expected: str | None, current: str | None) -> None:
    """Raise an error if a channel is not what the caller expects.

    Args:
        instance: Instance of the channel.
        channel: Name of the channel.
        expected: Digest that the caller has seen. None: the caller expects nothing.
        current: Digest that the channel points to. None: the channel does not exist.

    Raises:
        Conflict: The channel points elsewhere.
    """
    if expected is not None and expected != current:
        raise Conflict(
            f"channel {instance}@{channel} points to {current or 'nothing'} now, not to {expected}: look at the new "
            f"version (looper skills show {instance}), then run the command again"
        )


def insert_event(
    sql: Connection, instance: InstanceName, consolidation: str | None, what: str, *, actor: str | None = None
) -> None:
    """Add one line to the instance's event log.

    Args:
        sql: Open transaction.
        instance: Instance that the event is about.
        consolidation: Id of the consolidation that the event is about, or None for an event of a channel or version.
        what: Text of the event, in one line.
        actor: Who did it. None: who acts now.
    """
    sql.execute(
        insert(t.events).values(
            **instance_columns(instance),
            at=read_clock(sql),
            consolidation=consolidation,
            actor=actor or current_actor(),
            what=what,
        )
    )


def insert_tenant_event(sql: Connection, tenant: str | None, what: str) -> None:
    """Add one line that is about the tenant itself to its audit trail.

    Args:
        sql: Open transaction.
        tenant: The tenant. None: it is about an operator's key, and stands in the operators' audit trail.
        what: Text of the event, in one line.
    """
    sql.execute(
        insert(t.events).values(tenant=tenant or "", instance="", at=read_clock(sql), actor=current_actor(), what=what)
    )


def load_consolidation(sql: Connection, id: str) -> Consolidation:
    """Load one consolidation.

    Args:
        sql: Open transaction.
        id: Id of the consolidation.

    Returns:
        The consolidation.

    Raises:
        NotFound: There is no such consolidation.
    """
    row = sql.execute(select(t.consolidations).where(t.consolidations.c.id == id)).one_or_none()
    if row is None:
        raise consolidation_not_found(id)
    return to_consolidation(row)


def to_consolidation(row: Row[Any]) -> Consolidation:
    """Return the consolidation in ``row`` of the consolidations table."""
    values = dict(row._mapping)
    instance = InstanceName(values.pop("tenant"), values.pop("instance"))
    for column in ("lease_until", "shape"):  # only the queue uses these
        values.pop(column)
    return Consolidation(instance=instance, **values)


def load_lineage(sql: Connection, digest: str) -> list[Version]:
    """Load a version, its parent, the parent's parent and so on.

    Args:
        sql: Open transaction.
        digest: Digest of the first version.

    Returns:
        The versions, none if there is no such version.
    """
    v = t.versions.c
    ancestors = select(v.digest, v.parent, literal(0).label("depth")).where(v.digest == digest).cte(recursive=True)
    parents = select(v.digest, v.parent, ancestors.c.depth + 1).where(v.digest == ancestors.c.parent)
    ancestors = ancestors.union_all(parents)
    found = sql.execute(select(t.versions).join(ancestors, ancestors.c.digest == v.digest).order_by(ancestors.c.depth))
    return [to_version(row) for row in found]


def to_version(row: Row[Any]) -> Version:
    """Return the version in ``row`` of the versions table."""
    values = dict(row._mapping)
    return Version(instance=InstanceName(values.pop("tenant"), values.pop("instance")), **values)
