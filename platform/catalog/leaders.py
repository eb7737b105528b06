"""Catalog operations on leadership: of several control loops, one works and the others wait to take its place."""

from datetime import timedelta

from sqlalchemy import or_, select, update

from looper.platform.catalog import tables as t
from looper.platform.catalog.clock import read_clock
from looper.platform.catalog.database import Database
from looper.platform.domain.cluster_report import Leader

CONTROL_LOOP = "control loop"
"""What the leader leads. The migration made its row."""

_NOBODY = ""

c = t.leaders.c


class LeaderOperations(Database):
    """The lease of the control loop that leads."""

    def lead(self, holder: str, *, lease_s: float) -> bool:
        """Take or renew the lease.

        Args:
            holder: Name of the control loop.
            lease_s: Duration of the lease in seconds, from now.

        Returns:
            Whether ``holder`` leads. If not, another one does, whose lease has not expired.
        """
        with self._write_transaction() as sql:
            now = read_clock(sql)
            until = now + timedelta(seconds=lease_s)
            renewed = sql.execute(
                update(t.leaders).where(c.name == CONTROL_LOOP, c.holder == holder).values(lease_until=until)
            )
            if renewed.rowcount:
                return True
            taken = sql.execute(
                update(t.leaders)
                .where(c.name == CONTROL_LOOP, or_(c.lease_until < now, c.holder == _NOBODY))
                .values(holder=holder, since=now, lease_until=until)
            )
            return bool(taken.rowcount)

    def resign(self, holder: str) -> None:
        """Give the lease back at once, if ``holder`` leads."""
        with self._write_transaction() as sql:
            sql.execute(update(t.leaders).where(c.name == CONTROL_LOOP, c.holder == holder).values(holder=_NOBODY))

    def get_leader(self) -> Leader | None:
        """Return who leads, or None if nobody does."""
        with self._read_transaction() as sql:
            row = sql.execute(select(c.holder, c.since, c.lease_until).where(c.name == CONTROL_LOOP)).one()
            is_led = row.holder != _NOBODY and row.lease_until >= read_clock(sql)
            return Leader(holder=row.holder, since=row.since) if is_led else None
