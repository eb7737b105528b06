"""Old names of recipe fields. A request with an old name gets an error; a stored recipe with one is still readable.

Recipes are stored in the catalog and in manifests. An adapter's digest covers its manifest, so stored recipes are never
rewritten.
"""

from collections.abc import Mapping

RENAMED_RECIPE_FIELDS: Mapping[str, str] = {
    "max_context": "max_seq_length",
    "warmup": "warmup_ratio",
    "clip": "max_grad_norm",
    "preference": "preference_weight",
}
"""New name of each renamed recipe field, by its old name."""


def rename_old_fields(recipe: object) -> object:
    """Replace the old field names of a stored recipe.

    Args:
        recipe: JSON object of a recipe. Any other value is returned as it is, for pydantic to validate.

    Returns:
        The same recipe with the current field names.
    """
    if not isinstance(recipe, Mapping):
        return recipe
    return {RENAMED_RECIPE_FIELDS.get(name, name): value for name, value in recipe.items()}
