"""Who is to blame when a trainer dies: the consolidations whose work was in progress, and none of their neighbors.

Rank 0 writes their ids to a file before each piece of work, and whoever finds the trainer dead reads them. A process
that is killed, or that a library ends, can do nothing itself in that moment.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class SuspectFile:
    """The ids of the consolidations that a trainer works on at this moment, in a file that survives the trainer."""

    def __init__(self, path: Path | None = None) -> None:
        """Open the file.

        Args:
            path: The file. None: nothing is written, for a trainer that nobody starts again.
        """
        self._file = None if path is None else os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._names = ""

    @contextmanager
    def working_on(self, ids: Iterable[str]) -> Iterator[None]:
        """Name the consolidations that the block works on. If the block raises, the file keeps their names.

        Args:
            ids: Their ids.
        """
        self._write(" ".join(ids))
        yield
        self._write("")

    def find_suspects(self, leased: Iterable[str]) -> list[str]:
        """Return who may have caused an exception that ends this trainer.

        Args:
            leased: Ids of all consolidations that the trainer has leased.

        Returns:
            As ``read_suspects``.
        """
        return _choose(self._names, leased)

    def _write(self, text: str) -> None:
        self._names = text
        if self._file is None:
            return
        # In this order: if the process dies between the two calls, there is a suspect too many and none too few.
        os.pwrite(self._file, f"{text} ".encode(), 0)
        os.truncate(self._file, len(text))


def read_suspects(path: Path, leased: Iterable[str]) -> list[str]:
    """Return who may have killed a trainer.

    Args:
        path: File of the trainer's ``SuspectFile``.
        leased: Ids of all consolidations that the trainer had leased.

    Returns:
        Those of ``leased`` that the trainer worked on when it died. All of them if that is not known, or if it worked
        on none.
    """
    try:
        return _choose(path.read_text(), leased)
    except FileNotFoundError:
        return list(leased)


def _choose(names: str, leased: Iterable[str]) -> list[str]:
    leased, named = list(leased), set(names.split())
    return [id for id in leased if id in named] or leased
