"""Decisions that all workers (ranks) of a trainer take together.

If one rank dropped a member by itself, the others would hang in their next collective, or the gradients of different
members would be added up. So everything that can fail or be refused on one rank alone (every call to catalog or store)
runs inside one of these functions, which give all ranks the same outcome. They are collectives themselves: all ranks
call the same ones in the same order. An exception anywhere else must be the same on all ranks, or end the process and
with it the training run.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist

from looper.jobs.failures import UnexpectedError
from looper.platform.domain.errors import Conflict, InvalidInput, LooperError, NotFound, StoreFull, StoreUnavailable

T = TypeVar("T")

_SHARED_TYPES = (Conflict, InvalidInput, NotFound, StoreFull, StoreUnavailable, LooperError, torch.AcceleratorError)
"""An exception is raised on the other ranks as the first of these types that fits."""


def broadcast_from_rank0(value: T) -> T:
    """Give every rank the value that rank 0 has.

    Args:
        value: Any picklable value. Only that of rank 0 counts.

    Returns:
        Rank 0's ``value``.
    """
    if dist.get_world_size() == 1:
        return value
    shared = [value]
    dist.broadcast_object_list(shared, src=0)
    return shared[0]


def run_on_rank0(call: Callable[[], T]) -> T:
    """Run ``call`` on rank 0 only, and give every rank its outcome.

    Args:
        call: Must not use a collective. What it returns must be picklable.

    Returns:
        What ``call`` returned on rank 0.

    Raises:
        LooperError: On every rank, if ``call`` raised one: of the same type, with the same text.
        UnexpectedError: With several workers, on every rank, if ``call`` raised something else. A single worker raises
            the exception itself.
    """
    if dist.get_world_size() == 1:
        return call()
    outcome: list[tuple[T | None, Exception | None]] = [(None, None)]
    cause = None
    if dist.get_rank() == 0:
        try:
            outcome = [(call(), None)]
        except Exception as error:
            cause = error
            outcome = [(None, _shareable(error))]
    dist.broadcast_object_list(outcome, src=0)
    value, failure = outcome[0]
    if failure is not None:
        raise failure from cause
    return value  # type: ignore[return-value]  # it is what ``call`` returned


def run_on_all_ranks(call: Callable[[], T]) -> T:
    """Run ``call`` on every rank; if it fails on any, fail on all.

    Args:
        call: Must not use a collective.

    Returns:
        What ``call`` returned on this rank.

    Raises:
        LooperError: On every rank, if ``call`` raised one on the lowest rank on which it failed.
        UnexpectedError: With several workers, on every rank, if it raised something else there. A single worker raises
            the exception itself.
    """
    if dist.get_world_size() == 1:
        return call()
    value, cause = None, None
    try:
        value = call()
    except Exception as error:
        cause = error
    failures: list[Exception | None] = [None] * dist.get_world_size()
    dist.all_gather_object(failures, None if cause is None else _shareable(cause))
    for failure in failures:
        if failure is not None:
            raise failure from cause
    return value  # type: ignore[return-value]  # it is what ``call`` returned


def _shareable(error: Exception) -> Exception:
    """Return a copy with the same text: other attributes of an exception may not survive pickling."""
    for kind in _SHARED_TYPES:
        if isinstance(error, kind):
            return kind(str(error))
    return UnexpectedError(f"{type(error).__name__}: {error}")
