"""Splits bytes into JSON documents. A ``.json`` or ``.traj`` file is one document, a ``.jsonl`` file has one per line.

Called by ``ingest``. What cannot be read becomes a ``Rejection`` in its place, so that nothing is lost uncounted. JSON
is RFC 8259: UTF-8 (a byte-order mark is skipped) and no NaN.
"""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import orjson

from looper.platform.trajectories.rejection import Rejection

MAX_LINE_BYTES = 32 * 1024**2
"""Maximum size of one line, in bytes. A longer line is skipped in small pieces and never held in memory."""

MAX_DOCUMENT_BYTES = 128 * 1024**2
"""Maximum size of a file that is one document, in bytes. Larger collections belong in JSON lines."""

_SKIP_BYTES = 1024**2
"""How much of a line that is too long is read at a time, in bytes."""

_BOM = b"\xef\xbb\xbf"


class Document(NamedTuple):
    """One parsed JSON value."""

    location: str
    """Where it is in the file, for messages: ``line 7`` or ``the file``."""
    value: object
    """The parsed JSON."""


def read_documents(stream: BinaryIO, *, is_json_lines: bool) -> Iterator[Document | Rejection]:
    """Read the documents of a file one at a time.

    Args:
        stream: The file's bytes.
        is_json_lines: Whether each line is a document; otherwise the whole file is one.

    Yields:
        Each document, or the reason why it cannot be read. Blank lines are skipped.
    """
    return _read_lines(stream) if is_json_lines else _read_whole(stream)


def _read_whole(stream: BinaryIO) -> Iterator[Document | Rejection]:
    raw = stream.read(MAX_DOCUMENT_BYTES + 1)
    if len(raw) > MAX_DOCUMENT_BYTES:
        limit = f"{MAX_DOCUMENT_BYTES // 1024**2} MiB"
        yield Rejection("too_large", f"the file is larger than {limit}: split it, or use JSON lines")
    else:
        yield _parse(raw, "the file")


def _read_lines(stream: BinaryIO) -> Iterator[Document | Rejection]:
    number = 0
    while raw := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(raw) > MAX_LINE_BYTES and not raw.endswith(b"\n"):
            del raw  # free the memory before the rest of the line is read
            while (piece := stream.readline(_SKIP_BYTES)) and not piece.endswith(b"\n"):
                pass
            yield Rejection("too_large", f"line {number} is larger than {MAX_LINE_BYTES // 1024**2} MiB")
        elif raw.removeprefix(_BOM).strip():
            yield _parse(raw, f"line {number}")


def _parse(raw: bytes, location: str) -> Document | Rejection:
    try:
        return Document(location, orjson.loads(raw.removeprefix(_BOM)))
    except orjson.JSONDecodeError as error:
        try:
            raw.decode()
        except UnicodeDecodeError as bad:
            return Rejection("not_utf8", f"{location} is not UTF-8: byte {raw[bad.start]:#04x} at {bad.start}")
        return Rejection("malformed_json", f"{location} is not JSON: {error.msg} at character {error.pos}")
