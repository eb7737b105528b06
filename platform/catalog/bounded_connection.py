"""Connections to PostgreSQL that wait for a bounded time only. ``engine.py`` opens them.

The server's own timeouts do not help when the server is what hangs, and TCP's do not when its kernel still answers.
"""

from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus

Result = TypeVar("Result")

_GRACE_S = 0.5
"""How much longer than the server this process waits for it, in seconds. The server's own error says more."""

_POLL_INTERVAL_S = 0.1
"""psycopg's interval of checking for signals, in seconds."""


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that is closed when the server does not answer in time."""

    timeout_s: float | None = None
    """Maximum time of one wait for the server, in seconds. None: no maximum."""

    def wait(self, gen: PQGen[Result], interval: float = _POLL_INTERVAL_S, timeout: float | None = None) -> Result:
        """Wait for the server.

        Args:
            gen: What psycopg waits for.
            interval: Interval of checking for signals, in seconds.
            timeout: Maximum time in seconds. None: ``timeout_s``.

        Returns:
            The result of ``gen``.

        Raises:
            OperationalError: The server did not answer in time, or the connection is lost.
        """
        if timeout is None and self.timeout_s is not None:
            timeout = self.timeout_s + _GRACE_S
        try:
            return super().wait(gen, interval, timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.close()  # The answer may come later, and would be taken for that of the next statement.
            raise


def connect_bounded(timeout_s: float, *args: Any, **parameters: Any) -> BoundedConnection:
    """Open a connection.

    Args:
        timeout_s: Maximum time of one wait for the server, in seconds.
        *args: psycopg's arguments of ``connect``.
        **parameters: psycopg's keyword arguments of ``connect``.

    Returns:
        The connection.
    """
    connection = BoundedConnection.connect(*args, **parameters)
    connection.timeout_s = timeout_s
    return connection
