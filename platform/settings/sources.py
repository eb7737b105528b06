"""Reads the sources of settings: the file, environment variables and flags. Refuses names that are not settings.

Called by ``loading``. pydantic-settings is not used, because it ignores environment variables that it does not know
and does not say where a value came from.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel

from looper.platform.domain.errors import InvalidInput
from looper.platform.settings.names import (
    ITEM,
    PREFIX,
    find_unknown_paths,
    sections_by_path,
    settings_by_path,
    suggest_name,
    variable_of,
)
from looper.platform.settings.renamed import RENAMED

CONFIG_VARIABLE = "LOOPER_CONFIG"
"""Names the settings file. ``looper --config`` sets it, so that processes which a command starts use the same file."""

OTHER_VARIABLES = frozenset({CONFIG_VARIABLE, "LOOPER_URL", "LOOPER_KEY"})
"""Variables of Looper that are not settings: the settings file, the cluster to talk to, and the API key for it."""

_KUBERNETES_VARIABLE = re.compile(
    r"LOOPER_(?:[A-Z0-9]+_)*(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9]+)*|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_[A-Z]+)?)?)"
)
"""Kubernetes sets these in every pod for a Service whose name begins with ``looper``."""


class Source(StrEnum):
    """Kinds of sources. A later one overrides an earlier one."""

    DEFAULT = "default"
    FILE = "file"
    ENVIRONMENT = "environment"
    FLAG = "flag"


class SettingValue(NamedTuple):
    """One value from one source."""

    path: str
    """Path of the setting."""
    value: Any
    """The value, not yet validated."""
    source: Source
    """Kind of the source."""
    where: str
    """The file and its key, the environment variable, or the flag."""


def find_settings_file(environ: Mapping[str, str]) -> Path | None:
    """Return the settings file: ``LOOPER_CONFIG``, or else ./looper.yaml, or else ~/.looper/looper.yaml, or else None.

    Args:
        environ: Environment variables.

    Raises:
        InvalidInput: ``LOOPER_CONFIG`` names a file that does not exist.
    """
    named = environ.get(CONFIG_VARIABLE)
    if named:
        file = Path(named).expanduser()
        if not file.exists() or file.is_dir():
            raise InvalidInput(
                f"settings file {named} does not exist: name another by --config or {CONFIG_VARIABLE}, or unset it"
            )
        return file.absolute()
    defaults = (Path("looper.yaml"), Path("~/.looper/looper.yaml").expanduser())
    return next((file.absolute() for file in defaults if file.is_file()), None)


def read_file(file: Path) -> Iterator[SettingValue]:
    """Read a settings file.

    Args:
        file: The YAML file.

    Yields:
        Its values.

    Raises:
        InvalidInput: The file cannot be read, is not YAML, or has a name that is not a setting.
    """
    try:
        tree = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"settings file {file} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise InvalidInput(f"settings file {file}{line} is not YAML: {problem}") from error
    if tree is None:
        return
    if not isinstance(tree, Mapping):
        raise InvalidInput(f"settings file {file} has no sections: write lines such as 'serve: {{port: 8000}}'")
    _refuse_unknown(tree, f" in {file}")
    for path, value in _leaves(tree, f" in {file}"):
        yield SettingValue(path, value, Source.FILE, f"{file}: {path}")


def read_environment(environ: Mapping[str, str]) -> Iterator[SettingValue]:
    """Read environment variables that begin with ``LOOPER_``.

    Args:
        environ: Environment variables.

    Yields:
        Their values; the variable of a whole section comes before variables of its parts, so that the parts win.

    Raises:
        InvalidInput: A variable is not one of Looper's, or a list or section is not JSON.
    """
    paths = {variable_of(path): path for path in (*settings_by_path(), *sections_by_path())}
    given = {name: text for name, text in environ.items() if name.upper().startswith(PREFIX)}
    for name, text in sorted(given.items(), key=lambda item: item[0].count("__")):
        variable = name.upper()
        if variable in OTHER_VARIABLES or _is_from_kubernetes(variable, environ):
            continue
        path = paths.get(variable)
        if path is None:
            raise InvalidInput(f"{name} is not a setting: {_variable_advice(variable)}")
        setting = settings_by_path().get(path)
        if setting is not None and not setting.is_json:
            yield SettingValue(path, text, Source.ENVIRONMENT, name)
            continue
        try:
            value = json.loads(text)
        except ValueError as error:  # the message does not show the text: a section may contain a key
            is_list = setting is not None and setting.expected.startswith("a list")
            kind = "a list as JSON, such as '[\"first\"]'" if is_list else "values as JSON, such as '{\"name\": 1}'"
            raise InvalidInput(f"{name} is not JSON: write {kind}") from error
        tree = _nest(path, value)
        _refuse_unknown(tree, f" in {name}")
        for leaf, leaf_value in _leaves(tree, f" in {name}"):
            yield SettingValue(leaf, leaf_value, Source.ENVIRONMENT, name)


def read_flags(flags: Mapping[str, Any]) -> Iterator[SettingValue]:
    """Read values that a caller passes by name.

    Args:
        flags: A tree like the file's, in which a section may also be a model.

    Yields:
        Its values.

    Raises:
        InvalidInput: A name is not a setting.
    """
    _refuse_unknown(flags, " of a flag")
    for path, value in _leaves(flags, " of a flag"):
        yield SettingValue(path, value, Source.FLAG, path)


def read_sources(
    flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ
) -> tuple[Path | None, list[SettingValue]]:
    """Read all sources.

    Args:
        flags: Values that a caller passes by name.
        environ: Environment variables.

    Returns:
        The settings file, if there is one, and all values. Of two values for one setting the later one wins.

    Raises:
        InvalidInput: A source has a mistake.
    """
    file = find_settings_file(environ)
    return file, [*(read_file(file) if file else ()), *read_environment(environ), *read_flags(flags)]


def _refuse_unknown(tree: Mapping[str, Any], location: str) -> None:
    for path in find_unknown_paths({str(name): value for name, value in tree.items()}):
        if path in RENAMED:
            raise InvalidInput(f"{path}{location} is not a setting: it was renamed to {RENAMED[path]}")
        raise InvalidInput(f"{path}{location} is not a setting: {_suggestion(suggest_name(path.replace(ITEM, '')))}")


def _variable_advice(variable: str) -> str:
    for old, new in RENAMED.items():
        if variable == variable_of(old):
            return f"it was renamed to {variable_of(new)}"
    path = suggest_name(variable.removeprefix(PREFIX).lower().replace("__", "."))
    return _suggestion(variable_of(path) if path else None)


def _suggestion(name: str | None) -> str:
    return f"did you mean {name}?" if name else "looper config show lists all settings"


def _leaves(tree: Mapping[str, Any], location: str, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if path + name not in sections_by_path():
            yield path + name, value
        elif isinstance(value, BaseModel):
            yield from _leaves(value.model_dump(), location, f"{path}{name}.")
        elif isinstance(value, Mapping):
            yield from _leaves(value, location, f"{path}{name}.")
        elif value is not None:  # a section whose lines are all commented out is not a mistake
            raise InvalidInput(f"{path}{name}{location} is a section, not a value: put its settings below it")


def _nest(path: str, value: Any) -> dict[str, Any]:
    for name in reversed(path.split(".")):
        value = {name: value}
    return dict(value)


def _is_from_kubernetes(variable: str, environ: Mapping[str, str]) -> bool:
    return "KUBERNETES_SERVICE_HOST" in environ and _KUBERNETES_VARIABLE.fullmatch(variable) is not None
