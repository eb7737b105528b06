"""The settings that are in force, and where each came from: flags over environment variables over the file."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, SecretStr, ValidationError

from looper.platform.domain.errors import InvalidInput
from looper.platform.settings.models import Settings
from looper.platform.settings.names import ITEM, known, with_items
from looper.platform.settings.sources import Given, Source, read_all

_PASSWORD = re.compile(r"(?<=://)([^:/@\s]*):[^@/\s]*@")
_HIDDEN = "***"


class Shown(NamedTuple):
    """One setting as it may be shown to anyone: ``value`` has no secrets."""

    name: str
    value: Any
    source: Source
    where: str | None
    """The file and the key, the environment variable, or the flag; None for a default."""


class Loaded(NamedTuple):
    """Settings, with the file that was read and, by setting, who gave what is not a default."""

    settings: Settings
    file: Path | None
    given: Mapping[str, Given]

    def shown(self) -> list[Shown]:
        """Every setting, in the order of the tree."""
        rows = []
        for path, setting in known().items():
            value: Any = self.settings
            for name in path.split("."):
                value = getattr(value, name)
            given = self.given.get(path)
            source, where = (given.source, given.where) if given else (Source.DEFAULT, None)
            rows.append(Shown(path, _shown(value, secret=setting.secret), source, where))
        return rows


def load(**flags: Any) -> Loaded:
    """The settings that are in force, ``flags`` on top, and where each came from.

    Args:
        **flags: A tree, as in the file: ``load(serve={"port": 0})``.

    Raises:
        InvalidInput: A name is no setting, or a value is not one that the setting may have; the message names the
            setting, the value, who gave it and what is expected.
    """
    file, said = read_all(flags)
    given = {each.path: each for each in said}
    tree: dict[str, Any] = {}
    for each in given.values():
        *above, last = each.path.split(".")
        place = tree
        for name in above:
            place = place.setdefault(name, {})
        place[last] = each.value
    try:
        return Loaded(Settings.model_validate(tree), file, given)
    except ValidationError as error:
        raise InvalidInput(_explained(error, given)) from error


def load_settings(**flags: Any) -> Settings:
    """The settings that are in force, ``flags`` on top. Raises InvalidInput as ``load`` does."""
    return load(**flags).settings


def _explained(error: ValidationError, given: Mapping[str, Given]) -> str:
    """The first mistake in one line. A mistake of a section as a whole has no value that could be shown."""
    first = error.errors(include_url=False)[0]
    parts = [str(part) for part in first["loc"]]
    where = ".".join(parts)
    path = ".".join(parts[: next((i for i, part in enumerate(parts) if part.isdigit()), len(parts))])
    setting = with_items().get(re.sub(r"\.\d+", ITEM, where)) or with_items().get(path)
    value = first["input"]
    if setting is not None and not isinstance(value, Mapping | BaseModel):
        where += f" = {_shown(value, secret=setting.secret)!r}"
    by = f" ({given[path].where})" if path in given else ""
    if setting is None or first["type"] == "value_error":
        return f"setting {where}{by}: {first['msg'].removeprefix('Value error, ')}"
    return f"setting {where}{by}: expected {setting.expected}"


def _shown(value: Any, *, secret: bool) -> Any:
    if value is None:
        return None
    if secret or isinstance(value, SecretStr):
        return _HIDDEN
    if isinstance(value, Path):
        return str(value)
    return _PASSWORD.sub(rf"\1:{_HIDDEN}@", value) if isinstance(value, str) else value
