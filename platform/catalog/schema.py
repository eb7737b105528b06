"""Versions of the catalog's schema: who may work with which one, and who migrates.

Each migration has a revision. A release knows the migrations up to its own. Two tables say what a catalog has:

``schema_version``   its revision
``alembic_version``  the oldest revision whose code may still work with it, as the last migration declares it in
                     ``compatible_since``. Releases that knew no other table find there what they expect.

A migration that only expands the schema keeps ``compatible_since`` of the one before it. One that contracts it, which
takes away what older code uses, raises it. ``docs/decisions/0032`` has the reasons.
"""

from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from filelock import FileLock
from sqlalchemy import Connection, Engine, text

from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.private_files import make_private_file

VERSION_TABLE = "schema_version"

_COMPATIBILITY_TABLE = "alembic_version"

_MIGRATION_LOCK_ID = 0x6C6F6F70
"""Name of PostgreSQL's advisory lock for migrations. Any fixed number will do."""

_MIGRATION_TIMEOUT_S = 600.0
"""Maximum time that a process waits for a migration, its own or that of another process, in seconds."""


class SchemaVersion(NamedTuple):
    """A schema, of a catalog or of a release."""

    revision: str | None
    """Its revision. None: the database is empty."""
    compatible_since: str | None
    """Oldest revision whose code may work with it."""


def newest_schema() -> SchemaVersion:
    """Return the schema of this release."""
    revisions = ScriptDirectory.from_config(_migrations())
    newest = revisions.get_current_head()
    assert newest is not None, "there are migrations"
    return SchemaVersion(newest, revisions.get_revision(newest).module.compatible_since)


def read_schema(sql: Connection) -> SchemaVersion:
    """Return the schema of a catalog.

    Args:
        sql: Open connection.
    """
    revision, compatible_since = (_read_revision(sql, table) for table in (VERSION_TABLE, _COMPATIBILITY_TABLE))
    return SchemaVersion(revision or compatible_since, compatible_since)


def prepare(engine: Engine, *, migrate: bool) -> None:
    """Check that this release can work with a database. An empty one gets the schema of this release.

    Args:
        engine: Engine of the database.
        migrate: Whether the schema of an older release is migrated.

    Raises:
        InvalidInput: The schema is of an older release and is not to be migrated, or it is of a newer one that this
            release cannot work with.
    """
    if engine.dialect.name == "sqlite" and engine.url.database:
        # The switch to WAL is stored in the file. It fails at once if another connection is active, because SQLite does
        # not wait for locks here.
        # SQLite gives the files beside the database the mode of the database.
        make_private_file(Path(engine.url.database))
        with FileLock(f"{engine.url.database}.lock", timeout=_MIGRATION_TIMEOUT_S, mode=0o600):
            with engine.connect() as sql:
                sql.exec_driver_sql("PRAGMA journal_mode=WAL")
            with engine.begin() as sql:
                if not _is_usable(sql, migrate=migrate):
                    _upgrade(sql)
        return
    with engine.connect() as sql:
        if _is_usable(sql, migrate=migrate):
            return
    with engine.begin() as sql:
        connection: Any = sql.connection.driver_connection
        normal_timeout_s, connection.timeout_s = connection.timeout_s, _MIGRATION_TIMEOUT_S
        for name in ("statement_timeout", "lock_timeout"):
            sql.exec_driver_sql(f"SET LOCAL {name} = {round(_MIGRATION_TIMEOUT_S * 1000)}")
        sql.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _MIGRATION_LOCK_ID})
        if not _is_usable(sql, migrate=migrate):
            _upgrade(sql)
        connection.timeout_s = normal_timeout_s


def _is_usable(sql: Connection, *, migrate: bool) -> bool:
    """Return whether this release can work with the schema as it is. If not, it is empty, or older and to be migrated.

    Raises:
        InvalidInput: It is older and is not to be migrated, or it is too new.
    """
    found, mine = read_schema(sql), newest_schema()
    if found.revision is None:
        return False
    assert found.compatible_since is not None, "written with the revision"
    assert mine.revision is not None, "there are migrations"
    # Revisions are numbers of four digits, so that they are in order as texts, also those that are not known here.
    if found.compatible_since > mine.revision:
        raise InvalidInput(
            f"catalog {sql.engine.url!r} has schema {found.revision}, which needs a release of schema "
            f"{found.compatible_since} or newer, and this one is of schema {mine.revision}: install the newer release"
        )
    if found.revision >= mine.revision:
        return _read_revision(sql, VERSION_TABLE) is not None
    if not migrate:
        raise InvalidInput(
            f"catalog {sql.engine.url!r} has schema {found.revision} of an older release, and this one needs "
            f"{mine.revision}: run `looper upgrade` where the cluster runs"
        )
    return False


def _upgrade(sql: Connection) -> None:
    script, before = _migrations(), read_schema(sql)
    script.attributes["connection"] = sql
    if before.revision is not None and _read_revision(sql, VERSION_TABLE) is None:
        command.stamp(script, before.revision)
    command.upgrade(script, "head")
    oldest = MigrationContext.configure(sql, opts={"version_table": _COMPATIBILITY_TABLE})
    oldest.stamp(ScriptDirectory.from_config(script), str(newest_schema().compatible_since))


def _read_revision(sql: Connection, table: str) -> str | None:
    return MigrationContext.configure(sql, opts={"version_table": table}).get_current_revision()


def _migrations() -> Config:
    script = Config()
    script.set_main_option("script_location", str(files("looper.platform.catalog") / "migrations"))
    return script
