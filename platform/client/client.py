"""One method per route of ``/api/v1``. Errors come back as the same exceptions that the server raised."""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
from pydantic import TypeAdapter

from looper.platform.api.models import ConsolidationInfo, EventInfo, InstanceInfo, SkillInfo, VersionTraffic
from looper.platform.domain.consolidation import Recipe
from looper.platform.domain.errors import (
    Conflict,
    CorruptAdapter,
    InvalidInput,
    LooperError,
    NotFound,
    StoreUnavailable,
    TooLarge,
    Unauthorized,
)
from looper.platform.domain.names import PROD, check_name, is_digest
from looper.platform.trajectories.report import IngestReport

T = TypeVar("T")

_ERRORS: dict[int, type[LooperError]] = {
    400: InvalidInput,
    401: Unauthorized,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    422: InvalidInput,
    500: CorruptAdapter,
    503: StoreUnavailable,
}


class Client:
    """A tenant's view of a Looper cluster. Names of instances are without the tenant's: the key says whose they are."""

    def __init__(self, url: str, key: str, *, timeout_s: float = 60.0) -> None:
        self._http = httpx.Client(
            base_url=url.rstrip("/") + "/api/v1", headers={"Authorization": f"Bearer {key}"}, timeout=timeout_s
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def instances(self) -> list[InstanceInfo]:
        return self._get("/instances", list[InstanceInfo])

    def ingest(self, instance: str, path: str | Path, *, format: str = "auto") -> IngestReport:
        """Send one file of trajectories. The same file twice changes nothing."""
        path = Path(path)
        return self._call(
            "POST",
            f"/instances/{check_name(instance, 'instance')}/trajectories",
            IngestReport,
            params={"name": path.name, "format": format},
            content=path.read_bytes(),
        )

    def consolidate(
        self, instances: Sequence[str], *, recipe: Recipe | None = None, priority: int = 0
    ) -> list[ConsolidationInfo]:
        """Queue one consolidation per instance, below all other work by a ``priority`` from -10 to -1."""
        body = {
            "instances": list(instances),
            "recipe": recipe.model_dump(mode="json") if recipe else None,
            "priority": priority,
        }
        return self._call("POST", "/consolidations", list[ConsolidationInfo], json=body)

    def consolidations(self, instance: str | None = None) -> list[ConsolidationInfo]:
        """Newest first."""
        params = {"instance": instance} if instance else {}
        return self._call("GET", "/consolidations", list[ConsolidationInfo], params=params)

    def consolidation(self, id: str) -> ConsolidationInfo:
        return self._get(f"/consolidations/{id}", ConsolidationInfo)

    def events(self, id: str) -> list[EventInfo]:
        return self._get(f"/consolidations/{id}/events", list[EventInfo])

    def cancel(self, id: str) -> ConsolidationInfo:
        return self._call("POST", f"/consolidations/{id}/cancel", ConsolidationInfo)

    def wait(
        self,
        jobs: Iterable[ConsolidationInfo],
        *,
        every_s: float = 1.0,
        on_change: Callable[[ConsolidationInfo], None] = lambda job: None,
    ) -> list[ConsolidationInfo]:
        """Return the consolidations once each has its verdict; ``on_change`` sees every change on the way."""
        seen = {job.id: job for job in jobs}
        while any(not job.state.final for job in seen.values()):
            time.sleep(every_s)
            for id, old in seen.items():
                seen[id] = self.consolidation(id)
                if seen[id] != old:
                    on_change(seen[id])
        return list(seen.values())

    def skills(self) -> list[SkillInfo]:
        return self._get("/skills", list[SkillInfo])

    def skill(self, instance: str) -> SkillInfo:
        return self._get(f"/skills/{check_name(instance, 'instance')}", SkillInfo)

    def promote(self, instance: str, digest: str, *, channel: str = PROD, share: float = 0.0) -> SkillInfo:
        """Point a channel to a version; it answers ``share`` of the requests for the plain name."""
        return self._call("PUT", _channel(instance, channel), SkillInfo, json={"digest": digest, "share": share})

    def drop(self, instance: str, channel: str) -> SkillInfo:
        return self._call("DELETE", _channel(instance, channel), SkillInfo)

    def revoke(self, instance: str, digest: str) -> SkillInfo:
        """Serve a version no more."""
        if not is_digest(digest):
            raise InvalidInput(f"version {digest!r} is not a whole digest: 64 of 0-9 and a-f")
        return self._call("POST", f"/skills/{check_name(instance, 'instance')}/versions/{digest}/revoke", SkillInfo)

    def traffic(self, instance: str) -> dict[str, VersionTraffic]:
        """By digest, what each version of a skill with a canary has answered."""
        return self._get(f"/skills/{check_name(instance, 'instance')}/traffic", dict[str, VersionTraffic])

    def rollback(self, instance: str, *, channel: str = PROD) -> SkillInfo:
        return self._call("POST", f"{_channel(instance, channel)}/rollback", SkillInfo)

    def _get(self, path: str, kind: type[T]) -> T:
        return self._call("GET", path, kind)

    def _call(self, method: str, path: str, kind: type[T], **request: Any) -> T:
        try:
            response = self._http.request(method, path, **request)
        except httpx.TransportError as error:
            raise StoreUnavailable(f"no answer from {self._http.base_url}: {error}") from error
        if response.is_success:
            return TypeAdapter(kind).validate_json(response.content)
        try:
            message = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = response.text
        raise _ERRORS.get(response.status_code, LooperError)(message)


def _channel(instance: str, channel: str) -> str:
    return f"/skills/{check_name(instance, 'instance')}/channels/{check_name(channel, 'channel')}"
