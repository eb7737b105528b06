"""Catalog operations on uploads in parts. The control plane calls them: ``platform/api/part_uploads.py``.

The parts are objects in the object store, so that any gateway takes the next part. The rows here bound how many there
are, and say which objects belong to nothing any more.
"""

import hashlib
from datetime import timedelta
from typing import Any

from sqlalchemy import Row, delete, func, insert, select, update

from looper.platform.catalog import rows
from looper.platform.catalog import tables as t
from looper.platform.catalog.clock import read_clock
from looper.platform.catalog.database import Database
from looper.platform.catalog.records import Upload
from looper.platform.domain.errors import RateLimited
from looper.platform.domain.names import InstanceName
from looper.platform.trajectories.report import IngestReport

MAX_UPLOADS_PER_TENANT = 16
"""Maximum number of unfinished uploads of one tenant. It bounds what their parts take in the object store."""

UPLOAD_LIFETIME_S = 86_400.0
"""An upload is deleted when no part of it has arrived for this time, in seconds."""


class UploadOperations(Database):
    """Uploads in parts."""

    def open_upload(
        self, instance: InstanceName, *, name: str, format: str, sha256: str, size: int, part_bytes: int
    ) -> Upload:
        """Begin an upload, or find the same one again. One that was read is begun anew.

        Args:
            instance: Instance that the trajectories belong to; it need not exist.
            name: Name of the file.
            format: Name of the format.
            sha256: SHA-256 of the file.
            size: Size of the file, in bytes.
            part_bytes: Size of each part, in bytes. An upload that had begun keeps its own.

        Returns:
            The upload.

        Raises:
            NotFound: The tenant does not exist.
            RateLimited: The tenant has the maximum number of uploads.
        """
        u = t.uploads.c
        text = "\n".join((str(instance), name, format, sha256, str(size)))
        id = hashlib.sha256(text.encode()).hexdigest()[:32]
        with self._write_transaction() as sql:
            # The lock on the tenant keeps two requests from both being the last one that has room.
            rows.require_tenant(sql, instance.tenant, lock=True)
            now = read_clock(sql)
            values = {"expires_at": now + timedelta(seconds=UPLOAD_LIFETIME_S), "report": None}
            if sql.execute(update(t.uploads).where(u.id == id).values(values)).rowcount == 0:
                is_open = (u.tenant == instance.tenant) & u.report.is_(None) & (u.expires_at > now)
                if (sql.scalar(select(func.count()).where(is_open)) or 0) >= MAX_UPLOADS_PER_TENANT:
                    raise RateLimited(
                        f"tenant {instance.tenant} has {MAX_UPLOADS_PER_TENANT} unfinished uploads already: finish "
                        f"them, or wait until they expire {UPLOAD_LIFETIME_S / 3600:.0f} hours after their last part",
                        retry_after_s=60.0,
                    )
                columns = rows.instance_columns(instance) | {"name": name, "format": format, "sha256": sha256}
                sizes = {"size": size, "part_bytes": part_bytes}
                sql.execute(insert(t.uploads).values(id=id, created_at=now, **columns, **sizes, **values))
            return _to_upload(sql.execute(select(t.uploads).where(u.id == id)).one())

    def get_upload(self, id: str, instance: InstanceName) -> Upload:
        """Return an upload that has not expired.

        Args:
            id: Id of the upload.
            instance: Instance that it must belong to.

        Returns:
            The upload.

        Raises:
            NotFound: There is no such upload of the instance.
        """
        with self._read_transaction() as sql:
            query = select(t.uploads).where(t.uploads.c.id == id, rows.in_instance(t.uploads, instance))
            row = sql.execute(query.where(t.uploads.c.expires_at > read_clock(sql))).one_or_none()
        if row is None:
            raise rows.upload_not_found(id)
        return _to_upload(row)

    def keep_upload(self, id: str) -> bool:
        """Put off the expiry of the upload ``id``. Return whether it exists."""
        with self._write_transaction() as sql:
            until = read_clock(sql) + timedelta(seconds=UPLOAD_LIFETIME_S)
            return sql.execute(update(t.uploads).where(t.uploads.c.id == id).values(expires_at=until)).rowcount == 1

    def finish_upload(self, id: str, report: IngestReport) -> None:
        """Write that an upload was read, so that a client that lost the response gets the same one.

        Args:
            id: Id of the upload.
            report: What was ingested.
        """
        with self._write_transaction() as sql:
            sql.execute(update(t.uploads).where(t.uploads.c.id == id).values(report=report.model_dump(mode="json")))

    def delete_upload(self, id: str) -> None:
        """Delete the upload ``id``, if it exists. Its parts belong to nothing then."""
        with self._write_transaction() as sql:
            sql.execute(delete(t.uploads).where(t.uploads.c.id == id))

    def list_upload_ids(self) -> set[str]:
        """Return the ids of all uploads, after those were deleted that have expired."""
        with self._write_transaction() as sql:
            sql.execute(delete(t.uploads).where(t.uploads.c.expires_at <= read_clock(sql)))
            return set(sql.scalars(select(t.uploads.c.id)))


def _to_upload(row: Row[Any]) -> Upload:
    values = dict(row._mapping)
    return Upload(instance=InstanceName(values.pop("tenant"), values.pop("instance")), **values)
