"""Every name in the tree of settings, what values it allows, and suggestions for names that are not in it.

Read from the pydantic models, so there is no second list to maintain. Used by ``sources``, ``loading`` and
``reference``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from looper.platform.domain.suggestions import did_you_mean
from looper.platform.settings.models import Settings

PREFIX = "LOOPER_"
"""Prefix of environment variables that are settings."""

ITEM = "[]"
"""Stands in a path for any index of a list: ``serve.pools[].replicas``."""


@dataclass(frozen=True)
class Setting:
    """One value that can be set."""

    path: str
    """Path in the tree, such as ``serve.port``."""
    model: type[BaseModel]
    """Model of its section."""
    name: str
    """Name of its field in the section."""

    @property
    def field(self) -> FieldInfo:
        """Field of the model, with default and description."""
        return self.model.model_fields[self.name]

    @property
    def variable(self) -> str:
        """Environment variable that sets it."""
        return variable_of(self.path)

    @property
    def is_json(self) -> bool:
        """Whether it is a list, or values by name. An environment variable holds them as JSON."""
        annotation = self.field.annotation
        return any(get_origin(kind) in (tuple, dict) for kind in (annotation, *get_args(annotation)))

    @property
    def is_secret(self) -> bool:
        """Whether its value must not be shown."""
        return _schema(self).get("format") == "password"

    @property
    def expected(self) -> str:
        """Allowed values, as the end of a sentence: ``an integer from 0 to 65535``."""
        return _describe(_schema(self))


def variable_of(path: str) -> str:
    """Return the environment variable of a setting or section.

    Args:
        path: Path of the setting, such as ``serve.port``.
    """
    return PREFIX + path.upper().replace(".", "__")


def settings_by_path() -> Mapping[str, Setting]:
    """Return all settings by their path, in the order of the tree, without the settings of list items."""
    return {path: setting for path, setting in settings_and_items_by_path().items() if ITEM not in path}


@cache
def settings_and_items_by_path() -> Mapping[str, Setting]:
    """Return all settings by their path, in the order of the tree, with the settings of list items."""
    return {setting.path: setting for setting in _walk(Settings, "")}


@cache
def sections_by_path() -> Mapping[str, type[BaseModel]]:
    """Return the models of all sections by their path, without the root."""
    found = {}

    def add_sections(model: type[BaseModel], path: str) -> None:
        for name, field in model.model_fields.items():
            section = _section_model(field)
            if section is not None:
                found[path + name] = section
                add_sections(section, f"{path}{name}.")

    add_sections(Settings, "")
    return found


def suggest_name(path: str) -> str | None:
    """Return the setting or section whose path is most similar, None if nothing is similar.

    Args:
        path: A path that is not in the tree.
    """
    return did_you_mean(path, [*settings_by_path(), *sections_by_path()])


def find_unknown_paths(tree: Mapping[str, object], model: type[BaseModel] = Settings, path: str = "") -> Iterator[str]:
    """Find names that are not settings.

    Args:
        tree: Values by name, with sections as mappings.
        model: Model that the names should be fields of.
        path: Path of that model in the whole tree, with a dot at the end unless it is empty.

    Yields:
        Path of each unknown name.
    """
    for name, value in tree.items():
        field = model.model_fields.get(name)
        if field is None:
            yield path + name
            continue
        section, item = _section_model(field), _item_model(field)
        if section is not None and isinstance(value, Mapping):
            yield from find_unknown_paths(value, section, f"{path}{name}.")
        elif item is not None and isinstance(value, list | tuple):
            for element in value:
                if isinstance(element, Mapping):
                    yield from find_unknown_paths(element, item, f"{path}{name}{ITEM}.")


def _walk(model: type[BaseModel], path: str) -> Iterator[Setting]:
    for name, field in model.model_fields.items():
        section, item = _section_model(field), _item_model(field)
        if section is not None:
            yield from _walk(section, f"{path}{name}.")
            continue
        yield Setting(path + name, model, name)
        if item is not None:
            yield from _walk(item, f"{path}{name}{ITEM}.")


def _section_model(field: FieldInfo) -> type[BaseModel] | None:
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _item_model(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model of a list's items, None if the field is no list of models."""
    models = [kind for kind in get_args(field.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return models[0] if models else None


def _schema(setting: Setting) -> dict[str, Any]:
    schema: dict[str, Any] = _model_schema(setting.model)["properties"][setting.name]
    alternatives = [part for part in schema.get("anyOf", []) if part.get("type") != "null"]
    return alternatives[0] if alternatives else schema


@cache
def _model_schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


_TYPES = {
    "integer": "an integer",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "object": "values by name",
}
_FORMATS = {"path": "a path"}


def _describe(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        items = schema["items"]
        item = "a section" if "$ref" in items else _describe(items)
        return f"a list{' that is not empty' if schema.get('minItems') else ''}, each {item}"
    kind = _FORMATS.get(schema.get("format", "")) or _TYPES[schema["type"]]
    if "pattern" in schema:
        return f"{kind} that matches {schema['pattern']}"
    if "maxLength" in schema:
        return f"{kind} of at most {schema['maxLength']} characters"
    names = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
    return kind + _describe_bounds(*(schema.get(name) for name in names))


def _describe_bounds(
    minimum: float | None,
    exclusive_minimum: float | None = None,
    maximum: float | None = None,
    exclusive_maximum: float | None = None,
) -> str:
    if minimum is not None and maximum is not None:
        return f" from {minimum:g} to {maximum:g}"
    words = (
        ("at least", minimum),
        ("above", exclusive_minimum),
        ("at most", maximum),
        ("below", exclusive_maximum),
    )
    bounds = [f"{word} {bound:g}" for word, bound in words if bound is not None]
    return f", {' and '.join(bounds)}" if bounds else ""
