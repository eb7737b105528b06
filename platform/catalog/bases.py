"""Catalog operations on the base models of instances: put an instance on one, and move it to another.

An instance is on the base model that the version of ``prod`` was trained on. So a move is complete when its version is
published, and a rollback over it moves the instance back. Before its first version, an instance is on the base model
that it was created with, or else on the first one of the cluster.
"""

from collections.abc import Collection

from sqlalchemy import select, tuple_, update

from looper.platform.catalog import rows, submitted_rows
from looper.platform.catalog import tables as t
from looper.platform.catalog.clock import read_clock
from looper.platform.catalog.database import Database
from looper.platform.domain.consolidation import Consolidation, check_priority
from looper.platform.domain.errors import Conflict, InvalidInput
from looper.platform.domain.names import PROD, InstanceName
from looper.platform.domain.recipe import Recipe


class BaseOperations(Database):
    """Base models of instances."""

    def get_instance_bases(self, instances: Collection[InstanceName]) -> dict[InstanceName, str | None]:
        """Return the base models that instances are on.

        Args:
            instances: The instances.

        Returns:
            Name of the base model, None for the first one of the cluster, by instance. Instances that do not exist are
            missing.
        """
        i = t.instances.c
        is_asked = tuple_(i.tenant, i.instance).in_([tuple(instance) for instance in instances])
        with self._read_transaction() as sql:
            return rows.load_instance_bases(sql, is_asked)

    def create_instance(self, instance: InstanceName, base: str) -> None:
        """Create an instance on a base model, or put one that has no version yet on it.

        Args:
            instance: The instance.
            base: Name of the base model.

        Raises:
            NotFound: Its tenant does not exist.
            Conflict: It is on another base model, and has a version or an unfinished consolidation.
        """
        with self._write_transaction() as sql:
            rows.require_tenant(sql, instance.tenant)
            rows.insert_instance(sql, instance)
            rows.require_instance(sql, instance, lock=True)
            current = sql.scalar(select(t.instances.c.base).where(rows.in_instance(t.instances, instance)))
            if current == base:
                return
            if sql.scalar(select(t.versions.c.digest).where(rows.in_instance(t.versions, instance)).limit(1)):
                raise Conflict(f"instance {instance} has versions already: looper move {instance} --base {base}")
            if unfinished := submitted_rows.find_unfinished(sql, instance):
                raise submitted_rows.refuse_beside(unfinished)
            sql.execute(update(t.instances).where(rows.in_instance(t.instances, instance)).values(base=base))
            rows.insert_event(sql, instance, None, f"on base model {base}")

    def submit_move(
        self, instance: InstanceName, *, current: str, base: str, recipe: Recipe, priority: int = 0
    ) -> Consolidation:
        """Queue the consolidation of an instance's whole history on another base model.

        Submitting the same again while it is unfinished queues no second one.

        Args:
            instance: The instance.
            current: Base model that it is on.
            base: Base model to move it to.
            recipe: Hyperparameters.
            priority: From ``MIN_PRIORITY`` to ``MAX_PRIORITY``. Higher priorities are claimed first.

        Returns:
            The consolidation. The instance moves when its version is published.

        Raises:
            NotFound: The instance does not exist.
            InvalidInput: It is on ``base`` already, or has no version or no trajectories.
            Conflict: It has another unfinished consolidation.
        """
        check_priority(priority)
        if current == base:
            raise InvalidInput(f"instance {instance} is on base model {base} already")
        with self._write_transaction() as sql:
            rows.require_instance(sql, instance, lock=True)
            if unfinished := submitted_rows.find_unfinished(sql, instance):
                if (unfinished.is_move, unfinished.base, unfinished.recipe) == (True, base, recipe):
                    return unfinished
                raise submitted_rows.refuse_beside(unfinished)
            if rows.channel_digest(sql, instance, PROD) is None:
                raise InvalidInput(
                    f"instance {instance} has no version to move: put it on the base model by looper instance create "
                    f"{instance} --base {base}"
                )
            batches = submitted_rows.list_batch_ids(sql, instance)
            if not batches:
                raise InvalidInput(f"instance {instance} has no trajectories to learn from on another base model")
            return submitted_rows.insert_consolidation(
                sql, instance, base, recipe, batches, priority, read_clock(sql), is_move=True
            )
