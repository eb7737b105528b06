"""What fields of recipes were called before. Who writes an old name is told the new one; what is stored is read by it.

Recipes are kept in the catalog and in manifests, whose bytes an adapter's digest covers: they are never rewritten.
"""

from collections.abc import Mapping

RECIPE_FIELDS: Mapping[str, str] = {
    "max_context": "max_seq_length",
    "warmup": "warmup_ratio",
    "clip": "max_grad_norm",
    "preference": "preference_weight",
}


def with_new_names(stored: object) -> object:
    """A recipe as it was stored, by the names that its fields have now."""
    if not isinstance(stored, Mapping):
        return stored
    return {RECIPE_FIELDS.get(name, name): value for name, value in stored.items()}
