"""Every name in the tree of settings, what may be its value, and the nearest one to a name that is not in it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from looper.platform.domain.fields import did_you_mean
from looper.platform.settings.models import Settings

PREFIX = "LOOPER_"
ITEM = "[]"
"""Stands in a path for any index: ``serve.pools[].replicas``."""


@dataclass(frozen=True)
class Setting:
    """One value that can be set."""

    path: str
    """``serve.port``"""
    model: type[BaseModel]
    name: str

    @property
    def field(self) -> FieldInfo:
        return self.model.model_fields[self.name]

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return PREFIX + self.path.upper().replace(".", "__")

    @property
    def structured(self) -> bool:
        """Whether it is a list, which an environment variable holds as JSON."""
        annotation = self.field.annotation
        return any(get_origin(each) is tuple for each in (annotation, *get_args(annotation)))

    @property
    def secret(self) -> bool:
        return _schema(self).get("format") == "password"

    @property
    def expected(self) -> str:
        """What its value may be, to end a sentence: ``an integer from 0 to 65535``."""
        return _described(_schema(self))


def known() -> Mapping[str, Setting]:
    """All settings by their path, in the order of the tree; those of list items are not among them."""
    return {path: setting for path, setting in with_items().items() if ITEM not in path}


@cache
def with_items() -> Mapping[str, Setting]:
    """As ``known``, with the settings of list items."""
    return {setting.path: setting for setting in _walk(Settings, "")}


@cache
def sections() -> Mapping[str, type[BaseModel]]:
    """The models of the tree by their path, without the root."""
    found = {}

    def enter(model: type[BaseModel], path: str) -> None:
        for name, field in model.model_fields.items():
            inner = _section(field)
            if inner is not None:
                found[path + name] = inner
                enter(inner, f"{path}{name}.")

    enter(Settings, "")
    return found


def nearest(path: str) -> str | None:
    """The known setting or section that ``path`` is most like."""
    return did_you_mean(path, [*known(), *sections()])


def unknown(given: Mapping[str, object], model: type[BaseModel] = Settings, path: str = "") -> Iterator[str]:
    """The paths in ``given``, a tree or a part of it, that name nothing."""
    for name, value in given.items():
        field = model.model_fields.get(name)
        if field is None:
            yield path + name
            continue
        section, item = _section(field), _item(field)
        if section is not None and isinstance(value, Mapping):
            yield from unknown(value, section, f"{path}{name}.")
        elif item is not None and isinstance(value, list | tuple):
            for each in value:
                if isinstance(each, Mapping):
                    yield from unknown(each, item, f"{path}{name}{ITEM}.")


def _walk(model: type[BaseModel], path: str) -> Iterator[Setting]:
    for name, field in model.model_fields.items():
        section, item = _section(field), _item(field)
        if section is not None:
            yield from _walk(section, f"{path}{name}.")
            continue
        yield Setting(path + name, model, name)
        if item is not None:
            yield from _walk(item, f"{path}{name}{ITEM}.")


def _section(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _item(field: FieldInfo) -> type[BaseModel] | None:
    models = [each for each in get_args(field.annotation) if isinstance(each, type) and issubclass(each, BaseModel)]
    return models[0] if models else None


def _schema(setting: Setting) -> dict[str, Any]:
    schema: dict[str, Any] = _schema_of(setting.model)["properties"][setting.name]
    kinds = [each for each in schema.get("anyOf", []) if each.get("type") != "null"]
    return kinds[0] if kinds else schema


@cache
def _schema_of(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


_KINDS = {"integer": "an integer", "number": "a number", "string": "text", "boolean": "true or false"}
_FORMATS = {"path": "a path"}


def _described(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        items = schema["items"]
        each = "a section" if "$ref" in items else _described(items)
        return f"a list{' that is not empty' if schema.get('minItems') else ''}, each {each}"
    kind = _FORMATS.get(schema.get("format", "")) or _KINDS[schema["type"]]
    if "pattern" in schema:
        return f"{kind} that matches {schema['pattern']}"
    if "maxLength" in schema:
        return f"{kind} of at most {schema['maxLength']} characters"
    names = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
    return kind + _bounds(*(schema.get(name) for name in names))


def _bounds(
    least: float | None, above: float | None = None, most: float | None = None, below: float | None = None
) -> str:
    if least is not None and most is not None:
        return f" from {least:g} to {most:g}"
    given = (("at least", least), ("above", above), ("at most", most), ("below", below))
    bounds = [f"{word} {bound:g}" for word, bound in given if bound is not None]
    return f", {' and '.join(bounds)}" if bounds else ""
