"""Catalog operations on skills: an instance's versions, the channels that point to them, and name resolution.

The gateway resolves model names here. The API and the command line move channels and revoke versions.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, bindparam, func, select

from looper.platform.catalog import rows
from looper.platform.catalog import tables as t
from looper.platform.catalog.clock import read_clock
from looper.platform.catalog.database import Database
from looper.platform.catalog.records import Changes, RouteTarget
from looper.platform.domain.errors import InvalidInput, NotFound
from looper.platform.domain.names import PROD, InstanceName, ModelName, check_name, is_digest
from looper.platform.domain.version import Version


def _valid_versions() -> Select[tuple[str, int, str]]:
    """Select the versions of an instance that are not revoked."""
    v = t.versions.c
    of_instance = (v.tenant == bindparam("tenant")) & (v.instance == bindparam("instance"))
    return select(v.digest, v.rank, v.base).where(of_instance, v.revoked_at.is_(None))


def _channels_with_versions(is_requested: ColumnElement[bool]) -> Select[tuple[str, int, str, str, float]]:
    """Select some channels of an instance with their versions, ordered by name."""
    v, c = t.versions.c, t.channels.c
    of_version = (c.tenant == v.tenant) & (c.instance == v.instance) & (c.digest == v.digest)
    query = _valid_versions().join(t.channels, of_version).add_columns(c.name, c.share)
    return query.where(is_requested).order_by(c.name)


# Each request for inference runs one of these. To build a statement takes longer than to run it.
_VALID_VERSION = _valid_versions().where(t.versions.c.digest == bindparam("digest"))
_CHANNEL = _channels_with_versions(t.channels.c.name == bindparam("channel"))
_PROD_AND_CANARIES = _channels_with_versions((t.channels.c.name == bindparam("channel")) | (t.channels.c.share > 0))


class SkillOperations(Database):
    """Versions and channels."""

    def get_version(self, digest: str) -> Version:
        """Return the version with this ``digest``, also if it is revoked.

        Raises:
            NotFound: There is no such version.
        """
        with self._read_transaction() as sql:
            row = sql.execute(select(t.versions).where(t.versions.c.digest == digest)).one_or_none()
        if row is None:
            raise NotFound(f"version {digest} does not exist")
        return rows.to_version(row)

    def list_versions(
        self, instance: InstanceName, *, after: tuple[datetime, str] | None = None, limit: int | None = None
    ) -> list[Version]:
        """List versions of an instance, newest first.

        Args:
            instance: The instance.
            after: Only versions that are listed after the one with this time of publication and digest.
            limit: Maximum length of the list.

        Returns:
            The versions.

        Raises:
            NotFound: The instance does not exist.
        """
        v = t.versions.c
        query = select(t.versions).where(
            rows.in_instance(t.versions, instance), rows.is_listed_after(v.created_at, v.digest, after)
        )
        with self._read_transaction() as sql:
            rows.require_instance(sql, instance)
            found = sql.execute(query.order_by(v.created_at.desc(), v.digest).limit(limit))
            return [rows.to_version(row) for row in found]

    def get_lineage(self, digest: str) -> list[Version]:
        """Return the version with this ``digest``, its parent, the parent's parent and so on.

        The list is empty if there is no such version.
        """
        with self._read_transaction() as sql:
            return rows.load_lineage(sql, digest)

    def list_sibling_versions(
        self, instance: InstanceName, *, base: str, before: datetime, limit: int
    ) -> list[Version]:
        """List the newest version of each of the tenant's other instances. The result never changes later.

        Args:
            instance: Instance whose siblings are listed.
            base: Only versions on this base model.
            before: Only versions that were created before this time.
            limit: Maximum number of versions.

        Returns:
            The versions, newest first.
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
        with self._read_transaction() as sql:
            return [rows.to_version(row) for row in sql.execute(query.limit(limit))]

    def list_skills(self, tenant: str, *, after: str | None, limit: int) -> list[InstanceName]:
        """List the tenant's instances that have a ``prod`` channel.

        Args:
            tenant: Name of the tenant.
            after: Only instances whose name sorts after this one. None: from the first.
            limit: Maximum number of instances.

        Returns:
            The instances, sorted by name.
        """
        c = t.channels.c
        query = select(c.instance).where(c.tenant == tenant, c.name == PROD).order_by(c.instance).limit(limit)
        if after is not None:
            query = query.where(c.instance > after)
        with self._read_transaction() as sql:
            return [InstanceName(tenant, name) for name in sql.scalars(query)]

    def get_channels(self, instance: InstanceName) -> dict[str, str]:
        """Return the digest that each channel of ``instance`` points to, by channel name.

        Raises:
            NotFound: The instance does not exist.
        """
        with self._read_transaction() as sql:
            rows.require_instance(sql, instance)
            found = sql.execute(
                select(t.channels.c.name, t.channels.c.digest)
                .where(rows.in_instance(t.channels, instance))
                .order_by(t.channels.c.name)
            )
            return {row.name: row.digest for row in found}

    def get_channel_shares(self, instance: InstanceName) -> dict[str, float]:
        """Return the canary share of each channel of ``instance`` that has one, from 0 to 1, by channel name."""
        c = t.channels.c
        query = select(c.name, c.share).where(rows.in_instance(t.channels, instance), c.share > 0).order_by(c.name)
        with self._read_transaction() as sql:
            return {row.name: row.share for row in sql.execute(query)}

    def get_channel(self, instance: InstanceName, name: str) -> str | None:
        """Return the digest that the channel ``name`` of ``instance`` points to, or None if it does not exist."""
        with self._read_transaction() as sql:
            return rows.channel_digest(sql, instance, name)

    def set_channel(
        self, instance: InstanceName, channel: str, digest: str, share: float = 0.0, *, expected: str | None = None
    ) -> None:
        """Create a channel or point it to another version.

        Args:
            instance: Instance of the channel.
            channel: Name of the channel.
            digest: Version of the same instance.
            share: Canary share: the share of the requests for the instance's plain name that this channel answers.
            expected: Digest that the channel must point to now. None: it may point anywhere, or not exist.

        Raises:
            InvalidInput: The channel's name is not valid, or all shares together exceed 1.
            NotFound: The digest is not a version of the instance, or it is revoked.
            Conflict: The channel does not point to ``expected``.
        """
        check_name(channel, "channel")
        with self._write_transaction() as sql:
            rows.require_instance(sql, instance, lock=True)
            v = t.versions.c
            found = sql.scalar(
                select(v.digest).where(
                    v.digest == digest, v.revoked_at.is_(None), rows.in_instance(t.versions, instance)
                )
            )
            if found is None:
                raise rows.version_not_found(instance, digest)
            _check_share(sql, instance, channel, share)
            current = rows.channel_digest(sql, instance, channel)
            rows.check_expected(instance, channel, expected, current)
            rows.swap_channel(sql, instance, channel, current, digest, share)
            rows.insert_event(sql, instance, None, f"{channel} -> {digest}" + (f" for {share:.0%}" if share else ""))

    def delete_channel(self, instance: InstanceName, channel: str, *, expected: str | None = None) -> None:
        """Delete a channel. Its version stays.

        Args:
            instance: Instance of the channel.
            channel: Name of the channel.
            expected: Digest that the channel must point to now. None: it may point anywhere.

        Raises:
            NotFound: The instance or the channel does not exist.
            Conflict: The channel does not point to ``expected``.
        """
        with self._write_transaction() as sql:
            rows.require_instance(sql, instance, lock=True)
            current = rows.channel_digest(sql, instance, channel)
            if current is not None:
                rows.check_expected(instance, channel, expected, current)
            if not rows.delete_channel(sql, instance, channel):
                raise NotFound(f"instance {instance} has no channel {channel}: looper skills show {instance}")
            rows.insert_event(sql, instance, None, f"{channel} is deleted")

    def list_updated_channels(self, since: datetime | None) -> Changes[RouteTarget]:
        """Return what the channels of all instances point to, for those channels that changed after ``since``.

        Times are of the catalog's clock. None: only the present time.
        """
        v, c = t.versions.c, t.channels.c
        query = select(c.name, c.share, v.digest, v.rank, v.base).join(t.versions, v.digest == c.digest)
        with self._read_transaction() as sql:
            now = read_clock(sql)
            found = sql.execute(query.where(c.updated_at > (since or now)))
            targets = [_to_target(row, row.name, row.share) for row in found]
        return Changes(now, frozenset(targets))

    def resolve(self, model: ModelName) -> str:
        """Return the digest of the version that ``model`` names now.

        Raises:
            NotFound: The tenant, instance, channel or version does not exist. The error does not say which one, so that
                it reveals no names of other tenants.
        """
        return self.resolve_targets(model)[0].digest

    def resolve_targets(self, model: ModelName) -> list[RouteTarget]:
        """Return all versions that may answer a request for ``model`` now.

        Returns:
            First the version that the name points to, then, for a plain name, the channels with a canary share. The
            shares add up to 1, except for a channel that is named itself.

        Raises:
            NotFound: As ``resolve``.
        """
        name = {"tenant": model.instance.tenant, "instance": model.instance.instance}
        with self._read_transaction() as sql:
            if is_digest(model.selector):
                versions = sql.execute(_VALID_VERSION, name | {"digest": model.selector}).all()
                targets = [_to_target(row, None, 1) for row in versions]
            else:
                query = _PROD_AND_CANARIES if model.selector == PROD else _CHANNEL
                found = sql.execute(query, name | {"channel": model.selector}).all()
                targets = [_to_target(row, row.name, row.share) for row in found]
                if model.selector == PROD:
                    targets = _give_prod_the_rest(targets)
        if not targets or targets[0].channel not in (None, model.selector):
            raise NotFound(f"model {model} does not exist")
        return targets


def _to_target(row: Any, channel: str | None, share: float) -> RouteTarget:
    return RouteTarget(channel=channel, digest=row.digest, rank=row.rank, base=row.base, share=share)


def _check_share(sql: Connection, instance: InstanceName, channel: str, share: float) -> None:
    if not 0 <= share <= 1 or (channel == PROD and share):
        raise InvalidInput(
            f"share {share:g} of channel {channel} is not valid: give 0 to 1, and none to {PROD}, which gets the rest"
        )
    c = t.channels.c
    query = select(func.sum(c.share)).where(rows.in_instance(t.channels, instance), c.name != channel)
    other_shares = sql.scalar(query) or 0.0
    if other_shares + share > 1:
        raise InvalidInput(
            f"share {share:g} of channel {channel} is too large: other channels have {other_shares:g} already"
        )


def _give_prod_the_rest(targets: list[RouteTarget]) -> list[RouteTarget]:
    """Return ``targets`` with ``prod`` first. Its share is what the canary channels leave."""
    canaries = [target for target in targets if target.channel != PROD]
    rest = 1 - sum(target.share for target in canaries)
    return [*(target.model_copy(update={"share": rest}) for target in targets if target.channel == PROD), *canaries]
