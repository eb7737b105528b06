"""Catalog operations on the state of the cluster, which the leading control loop writes down for everybody to read."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, select

from looper.platform.catalog import tables as t
from looper.platform.catalog.clock import read_clock
from looper.platform.catalog.database import Database

c = t.cluster_reports.c

DEPLOYED = "deployed"
"""Name of the report of what Looper was deployed from last, which whatever deploys it writes."""

REPORT = "looper"
"""Name of the report that the leading control loop writes."""


class ClusterReportOperations(Database):
    """The latest report of the cluster."""

    def save_cluster_report(self, name: str, report: Mapping[str, Any]) -> None:
        """Replace the report.

        Args:
            name: Name of the cluster.
            report: The report, as JSON.
        """
        with self._write_transaction() as sql:
            sql.execute(delete(t.cluster_reports).where(c.name == name))
            sql.execute(insert(t.cluster_reports).values(name=name, report=dict(report), written_at=read_clock(sql)))

    def get_cluster_report(self, name: str) -> tuple[dict[str, Any], datetime] | None:
        """Return the latest report of the cluster ``name`` and when it was written, or None if there is none."""
        with self._read_transaction() as sql:
            row = sql.execute(select(c.report, c.written_at).where(c.name == name)).one_or_none()
            return None if row is None else (row.report, row.written_at)

    def delete_cluster_report(self, name: str) -> None:
        """Forget the cluster ``name``, which was taken down."""
        with self._write_transaction() as sql:
            sql.execute(delete(t.cluster_reports).where(c.name == name))
