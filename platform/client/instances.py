"""The client's methods for instances. ``uploads`` has the one that ingests trajectories, which creates them, too."""

from collections.abc import Iterator

from looper.platform.api.models import BatchInfo, ConsolidationInfo, EventInfo, InstanceInfo
from looper.platform.client.http_session import HttpSession
from looper.platform.domain.names import check_name
from looper.platform.domain.recipe import Recipe


class InstanceMethods(HttpSession):
    """One method per route of instances."""

    def instances(self) -> Iterator[InstanceInfo]:
        """Return the tenant's instances, sorted by name."""
        return self._pages("/instances", InstanceInfo)

    def instance(self, instance: str) -> InstanceInfo:
        """Return one ``instance``."""
        return self._get(f"/instances/{check_name(instance, 'instance')}", InstanceInfo)

    def create_instance(self, instance: str, base: str) -> InstanceInfo:
        """Create an instance on a base model, or put one that has no version yet on it.

        Args:
            instance: The instance.
            base: Base model of the cluster.

        Raises:
            InvalidInput: The cluster does not have the base model.
            Conflict: The instance is on another one, and has a version or an unfinished consolidation.
        """
        body = {"name": check_name(instance, "instance"), "base": base}
        return self._call("POST", "/instances", InstanceInfo, idempotent=True, json=body)

    def move(self, instance: str, base: str, *, recipe: Recipe | None = None, priority: int = 0) -> ConsolidationInfo:
        """Queue the consolidation of an instance's whole history on another base model.

        Args:
            instance: Instance to move. It moves when the version is published.
            base: Base model of the cluster.
            recipe: How to train; None for the cluster's default recipe.
            priority: From -10 to 10. Higher priorities are claimed first. Above 0 only with an operator's key.

        Returns:
            The queued consolidation.

        Raises:
            InvalidInput: The cluster does not have the base model, or the instance is on it or has no version.
            Conflict: The instance has another unfinished consolidation.
        """
        body = {"base": base, "recipe": recipe.model_dump(mode="json") if recipe else None, "priority": priority}
        path = f"/instances/{check_name(instance, 'instance')}/move"
        return self._call("POST", path, ConsolidationInfo, idempotent=True, json=body)

    def batches(self, instance: str) -> Iterator[BatchInfo]:
        """Return the ingested files of an ``instance``, oldest first."""
        return self._pages(f"/instances/{check_name(instance, 'instance')}/batches", BatchInfo)

    def instance_events(self, instance: str) -> Iterator[EventInfo]:
        """Return what happened to an ``instance``, oldest first."""
        return self._pages(f"/instances/{check_name(instance, 'instance')}/events", EventInfo)
