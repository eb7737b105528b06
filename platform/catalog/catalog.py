"""Reads and writes of the catalog. Every change of state is a compare-and-swap, so that two of anything may run.

Who works on a consolidation holds a lease on it and renews it by heartbeat. What a dead process held is claimed by
another once the lease runs out; the dead one, should it wake, finds each of its writes refused with Conflict.
"""

import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, Row, and_, insert, or_, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from looper.platform.catalog import tables as t
from looper.platform.catalog.engine import connect
from looper.platform.catalog.records import Batch, Event, Key
from looper.platform.domain.consolidation import Consolidation, Progress, Recipe, State, Verdict, Version
from looper.platform.domain.errors import Conflict, InvalidInput, NotFound, StoreUnavailable
from looper.platform.domain.names import InstanceName, ModelName, check_name, is_digest
from looper.platform.settings import Settings

_FINAL = [state.value for state in State if state.final]
_RUNNING = [State.SYNTHESISING.value, State.TRAINING.value, State.EVALUATING.value]


class Catalog:
    """Thread-safe. Methods raise NotFound, Conflict or InvalidInput as they say, StoreUnavailable if SQL fails."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, settings: Settings) -> "Catalog":
        """The catalog that ``settings`` name, its schema brought up to date."""
        return cls(connect(settings.catalog_url))

    def close(self) -> None:
        self._engine.dispose()

    # Tenants and keys

    def create_tenant(self, name: str) -> None:
        """Raises Conflict if the tenant exists, InvalidInput if the name is not one."""
        check_name(name, "tenant")
        with self._write() as sql:
            try:
                sql.execute(insert(t.tenants).values(name=name, created_at=_now()))
            except IntegrityError as error:
                raise Conflict(f"tenant {name} exists already") from error

    def tenants(self) -> list[str]:
        with self._read() as sql:
            return list(sql.scalars(select(t.tenants.c.name).order_by(t.tenants.c.name)))

    def add_key(self, key: Key) -> None:
        with self._write() as sql:
            if sql.scalar(select(t.tenants.c.name).where(t.tenants.c.name == key.tenant)) is None:
                raise _no_tenant(key.tenant)
            sql.execute(insert(t.keys).values(**key.model_dump()))

    def key(self, id: str) -> Key:
        with self._read() as sql:
            row = sql.execute(select(t.keys).where(t.keys.c.id == id)).one_or_none()
        if row is None:
            raise NotFound(f"key {id} does not exist")
        return Key(**row._mapping)

    def revoke_key(self, id: str) -> None:
        with self._write() as sql:
            done = sql.execute(
                update(t.keys).where(t.keys.c.id == id, t.keys.c.revoked_at.is_(None)).values(revoked_at=_now())
            )
            if done.rowcount == 0:
                raise NotFound(f"key {id} does not exist or is revoked already")

    # Instances and batches

    def ensure_instance(self, instance: InstanceName) -> None:
        """Make the instance if it is not there. Raises NotFound if its tenant is not."""
        with self._write() as sql:
            if sql.scalar(select(t.tenants.c.name).where(t.tenants.c.name == instance.tenant)) is None:
                raise _no_tenant(instance.tenant)
            if not _exists(sql, instance):
                try:
                    with sql.begin_nested():
                        sql.execute(insert(t.instances).values(**_of(instance), created_at=_now()))
                except IntegrityError:
                    pass  # another process made it between the look and the write

    def instances(self, tenant: str | None = None) -> list[InstanceName]:
        query = select(t.instances.c.tenant, t.instances.c.instance).order_by(
            t.instances.c.tenant, t.instances.c.instance
        )
        if tenant is not None:
            query = query.where(t.instances.c.tenant == tenant)
        with self._read() as sql:
            return [InstanceName(*row) for row in sql.execute(query)]

    def check_instance(self, instance: InstanceName) -> None:
        """Raise NotFound unless the instance exists."""
        with self._read() as sql:
            _require(sql, instance)

    def add_batch(self, instance: InstanceName, batch_id: str, *, source: str, trajectories: int) -> bool:
        """Register a batch whose object is in the store. False if it is known already: nothing changes then."""
        with self._write() as sql:
            _require(sql, instance)
            try:
                with sql.begin_nested():
                    sql.execute(
                        insert(t.batches).values(
                            **_of(instance), id=batch_id, source=source, trajectories=trajectories, created_at=_now()
                        )
                    )
            except IntegrityError:
                return False
            return True

    def batches(self, instance: InstanceName) -> list[Batch]:
        """Oldest first."""
        with self._read() as sql:
            _require(sql, instance)
            rows = sql.execute(
                select(t.batches.c.id, t.batches.c.source, t.batches.c.trajectories, t.batches.c.created_at)
                .where(_is(t.batches, instance))
                .order_by(t.batches.c.created_at, t.batches.c.id)
            )
            return [Batch(**row._mapping) for row in rows]

    # Consolidations

    def submit(self, instance: InstanceName, *, base: str, recipe: Recipe) -> Consolidation:
        """Queue a consolidation of the batches that no published or waiting one holds.

        Submitted again before it has ended, the same is not queued twice: the one that waits is returned. Raises
        NotFound for an unknown instance and InvalidInput when there is nothing new.
        """
        now = _now()
        with self._write() as sql:
            # The instance's row is locked, so that two submissions at once do not take the same batches.
            _require(sql, instance, lock=True)
            taken: set[str] = set()
            waiting: Consolidation | None = None
            for row in sql.execute(
                select(t.consolidations).where(
                    _is(t.consolidations, instance),
                    t.consolidations.c.state.not_in([State.REJECTED, State.FAILED, State.CANCELLED]),
                )
            ):
                taken.update(row.batches)
                if row.state != State.PUBLISHED:
                    waiting = _to_consolidation(row)
            known = sql.scalars(
                select(t.batches.c.id).where(_is(t.batches, instance)).order_by(t.batches.c.created_at, t.batches.c.id)
            )
            new = [batch for batch in known if batch not in taken]
            if not new and waiting is not None and (waiting.base, waiting.recipe) == (base, recipe):
                return waiting
            if not new:
                raise InvalidInput(
                    f"instance {instance} has no new trajectories to consolidate: "
                    f"looper ingest PATH --instance {instance}"
                )
            id = secrets.token_hex(16)
            sql.execute(
                insert(t.consolidations).values(
                    id=id,
                    **_of(instance),
                    state=State.QUEUED,
                    base=base,
                    recipe=recipe.model_dump(mode="json"),
                    batches=new,
                    parent=_channel(sql, instance, "prod"),
                    created_at=now,
                    updated_at=now,
                )
            )
            _event(sql, instance, id, f"queued with {len(new)} batches")
            return _consolidation(sql, id)

    def consolidation(self, id: str) -> Consolidation:
        with self._read() as sql:
            return _consolidation(sql, id)

    def consolidations(
        self, tenant: str | None = None, instance: InstanceName | None = None, limit: int = 200
    ) -> list[Consolidation]:
        """Newest first."""
        query = select(t.consolidations).order_by(t.consolidations.c.created_at.desc(), t.consolidations.c.id)
        if tenant is not None:
            query = query.where(t.consolidations.c.tenant == tenant)
        if instance is not None:
            query = query.where(_is(t.consolidations, instance))
        with self._read() as sql:
            return [_to_consolidation(row) for row in sql.execute(query.limit(limit))]

    def claim(self, owner: str, *, limit: int, lease_s: float) -> list[Consolidation]:
        """Take up to ``limit`` consolidations that may train together: the oldest waiting one sets base and LoRA shape.

        Waiting are the queued ones and those whose holder let its lease run out.
        """
        now = _now()
        c = t.consolidations.c
        waiting = or_(
            and_(c.state == State.QUEUED, c.owner.is_(None)),
            and_(c.state.not_in(_FINAL), c.owner.is_not(None), c.lease_until < now),
            and_(c.state.in_(_RUNNING), c.owner.is_(None)),
        )
        claimed: list[str] = []
        with self._write() as sql:
            rows = sql.execute(
                select(t.consolidations).where(waiting).order_by(c.created_at, c.id).with_for_update(skip_locked=True)
            ).all()
            shape = None
            for row in rows:
                recipe = Recipe.model_validate(row.recipe)
                this = (row.base, recipe.rank, recipe.alpha)
                shape = shape or this
                if this != shape or len(claimed) == limit:
                    continue
                taken = sql.execute(
                    update(t.consolidations)
                    .where(c.id == row.id, waiting)
                    .values(owner=owner, lease_until=now + timedelta(seconds=lease_s), updated_at=now)
                )
                if taken.rowcount == 1:
                    claimed.append(row.id)
            return [_consolidation(sql, id) for id in claimed]

    def heartbeat(self, ids: Iterable[str], owner: str, *, lease_s: float) -> set[str]:
        """Renew the leases; return the ids that ``owner`` still holds. A cancelled or lost one is missing."""
        now = _now()
        held = set()
        with self._write() as sql:
            for id in ids:
                if self._own(sql, id, owner, lease_until=now + timedelta(seconds=lease_s)):
                    held.add(id)
        return held

    def advance(self, id: str, owner: str, state: State) -> None:
        """Enter a stage. Raises Conflict if the consolidation was cancelled or is another's by now."""
        if state.value not in _RUNNING:
            raise ValueError(f"{state} is not a stage: use fail, reject, publish or cancel")
        self._finish(id, owner, f"{state}", state=state)

    def progress(self, id: str, owner: str, progress: Progress) -> None:
        """Say how far training is. Raises Conflict as ``advance`` does."""
        with self._write() as sql:
            if not self._own(sql, id, owner, progress=progress.model_dump(mode="json")):
                raise _lost(id)

    def fail(self, id: str, owner: str, reason: str) -> None:
        self._finish(id, owner, f"failed: {reason}", state=State.FAILED, reason=reason, owner=None)

    def reject(self, id: str, owner: str, verdict: Verdict) -> None:
        self._finish(
            id,
            owner,
            f"rejected: {verdict.reason}",
            state=State.REJECTED,
            reason=verdict.reason,
            verdict=verdict.model_dump(mode="json"),
            owner=None,
        )

    def publish(self, id: str, owner: str, *, digest: str, verdict: Verdict, base_revision: str) -> bool:
        """Record the version, which is in the store by now, and point ``prod`` to it, all at once.

        ``prod`` moves only if it still points to the version that the consolidation started from: a promotion or a
        rollback made meanwhile stays. Returns whether it moved.
        """
        now = _now()
        with self._write() as sql:
            job = _consolidation(sql, id)
            stored = verdict.model_dump(mode="json")
            if not self._own(sql, id, owner, state=State.PUBLISHED, digest=digest, verdict=stored, owner=None):
                raise _lost(id)
            if sql.scalar(select(t.versions.c.digest).where(t.versions.c.digest == digest)) is None:
                sql.execute(
                    insert(t.versions).values(
                        digest=digest,
                        **_of(job.instance),
                        base=job.base,
                        base_revision=base_revision,
                        rank=job.recipe.rank,
                        parent=job.parent,
                        consolidation=id,
                        verdict=stored,
                        created_at=now,
                    )
                )
            moved = _swap(sql, job.instance, "prod", job.parent, digest)
            _event(sql, job.instance, id, f"published {digest}")
            _event(sql, job.instance, id, f"prod -> {digest}" if moved else "prod left alone: it moved meanwhile")
            return moved

    def release(self, ids: Iterable[str], owner: str) -> None:
        """Give unfinished work back, for anyone to go on with."""
        with self._write() as sql:
            for id in ids:
                self._own(sql, id, owner, owner=None, lease_until=None)

    def cancel(self, id: str) -> None:
        """Stop a consolidation at whatever stage it is. Raises Conflict if it has ended."""
        c = t.consolidations.c
        with self._write() as sql:
            job = _consolidation(sql, id)
            done = sql.execute(
                update(t.consolidations)
                .where(c.id == id, c.state.not_in(_FINAL))
                .values(state=State.CANCELLED, owner=None, reason="cancelled on request", updated_at=_now())
            )
            if done.rowcount == 0:
                raise Conflict(f"consolidation {id} is {job.state} already")
            _event(sql, job.instance, id, "cancelled")

    def events(self, *, consolidation: str | None = None, instance: InstanceName | None = None) -> list[Event]:
        """Oldest first."""
        query = select(t.events).order_by(t.events.c.id)
        if consolidation is not None:
            query = query.where(t.events.c.consolidation == consolidation)
        if instance is not None:
            query = query.where(_is(t.events, instance))
        with self._read() as sql:
            return [
                Event(
                    id=row.id,
                    at=row.at,
                    instance=f"{row.tenant}/{row.instance}",
                    consolidation=row.consolidation,
                    what=row.what,
                )
                for row in sql.execute(query)
            ]

    # Versions and channels

    def version(self, digest: str) -> Version:
        with self._read() as sql:
            row = sql.execute(select(t.versions).where(t.versions.c.digest == digest)).one_or_none()
        if row is None:
            raise NotFound(f"version {digest} does not exist")
        return _to_version(row)

    def versions(self, instance: InstanceName) -> list[Version]:
        """Newest first."""
        with self._read() as sql:
            _require(sql, instance)
            rows = sql.execute(
                select(t.versions)
                .where(_is(t.versions, instance))
                .order_by(t.versions.c.created_at.desc(), t.versions.c.digest)
            )
            return [_to_version(row) for row in rows]

    def channels(self, instance: InstanceName) -> dict[str, str]:
        """Digest by channel name."""
        with self._read() as sql:
            _require(sql, instance)
            rows = sql.execute(
                select(t.channels.c.name, t.channels.c.digest)
                .where(_is(t.channels, instance))
                .order_by(t.channels.c.name)
            )
            return {row.name: row.digest for row in rows}

    def channel(self, instance: InstanceName, name: str) -> str | None:
        with self._read() as sql:
            return _channel(sql, instance, name)

    def point(self, instance: InstanceName, channel: str, digest: str) -> None:
        """Point a channel to a version of the same instance. Raises NotFound for any other digest."""
        check_name(channel, "channel")
        with self._write() as sql:
            _require(sql, instance)
            found = sql.scalar(
                select(t.versions.c.digest).where(t.versions.c.digest == digest, _is(t.versions, instance))
            )
            if found is None:
                raise NotFound(f"instance {instance} has no version {digest}: looper skills show {instance}")
            if not _swap(sql, instance, channel, _channel(sql, instance, channel), digest):
                raise Conflict(f"channel {instance}@{channel} was moved at the same moment: run the command again")
            _event(sql, instance, None, f"{channel} -> {digest}")

    def resolve(self, model: ModelName) -> str:
        """The digest a model name means now. One NotFound for all that does not exist, so that names do not leak."""
        with self._read() as sql:
            digest: str | None
            if is_digest(model.selector):
                digest = sql.scalar(
                    select(t.versions.c.digest).where(
                        t.versions.c.digest == model.selector, _is(t.versions, model.instance)
                    )
                )
            else:
                digest = _channel(sql, model.instance, model.selector)
        if digest is None:
            raise NotFound(f"model {model} does not exist")
        return digest

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with self._read() as sql:
            if sql.dialect.name == "sqlite":
                # Take the write lock before reading, or two that read first and write later deadlock.
                sql.exec_driver_sql("BEGIN IMMEDIATE")
            yield sql

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as sql:
                yield sql
        except DBAPIError as error:
            raise StoreUnavailable(f"catalog {self._engine.url!r} failed: {error.orig}") from error

    def _own(self, sql: Connection, id: str, holder: str, /, **values: Any) -> bool:
        c = t.consolidations.c
        done = sql.execute(
            update(t.consolidations)
            .where(c.id == id, c.owner == holder, c.state.not_in(_FINAL))
            .values(**values, updated_at=_now())
        )
        return done.rowcount == 1

    def _finish(self, id: str, holder: str, what: str, /, **values: Any) -> None:
        with self._write() as sql:
            if not self._own(sql, id, holder, **values):
                raise _lost(id)
            _event(sql, _consolidation(sql, id).instance, id, what)


def _now() -> datetime:
    return datetime.now(UTC)


def _of(instance: InstanceName) -> dict[str, str]:
    return {"tenant": instance.tenant, "instance": instance.instance}


def _is(table: Any, instance: InstanceName) -> Any:
    return and_(table.c.tenant == instance.tenant, table.c.instance == instance.instance)


def _no_tenant(tenant: str) -> NotFound:
    return NotFound(f"tenant {tenant} does not exist: looper tenant create {tenant}")


def _lost(id: str) -> Conflict:
    return Conflict(f"consolidation {id} was cancelled, has ended, or is held by another process")


def _exists(sql: Connection, instance: InstanceName, *, lock: bool = False) -> bool:
    query = select(t.instances.c.instance).where(_is(t.instances, instance))
    return sql.scalar(query.with_for_update() if lock else query) is not None


def _require(sql: Connection, instance: InstanceName, *, lock: bool = False) -> None:
    if not _exists(sql, instance, lock=lock):
        raise NotFound(f"instance {instance} does not exist: looper ingest PATH --instance {instance}")


def _channel(sql: Connection, instance: InstanceName, name: str) -> str | None:
    found: str | None = sql.scalar(
        select(t.channels.c.digest).where(_is(t.channels, instance), t.channels.c.name == name)
    )
    return found


def _swap(sql: Connection, instance: InstanceName, channel: str, expected: str | None, digest: str) -> bool:
    """Compare-and-swap of a channel; ``expected`` None means that it must not exist yet."""
    c = t.channels.c
    if expected is not None:
        done = sql.execute(
            update(t.channels)
            .where(_is(t.channels, instance), c.name == channel, c.digest == expected)
            .values(digest=digest, updated_at=_now())
        )
        return done.rowcount == 1
    try:
        with sql.begin_nested():
            sql.execute(insert(t.channels).values(**_of(instance), name=channel, digest=digest, updated_at=_now()))
    except IntegrityError:
        return False
    return True


def _event(sql: Connection, instance: InstanceName, consolidation: str | None, what: str) -> None:
    sql.execute(insert(t.events).values(**_of(instance), at=_now(), consolidation=consolidation, what=what))


def _consolidation(sql: Connection, id: str) -> Consolidation:
    row = sql.execute(select(t.consolidations).where(t.consolidations.c.id == id)).one_or_none()
    if row is None:
        raise NotFound(f"consolidation {id} does not exist: looper jobs list")
    return _to_consolidation(row)


def _to_consolidation(row: Row[Any]) -> Consolidation:
    values = dict(row._mapping)
    instance = InstanceName(values.pop("tenant"), values.pop("instance"))
    values.pop("lease_until")
    return Consolidation(instance=instance, **values)


def _to_version(row: Row[Any]) -> Version:
    values = dict(row._mapping)
    return Version(instance=InstanceName(values.pop("tenant"), values.pop("instance")), **values)
