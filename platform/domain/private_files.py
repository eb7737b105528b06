"""Makes files and folders that only this user can read. They hold tenants' trajectories, adapters and key hashes.

A process of Looper calls ``keep_files_private`` when it starts, which covers what Ray and vLLM write in it and in its
children. The object store and the catalog do not rely on it, because they are used in other programs, too.
"""

import os
from pathlib import Path


def keep_files_private() -> None:
    """Make private what this process and its children create, unless they set a mode later."""
    os.umask(0o077)


def make_private_folder(folder: Path) -> None:
    """Create ``folder`` and those of its parents that do not exist, each for this user only."""
    if not folder.is_dir():
        make_private_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def open_private(path: str, flags: int) -> int:
    """Open a file that only this user can read if it is new: an ``opener`` for ``open``.

    Args:
        path: Path of the file.
        flags: Flags of ``os.open``.

    Returns:
        The file descriptor.
    """
    return os.open(path, flags, 0o600)


def make_private_file(path: Path) -> None:
    """Create ``path`` if it does not exist, and make it private in any case."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    path.chmod(0o600)
