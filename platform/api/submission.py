"""Submitting consolidations: what the command line and the control plane do alike."""

from collections.abc import Sequence

from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation, Recipe
from looper.platform.domain.names import InstanceName
from looper.platform.settings import Settings


def submit(
    catalog: Catalog, settings: Settings, instances: Sequence[InstanceName], recipe: Recipe | None, priority: int = 0
) -> list[Consolidation]:
    """Queue one consolidation per instance.

    A recipe that the server would refuse, a priority out of range or an unknown instance refuses the whole request
    before anything is queued.
    """
    recipe = recipe or settings.consolidation.recipe
    settings.check_recipe(recipe)
    unique = list(dict.fromkeys(instances))
    for instance in unique:
        catalog.check_instance(instance)
    return [catalog.submit(instance, base=settings.base, recipe=recipe, priority=priority) for instance in unique]
