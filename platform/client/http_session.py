"""Sends the requests of the Python client, reads their responses, and follows the pages of lists."""

import copy
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter

from looper.platform.api.headers import TENANT_HEADER
from looper.platform.client.retries import send, stream
from looper.platform.domain.names import check_name

T = TypeVar("T")


def path_part(text: str) -> str:
    """Return a ``text`` as one part of the path of a URL."""
    return quote(text, safe="")


class HttpSession:
    """Connections to the control plane of a Looper cluster. ``Client`` has a method for each route.

    Attributes:
        url: Address of the cluster.
    """

    def __init__(self, url: str, key: str, *, timeout_s: float = 60.0, max_retries: int = 3) -> None:
        """Prepare connections; nothing is sent yet.

        Args:
            url: Address of the cluster, such as ``http://127.0.0.1:8000``.
            key: API key of the tenant, or of an operator.
            timeout_s: Timeout of a connection and of each wait for bytes, in seconds.
            max_retries: How often a request is sent again at most. 0: never.
        """
        self.url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=f"{self.url}/api/v1", headers={"Authorization": f"Bearer {key}"}, timeout=timeout_s
        )
        self._max_retries = max_retries
        self._headers: dict[str, str] = {}

    def acting_for(self, tenant: str | None) -> Self:
        """Return the same client, over the same connections, for a certain tenant.

        Args:
            tenant: Tenant that requests act for. An operator's key must name one for all that is not a list of all
                tenants. None: the key's own.
        """
        other = copy.copy(self)
        other._headers = {} if tenant is None else {TENANT_HEADER: check_name(tenant, "tenant")}
        return other

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
                yield from _parse(list[kind], response.content)  # type: ignore[valid-type]
                if "next" not in response.links:
                    return
                response = self._send("GET", str(response.url.join(response.links["next"]["url"])))

        return rest(response)

    def _call(
        self,
        method: str,
        path: str,
        kind: type[T],
        *,
        idempotent: bool | None = None,
        max_retries: int | None = None,
        **request: Any,
    ) -> T:
        response = self._send(method, path, idempotent=idempotent, max_retries=max_retries, **request)
        return _parse(kind, response.content)

    def _send(
        self, method: str, path: str, *, idempotent: bool | None = None, max_retries: int | None = None, **request: Any
    ) -> httpx.Response:
        may_repeat = method in ("GET", "PUT") if idempotent is None else idempotent
        retries = self._max_retries if max_retries is None else max_retries
        headers = self._headers | request.pop("headers", {})
        return send(self._http, method, path, retries, may_repeat=may_repeat, headers=headers, **request)

    def _save(self, path: str, file: Path) -> str:
        """Write the body of a response to a file while it arrives. Return its SHA-256."""
        digest = hashlib.sha256()
        with file.open("wb") as target:
            for part in stream(self._http, path, headers=self._headers):
                digest.update(part)
                target.write(part)
        return digest.hexdigest()


def _parse(kind: type[T], content: bytes) -> T:
    """Read a response. Fields that a newer server has added are ignored."""
    return TypeAdapter(kind).validate_json(content, extra="ignore")
