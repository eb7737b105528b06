"""Skills: an instance's versions and the channels that point to them."""

from datetime import datetime

from sqlalchemy import func, literal, select

from looper.platform.catalog import rows
from looper.platform.catalog import tables as t
from looper.platform.catalog.database import Database
from looper.platform.domain.consolidation import Version
from looper.platform.domain.errors import Conflict, NotFound
from looper.platform.domain.names import InstanceName, ModelName, check_name, is_digest


class Skills(Database):
    def version(self, digest: str) -> Version:
        with self._read() as sql:
            row = sql.execute(select(t.versions).where(t.versions.c.digest == digest)).one_or_none()
        if row is None:
            raise NotFound(f"version {digest} does not exist")
        return rows.to_version(row)

    def versions(self, instance: InstanceName) -> list[Version]:
        """Newest first."""
        with self._read() as sql:
            rows.require(sql, instance)
            found = sql.execute(
                select(t.versions)
                .where(rows.belongs(t.versions, instance))
                .order_by(t.versions.c.created_at.desc(), t.versions.c.digest)
            )
            return [rows.to_version(row) for row in found]

    def lineage(self, digest: str) -> list[Version]:
        """The version, the one it was made from, and so on to the first."""
        v = t.versions.c
        line = select(v.digest, v.parent, literal(0).label("age")).where(v.digest == digest).cte(recursive=True)
        parents = select(v.digest, v.parent, line.c.age + 1).where(v.digest == line.c.parent)
        line = line.union_all(parents)
        with self._read() as sql:
            found = sql.execute(select(t.versions).join(line, line.c.digest == v.digest).order_by(line.c.age))
            return [rows.to_version(row) for row in found]

    def neighbours(self, instance: InstanceName, *, base: str, before: datetime, limit: int) -> list[Version]:
        """The newest version of each of the tenant's other instances on ``base``, as of ``before``, newest first.

        The same whenever it is asked.
        """
        v = t.versions.c
        newest = (
            select(v.instance, func.max(v.created_at).label("created_at"))
            .where(v.tenant == instance.tenant, v.instance != instance.instance, v.base == base, v.created_at < before)
            .group_by(v.instance)
            .subquery()
        )
        query = (
            select(t.versions)
            .join(newest, (newest.c.instance == v.instance) & (newest.c.created_at == v.created_at))
            .where(v.tenant == instance.tenant)
            .order_by(v.created_at.desc(), v.digest)
        )
        with self._read() as sql:
            return [rows.to_version(row) for row in sql.execute(query.limit(limit))]

    def channels(self, instance: InstanceName) -> dict[str, str]:
        """Digest by channel name."""
        with self._read() as sql:
            rows.require(sql, instance)
            found = sql.execute(
                select(t.channels.c.name, t.channels.c.digest)
                .where(rows.belongs(t.channels, instance))
                .order_by(t.channels.c.name)
            )
            return {row.name: row.digest for row in found}

    def channel(self, instance: InstanceName, name: str) -> str | None:
        with self._read() as sql:
            return rows.pointed(sql, instance, name)

    def point(self, instance: InstanceName, channel: str, digest: str) -> None:
        """Point a channel to a version of the same instance. Raises NotFound for any other digest."""
        check_name(channel, "channel")
        with self._write() as sql:
            rows.require(sql, instance)
            found = sql.scalar(
                select(t.versions.c.digest).where(t.versions.c.digest == digest, rows.belongs(t.versions, instance))
            )
            if found is None:
                raise NotFound(f"instance {instance} has no version {digest}: looper skills show {instance}")
            if not rows.swap(sql, instance, channel, rows.pointed(sql, instance, channel), digest):
                raise Conflict(f"channel {instance}@{channel} was moved at the same moment: run the command again")
            rows.record(sql, instance, None, f"{channel} -> {digest}")

    def resolve(self, model: ModelName) -> str:
        """The digest a model name means now. One NotFound for all that does not exist, so that names do not leak."""
        with self._read() as sql:
            digest: str | None
            if is_digest(model.selector):
                digest = sql.scalar(
                    select(t.versions.c.digest).where(
                        t.versions.c.digest == model.selector, rows.belongs(t.versions, model.instance)
                    )
                )
            else:
                digest = rows.pointed(sql, model.instance, model.selector)
        if digest is None:
            raise NotFound(f"model {model} does not exist")
        return digest
