"""Who is to blame when a trainer dies: the consolidations whose work was in progress, and none of their neighbors.

Rank 0 records their ids in the catalog before each piece of work on others, and whoever finds the trainer dead reads
them, on whatever node. A process that is killed, or that a library ends, can do nothing itself in that moment.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from looper.platform.domain.errors import StoreUnavailable


class Suspects:
    """The ids of the consolidations that a trainer works on, or worked on last."""

    def __init__(self, record: Callable[[Sequence[str]], None] = lambda ids: None) -> None:
        """Begin with none.

        Args:
            record: Called with the ids whenever they change. Default: nothing is recorded, for a trainer that nobody
                starts again.
        """
        self._record = record
        self._ids: tuple[str, ...] | None = ()

    def work_on(self, ids: Iterable[str]) -> None:
        """Name the consolidations that are worked on from now on.

        Args:
            ids: Their ids.
        """
        now = tuple(ids)
        if now == self._ids:
            return
        self._ids = None
        with suppress(StoreUnavailable):  # this rank must not end alone; all see at the next poll that it is down
            self._record(now)
            self._ids = now

    def find(self, leased: Iterable[str]) -> list[str]:
        """Return who may have caused an exception that ends this trainer.

        Args:
            leased: Ids of all consolidations that the trainer has leased.

        Returns:
            As ``choose_suspects``.
        """
        return choose_suspects(self._ids, leased)


def choose_suspects(recorded: Iterable[str] | None, leased: Iterable[str]) -> list[str]:
    """Return who may have killed a trainer.

    Args:
        recorded: What the trainer worked on when it died, or None if that is not known.
        leased: Ids of all consolidations that the trainer had leased.

    Returns:
        Those of ``leased`` that the trainer worked on. All of them if that is not known, or if it worked on none.
    """
    leased, named = list(leased), set(recorded or ())
    return [id for id in leased if id in named] or leased
