"""Open the database: configure SQLite and PostgreSQL to behave alike, and migrate the schema.

``database.py`` calls it for every process that opens the catalog. All waits for the database have a timeout, so that a
database that hangs stops nobody for longer.
"""

import math
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from filelock import FileLock
from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InvalidatePoolError

from looper.platform.domain.errors import InvalidInput, StoreUnavailable
from looper.platform.domain.private_files import make_private_file, make_private_folder

_MIGRATION_LOCK_ID = 0x6C6F6F70
"""Name of PostgreSQL's advisory lock for migrations. Any fixed number will do."""

_MIGRATION_TIMEOUT_S = 600.0
"""Maximum time that a process waits for a migration, its own or that of another process, in seconds."""

_EXPECTED_URL = "give sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE"

_IDLE_TRANSACTION_TIMEOUT_S = 60.0
"""A process that stops within a transaction for this time, in seconds, loses the transaction and its locks."""


MAX_CONNECTIONS = 10
"""Connections of one process to PostgreSQL. More would be opened for a moment only, which takes longer than to wait."""

_PING_AFTER_S = 1.0
"""A connection that was idle for longer, in seconds, is checked before it is used again."""


def connect(url: str, timeout_s: float) -> Engine:
    """Open a database and migrate its schema to the newest version.

    Args:
        url: ``sqlite:///FILE`` or ``postgresql://USER:PASSWORD@HOST/DATABASE``.
        timeout_s: Timeout of a connection, of a statement and of the wait for a lock, in seconds.

    Returns:
        An SQLAlchemy engine.

    Raises:
        InvalidInput: ``url`` is not the URL of a supported database, or its schema is of a newer release.
        StoreUnavailable: The database cannot be opened.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:  # without the URL, which may have a password
        raise InvalidInput(f"catalog.url is not a database URL: {_EXPECTED_URL}") from error
    try:
        engine = create(parsed, timeout_s)
        _migrate(engine)
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


def _migrate(engine: Engine) -> None:
    if engine.dialect.name == "sqlite" and engine.url.database:
        # The switch to WAL is stored in the file. It fails at once if another connection is active, because SQLite does
        # not wait for locks here.
        # SQLite gives the files beside the database the mode of the database.
        make_private_file(Path(engine.url.database))
        with FileLock(f"{engine.url.database}.lock", timeout=_MIGRATION_TIMEOUT_S, mode=0o600):
            with engine.connect() as sql:
                sql.exec_driver_sql("PRAGMA journal_mode=WAL")
            with engine.begin() as sql:
                if not _is_newest(sql):
                    _upgrade(sql)
        return
    with engine.connect() as sql:
        if _is_newest(sql):
            return
    with engine.begin() as sql:
        connection: Any = sql.connection.driver_connection
        normal_timeout_s, connection.timeout_s = connection.timeout_s, _MIGRATION_TIMEOUT_S
        for name in ("statement_timeout", "lock_timeout"):
            sql.exec_driver_sql(f"SET LOCAL {name} = {round(_MIGRATION_TIMEOUT_S * 1000)}")
        sql.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _MIGRATION_LOCK_ID})
        if not _is_newest(sql):
            _upgrade(sql)
        connection.timeout_s = normal_timeout_s


def _migration_script() -> Config:
    script = Config()
    script.set_main_option("script_location", str(files("looper.platform.catalog") / "migrations"))
    return script


def _is_newest(sql: Connection) -> bool:
    """Return whether the schema is the one that this release knows. Raise InvalidInput if it is of a newer release."""
    revisions = ScriptDirectory.from_config(_migration_script())
    newest, current = revisions.get_current_head(), MigrationContext.configure(sql).get_current_revision()
    if current is not None and current not in {each.revision for each in revisions.walk_revisions()}:
        raise InvalidInput(
            f"catalog {sql.engine.url!r} has schema {current} of a newer release, and this one knows {newest} at most: "
            "install the newer release"
        )
    return current == newest


def _upgrade(sql: Connection) -> None:
    script = _migration_script()
    script.attributes["connection"] = sql
    command.upgrade(script, "head")
