"""The Looper of this machine: the catalog and the object store of its settings. No server need run."""

import sys
import threading
from collections.abc import Iterable, Sequence, Set
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

from typing_extensions import override

from looper.cli import requirements
from looper.cli.control_plane.interface import ChatEndpoint, ControlPlane, LocalWorker, OnIngest
from looper.cli.output import progress
from looper.cli.watch import watch
from looper.platform import adapters, revocation
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
from looper.platform.api.reports import read_report
from looper.platform.api.submission import submit_consolidations, submit_move
from looper.platform.api.tenant_models import AuditInfo, EffectiveLimits, KeyInfo, TenantInfo, TenantLimits
from looper.platform.catalog import Catalog, Quota
from looper.platform.catalog.pages import iterate_pages
from looper.platform.domain.names import InstanceName
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.scopes import Scope
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings import Settings
from looper.platform.tenancy import issue_key
from looper.platform.trajectories.report import IngestReport

CHAT_KEY_LIFETIME = timedelta(minutes=10)
"""Lifetime of the key that ``looper chat`` issues for itself."""

NUM_LISTED_VERSIONS = 10
"""Number of versions of each skill in a list."""


class LocalControlPlane(ControlPlane):
    """The Looper of this machine.

    Args:
        settings: Settings of this machine.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._catalog = Catalog.open(settings)
        self._store = ObjectStore.open(settings)

    @override
    def read_cluster(self) -> ClusterInfo:
        from looper.cluster.cluster_status import read_status

        return read_status(self._settings)

    @override
    def create_tenant(self, name: str) -> str:
        self._catalog.create_tenant(name)
        return issue_key(self._catalog, name)

    @override
    def list_tenants(self) -> list[TenantInfo]:
        rows = iterate_pages(
            lambda after, limit: self._catalog.page_tenants(after=after, limit=limit), lambda row: row.name
        )
        return [TenantInfo.from_overview(row) for row in rows]

    @override
    def issue_key(self, tenant: str, *, name: str | None, scopes: Set[Scope], lifetime: timedelta | None) -> str:
        return issue_key(self._catalog, tenant, name=name, scopes=scopes, lifetime=lifetime)

    @override
    def list_keys(self, tenant: str) -> list[KeyInfo]:
        return [KeyInfo.from_key(key) for key in self._catalog.list_keys(tenant)]

    @override
    def revoke_key(self, key: str, tenant: str | None) -> KeyInfo:
        return KeyInfo.from_key(revocation.revoke_tenant_key(self._catalog, self._store, key, tenant))

    @override
    def get_limits(self, tenant: str) -> EffectiveLimits:
        return EffectiveLimits.of(self._catalog.get_quota(tenant), self._settings.serve)

    @override
    def set_limits(self, tenant: str, limits: TenantLimits) -> EffectiveLimits:
        self._catalog.set_quota(tenant, Quota(**limits.model_dump()))
        return self.get_limits(tenant)

    @override
    def list_audit_trail(self, tenant: str, limit: int) -> list[AuditInfo]:
        return [AuditInfo.from_event(event) for event in self._catalog.list_audit_trail(tenant, limit=limit)]

    @override
    def list_instances(self, tenant: str | None) -> list[InstanceInfo]:
        rows = iterate_pages(
            lambda after, limit: self._catalog.page_instances(tenant, after=after, limit=limit),
            lambda row: row.instance,
        )
        return [InstanceInfo.from_summary(row) for row in rows]

    @override
    def get_instance(self, instance: InstanceName) -> InstanceInfo:
        return InstanceInfo.from_summary(self._catalog.get_instance(instance))

    @override
    def create_instance(self, instance: InstanceName, base: str) -> InstanceInfo:
        self._catalog.create_instance(instance, self._settings.for_base(base).base)
        return InstanceInfo.from_summary(self._catalog.get_instance(instance))

    @override
    def list_batches(self, instance: InstanceName) -> list[BatchInfo]:
        return [BatchInfo.from_batch(batch) for batch in self._catalog.list_batches(instance)]

    @override
    def list_instance_events(self, instance: InstanceName) -> list[EventInfo]:
        return [EventInfo.from_event(event) for event in self._catalog.list_events(instance=instance)]

    @override
    def ingest(self, paths: Iterable[Path], instance: InstanceName, format: str, on_ingest: OnIngest) -> IngestReport:
        from looper.platform.trajectories.ingest import ingest_paths

        return ingest_paths(
            paths,
            instance,
            format,
            catalog=self._catalog,
            store=self._store,
            on_file=lambda path: on_ingest(path, 0.0),
        )

    @override
    def default_recipe(self) -> Recipe:
        return self._settings.consolidation.recipe

    @override
    def check_recipe(self, recipe: Recipe) -> None:
        self._settings.check_recipe(recipe)

    @override
    def submit(self, instance: InstanceName, recipe: Recipe, priority: int) -> ConsolidationInfo:
        (job,) = submit_consolidations(self._catalog, self._store, self._settings, [instance], recipe, priority)
        return ConsolidationInfo.from_consolidation(job)

    @override
    def move(self, instance: InstanceName, base: str, priority: int) -> ConsolidationInfo:
        job = submit_move(self._catalog, self._store, self._settings, instance, base, priority=priority)
        return ConsolidationInfo.from_consolidation(job)

    @override
    def queue_worker(self) -> LocalWorker | None:
        from looper.cluster.state import read_state

        # A control loop may lead on another machine, where the catalog is shared.
        is_worked = read_state(self._settings) is not None or self._catalog.get_leader() is not None
        return None if is_worked else _WorkerOfThisProcess(self, self._settings)

    @override
    def list_consolidations(self, instance: InstanceName | None) -> list[ConsolidationInfo]:
        jobs = iterate_pages(
            lambda after, limit: self._catalog.list_consolidations(instance=instance, after=after, limit=limit),
            lambda job: (job.created_at, job.id),
        )
        return [ConsolidationInfo.from_consolidation(job) for job in jobs]

    @override
    def get_consolidations(self, ids: Sequence[str]) -> list[ConsolidationInfo]:
        return [ConsolidationInfo.from_consolidation(job) for job in self._catalog.get_consolidations(ids)]

    @override
    def list_unfinished(self) -> list[ConsolidationInfo]:
        return [ConsolidationInfo.from_consolidation(job) for job in self._catalog.list_unfinished()]

    @override
    def list_consolidation_events(self, id: str) -> list[EventInfo]:
        job = self._catalog.get_consolidation(id)
        return [EventInfo.from_event(event) for event in self._catalog.list_events(consolidation=job.id)]

    @override
    def find_report(self, id: str) -> str | None:
        page = keys.examples(id, "report.html")
        return f"{self._store.url}/{page}" if self._store.exists(page) else None

    @override
    def read_report(self, id: str, format: ReportFormat) -> bytes:
        return read_report(self._store, self._catalog.get_consolidation(id).id, format)

    @override
    def cancel(self, id: str) -> None:
        self._catalog.cancel(id)

    @override
    def list_skills(self) -> list[SkillInfo]:
        rows = iterate_pages(
            lambda after, limit: self._catalog.page_skills(after=after, limit=limit, max_versions=NUM_LISTED_VERSIONS),
            lambda row: row.instance,
        )
        return [SkillInfo.from_summary(row) for row in rows]

    @override
    def get_skill(self, instance: InstanceName, max_versions: int) -> SkillInfo:
        return SkillInfo.from_summary(self._catalog.get_skill(instance, max_versions=max_versions))

    @override
    def list_versions(self, instance: InstanceName) -> list[VersionInfo]:
        return [VersionInfo.from_version(version) for version in self._catalog.list_versions(instance)]

    @override
    def promote(self, instance: InstanceName, channel: str, digest: str, share: float, expected: str | None) -> None:
        adapters.promote(self._catalog, self._store, instance, channel, digest, share, expected=expected)

    @override
    def rollback(self, instance: InstanceName, channel: str, expected: str | None) -> str:
        return adapters.rollback(self._catalog, self._store, instance, channel, expected=expected)

    @override
    def drop(self, instance: InstanceName, channel: str, expected: str | None) -> None:
        self._catalog.delete_channel(instance, channel, expected=expected)

    @override
    def revoke(self, instance: InstanceName, digest: str) -> dict[str, str | None]:
        return revocation.revoke_version(self._catalog, self._store, instance, digest)

    @override
    def export(self, instance: InstanceName, digest: str, folder: Path) -> None:
        for file, content in adapters.fetch(self._store, instance.tenant, digest).to_dict().items():
            (folder / file).write_bytes(content)

    @override
    def chat_endpoint(self, tenant: str) -> ChatEndpoint:
        from looper.cluster.cluster_status import find_urls
        from looper.platform.domain.errors import NotFound
        from looper.serve.deployment.tls import trust_own_certificate

        urls = find_urls(self._settings, self._catalog)
        if not urls:
            raise NotFound("no cluster is running: looper up")
        # A user who can read the catalog may act for every tenant, so a key that expires soon gives away nothing.
        key = issue_key(self._catalog, tenant, scopes={Scope.INFER}, lifetime=CHAT_KEY_LIFETIME)
        return ChatEndpoint(urls[0], key, trust_own_certificate(self._settings.serve))


class _WorkerOfThisProcess(LocalWorker):
    """Works the queue in this process, because no cluster runs on this machine."""

    def __init__(self, control_plane: LocalControlPlane, settings: Settings) -> None:
        self._control_plane = control_plane
        self._settings = settings

    @override
    def check(self) -> None:
        requirements.check_machine("looper consolidate --wait")

    @override
    def run(self, ids: Sequence[str]) -> None:
        from looper.basemodel.prepare import prepare_bases
        from looper.cluster.local_ray import local_ray
        from looper.cluster.run_until_complete import run_until_complete

        settings, ids = self._settings, list(ids)
        with ExitStack() as stack:
            with progress() as live:
                live.add_task("preparing the base model and a local Ray", total=None, note="")
                folders = prepare_bases(settings)
                stack.enter_context(local_ray())
            ended = threading.Event()
            arguments = (self._control_plane, ids, sys.stderr)
            watcher = threading.Thread(target=watch, args=arguments, kwargs={"stop": ended})
            watcher.start()
            try:
                store = ObjectStore.open(settings)
                run_until_complete(Catalog.open(settings), store, settings, folders, ids)
            finally:
                ended.set()
                watcher.join()
