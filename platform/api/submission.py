"""Submits consolidations and moves. Called by the control plane, by ``looper consolidate``, ``move`` and the demo."""

from collections.abc import Sequence

from looper.platform.adapters.starts import find_start
from looper.platform.catalog import ApiKey, Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.errors import Forbidden, InvalidInput, NotFound
from looper.platform.domain.names import PROD, InstanceName
from looper.platform.domain.recipe import Recipe
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings


def submit_consolidations(
    catalog: Catalog,
    store: ObjectStore,
    settings: Settings,
    instances: Sequence[InstanceName],
    recipe: Recipe | None,
    priority: int = 0,
) -> list[Consolidation]:
    """Queue one consolidation per instance, each on its base model, or none at all if one of them is refused.

    Args:
        catalog: Catalog of the cluster.
        store: Object store of the cluster, which has the starts.
        settings: Settings of the cluster: base models, default recipe, and the largest rank that is served.
        instances: Instances to consolidate; a repeated one counts once.
        recipe: Recipe of all of them, None for the default recipe.
        priority: Higher ones are claimed first.

    Returns:
        The queued consolidations, in the order of the instances.

    Raises:
        InvalidInput: The server could not serve what the recipe trains, an instance's first training cannot begin from
            the recipe's start, the priority is out of range, or an instance has nothing new to consolidate or is on a
            base model that the cluster does not have.
        NotFound: An instance does not exist.
        Conflict: An instance has an unfinished consolidation on another base model.
    """
    recipe = recipe or settings.consolidation.recipe
    unique = list(dict.fromkeys(instances))
    found = catalog.get_instance_bases(unique)
    bases = {instance: choose_base(settings, instance, found.get(instance)) for instance in unique}
    for base in set(bases.values()):
        settings.check_recipe(recipe, base)
        _check_start(catalog, store, recipe, base, [instance for instance in found if bases[instance] == base])
    return catalog.submit_all(bases, recipe=recipe, priority=priority, served=settings.base_names)


def submit_move(
    catalog: Catalog,
    store: ObjectStore,
    settings: Settings,
    instance: InstanceName,
    base: str,
    recipe: Recipe | None = None,
    priority: int = 0,
) -> Consolidation:
    """Queue the consolidation of an instance's whole history on another base model.

    Args:
        catalog: Catalog of the cluster.
        store: Object store of the cluster, which has the starts.
        settings: Settings of the cluster.
        instance: Instance to move.
        base: Base model to move it to.
        recipe: Recipe, None for the default recipe.
        priority: Higher ones are claimed first.

    Returns:
        The queued consolidation. The instance moves when its version is published.

    Raises:
        InvalidInput: The cluster does not have the base model or could not serve what the recipe trains, the recipe's
            start does not fit that base model, the priority is out of range, or the instance is on that base model, or
            has no version or no trajectories.
        NotFound: The instance does not exist.
        Conflict: It has another unfinished consolidation.
    """
    settings.for_base(base)
    recipe = recipe or settings.consolidation.recipe
    settings.check_recipe(recipe, base)
    found = catalog.get_instance_bases([instance])
    if instance not in found:
        raise NotFound(f"instance {instance} does not exist: looper instance list")
    current = found[instance] or settings.base
    if recipe.start is not None:
        find_start(store, recipe, base)
    return catalog.submit_move(instance, current=current, base=base, recipe=recipe, priority=priority)


def _check_start(
    catalog: Catalog, store: ObjectStore, recipe: Recipe, base: str, instances: Sequence[InstanceName]
) -> None:
    """Refuse a recipe whose start ``base`` does not have, if one of ``instances`` has no version to continue."""
    if recipe.start is None:
        return
    try:
        find_start(store, recipe, base)
    except InvalidInput:
        if any(catalog.get_channel(instance, PROD) is None for instance in instances):
            raise


def check_priority_of(key: ApiKey, priority: int) -> None:
    """Check whether whoever has a key may submit with a priority.

    Args:
        key: The API key of the request.
        priority: The priority.

    Raises:
        Forbidden: It is above 0, and the key is a tenant's.
    """
    if priority > 0 and key.tenant is not None:
        raise Forbidden(f"priority {priority} is above 0, which only an operator's key may give")


def choose_base(settings: Settings, instance: InstanceName, recorded: str | None) -> str:
    """Return the base model on which an instance is consolidated.

    Args:
        settings: Settings of the cluster.
        instance: The instance.
        recorded: Base model that it is on by the catalog, None for the first one.

    Raises:
        InvalidInput: The cluster does not have it.
    """
    if recorded is None or recorded in settings.base_names:
        return recorded or settings.base
    if not settings.bases:
        return settings.base  # it may have had another name, and trainers compare the weights
    raise InvalidInput(
        f"instance {instance} is on base model {recorded!r}, which is not one of this cluster "
        f"({', '.join(settings.base_names)}): looper move {instance} --base {settings.base}"
    )
