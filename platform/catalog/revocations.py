"""Catalog operations on revocations: revoke a version, and list what was revoked.

``looper.platform.revocation`` marks each revocation in the object store too. Revoke keys and versions there.
"""

from datetime import datetime

from sqlalchemy import select, update

from looper.platform.catalog import rows
from looper.platform.catalog import tables as t
from looper.platform.catalog.clock import read_clock
from looper.platform.catalog.database import Database
from looper.platform.catalog.records import Changes, Revocation
from looper.platform.domain.names import PROD, InstanceName


class RevocationOperations(Database):
    """Revoked versions and keys."""

    def revoke_version(self, instance: InstanceName, digest: str) -> dict[str, str | None]:
        """Revoke a version, so that it is no longer served.

        ``prod`` falls back to the newest ancestor that is not revoked. All other channels that point to the version are
        deleted.

        Args:
            instance: Instance of the version.
            digest: Version to revoke.

        Returns:
            The new digest of each channel that pointed to the version, by channel name. None: the channel was deleted.
            Empty if the version is revoked already: a client that lost the response may ask again.

        Raises:
            NotFound: The digest is not a version of the instance.
        """
        moved: dict[str, str | None] = {}
        with self._write_transaction() as sql:
            # Whoever moves a channel or revokes a version holds this lock, so the ancestors are still valid at the end.
            rows.require_instance(sql, instance, lock=True)
            lineage = rows.load_lineage(sql, digest)
            if not lineage or lineage[0].instance != instance:
                raise rows.version_not_found(instance, digest)
            if lineage[0].revoked_at is not None:
                return moved
            fallback = next((ancestor.digest for ancestor in lineage[1:] if ancestor.revoked_at is None), None)
            sql.execute(update(t.versions).where(t.versions.c.digest == digest).values(revoked_at=read_clock(sql)))
            rows.insert_event(sql, instance, None, f"revoked {digest}")
            c = t.channels.c
            query = select(c.name).where(rows.in_instance(t.channels, instance), c.digest == digest)
            for channel in sql.scalars(query).all():
                if channel == PROD and fallback is not None:
                    rows.swap_channel(sql, instance, channel, digest, fallback)
                    moved[channel] = fallback
                else:
                    rows.delete_channel(sql, instance, channel)
                    moved[channel] = None
                rows.insert_event(sql, instance, None, f"{channel} -> {moved[channel] or 'nothing'}")
        return moved

    def list_revocations(self, since: datetime | None) -> Changes[Revocation]:
        """Return what was revoked after ``since``, a time of the catalog's clock. None: only the present time."""
        v, k = t.versions.c, t.keys.c
        with self._read_transaction() as sql:
            now = read_clock(sql)
            after = since or now
            versions = sql.scalars(select(v.digest).where(v.revoked_at > after)).all()
            keys = sql.scalars(select(k.id).where(k.revoked_at > after)).all()
        found = {Revocation("version", digest) for digest in versions} | {Revocation("key", id) for id in keys}
        return Changes(now, frozenset(found))

    def list_all_revocations(self) -> set[Revocation]:
        """Return all versions and keys that are revoked."""
        v, k = t.versions.c, t.keys.c
        with self._read_transaction() as sql:
            versions = sql.scalars(select(v.digest).where(v.revoked_at.is_not(None))).all()
            keys = sql.scalars(select(k.id).where(k.revoked_at.is_not(None))).all()
        return {Revocation("version", digest) for digest in versions} | {Revocation("key", id) for id in keys}
