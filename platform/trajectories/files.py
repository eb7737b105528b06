"""Finds trajectory files, and what lies beside them. ``ingest`` reads them here; the command line uploads them.

It imports no parser, because the machine that uploads files may have no more than the client.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from looper.platform.domain.errors import InvalidInput

DOCUMENT_SUFFIXES = frozenset({".json", ".traj"})
"""Suffixes of files that are one document."""

JSON_LINES_SUFFIXES = frozenset({".jsonl", ".ndjson"})
"""Suffixes of files with one document per line."""

SUFFIXES = DOCUMENT_SUFFIXES | JSON_LINES_SUFFIXES
"""Suffixes of all trajectory files."""


COMPANION_SUFFIXES = frozenset({".report.json"})
"""``companion_suffix`` of all readers, which a test compares with this."""


class FoundFile(NamedTuple):
    """A file to ingest."""

    path: Path
    """Where it is."""
    is_named: bool
    """Whether the caller named the file itself. Otherwise it was found in a folder, and may be no trajectory file."""


def find_files(paths: Iterable[Path]) -> list[FoundFile]:
    """Find the files at or below paths, without hidden ones.

    Args:
        paths: Files and folders.

    Returns:
        The files of each path in turn, those of a folder sorted by name.

    Raises:
        InvalidInput: A path does not exist.
    """
    return [file for path in paths for file in _find_files(path)]


def _find_files(path: Path) -> list[FoundFile]:
    if path.is_dir():
        below = ((file, file.relative_to(path)) for file in sorted(path.rglob("*")) if file.is_file())
        visible = [file for file, inside in below if not any(part.startswith(".") for part in inside.parts)]
        return [FoundFile(file, is_named=False) for file in visible]
    if not path.exists():
        raise InvalidInput(f"path {str(path)!r} does not exist: name a trajectory file or a folder of them")
    return [FoundFile(path, is_named=True)]


def find_companions(path: Path) -> Mapping[str, Path]:
    """Find the companion files of a trajectory file at ``path``. Return them by suffix."""
    beside = {suffix: path.with_name(path.stem + suffix) for suffix in sorted(COMPANION_SUFFIXES)}
    return {suffix: file for suffix, file in beside.items() if file != path and file.is_file()}


def cannot_read(path: Path, error: OSError) -> InvalidInput:
    """Return the error for a file that cannot be read.

    Args:
        path: The file.
        error: What the system says.

    Returns:
        The error.
    """
    return InvalidInput(f"file {str(path)!r} cannot be read: {error.strerror}")
