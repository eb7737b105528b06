"""What commands can do with a Looper. ``local`` does it on this machine, ``remote`` over HTTP.

Errors are those of ``looper.platform.domain.errors``, with the same words in both. Each method raises ``NotFound`` for
what does not exist, ``InvalidInput`` for what is not valid and ``StoreUnavailable`` where catalog, object store or
server do not respond; a remote one also ``Unauthorized`` and ``Forbidden``.
"""

from collections.abc import Callable, Iterable, Sequence, Set
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import ssl

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
    from looper.platform.domain.names import InstanceName
    from looper.platform.domain.recipe import Recipe
    from looper.platform.domain.scopes import Scope
    from looper.platform.trajectories.report import IngestReport

OnIngest = Callable[[Path, float], None]
"""Called with the file that is being ingested, and the share of it, from 0 to 1, that has been taken."""


class ChatEndpoint(NamedTuple):
    """Where to ask models."""

    url: str
    """Address without ``/v1``."""
    key: str
    """API key with scope ``infer``."""
    verify: "ssl.SSLContext | bool"
    """How the certificate is verified, for httpx."""


class LocalWorker(Protocol):
    """Works on queued consolidations in this process, where nobody else would."""

    def check(self) -> None:
        """Check that this machine can do so. Raises LooperError if it cannot."""

    def run(self, ids: Sequence[str]) -> None:
        """Work until the consolidations ``ids`` have ended."""


class ConsolidationReader(Protocol):
    """What following consolidations needs."""

    def get_consolidations(self, ids: Sequence[str]) -> "list[ConsolidationInfo]":
        """Return the consolidations with these ``ids``, in the same order."""


class ControlPlane(ConsolidationReader, Protocol):
    """A Looper, as commands see it."""

    def read_cluster(self) -> "ClusterInfo":
        """Return what runs where, and what waits for what. Of this machine, it is a ``ClusterStatus``."""

    def create_tenant(self, name: str) -> str:
        """Create the tenant ``name``. Return its first API key."""

    def list_tenants(self) -> "list[TenantInfo]":
        """Return all tenants, sorted by name."""

    def issue_key(self, tenant: str, *, name: str | None, scopes: "Set[Scope]", lifetime: timedelta | None) -> str:
        """Issue an API key.

        Args:
            tenant: Tenant that the key belongs to.
            name: Name to find it by. None: its id.
            scopes: What it may be used for.
            lifetime: Time until it expires. None: it does not expire.

        Returns:
            The key.
        """

    def list_keys(self, tenant: str) -> "list[KeyInfo]":
        """Return the API keys of ``tenant``, also those that have expired or are revoked."""

    def revoke_key(self, key: str, tenant: str | None) -> "KeyInfo":
        """Revoke an API key.

        Args:
            key: Its id or, where ``tenant`` is given, also its name.
            tenant: Tenant that it belongs to. None: any.

        Returns:
            The revoked key.
        """

    def get_limits(self, tenant: str) -> "EffectiveLimits":
        """Return the rate limits of ``tenant``."""

    def set_limits(self, tenant: str, limits: "TenantLimits") -> "EffectiveLimits":
        """Set the own rate limits of a tenant.

        Args:
            tenant: Name of the tenant.
            limits: The new limits, which replace all old ones.

        Returns:
            The limits that apply now.
        """

    def list_audit_trail(self, tenant: str, limit: int) -> "list[AuditInfo]":
        """Return the newest ``limit`` changes of what ``tenant`` has, newest first."""

    def list_instances(self, tenant: str | None) -> "list[InstanceInfo]":
        """Return the instances of ``tenant``, None for all that may be seen, sorted by name."""

    def get_instance(self, instance: "InstanceName") -> "InstanceInfo":
        """Return one ``instance``."""

    def create_instance(self, instance: "InstanceName", base: str) -> "InstanceInfo":
        """Create ``instance`` on the base model ``base``, or put one that has no version yet on it."""

    def list_batches(self, instance: "InstanceName") -> "list[BatchInfo]":
        """Return the ingested files of ``instance``, oldest first."""

    def list_instance_events(self, instance: "InstanceName") -> "list[EventInfo]":
        """Return what happened to ``instance``, oldest first."""

    def ingest(
        self, paths: Iterable[Path], instance: "InstanceName", format: str, on_ingest: OnIngest
    ) -> "IngestReport":
        """Ingest files, and folders with all files below them.

        Args:
            paths: Files and folders of this machine.
            instance: Instance that the trajectories belong to; it is created if it is new.
            format: Name of a format; ``auto`` detects the format of each file.
            on_ingest: Called while files are ingested.

        Returns:
            A report per file.
        """

    def default_recipe(self) -> "Recipe":
        """Return the recipe of consolidations that name none."""

    def check_recipe(self, recipe: "Recipe") -> None:
        """Raise InvalidInput if what ``recipe`` trains could not be trained or served."""

    def submit(self, instance: "InstanceName", recipe: "Recipe", priority: int) -> "ConsolidationInfo":
        """Queue a consolidation.

        Args:
            instance: Instance to train an adapter for.
            recipe: How to train.
            priority: Higher ones are claimed first.

        Returns:
            The queued consolidation.
        """

    def move(self, instance: "InstanceName", base: str, priority: int) -> "ConsolidationInfo":
        """Queue the consolidation of an instance's whole history on another base model.

        Args:
            instance: Instance to move.
            base: Base model of the cluster.
            priority: Higher ones are claimed first.

        Returns:
            The queued consolidation.
        """

    def queue_worker(self) -> LocalWorker | None:
        """Return what can work on the queue in this process. None: somebody else works on it."""

    def list_consolidations(self, instance: "InstanceName | None") -> "list[ConsolidationInfo]":
        """Return the consolidations of ``instance``, None for all that may be seen, newest first."""

    def list_unfinished(self) -> "list[ConsolidationInfo]":
        """Return the consolidations that have not ended, oldest first."""

    def list_consolidation_events(self, id: str) -> "list[EventInfo]":
        """Return what happened to the consolidation ``id``, oldest first."""

    def find_report(self, id: str) -> str | None:
        """Return where the report page of the consolidation ``id`` is, None if there is none yet."""

    def read_report(self, id: str, format: "ReportFormat") -> bytes:
        """Return the report on training data.

        Args:
            id: Id of the consolidation.
            format: ``json`` for the counts, ``html`` for the page for people.

        Returns:
            The report.
        """

    def cancel(self, id: str) -> None:
        """Cancel the consolidation ``id``."""

    def list_skills(self) -> "list[SkillInfo]":
        """Return the skills with their newest versions, sorted by name."""

    def get_skill(self, instance: "InstanceName", max_versions: int) -> "SkillInfo":
        """Return the skill of ``instance`` with its newest versions, at most ``max_versions``."""

    def list_versions(self, instance: "InstanceName") -> "list[VersionInfo]":
        """Return all versions of ``instance``, newest first."""

    def promote(self, instance: "InstanceName", channel: str, digest: str, share: float, expected: str | None) -> None:
        """Point a channel to a version.

        Args:
            instance: Instance of the channel.
            channel: The channel.
            digest: Digest of the version.
            share: Canary share, from 0 to 1.
            expected: Digest that the channel must point to now. None: any.
        """

    def rollback(self, instance: "InstanceName", channel: str, expected: str | None) -> str:
        """Point a channel to the version before the one it points to.

        Args:
            instance: Instance of the channel.
            channel: The channel.
            expected: Digest that it must point to now. None: any.

        Returns:
            The digest that it points to now.
        """

    def drop(self, instance: "InstanceName", channel: str, expected: str | None) -> None:
        """Drop a channel.

        Args:
            instance: Instance of the channel.
            channel: The channel.
            expected: Digest that it must point to now. None: any.
        """

    def revoke(self, instance: "InstanceName", digest: str) -> dict[str, str | None]:
        """Revoke a version.

        Args:
            instance: Instance of the version.
            digest: Digest of the version.

        Returns:
            What channels that pointed to it point to now, by name. None: the channel is gone.
        """

    def export(self, instance: "InstanceName", digest: str, folder: Path) -> None:
        """Write the verified files of a version.

        Args:
            instance: Instance of the version.
            digest: Digest of the version.
            folder: An empty folder.
        """

    def chat_endpoint(self, tenant: str) -> ChatEndpoint:
        """Return where models of ``tenant`` can be asked."""
