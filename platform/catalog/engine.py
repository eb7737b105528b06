"""Open the database: configure SQLite and PostgreSQL to behave alike.

``database.py`` calls it for every process that opens the catalog. All waits for the database have a timeout, so that a
database that hangs stops nobody for longer.
"""

import math
import time
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InvalidatePoolError

from looper.platform.catalog import schema
from looper.platform.domain.errors import InvalidInput, StoreUnavailable
from looper.platform.domain.private_files import make_private_folder

_EXPECTED_URL = "give sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE"

_IDLE_TRANSACTION_TIMEOUT_S = 60.0
"""A process that stops within a transaction for this time, in seconds, loses the transaction and its locks."""


MAX_CONNECTIONS = 10
"""Connections of one process to PostgreSQL. More would be opened for a moment only, which takes longer than to wait."""

_PING_AFTER_S = 1.0
"""A connection that was idle for longer, in seconds, is checked before it is used again."""


OlderSchema = Literal["refuse", "migrate", "accept"]
"""What to do with a database whose schema is of an older release. "accept" checks nothing, for a look at the schema."""


def connect(url: str, timeout_s: float, *, older: OlderSchema) -> Engine:
    """Open a database. An empty one gets the schema of this release.

    Args:
        url: ``sqlite:///FILE`` or ``postgresql://USER:PASSWORD@HOST/DATABASE``.
        timeout_s: Timeout of a connection, of a statement and of the wait for a lock, in seconds.
        older: What to do with the schema of an older release.

    Returns:
        An SQLAlchemy engine.

    Raises:
        InvalidInput: ``url`` is not the URL of a supported database, or this release cannot work with its schema.
        StoreUnavailable: The database cannot be opened.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:  # without the URL, which may have a password
        raise InvalidInput(f"catalog.url is not a database URL: {_EXPECTED_URL}") from error
    try:
        engine = create(parsed, timeout_s)
        if older != "accept":
            schema.prepare(engine, migrate=older == "migrate")
    except (DBAPIError, OSError) as error:
        cause = getattr(error, "orig", None) or error
        raise StoreUnavailable(
            "the catalog cannot be opened: try again",
            detail=f"catalog {parsed!r} cannot be opened: {str(cause).strip().splitlines()[0]}",
        ) from error
    return engine


def create(url: URL, timeout_s: float) -> Engine:
    """Create an engine for a database whose schema is up to date.

    Args:
        url: URL of the database.
        timeout_s: Timeout of a connection, of a statement and of the wait for a lock, in seconds.

    Returns:
        An SQLAlchemy engine. It has not connected yet.

    Raises:
        InvalidInput: The database is neither SQLite nor PostgreSQL.
    """
    if url.get_backend_name() == "sqlite":
        return _create_sqlite_engine(url, timeout_s)
    if url.get_backend_name() == "postgresql":
        return _create_postgresql_engine(url.set(drivername="postgresql+psycopg"), timeout_s)
    raise InvalidInput(f"catalog.url {url!r} names a database that is not supported: {_EXPECTED_URL}")


def _create_sqlite_engine(url: URL, timeout_s: float) -> Engine:
    """Create an engine whose driver starts no transactions by itself (``isolation_level=None``).

    Write transactions start with BEGIN IMMEDIATE instead.
    """
    if url.database:
        make_private_folder(Path(url.database).parent)
    engine = create_engine(url, connect_args={"timeout": timeout_s, "isolation_level": None}, pool_timeout=timeout_s)

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        for pragma in ("foreign_keys=ON", "synchronous=NORMAL"):
            connection.execute(f"PRAGMA {pragma}")

    return engine


def _create_postgresql_engine(url: URL, timeout_s: float) -> Engine:
    """Create an engine with timeouts in the server, in TCP, and in this process, which the server cannot miss."""
    from looper.platform.catalog.bounded_connection import connect_bounded  # SQLite needs no driver of PostgreSQL

    milliseconds = round(timeout_s * 1000)
    bounds = {
        "statement_timeout": milliseconds,
        "lock_timeout": milliseconds,
        "idle_in_transaction_session_timeout": round(_IDLE_TRANSACTION_TIMEOUT_S * 1000),
    }
    own_options = str(url.query.get("options", ""))
    arguments = {
        "connect_timeout": max(1, round(timeout_s)),
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": milliseconds,
        "options": " ".join([*(f"-c {name}={value}" for name, value in bounds.items()), own_options]).strip(),
    }
    engine = create_engine(
        url.difference_update_query(["options"]),
        connect_args=arguments,
        pool_size=MAX_CONNECTIONS,
        max_overflow=0,
        pool_timeout=timeout_s,
    )
    _ping_idle_connections(engine)

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, args: Any, parameters: Any) -> Any:
        return connect_bounded(timeout_s, *args, **parameters)

    return engine


def _ping_idle_connections(engine: Engine) -> None:
    """Check connections that were idle for a while before they are used again: the server may have closed them.

    SQLAlchemy's ``pool_pre_ping`` does so at each use, which is one more round trip for each query under load.
    """
    import psycopg  # SQLite does not need it

    @event.listens_for(engine, "checkin")
    def _record(_connection: Any, record: Any) -> None:
        record.info["used_at"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _ping(connection: Any, record: Any, _proxy: Any) -> None:
        if time.monotonic() - record.info.get("used_at", math.inf) < _PING_AFTER_S:
            return
        try:
            engine.dialect.do_ping(connection)
        except psycopg.OperationalError as error:
            raise InvalidatePoolError from error  # SQLAlchemy opens another connection
