"""Merges all sources of settings, validates the result, and says where each value came from.

Every process that a user starts calls ``load_settings``; ``looper config show`` calls ``load_with_sources``.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, SecretStr, ValidationError

from looper.platform.domain.errors import InvalidInput
from looper.platform.settings.models import Settings
from looper.platform.settings.names import ITEM, settings_and_items_by_path, settings_by_path
from looper.platform.settings.sources import SettingValue, Source, read_sources

_URL_PASSWORD = re.compile(r"(?<=://)([^:/@\s]*):[^@/\s]*@")
_HIDDEN = "***"


class DisplayedSetting(NamedTuple):
    """One setting as anyone may see it."""

    name: str
    """Path of the setting, such as ``serve.port``."""
    value: Any
    """Its value, with secrets hidden."""
    source: Source
    """What kind of source gave the value."""
    where: str | None
    """The file and its key, the environment variable, or the flag; None for a default."""


class LoadedSettings(NamedTuple):
    """Validated settings with their sources."""

    settings: Settings
    """The settings."""
    file: Path | None
    """Settings file that was read, if there is one."""
    given: Mapping[str, SettingValue]
    """Values that are not defaults, by the path of the setting."""

    def rows(self) -> list[DisplayedSetting]:
        """Return every setting with its value and source, in the order of the tree."""
        rows = []
        for path, setting in settings_by_path().items():
            value: Any = self.settings
            for name in path.split("."):
                value = getattr(value, name)
            given = self.given.get(path)
            source, where = (given.source, given.where) if given else (Source.DEFAULT, None)
            rows.append(DisplayedSetting(path, _hide_secrets(value, is_secret=setting.is_secret), source, where))
        return rows


def load_with_sources(**flags: Any) -> LoadedSettings:
    """Load the settings, and record where each value came from.

    Args:
        **flags: Values that override all other sources, as a tree like the file's:
            ``load_with_sources(serve={"port": 0})``.

    Returns:
        Settings and sources.

    Raises:
        InvalidInput: A name is not a setting, or a value is not allowed. The message has the setting, the value, its
            source, and what is expected.
    """
    file, values = read_sources(flags)
    given = {value.path: value for value in values}
    tree: dict[str, Any] = {}
    for value in given.values():
        *sections, name = value.path.split(".")
        branch = tree
        for section in sections:
            branch = branch.setdefault(section, {})
        branch[name] = value.value
    try:
        return LoadedSettings(Settings.model_validate(tree), file, given)
    except ValidationError as error:
        raise InvalidInput(_explain(error, given)) from error


def load_settings(**flags: Any) -> Settings:
    """Load the settings.

    Args:
        **flags: Values that override all other sources, as a tree like the file's.

    Returns:
        The settings.

    Raises:
        InvalidInput: As for ``load_with_sources``.
    """
    return load_with_sources(**flags).settings


def load_for_base(base: str | None) -> Settings:
    """Load the settings for a command that concerns one base model.

    Args:
        base: The base model, one of the settings or any other. None: the first one of the settings.

    Returns:
        The settings, with this base model first.

    Raises:
        InvalidInput: As for ``load_with_sources``.
    """
    settings = load_settings()
    if base is None or base in settings.base_names:
        return settings.for_base(base or settings.base)
    return load_settings(base=base, bases=())


def _explain(error: ValidationError, given: Mapping[str, SettingValue]) -> str:
    """Return the first mistake in one line. A mistake of a whole section has no single value to show."""
    first = error.errors(include_url=False)[0]
    parts = [str(part) for part in first["loc"]]
    location = ".".join(parts)
    path = ".".join(parts[: next((i for i, part in enumerate(parts) if part.isdigit()), len(parts))])
    settings = settings_and_items_by_path()
    setting = settings.get(re.sub(r"\.\d+", ITEM, location)) or settings.get(path)
    value = first["input"]
    if setting is not None and not isinstance(value, Mapping | BaseModel):
        location += f" = {_hide_secrets(value, is_secret=setting.is_secret)!r}"
    source = f" ({given[path].where})" if path in given else ""
    if setting is None or first["type"] == "value_error":
        return f"setting {location}{source}: {first['msg'].removeprefix('Value error, ')}"
    return f"setting {location}{source}: expected {setting.expected}"


def _hide_secrets(value: Any, *, is_secret: bool) -> Any:
    if value is None:
        return None
    if is_secret or isinstance(value, SecretStr):
        return _HIDDEN
    if isinstance(value, Path):
        return str(value)
    return _URL_PASSWORD.sub(rf"\1:{_HIDDEN}@", value) if isinstance(value, str) else value
