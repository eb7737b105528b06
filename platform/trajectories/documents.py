"""Bytes become JSON documents: a whole ``.json`` or ``.traj`` file is one, each line of a ``.jsonl`` file is one.

Whatever cannot be read becomes a Rejection in its place, so that nothing is lost without being counted. JSON is meant
as RFC 8259 has it: UTF-8 (a byte-order mark is forgiven), no NaN.
"""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import orjson

WHOLE_FILE = frozenset({".json", ".traj"})
BY_LINE = frozenset({".jsonl", ".ndjson"})

MAX_LINE = 32 * 1024**2
"""Bytes of one line. A longer one is passed over in small pieces, never held."""
MAX_DOCUMENT = 128 * 1024**2
"""Bytes of a file that is one document. Larger collections belong in JSON lines."""

_PIECE = 1024**2
_BOM = b"\xef\xbb\xbf"


class Rejection(NamedTuple):
    """An episode, or a document of unknown content, that is not kept: a short stable code, and one line that says why.

    The codes: ``malformed_json``, ``not_utf8``, ``too_large``, ``malformed_episode``, ``empty``, ``unknown_role``,
    ``unanswered_call``, ``orphan_result``.
    """

    reason: str
    message: str


class Document(NamedTuple):
    """One parsed JSON value and where it stood."""

    where: str
    value: object


def documents(stream: BinaryIO, *, by_line: bool) -> Iterator[Document | Rejection]:
    """Every document of ``stream``, one at a time; blank lines are none."""
    return _lines(stream) if by_line else _whole(stream)


def _whole(stream: BinaryIO) -> Iterator[Document | Rejection]:
    raw = stream.read(MAX_DOCUMENT + 1)
    if len(raw) > MAX_DOCUMENT:
        yield Rejection("too_large", f"the file is over {MAX_DOCUMENT // 1024**2} MiB: split it, or use JSON lines")
    else:
        yield _parse(raw, "the file")


def _lines(stream: BinaryIO) -> Iterator[Document | Rejection]:
    number = 0
    while raw := stream.readline(MAX_LINE + 1):
        number += 1
        if len(raw) > MAX_LINE and not raw.endswith(b"\n"):
            del raw
            while (piece := stream.readline(_PIECE)) and not piece.endswith(b"\n"):
                pass
            yield Rejection("too_large", f"line {number} is over {MAX_LINE // 1024**2} MiB")
        elif raw.removeprefix(_BOM).strip():
            yield _parse(raw, f"line {number}")


def _parse(raw: bytes, where: str) -> Document | Rejection:
    try:
        return Document(where, orjson.loads(raw.removeprefix(_BOM)))
    except orjson.JSONDecodeError as error:
        try:
            raw.decode()
        except UnicodeDecodeError as bad:
            return Rejection("not_utf8", f"{where} is not UTF-8: byte {raw[bad.start]:#04x} at {bad.start}")
        return Rejection("malformed_json", f"{where} is not JSON: {error.msg} at character {error.pos}")
