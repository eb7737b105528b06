"""Skills: an instance's versions and the channels that point to them."""

from datetime import datetime

from sqlalchemy import Connection, delete, func, literal, select, update

from looper.platform.catalog import rows
from looper.platform.catalog import tables as t
from looper.platform.catalog.database import Database
from looper.platform.catalog.records import Target
from looper.platform.domain.consolidation import Version
from looper.platform.domain.errors import Conflict, InvalidInput, NotFound
from looper.platform.domain.names import PROD, InstanceName, ModelName, check_name, is_digest


class SkillOperations(Database):
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

    def skill_names(self, tenant: str, *, after: str | None, limit: int) -> list[InstanceName]:
        """The tenant's instances that have a ``prod``, by name, at most ``limit`` of those that come ``after`` one."""
        c = t.channels.c
        query = select(c.instance).where(c.tenant == tenant, c.name == PROD).order_by(c.instance).limit(limit)
        if after is not None:
            query = query.where(c.instance > after)
        with self._read() as sql:
            return [InstanceName(tenant, name) for name in sql.scalars(query)]

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

    def shares(self, instance: InstanceName) -> dict[str, float]:
        """By name of the channels that take a share of the requests for the instance's plain name."""
        c = t.channels.c
        query = select(c.name, c.share).where(rows.belongs(t.channels, instance), c.share > 0).order_by(c.name)
        with self._read() as sql:
            return {row.name: row.share for row in sql.execute(query)}

    def channel(self, instance: InstanceName, name: str) -> str | None:
        with self._read() as sql:
            return rows.pointed(sql, instance, name)

    def point(self, instance: InstanceName, channel: str, digest: str, share: float = 0.0) -> None:
        """Point a channel to a version of the same instance, to answer ``share`` of the requests for its plain name.

        Raises NotFound for any digest that is not one of its versions, or that is revoked, and InvalidInput for a share
        that leaves ``prod`` less than nothing.
        """
        check_name(channel, "channel")
        with self._write() as sql:
            rows.require(sql, instance, lock=True)
            v = t.versions.c
            found = sql.scalar(
                select(v.digest).where(v.digest == digest, v.revoked_at.is_(None), rows.belongs(t.versions, instance))
            )
            if found is None:
                raise NotFound(f"instance {instance} has no version {digest}: looper skills show {instance}")
            _check_share(sql, instance, channel, share)
            if not rows.swap(sql, instance, channel, rows.pointed(sql, instance, channel), digest, share):
                raise Conflict(f"channel {instance}@{channel} was moved at the same moment: run the command again")
            rows.record(sql, instance, None, f"{channel} -> {digest}" + (f" for {share:.0%}" if share else ""))

    def drop(self, instance: InstanceName, channel: str) -> None:
        """Take a channel away. Raises NotFound if there is none."""
        with self._write() as sql:
            if not _drop(sql, instance, channel):
                raise NotFound(f"instance {instance} has no channel {channel}: looper skills show {instance}")
            rows.record(sql, instance, None, f"{channel} is gone")

    def revoke(self, instance: InstanceName, digest: str) -> dict[str, str | None]:
        """Serve a version no more; return where each channel that pointed to it points now, None for one that is gone.

        ``prod`` falls back to the newest version before it that is not revoked. Raises NotFound if it is not one of the
        instance's versions, or is revoked already.
        """
        line = [version for version in self.lineage(digest) if version.revoked_at is None]
        if not line or line[0].digest != digest or line[0].instance != instance:
            raise NotFound(f"instance {instance} has no version {digest}: looper skills show {instance}")
        before = line[1].digest if len(line) > 1 else None
        moved: dict[str, str | None] = {}
        with self._write() as sql:
            rows.require(sql, instance, lock=True)
            sql.execute(update(t.versions).where(t.versions.c.digest == digest).values(revoked_at=rows.now()))
            rows.record(sql, instance, None, f"revoked {digest}")
            c = t.channels.c
            pointing = select(c.name).where(rows.belongs(t.channels, instance), c.digest == digest)
            for channel in sql.scalars(pointing).all():
                if channel == PROD and before is not None:
                    rows.swap(sql, instance, channel, digest, before)
                    moved[channel] = before
                else:
                    _drop(sql, instance, channel)
                    moved[channel] = None
                rows.record(sql, instance, None, f"{channel} -> {moved[channel] or 'nothing'}")
        return moved

    def pointed_since(self, moment: datetime) -> list[Target]:
        """What any skill's channels were pointed to after ``moment``."""
        v, c = t.versions.c, t.channels.c
        query = select(c.name, c.share, v.digest, v.rank).join(t.versions, v.digest == c.digest)
        with self._read() as sql:
            found = sql.execute(query.where(c.updated_at > moment))
            return [Target(channel=row.name, digest=row.digest, rank=row.rank, share=row.share) for row in found]

    def revoked_since(self, moment: datetime) -> list[str]:
        """The digests of what was revoked after ``moment``."""
        with self._read() as sql:
            return list(sql.scalars(select(t.versions.c.digest).where(t.versions.c.revoked_at > moment)))

    def resolve(self, model: ModelName) -> str:
        """The digest a model name means now: that of ``prod`` for a plain name.

        One NotFound for all that does not exist, so that names do not leak.
        """
        return self.targets(model)[0].digest

    def targets(self, model: ModelName) -> list[Target]:
        """What may answer a model name now: first what it points to, then what takes a share of its requests.

        Raises NotFound as ``resolve`` does.
        """
        v, c = t.versions.c, t.channels.c
        served = select(v.digest, v.rank).where(rows.belongs(t.versions, model.instance), v.revoked_at.is_(None))
        with self._read() as sql:
            if is_digest(model.selector):
                found = sql.execute(served.where(v.digest == model.selector)).all()
                targets = [Target(channel=None, digest=row.digest, rank=row.rank, share=1) for row in found]
            else:
                pointed = served.join(t.channels, rows.belongs(t.channels, model.instance) & (c.digest == v.digest))
                wanted = c.name == model.selector
                if model.selector == PROD:
                    wanted |= c.share > 0
                found = sql.execute(pointed.add_columns(c.name, c.share).where(wanted).order_by(c.name)).all()
                targets = [Target(channel=row.name, digest=row.digest, rank=row.rank, share=row.share) for row in found]
                if model.selector == PROD:
                    targets = _with_the_rest(targets)
        if not targets or targets[0].channel not in (None, model.selector):
            raise NotFound(f"model {model} does not exist")
        return targets


def _check_share(sql: Connection, instance: InstanceName, channel: str, share: float) -> None:
    if not 0 <= share <= 1 or (channel == PROD and share):
        raise InvalidInput(f"share {share:g} of channel {channel}: give 0 to 1, and none to {PROD}, which has the rest")
    c = t.channels.c
    others = sql.scalar(select(func.sum(c.share)).where(rows.belongs(t.channels, instance), c.name != channel)) or 0.0
    if others + share > 1:
        raise InvalidInput(f"share {share:g} of channel {channel}: other channels have {others:g} already")


def _drop(sql: Connection, instance: InstanceName, channel: str) -> bool:
    return (
        sql.execute(delete(t.channels).where(rows.belongs(t.channels, instance), t.channels.c.name == channel)).rowcount
        == 1
    )


def _with_the_rest(targets: list[Target]) -> list[Target]:
    """``prod`` first, with the share that the others leave."""
    others = [target for target in targets if target.channel != PROD]
    rest = 1 - sum(target.share for target in others)
    return [*(target.model_copy(update={"share": rest}) for target in targets if target.channel == PROD), *others]
