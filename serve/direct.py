"""Large files past the system's page cache, where the file system can.

Filling the cache with an adapter of 10 MB takes 20 ms of a core on ext4, writing it past the cache less than one; and
who reads it keeps it in memory of its own.
"""

import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BLOCK = 4096
"""Bytes: addresses, offsets and sizes are multiples of it."""


def write(file: Path, content: bytes) -> None:
    """Write a new file. Raises OSError."""
    with (
        mmap.mmap(-1, _whole_blocks(len(content)) or BLOCK) as aligned,
        _opened(file, os.O_WRONLY | os.O_CREAT) as into,
    ):
        aligned.madvise(mmap.MADV_HUGEPAGE)
        aligned.write(content)
        with memoryview(aligned) as left:
            done = 0
            while done < len(content):
                with left[done : _whole_blocks(len(content))] as rest:
                    done += os.write(into, rest)
        os.truncate(into, len(content))


def read(file: Path) -> NDArray[np.uint8]:
    """A file's content, which begins at a block's address. Raises OSError."""
    with _opened(file, os.O_RDONLY) as source:
        size = os.fstat(source).st_size
        # NumPy asks for large pages, of which the kernel has few to find.
        room = np.empty(_whole_blocks(size) + BLOCK, np.uint8)
        content = room[-room.ctypes.data % BLOCK :][: _whole_blocks(size)]
        done = 0
        while done < size:
            if not (more := os.readv(source, [content[done:]])):  # type: ignore[list-item]  # it is a buffer
                raise OSError(errno.EIO, f"{file} ended after {done} of {size} bytes")
            done += more
    return content[:size]


@contextmanager
def _opened(file: Path, flags: int) -> Iterator[int]:
    try:
        descriptor = os.open(file, flags | getattr(os, "O_DIRECT", 0), 0o600)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        descriptor = os.open(file, flags, 0o600)  # a file system that cannot
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _whole_blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
