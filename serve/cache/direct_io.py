"""Large files past the system's page cache, where the file system can.

Filling the cache with an adapter of 10 MB takes 20 ms of a core on ext4, writing it past the cache less than one; and
who reads it keeps it in memory of its own.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BLOCK = 4096
"""Bytes: addresses, offsets and sizes are multiples of it."""


def write(file: Path, content: bytes | memoryview) -> None:
    """Write a new file. Raises OSError."""
    size = len(content)
    blocks = _blocks(size)
    blocks[:size] = np.frombuffer(content, np.uint8)
    blocks[size:] = 0
    with _opened(file, os.O_WRONLY | os.O_CREAT) as into:
        done = 0
        while done < size:
            done += os.write(into, blocks[done:].data)
        os.truncate(into, size)


def read(file: Path) -> NDArray[np.uint8]:
    """A file's content, which begins at a block's address. Raises OSError."""
    with _opened(file, os.O_RDONLY) as source:
        size = os.fstat(source).st_size
        content = _blocks(size)
        content[::BLOCK] = 0  # has pages now, which the kernel finds ten times slower while it reads into them
        done = 0
        while done < size:
            if not (more := os.readv(source, [content[done:].data])):
                raise OSError(errno.EIO, f"{file} ended after {done} of {size} bytes")
            done += more
    return content[:size]


def _blocks(size: int) -> NDArray[np.uint8]:
    """Room for so many bytes in whole blocks, at a block's address."""
    whole = -(-size // BLOCK) * BLOCK
    room = np.empty(whole + BLOCK, np.uint8)
    return room[-room.ctypes.data % BLOCK :][:whole]


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
