"""Finds what other users of the machine can read."""

import stat
from pathlib import Path


def find_open_files(folder: Path, *, deep: bool = True) -> list[str]:
    """Return the files and folders at and below ``folder`` that have any permission for the group or others.

    A folder that is closed protects what is in it; with ``deep=False`` that is enough.
    """
    found = [folder, *(folder.rglob("*") if deep else ())]
    return [
        f"{stat.filemode(mode)} {path}"
        for path in found
        if not path.is_symlink() and (mode := path.stat().st_mode) & 0o077
    ]
