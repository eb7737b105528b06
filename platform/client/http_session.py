"""Sends the requests of the Python client, reads their responses, and follows the pages of lists."""

from collections.abc import Iterator
from typing import Any, Self, TypeVar

import httpx
from pydantic import TypeAdapter

from looper.platform.client.retries import send

T = TypeVar("T")


class HttpSession:
    """Connections to the control plane of a Looper cluster. ``Client`` has a method for each route."""

    def __init__(self, url: str, key: str, *, timeout_s: float = 60.0, max_retries: int = 3) -> None:
        """Prepare connections; nothing is sent yet.

        Args:
            url: Address of the cluster, such as ``http://127.0.0.1:8000``.
            key: API key of the tenant.
            timeout_s: Timeout of a connection and of each wait for bytes, in seconds.
            max_retries: How often a request is sent again at most. 0: never.
        """
        self._http = httpx.Client(
            base_url=url.rstrip("/") + "/api/v1", headers={"Authorization": f"Bearer {key}"}, timeout=timeout_s
        )
        self._max_retries = max_retries

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self._http.close()

    def _get(self, path: str, kind: type[T]) -> T:
        return self._call("GET", path, kind)

    def _pages(self, path: str, kind: type[T], params: dict[str, str] | None = None) -> Iterator[T]:
        response = self._send("GET", path, params=params)

        def rest(response: httpx.Response) -> Iterator[T]:
            while True:
                yield from TypeAdapter(list[kind]).validate_json(response.content)  # type: ignore[valid-type]
                if "next" not in response.links:
                    return
                response = self._send("GET", str(response.url.join(response.links["next"]["url"])))

        return rest(response)

    def _call(self, method: str, path: str, kind: type[T], *, idempotent: bool | None = None, **request: Any) -> T:
        response = self._send(method, path, idempotent=idempotent, **request)
        return TypeAdapter(kind).validate_json(response.content)

    def _send(self, method: str, path: str, *, idempotent: bool | None = None, **request: Any) -> httpx.Response:
        may_repeat = method in ("GET", "PUT") if idempotent is None else idempotent
        return send(self._http, method, path, self._max_retries, may_repeat=may_repeat, **request)
