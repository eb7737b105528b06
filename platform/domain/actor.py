"""Who changes the catalog. It is set where a request or a command comes in, and stands in every event.

key:NAME/ID           a request with that API key of a tenant
operator:NAME/ID      a request with that operator's key
cli:USER              a command on a machine that reads the catalog
system:queue-worker   the queue worker and its trainers
local:USER            any other program on such a machine
"""

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

QUEUE_WORKER: Final = "system:queue-worker"

_actor: ContextVar[str | None] = ContextVar("looper_actor", default=None)


@contextmanager
def acting_as(actor: str) -> Iterator[None]:
    """Record ``actor`` in the events of all changes that are made while the context is open, in this task or thread.

    Yields:
        None, while changes are recorded as the actor's.
    """
    token = _actor.set(actor)
    try:
        yield
    finally:
        _actor.reset(token)


def current_actor() -> str:
    """Return who acts now."""
    return _actor.get() or f"local:{local_user()}"


def local_user() -> str:
    """Return the name of the user that this process runs as, or its number if it has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # containers often run as a number
        return str(os.geteuid())
