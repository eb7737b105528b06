"""A transaction on the catalog, for the parts of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from looper.platform.catalog.engine import connect
from looper.platform.domain.errors import StoreUnavailable
from looper.platform.settings import Settings


class Database:
    """What each part of the catalog is built on. Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """The catalog that ``settings`` name, its schema brought up to date."""
        return cls(connect(settings.catalog_url))

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with self._read() as sql:
            if sql.dialect.name == "sqlite":
                # Take the write lock before reading, or two that read first and write later deadlock.
                sql.exec_driver_sql("BEGIN IMMEDIATE")
            yield sql

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as sql:
                yield sql
        except DBAPIError as error:
            raise StoreUnavailable(f"catalog {self._engine.url!r} failed: {error.orig}") from error
