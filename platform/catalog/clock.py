"""The clock of the catalog. All times in the catalog come from it.

Hosts' clocks differ. A lease that one host grants and another checks, or the order of two revocations, must not depend
on which hosts they were.
"""

from datetime import UTC, datetime

from sqlalchemy import Connection, func, select


def read_clock(sql: Connection) -> datetime:
    """Return the current time in UTC by the database's clock.

    Read it after the locks of the transaction are taken, so that later transactions have later times.

    Args:
        sql: Open transaction.

    Returns:
        PostgreSQL's time now, not at the start of the transaction. SQLite has no server, and all its processes are on
        one machine, so its clock is that machine's.
    """
    if sql.dialect.name == "sqlite":
        return datetime.now(UTC)
    now: datetime = sql.execute(select(func.clock_timestamp())).scalar_one()
    return now.astimezone(UTC)
