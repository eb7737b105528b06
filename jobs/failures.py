"""Decide which error fails a single consolidation and which error stops all work.

The trainer and the queue worker wrap everything that they do for one consolidation in ``run_isolated``, so both follow
the same policy. Failing a consolidation goes through ``fail_consolidation``.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.errors import Conflict, LooperError, StoreFull, StoreUnavailable
from looper.platform.objectstore import ObjectStore, keys

log = logging.getLogger(__name__)

T = TypeVar("T")


class UnexpectedError(Exception):
    """An exception of another process that is not a LooperError. The text begins with the name of its type."""


def run_isolated(
    job: Consolidation,
    action: Callable[[], T],
    fail: Callable[[str], None],
    *,
    process: str,
    stops_all: Callable[[Exception], bool] = lambda _: False,
) -> T | None:
    """Call ``action``, and fail ``job`` alone if the error is the fault of ``job``.

    A Conflict means that ``job`` was cancelled or that another process holds it by now. Then nothing is written. Any
    other LooperError fails ``job`` with its text, and an unexpected error fails it with type and text.

    Args:
        job: The consolidation that ``action`` works on.
        action: Does one part of the work.
        fail: Records that ``job`` failed, given the reason.
        process: Name of this process for the reason of an unexpected error, such as ``"trainer"``.
        stops_all: Says whether an unexpected error may concern more than ``job``. Such an error is raised.

    Returns:
        What ``action`` returned, or None if the work on ``job`` must not continue.

    Raises:
        StoreUnavailable: If the object store or the catalog is down, which is not the fault of any job. A full store
            fails ``job`` instead, which leaves room for the others.
        Exception: If ``stops_all`` says so.
    """
    try:
        return action()
    except Conflict:
        return None
    except LooperError as error:
        if isinstance(error, StoreUnavailable) and not isinstance(error, StoreFull):
            raise
        reason = str(error)
    except Exception as error:
        if stops_all(error):
            raise
        log.exception("consolidation %s of %s failed with an unexpected error", job.id, job.instance)
        reason = describe_unexpected(error, process)
    fail(reason)
    return None


def describe_unexpected(error: Exception, process: str) -> str:
    """Return the failure reason for an error that is not a LooperError.

    Args:
        error: The error.
        process: Name of the process whose log has the traceback.

    Returns:
        One line.
    """
    text = str(error) if isinstance(error, UnexpectedError) else f"{type(error).__name__}: {error}"
    return f"unexpected {text}".splitlines()[0] + f"; see the log of the {process}"


def fail_consolidation(catalog: Catalog, store: ObjectStore, id: str, owner: str, reason: str) -> None:
    """Fail a consolidation and delete its checkpoints, unless ``owner`` no longer holds it.

    Args:
        catalog: Records the failure.
        store: Has the checkpoints.
        id: Id of the consolidation.
        owner: Holder of the lease.
        reason: What the user reads: one line.
    """
    with suppress(Conflict):  # it was cancelled, or another process holds it and needs the checkpoints
        catalog.fail(id, owner, reason)
        store.delete(keys.checkpoints(id))
