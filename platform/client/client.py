"""Python client of the control plane: one method per route of ``/api/v1``.

Errors come back as the exceptions that the server raised (``platform/api/error_table.py``). The client imports neither
a web framework nor a database.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import httpx

from looper.platform.api.models import (
    MAX_SUBMITTED_INSTANCES,
    AuditInfo,
    ConsolidationInfo,
    EventInfo,
    InstanceInfo,
    KeyInfo,
    SkillInfo,
    TenantLimits,
    VersionInfo,
    VersionTraffic,
)
from looper.platform.client.http_session import HttpSession
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.names import PROD, check_name, is_digest
from looper.platform.domain.recipe import Recipe
from looper.platform.trajectories.report import IngestReport

UPLOAD_TIMEOUT_S = 1800.0
"""Time to wait for the report of an upload, in seconds: the server reads a few files at a time."""


class _FileContent:
    """Content of a file, which is read anew each time it is sent."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            while part := file.read(2**20):
                yield part


class Client(HttpSession):
    """Calls the control plane of a Looper cluster for one tenant.

    Names of instances are without the tenant's name, because the key belongs to a tenant. Every method raises the
    ``LooperError`` that the server raised: ``Unauthorized`` for a wrong key, ``NotFound`` for what does not exist or
    belongs to another tenant, ``Forbidden`` where the key lacks a scope, ``RateLimited`` with ``retry_after_s`` above a
    limit, and ``StoreUnavailable`` also when the server does not answer at all.

    A request is sent again, up to ``max_retries`` times, when the server has not begun on it: no connection, or 429. If
    sending it twice does no harm, it is also sent again after a lost connection and after 503. The client waits as long
    as the server says, and raises the error at once if that is more than ``retries.MAX_RETRY_WAIT_S``. Lists come in
    pages: the first page is there when the method returns, and each further page is fetched when the iterator reaches
    it.
    """

    def instances(self) -> Iterator[InstanceInfo]:
        """Return the tenant's instances, sorted by name."""
        return self._pages("/instances", InstanceInfo)

    def ingest(self, instance: str, path: str | Path, *, format: str = "auto") -> IngestReport:
        """Upload one file of trajectories. Uploading the same file again changes nothing.

        Args:
            instance: Instance that the trajectories belong to; a new one is created.
            path: The file.
            format: Name of its format; ``auto`` detects it.

        Returns:
            How many trajectories were kept and rejected, and why.
        """
        path = Path(path)
        return self._call(
            "POST",
            f"/instances/{check_name(instance, 'instance')}/trajectories",
            IngestReport,
            idempotent=True,
            params={"name": path.name, "format": format},
            content=_FileContent(path),
            headers={"content-length": str(path.stat().st_size)},
            timeout=httpx.Timeout(self._http.timeout.connect, read=UPLOAD_TIMEOUT_S),
        )

    def consolidate(
        self, instances: Sequence[str], *, recipe: Recipe | None = None, priority: int = 0
    ) -> list[ConsolidationInfo]:
        """Queue one consolidation per instance.

        Args:
            instances: Instances with new trajectories.
            recipe: How to train; None for the cluster's default recipe.
            priority: From -10 to 0. Higher priorities are claimed first.

        Returns:
            The queued consolidations, in the order of ``instances``. More than 1000 instances take several requests.
        """
        jobs: list[ConsolidationInfo] = []
        # Even without instances there is one request, because the server has the error for it.
        for start in range(0, max(1, len(instances)), MAX_SUBMITTED_INSTANCES):
            body = {
                "instances": list(instances[start : start + MAX_SUBMITTED_INSTANCES]),
                "recipe": recipe.model_dump(mode="json") if recipe else None,
                "priority": priority,
            }
            jobs += self._call("POST", "/consolidations", list[ConsolidationInfo], json=body)
        return jobs

    def consolidations(self, instance: str | None = None) -> Iterator[ConsolidationInfo]:
        """Return the consolidations, newest first.

        Args:
            instance: Only consolidations of this instance; None for all instances.
        """
        return self._pages("/consolidations", ConsolidationInfo, {"instance": instance} if instance else {})

    def consolidation(self, id: str) -> ConsolidationInfo:
        """Return one consolidation.

        Args:
            id: Id of the consolidation.
        """
        return self._get(f"/consolidations/{id}", ConsolidationInfo)

    def events(self, id: str) -> Iterator[EventInfo]:
        """Return what happened to a consolidation, oldest first.

        Args:
            id: Id of the consolidation.
        """
        return self._pages(f"/consolidations/{id}/events", EventInfo)

    def cancel(self, id: str) -> ConsolidationInfo:
        """Cancel a consolidation that has not ended.

        Args:
            id: Id of the consolidation.

        Returns:
            The cancelled consolidation.

        Raises:
            Conflict: It has ended already.
        """
        return self._call("POST", f"/consolidations/{id}/cancel", ConsolidationInfo)

    def wait(
        self,
        jobs: Iterable[ConsolidationInfo],
        *,
        poll_interval_s: float = 1.0,
        on_change: Callable[[ConsolidationInfo], None] = lambda job: None,
    ) -> list[ConsolidationInfo]:
        """Wait until consolidations have ended.

        Args:
            jobs: Consolidations to wait for.
            poll_interval_s: Seconds between two requests for their state.
            on_change: Called with a consolidation each time it has changed.

        Returns:
            The ended consolidations, in the order of ``jobs``.
        """
        latest = {job.id: job for job in jobs}
        while any(not job.state.is_final for job in latest.values()):
            time.sleep(poll_interval_s)
            for id, previous in latest.items():
                if not previous.state.is_final:
                    latest[id] = self.consolidation(id)
                    if latest[id] != previous:
                        on_change(latest[id])
        return list(latest.values())

    def skills(self) -> Iterator[SkillInfo]:
        """Return the tenant's skills, sorted by name, each with its newest versions."""
        return self._pages("/skills", SkillInfo)

    def skill(self, instance: str) -> SkillInfo:
        """Return one skill with its newest versions.

        Args:
            instance: Instance of the skill.
        """
        return self._get(f"/skills/{check_name(instance, 'instance')}", SkillInfo)

    def versions(self, instance: str) -> Iterator[VersionInfo]:
        """Return all versions of a skill, newest first.

        Args:
            instance: Instance of the skill.
        """
        return self._pages(f"/skills/{check_name(instance, 'instance')}/versions", VersionInfo)

    def promote(
        self, instance: str, digest: str, *, channel: str = PROD, share: float = 0.0, expected: str | None = None
    ) -> SkillInfo:
        """Point a channel to a version.

        Args:
            instance: Instance of the skill.
            digest: Digest of the version.
            channel: Channel to point; a new one is created.
            share: Canary share: the fraction, from 0 to 1, of the requests for the plain name that the channel answers.
            expected: Digest that the channel must point to now. None: it may point anywhere, or not exist.

        Returns:
            The skill as it is now.

        Raises:
            Conflict: The channel does not point to ``expected``.
        """
        body = {"digest": digest, "share": share} | _expected(expected)
        path = _channel_path(instance, channel)
        # With ``expected``, a second attempt would find the channel moved by the first, and report a conflict.
        return self._call("PUT", path, SkillInfo, idempotent=expected is None, json=body)

    def drop(self, instance: str, channel: str, *, expected: str | None = None) -> SkillInfo:
        """Drop a channel. ``prod`` answers its share of the requests again.

        Args:
            instance: Instance of the skill.
            channel: Channel to drop.
            expected: Digest that the channel must point to now. None: it may point anywhere.

        Returns:
            The skill as it is now.

        Raises:
            Conflict: The channel does not point to ``expected``.
        """
        return self._call("DELETE", _channel_path(instance, channel), SkillInfo, params=_expected(expected))

    def revoke(self, instance: str, digest: str) -> SkillInfo:
        """Revoke a version: it is never served again, and its running streams stop.

        Args:
            instance: Instance of the skill.
            digest: Digest of the version.

        Returns:
            The skill as it is now.

        Raises:
            InvalidInput: ``digest`` is not a complete digest.
        """
        if not is_digest(digest):
            raise InvalidInput(f"version {digest!r} is not a complete digest: give all 64 characters, 0-9 and a-f")
        return self._call("POST", f"/skills/{check_name(instance, 'instance')}/versions/{digest}/revoke", SkillInfo)

    def traffic(self, instance: str) -> dict[str, VersionTraffic]:
        """Return what each version of a skill with a canary has answered.

        Args:
            instance: Instance of the skill.

        Returns:
            Traffic by digest, counted by the gateway that answered since it started.
        """
        return self._get(f"/skills/{check_name(instance, 'instance')}/traffic", dict[str, VersionTraffic])

    def rollback(self, instance: str, *, channel: str = PROD, expected: str | None = None) -> SkillInfo:
        """Point a channel to the version before the one it points to.

        Args:
            instance: Instance of the skill.
            channel: Channel to roll back.
            expected: Version to roll back from. None: the one that the channel points to.

        Returns:
            The skill as it is now.

        Raises:
            Conflict: The channel does not point to ``expected``, or was moved meanwhile.
        """
        path = f"{_channel_path(instance, channel)}/rollback"
        return self._call("POST", path, SkillInfo, params=_expected(expected))

    def keys(self) -> list[KeyInfo]:
        """Return the tenant's API keys, those that are not revoked first."""
        return self._get("/keys", list[KeyInfo])

    def revoke_key(self, key: str) -> KeyInfo:
        """Revoke an API key of the tenant.

        Args:
            key: Its name or its id.

        Returns:
            The revoked key.
        """
        return self._call("POST", f"/keys/{check_name(key, 'key')}/revoke", KeyInfo)

    def limits(self) -> TenantLimits:
        """Return the tenant's own rate limits."""
        return self._get("/limits", TenantLimits)

    def audit_trail(self, *, before: int | None = None, limit: int = 100) -> list[AuditInfo]:
        """Return who changed what, newest first.

        Args:
            before: Only entries whose id is lower: the last id of the page before.
            limit: Maximum length of the list, from 1 to 1000.

        Returns:
            One page of the audit trail.
        """
        params = {"limit": limit} | ({} if before is None else {"before": before})
        return self._call("GET", "/audit", list[AuditInfo], params=params)

    def tenants(self) -> list[str]:
        """Return the names of all tenants. The key needs scope ``operator``."""
        return self._get("/tenants", list[str])

    def tenant_limits(self, tenant: str) -> TenantLimits:
        """Return the own rate limits of a ``tenant``. The key needs scope ``operator``."""
        return self._get(f"/tenants/{check_name(tenant, 'tenant')}/limits", TenantLimits)

    def set_tenant_limits(self, tenant: str, limits: TenantLimits) -> TenantLimits:
        """Set the own rate limits of a tenant. The key needs scope ``operator``.

        Args:
            tenant: Name of the tenant.
            limits: The new limits, which replace all old ones.

        Returns:
            The same limits.
        """
        path = f"/tenants/{check_name(tenant, 'tenant')}/limits"
        return self._call("PUT", path, TenantLimits, json=limits.model_dump())


def _expected(digest: str | None) -> dict[str, str]:
    return {} if digest is None else {"expected": digest}


def _channel_path(instance: str, channel: str) -> str:
    return f"/skills/{check_name(instance, 'instance')}/channels/{check_name(channel, 'channel')}"
