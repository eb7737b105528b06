"""A Looper behind an address, over HTTP. What a command names says which tenant each request acts for."""

import os
from collections.abc import Iterable, Sequence, Set
from contextlib import suppress
from datetime import timedelta
from itertools import islice
from pathlib import Path
from urllib.parse import quote

from typing_extensions import override

from looper.cli.control_plane.address import RemoteAddress
from looper.cli.control_plane.interface import ChatEndpoint, ControlPlane, LocalWorker, OnIngest
from looper.platform.api.cluster_models import ClusterInfo
from looper.platform.api.models import (
    BatchInfo,
    ConsolidationInfo,
    EventInfo,
    InstanceInfo,
    ReportFormat,
    SkillInfo,
    VersionInfo,
)
from looper.platform.api.tenant_models import AuditInfo, EffectiveLimits, KeyInfo, TenantInfo, TenantLimits
from looper.platform.client import Client
from looper.platform.domain.consolidation import check_priority
from looper.platform.domain.errors import InvalidInput, NotFound
from looper.platform.domain.names import InstanceName
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.scopes import Scope
from looper.platform.trajectories.files import SUFFIXES, FoundFile, cannot_read, find_companions, find_files
from looper.platform.trajectories.report import NO_TRAJECTORY_FILE, FileReport, IngestReport

CHAT_KEY_LIFETIME = timedelta(minutes=10)
"""Lifetime of the key that ``looper chat`` has issued for itself, where the own key is an operator's."""

AUDIT_PAGE = 1000
"""Entries of the audit trail in one request."""

MAX_NAME_BYTES = 4000
"""Names of files that are longer in a URL, in bytes, are sent without their folders."""


class RemoteControlPlane(ControlPlane):
    """A Looper behind an address.

    Args:
        address: Its address, with the key.
    """

    def __init__(self, address: RemoteAddress) -> None:
        self._address = address
        self._client = Client(address.url, address.key)

    @override
    def read_cluster(self) -> ClusterInfo:
        # A gateway does not know under which address it is reached.
        return self._client.cluster().model_copy(update={"urls": [self._address.url]})

    @override
    def create_tenant(self, name: str) -> str:
        return self._client.create_tenant(name)

    @override
    def list_tenants(self) -> list[TenantInfo]:
        return list(self._client.tenants())

    @override
    def issue_key(self, tenant: str, *, name: str | None, scopes: Set[Scope], lifetime: timedelta | None) -> str:
        return self._client.issue_key(tenant, name=name, scopes=scopes, lifetime=lifetime)

    @override
    def list_keys(self, tenant: str) -> list[KeyInfo]:
        return self._client.acting_for(tenant).keys()

    @override
    def revoke_key(self, key: str, tenant: str | None) -> KeyInfo:
        return self._client.acting_for(tenant).revoke_key(key)

    @override
    def get_limits(self, tenant: str) -> EffectiveLimits:
        return self._client.acting_for(tenant).limits()

    @override
    def set_limits(self, tenant: str, limits: TenantLimits) -> EffectiveLimits:
        return self._client.set_tenant_limits(tenant, limits)

    @override
    def list_audit_trail(self, tenant: str, limit: int) -> list[AuditInfo]:
        client, found = self._client.acting_for(tenant), list[AuditInfo]()
        while len(found) < limit:
            wanted = min(limit - len(found), AUDIT_PAGE)
            page = client.audit_trail(before=found[-1].id if found else None, limit=wanted)
            found += page
            if len(page) < wanted:
                break
        return found

    @override
    def list_instances(self, tenant: str | None) -> list[InstanceInfo]:
        return list(self._client.acting_for(tenant).instances())

    @override
    def get_instance(self, instance: InstanceName) -> InstanceInfo:
        return self._of(instance).instance(instance.instance)

    @override
    def create_instance(self, instance: InstanceName, base: str) -> InstanceInfo:
        return self._of(instance).create_instance(instance.instance, base)

    @override
    def list_batches(self, instance: InstanceName) -> list[BatchInfo]:
        return list(self._of(instance).batches(instance.instance))

    @override
    def list_instance_events(self, instance: InstanceName) -> list[EventInfo]:
        return list(self._of(instance).instance_events(instance.instance))

    @override
    def ingest(self, paths: Iterable[Path], instance: InstanceName, format: str, on_ingest: OnIngest) -> IngestReport:
        reports: list[FileReport] = []
        for file in find_files(paths):
            on_ingest(file.path, 0.0)
            reports += self._upload(file, instance, format, on_ingest)
        return IngestReport(files=reports)

    def _upload(self, file: FoundFile, instance: InstanceName, format: str, on_ingest: OnIngest) -> list[FileReport]:
        path = os.fsencode(file.path).decode(errors="replace")  # Linux allows names that are not UTF-8
        if not file.is_named and file.path.suffix.lower() not in SUFFIXES:
            nothing = {"format": None, "trajectories": 0, "kept": 0, "rejected": 0}
            return [FileReport(path=path, **nothing, reasons={NO_TRAJECTORY_FILE: 1})]
        try:
            report = self._of(instance).ingest(
                instance.instance,
                file.path,
                format=format,
                name=path if len(quote(path)) <= MAX_NAME_BYTES else Path(path).name,
                is_named=file.is_named,
                companions=_read_companions(file.path),
                on_progress=lambda share: on_ingest(file.path, share),
            )
        except OSError as error:
            raise cannot_read(file.path, error) from error
        return [each.model_copy(update={"path": path}) for each in report.files]

    @override
    def default_recipe(self) -> Recipe:
        return self._client.recipe()

    @override
    def check_recipe(self, recipe: Recipe) -> None:
        self._client.check_recipe(recipe)

    @override
    def submit(self, instance: InstanceName, recipe: Recipe, priority: int) -> ConsolidationInfo:
        check_priority(priority)
        (job,) = self._of(instance).consolidate([instance.instance], recipe=recipe, priority=priority)
        return job

    @override
    def move(self, instance: InstanceName, base: str, priority: int) -> ConsolidationInfo:
        check_priority(priority)
        return self._of(instance).move(instance.instance, base, priority=priority)

    @override
    def queue_worker(self) -> LocalWorker | None:
        return None  # the cluster works on it

    @override
    def list_consolidations(self, instance: InstanceName | None) -> list[ConsolidationInfo]:
        if instance is None:
            return list(self._client.consolidations())
        return list(self._of(instance).consolidations(instance.instance))

    @override
    def get_consolidations(self, ids: Sequence[str]) -> list[ConsolidationInfo]:
        return self._client.consolidations_by_id(ids)

    @override
    def list_unfinished(self) -> list[ConsolidationInfo]:
        return sorted(self._client.consolidations(unfinished=True), key=lambda job: (job.created_at, job.id))

    @override
    def list_consolidation_events(self, id: str) -> list[EventInfo]:
        return list(self._client.events(id))

    @override
    def find_report(self, id: str) -> str | None:
        try:
            self._client.report(id)
        except NotFound:
            return None
        return self._client.report_url(id)

    @override
    def read_report(self, id: str, format: ReportFormat) -> bytes:
        return self._client.report(id, format)

    @override
    def cancel(self, id: str) -> None:
        self._client.cancel(id)

    @override
    def list_skills(self) -> list[SkillInfo]:
        return list(self._client.skills())

    @override
    def get_skill(self, instance: InstanceName, max_versions: int) -> SkillInfo:
        client = self._of(instance)
        skill = client.skill(instance.instance)
        if skill.version_count <= len(skill.versions):
            return skill
        return skill.model_copy(update={"versions": list(islice(client.versions(instance.instance), max_versions))})

    @override
    def list_versions(self, instance: InstanceName) -> list[VersionInfo]:
        return list(self._of(instance).versions(instance.instance))

    @override
    def promote(self, instance: InstanceName, channel: str, digest: str, share: float, expected: str | None) -> None:
        self._of(instance).promote(instance.instance, digest, channel=channel, share=share, expected=expected)

    @override
    def rollback(self, instance: InstanceName, channel: str, expected: str | None) -> str:
        return self._of(instance).rollback(instance.instance, channel=channel, expected=expected).channels[channel]

    @override
    def drop(self, instance: InstanceName, channel: str, expected: str | None) -> None:
        self._of(instance).drop(instance.instance, channel, expected=expected)

    @override
    def revoke(self, instance: InstanceName, digest: str) -> dict[str, str | None]:
        client = self._of(instance)
        before = client.skill(instance.instance).channels
        now = client.revoke(instance.instance, digest).channels
        return {channel: now.get(channel) for channel, pointed in before.items() if pointed == digest}

    @override
    def export(self, instance: InstanceName, digest: str, folder: Path) -> None:
        self._of(instance).download(instance.instance, digest, folder)

    @override
    def chat_endpoint(self, tenant: str) -> ChatEndpoint:
        own = self._client.key()
        key = self._address.key
        if own.tenant is None:  # tokens are a tenant's, so the operator asks with a key of the tenant, too
            key = self._client.issue_key(tenant, scopes={Scope.INFER}, lifetime=CHAT_KEY_LIFETIME)
        elif own.tenant != tenant:
            raise InvalidInput(f"the key belongs to tenant {own.tenant}: it cannot ask models of {tenant}")
        return ChatEndpoint(self._address.url, key, True)

    def _of(self, instance: InstanceName) -> Client:
        return self._client.acting_for(instance.tenant)


def _read_companions(path: Path) -> dict[str, str]:
    """Return the text of the companion files of a trajectory file by suffix. One that cannot be read is left out."""
    found = {}
    for suffix, file in find_companions(path).items():
        with suppress(OSError, UnicodeDecodeError):
            found[suffix] = file.read_text(encoding="utf-8")
    return found
