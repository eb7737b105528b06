"""Base class of the catalog's operations. It opens the database and its transactions."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Self

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from looper.platform.catalog.clock import read_clock
from looper.platform.catalog.engine import OlderSchema, connect, create
from looper.platform.catalog.schema import SchemaVersion, read_schema
from looper.platform.domain.errors import InvalidInput, StoreUnavailable
from looper.platform.settings import Settings


class Database:
    """Connection to the catalog's database. Thread-safe, and bounded: no call waits for the database without end.

    Args:
        engine: SQLAlchemy engine whose schema is up to date.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, settings: Settings, *, older: OlderSchema = "refuse") -> Self:
        """Open the catalog of ``settings``. An empty database gets the schema of this release.

        Args:
            settings: Settings whose ``catalog_url`` names the database.
            older: What to do with the schema of an older release. Only what brings a cluster up migrates it.

        Returns:
            The open catalog.

        Raises:
            InvalidInput: The URL is not a database URL, or this release cannot work with the schema of the database.
            StoreUnavailable: The database cannot be opened.
        """
        return cls(connect(settings.catalog_url, settings.catalog.timeout_s, older=older))

    def read_schema(self) -> SchemaVersion:
        """Return the schema that the database has."""
        with self._read_transaction() as sql:
            return read_schema(sql)

    def with_timeout(self, timeout_s: float) -> Self:
        """Return the same catalog over connections of its own.

        Args:
            timeout_s: Timeout of a connection, of a statement and of the wait for a lock, in seconds.

        Returns:
            A catalog to be closed separately.
        """
        return type(self)(create(self._engine.url, timeout_s))

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def now(self) -> datetime:
        """Return the current time in UTC by the catalog's clock, which all times in the catalog are of."""
        with self._read_transaction() as sql:
            return read_clock(sql)

    @contextmanager
    def _write_transaction(self) -> Iterator[Connection]:
        with self._translate_errors(), self._engine.begin() as sql:
            if sql.dialect.name == "sqlite":
                # Take the write lock before the first read. Otherwise two transactions that read first and write later
                # deadlock.
                sql.exec_driver_sql("BEGIN IMMEDIATE")
            yield sql

    @contextmanager
    def _read_transaction(self) -> Iterator[Connection]:
        """Open a connection for reading. Each statement sees what is committed when it begins.

        That is what a transaction of PostgreSQL sees by default, but without a round trip to begin and one to end it.
        """
        with self._translate_errors(), self._engine.connect() as sql:
            if sql.dialect.name == "postgresql":
                sql.execution_options(isolation_level="AUTOCOMMIT")
            yield sql

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except (DataError, UnicodeEncodeError) as error:
            raise InvalidInput(
                "a value has a character or a size that the catalog cannot store: correct the request"
            ) from error
        except (DBAPIError, PoolTimeout) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            raise StoreUnavailable(
                "the catalog does not respond: try again", detail=f"catalog {self._engine.url!r} failed: {cause}"
            ) from error
