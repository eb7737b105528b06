"""Open the database: configure SQLite and PostgreSQL to behave alike, and migrate the schema.

``database.py`` calls it for every process that opens the catalog.
"""

from importlib.resources import files
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from filelock import FileLock
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from looper.platform.domain.errors import InvalidInput, StoreUnavailable

_MIGRATION_LOCK_ID = 0x6C6F6F70
"""Name of PostgreSQL's advisory lock for migrations. Any fixed number will do."""


def connect(url: str) -> Engine:
    """Open a database and migrate its schema to the newest version.

    Args:
        url: ``sqlite:///FILE`` or ``postgresql://USER:PASSWORD@HOST/DATABASE``.

    Returns:
        An SQLAlchemy engine.

    Raises:
        InvalidInput: ``url`` is not a database URL.
        StoreUnavailable: The database cannot be opened.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        is_sqlite = parsed.get_backend_name() == "sqlite"
        engine = _create_sqlite_engine(parsed) if is_sqlite else create_engine(parsed, pool_pre_ping=True)
    except (ArgumentError, NoSuchModuleError) as error:
        raise InvalidInput(f"catalog.url {url!r} is not a database URL: {error}") from error
    try:
        _migrate(engine)
    except (DBAPIError, OSError) as error:
        cause = getattr(error, "orig", None) or error
        raise StoreUnavailable(f"catalog {parsed!r} cannot be opened: {str(cause).strip().splitlines()[0]}") from error
    return engine


def _create_sqlite_engine(url: Any) -> Engine:
    """Create an engine whose driver starts no transactions by itself (``isolation_level=None``).

    Write transactions start with BEGIN IMMEDIATE instead.
    """
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": 30, "isolation_level": None})

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        for pragma in ("foreign_keys=ON", "synchronous=NORMAL"):
            connection.execute(f"PRAGMA {pragma}")

    return engine


def _migrate(engine: Engine) -> None:
    if engine.dialect.name == "sqlite" and engine.url.database:
        # The switch to WAL is stored in the file. It fails at once if another connection is active, because SQLite does
        # not wait for locks here.
        with FileLock(f"{engine.url.database}.lock"):
            with engine.connect() as sql:
                sql.exec_driver_sql("PRAGMA journal_mode=WAL")
            with engine.begin() as sql:
                _upgrade(sql)
        return
    with engine.begin() as sql:
        sql.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _MIGRATION_LOCK_ID})
        _upgrade(sql)


def _upgrade(sql: Connection) -> None:
    script = Config()
    script.set_main_option("script_location", str(files("looper.platform.catalog") / "migrations"))
    newest = ScriptDirectory.from_config(script).get_current_head()
    if MigrationContext.configure(sql).get_current_revision() != newest:
        script.attributes["connection"] = sql
        command.upgrade(script, "head")
