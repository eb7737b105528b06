"""Python client of the control plane: one method per route of ``/api/v1``.

Errors come back as the exceptions that the server raised (``platform/api/error_table.py``). The client imports neither
a web framework nor a database.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from looper.platform.api.models import (
    MAX_IDS,
    MAX_SUBMITTED_INSTANCES,
    ConsolidationInfo,
    EventInfo,
    ReportFormat,
    SkillInfo,
    VersionInfo,
    VersionTraffic,
)
from looper.platform.client.http_session import HttpSession, path_part
from looper.platform.client.instances import InstanceMethods
from looper.platform.client.tenants import TenantMethods
from looper.platform.client.uploads import UploadMethods
from looper.platform.domain.adapter_digest import FILE_NAMES, digest_of
from looper.platform.domain.errors import CorruptAdapter, InvalidInput
from looper.platform.domain.names import PROD, check_name, is_digest
from looper.platform.domain.recipe import Recipe


class Client(InstanceMethods, UploadMethods, TenantMethods, HttpSession):
    """Calls the control plane of a Looper cluster for one tenant.

    Names of instances are without the tenant's name, because the key belongs to a tenant. With an operator's key,
    ``acting_for`` names the tenant; without it, lists are of all tenants. Every method raises the
    ``LooperError`` that the server raised: ``Unauthorized`` for a wrong key, ``NotFound`` for what does not exist or
    belongs to another tenant, ``Forbidden`` where the key lacks a scope, ``RateLimited`` with ``retry_after_s`` above a
    limit, and ``StoreUnavailable`` also when the server does not answer at all.

    A request is sent again, up to ``max_retries`` times, when the server has not begun on it: no connection, or 429. If
    sending it twice does no harm, it is also sent again after a lost connection and after 503. The client waits as long
    as the server says, and raises the error at once if that is more than ``retries.MAX_RETRY_WAIT_S``. Lists come in
    pages: the first page is there when the method returns, and each further page is fetched when the iterator reaches
    it.
    """

    def recipe(self) -> Recipe:
        """Return the recipe of consolidations that name none."""
        return self._get("/recipe", Recipe)

    def check_recipe(self, recipe: Recipe) -> None:
        """Check whether the cluster can train and serve by a ``recipe``.

        Raises:
            InvalidInput: It cannot.
        """
        self._call("POST", "/recipe", Recipe, idempotent=True, json=recipe.model_dump(mode="json"))

    def consolidate(
        self, instances: Sequence[str], *, recipe: Recipe | None = None, priority: int = 0
    ) -> list[ConsolidationInfo]:
        """Queue one consolidation per instance.

        Args:
            instances: Instances with new trajectories.
            recipe: How to train; None for the cluster's default recipe.
            priority: From -10 to 10. Higher priorities are claimed first. Above 0 only with an operator's key.

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

    def consolidations(self, instance: str | None = None, *, unfinished: bool = False) -> Iterator[ConsolidationInfo]:
        """Return the consolidations, newest first.

        Args:
            instance: Only consolidations of this instance; None for all instances.
            unfinished: Only those that have not ended.
        """
        params = {"instance": instance} if instance else {}
        return self._pages(
            "/consolidations", ConsolidationInfo, params | ({"unfinished": "true"} if unfinished else {})
        )

    def consolidations_by_id(self, ids: Sequence[str]) -> list[ConsolidationInfo]:
        """Return several consolidations, in one request for each ``MAX_IDS``.

        Args:
            ids: Their ids.

        Returns:
            The consolidations, in the order of ``ids``.

        Raises:
            NotFound: One of them does not exist.
        """
        found: list[ConsolidationInfo] = []
        for start in range(0, len(ids), MAX_IDS):
            params = {"id": list(ids[start : start + MAX_IDS])}
            found += self._call("GET", "/consolidations", list[ConsolidationInfo], params=params)
        return found

    def consolidation(self, id: str) -> ConsolidationInfo:
        """Return one consolidation.

        Args:
            id: Id of the consolidation.
        """
        return self._get(f"/consolidations/{path_part(id)}", ConsolidationInfo)

    def events(self, id: str) -> Iterator[EventInfo]:
        """Return what happened to a consolidation, oldest first.

        Args:
            id: Id of the consolidation.
        """
        return self._pages(f"/consolidations/{path_part(id)}/events", EventInfo)

    def report(self, id: str, format: ReportFormat = "json") -> bytes:
        """Return the report on the training data of a consolidation.

        Args:
            id: Id of the consolidation.
            format: ``json`` for the counts, ``html`` for the page for people.

        Raises:
            NotFound: There is none yet.
        """
        return self._send("GET", f"/consolidations/{path_part(id)}/report", params={"format": format}).content

    def report_url(self, id: str) -> str:
        """Return the address of the page with the report on the training data of the consolidation ``id``."""
        return f"{self.url}/api/v1/consolidations/{path_part(id)}/report?format=html"

    def cancel(self, id: str) -> ConsolidationInfo:
        """Cancel a consolidation that has not ended.

        Args:
            id: Id of the consolidation.

        Returns:
            The cancelled consolidation.

        Raises:
            Conflict: It has ended already.
        """
        return self._call("POST", f"/consolidations/{path_part(id)}/cancel", ConsolidationInfo)

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
        return self._pages(f"/skills/{check_name(instance, 'instance')}/versions", VersionInfo, {"limit": "1000"})

    def download(self, instance: str, digest: str, folder: Path) -> None:
        """Download the files of a version, which PEFT and vLLM can load, and verify its digest.

        Args:
            instance: Instance of the skill.
            digest: Digest of the version.
            folder: An empty folder for the files.

        Raises:
            InvalidInput: ``digest`` is not a complete digest.
            CorruptAdapter: What arrived does not match the digest.
        """
        path, sums = f"{_version_path(instance, digest)}/files", {}
        for name in FILE_NAMES:
            sums[name] = self._save(f"{path}/{name}", folder / name)
        if (found := digest_of(sums)) != digest:
            raise CorruptAdapter(f"version {digest} of {instance} arrived with the digest {found}: download it again")

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
        return self._call("POST", f"{_version_path(instance, digest)}/revoke", SkillInfo)

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


def _expected(digest: str | None) -> dict[str, str]:
    return {} if digest is None else {"expected": digest}


def _channel_path(instance: str, channel: str) -> str:
    return f"/skills/{check_name(instance, 'instance')}/channels/{check_name(channel, 'channel')}"


def _version_path(instance: str, digest: str) -> str:
    if not is_digest(digest):
        raise InvalidInput(f"version {digest!r} is not a complete digest: give all 64 characters, 0-9 and a-f")
    return f"/skills/{check_name(instance, 'instance')}/versions/{digest}"
