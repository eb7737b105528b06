"""Lists in pages. A list has the header ``Link: <?cursor=...&limit=...>; rel="next"`` as long as there is more.

The routes that list take the parameters ``Cursor`` and a limit; ``page_response`` makes the response.
"""

import base64
import binascii
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar
from urllib.parse import urlencode

import orjson
from fastapi import Query, Response
from pydantic import AwareDatetime, BaseModel, Field, TypeAdapter, ValidationError

from looper.platform.domain.errors import InvalidInput

Row = TypeVar("Row")
Key = TypeVar("Key")

# The bounds are there because what a client made up must not make the database fail.
_Name = Annotated[str, Field(max_length=63, pattern="^[a-z0-9_-]+$")]

NAME: TypeAdapter[str] = TypeAdapter(_Name)
"""Key of lists that are sorted by name."""

INSTANCE: TypeAdapter[tuple[str, str]] = TypeAdapter(tuple[_Name, _Name])
"""Key of lists that are sorted by the names of tenant and instance."""

NUMBER: TypeAdapter[int] = TypeAdapter(Annotated[int, Field(ge=0, lt=2**31)])
"""Key of lists that are sorted by an ascending number."""

TIME_AND_DIGEST: TypeAdapter[tuple[datetime, str]] = TypeAdapter(
    tuple[
        Annotated[AwareDatetime, Field(ge=datetime(1970, 1, 1, tzinfo=UTC), lt=datetime(9000, 1, 1, tzinfo=UTC))],
        Annotated[str, Field(max_length=64, pattern="^[0-9a-f]+$")],
    ]
)
"""Key of lists that are sorted by time: the time, and an id or digest."""

MAX_CURSOR_CHARACTERS = 512
"""Maximum length of a cursor."""

Cursor = Annotated[
    str | None,
    Query(
        max_length=MAX_CURSOR_CHARACTERS,
        description="Where the page begins: the cursor of the header `Link` of the page before",
    ),
]
"""Parameter type: the cursor of a page."""


def parse_cursor(cursor: str | None, kind: TypeAdapter[Key]) -> Key | None:
    """Return the key of the last row of the page before.

    Args:
        cursor: Cursor that a response had, or what a client made up.
        kind: Type of the key: one of ``NAME``, ``INSTANCE``, ``NUMBER`` and ``TIME_AND_DIGEST``.

    Returns:
        The key, None for the first page.

    Raises:
        InvalidInput: It is no cursor of such a list.
    """
    if cursor is None:
        return None
    try:
        return kind.validate_json(base64.urlsafe_b64decode(cursor.encode()))
    except (binascii.Error, ValueError, ValidationError) as error:
        raise InvalidInput("the cursor is not one of this list: take it from the header Link of a page") from error


def page_response(
    found: Sequence[Row],
    limit: int,
    to_info: Callable[[Row], BaseModel],
    key: Callable[[Row], Any],
    **query: str | None,
) -> Response:
    """Return the response with one page.

    Args:
        found: Rows of the page, and one more if there is another page.
        limit: Maximum length of the page.
        to_info: Returns the public view of a row.
        key: Returns the key of a row, from which the next page goes on.
        query: Other parameters of the request, which the next page has too.

    Returns:
        A JSON array.
    """
    rows = found[:limit]
    content = b"[" + b",".join(to_info(row).model_dump_json().encode() for row in rows) + b"]"
    headers = {}
    if len(found) > limit:
        cursor = base64.urlsafe_b64encode(orjson.dumps(key(rows[-1]))).decode()
        parameters = {name: value for name, value in query.items() if value is not None}
        link = urlencode({**parameters, "limit": limit, "cursor": cursor})
        headers["link"] = f'<?{link}>; rel="next"'
    return Response(content, headers=headers, media_type="application/json")
