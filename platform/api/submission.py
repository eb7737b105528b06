"""Submits consolidations. Called by the control plane, by ``looper consolidate`` and by the demo."""

from collections.abc import Sequence

from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.names import InstanceName
from looper.platform.domain.recipe import Recipe
from looper.platform.settings import Settings


def submit_consolidations(
    catalog: Catalog, settings: Settings, instances: Sequence[InstanceName], recipe: Recipe | None, priority: int = 0
) -> list[Consolidation]:
    """Queue one consolidation per instance, or none at all if one of them is refused.

    Args:
        catalog: Catalog of the cluster.
        settings: Settings of the cluster: base model, default recipe, and the largest rank that is served.
        instances: Instances to consolidate; a repeated one counts once.
        recipe: Recipe of all of them, None for the default recipe.
        priority: Higher ones are claimed first.

    Returns:
        The queued consolidations, in the order of the instances.

    Raises:
        InvalidInput: The server could not serve what the recipe trains, the priority is out of range, or an instance
            has nothing new to consolidate.
        NotFound: An instance does not exist.
    """
    recipe = recipe or settings.consolidation.recipe
    settings.check_recipe(recipe)
    unique = list(dict.fromkeys(instances))
    return catalog.submit_all(unique, base=settings.base, recipe=recipe, priority=priority)
