"""What the parts of the catalog have in common: rows found, written and read as the domain's types."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Table, and_, insert, select, update
from sqlalchemy.exc import IntegrityError

from looper.platform.catalog import tables as t
from looper.platform.domain.consolidation import Consolidation, Version
from looper.platform.domain.errors import NotFound
from looper.platform.domain.names import InstanceName


def now() -> datetime:
    return datetime.now(UTC)


def of(instance: InstanceName) -> dict[str, str]:
    return {"tenant": instance.tenant, "instance": instance.instance}


def belongs(table: Table, instance: InstanceName) -> ColumnElement[bool]:
    return and_(table.c.tenant == instance.tenant, table.c.instance == instance.instance)


def no_tenant(tenant: str) -> NotFound:
    return NotFound(f"tenant {tenant} does not exist: looper tenant create {tenant}")


def no_consolidation(id: str) -> NotFound:
    return NotFound(f"consolidation {id} does not exist: looper jobs list")


def exists(sql: Connection, instance: InstanceName, *, lock: bool = False) -> bool:
    query = select(t.instances.c.instance).where(belongs(t.instances, instance))
    return sql.scalar(query.with_for_update() if lock else query) is not None


def require(sql: Connection, instance: InstanceName, *, lock: bool = False) -> None:
    if not exists(sql, instance, lock=lock):
        raise NotFound(f"instance {instance} does not exist: looper ingest PATH --instance {instance}")


def pointed(sql: Connection, instance: InstanceName, name: str) -> str | None:
    found: str | None = sql.scalar(
        select(t.channels.c.digest).where(belongs(t.channels, instance), t.channels.c.name == name)
    )
    return found


def swap(
    sql: Connection, instance: InstanceName, channel: str, expected: str | None, digest: str, share: float = 0.0
) -> bool:
    """Compare-and-swap of a channel; ``expected`` None means that it must not exist yet."""
    c = t.channels.c
    if expected is not None:
        done = sql.execute(
            update(t.channels)
            .where(belongs(t.channels, instance), c.name == channel, c.digest == expected)
            .values(digest=digest, share=share, updated_at=now())
        )
        return done.rowcount == 1
    try:
        with sql.begin_nested():
            sql.execute(
                insert(t.channels).values(**of(instance), name=channel, digest=digest, share=share, updated_at=now())
            )
    except IntegrityError:
        return False
    return True


def record(sql: Connection, instance: InstanceName, consolidation: str | None, what: str) -> None:
    sql.execute(insert(t.events).values(**of(instance), at=now(), consolidation=consolidation, what=what))


def consolidation(sql: Connection, id: str) -> Consolidation:
    row = sql.execute(select(t.consolidations).where(t.consolidations.c.id == id)).one_or_none()
    if row is None:
        raise no_consolidation(id)
    return to_consolidation(row)


def to_consolidation(row: Row[Any]) -> Consolidation:
    values = dict(row._mapping)
    instance = InstanceName(values.pop("tenant"), values.pop("instance"))
    for kept in ("lease_until", "shape"):  # for the queue's own use
        values.pop(kept)
    return Consolidation(instance=instance, **values)


def to_version(row: Row[Any]) -> Version:
    values = dict(row._mapping)
    return Version(instance=InstanceName(values.pop("tenant"), values.pop("instance")), **values)
