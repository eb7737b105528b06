"""What each source says: the file, environment variables, flags. A name that is no setting is refused.

pydantic-settings is not used: it ignores environment variables that it does not know, and does not tell where a value
came from.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]
from pydantic import BaseModel

from looper.platform.domain.errors import InvalidInput
from looper.platform.settings.names import ITEM, PREFIX, known, nearest, sections, unknown
from looper.platform.settings.renamed import RENAMED

CONFIG_VARIABLE = "LOOPER_CONFIG"
"""Names the settings file. ``looper --config`` sets it, so that processes that a command starts know the file too."""
_NOT_SETTINGS = frozenset({CONFIG_VARIABLE, "LOOPER_URL", "LOOPER_KEY"})
"""Variables of Looper that say something else: which file, which Looper to talk to, with which key."""

_KUBERNETES = re.compile(
    r"LOOPER_(?:[A-Z0-9]+_)*(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9]+)*|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_[A-Z]+)?)?)"
)
"""What Kubernetes tells every pod of a Service whose name begins with ``looper``."""


class Source(StrEnum):
    """Who says what a value is; a later one counts more."""

    DEFAULT = "default"
    FILE = "file"
    ENVIRONMENT = "environment"
    FLAG = "flag"


class Given(NamedTuple):
    """One value that a source gives."""

    path: str
    value: Any
    source: Source
    where: str
    """The file and the key in it, the environment variable, or the flag."""


def find_file(environ: Mapping[str, str]) -> Path | None:
    """The settings file: what ``LOOPER_CONFIG`` names, else ./looper.yaml, else ~/.looper/looper.yaml, else none.

    Raises:
        InvalidInput: ``LOOPER_CONFIG`` names a file that does not exist.
    """
    named = environ.get(CONFIG_VARIABLE)
    if named:
        file = Path(named).expanduser()
        if not file.exists() or file.is_dir():
            raise InvalidInput(
                f"settings file {named} does not exist: give another by --config or {CONFIG_VARIABLE}, or unset it"
            )
        return file.absolute()
    here = (Path("looper.yaml"), Path("~/.looper/looper.yaml").expanduser())
    return next((file.absolute() for file in here if file.is_file()), None)


def from_file(file: Path) -> Iterator[Given]:
    """What ``file`` says. Raises InvalidInput if it is no YAML or names what is no setting."""
    try:
        tree = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"settings file {file} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise InvalidInput(
            f"settings file {file}{line} is not YAML: {getattr(error, 'problem', None) or error}"
        ) from error
    if tree is None:
        return
    if not isinstance(tree, Mapping):
        raise InvalidInput(f"settings file {file} holds no sections: write lines such as 'serve: {{port: 8000}}'")
    _refuse_unknown(tree, f" in {file}")
    for path, value in _leaves(tree, f" in {file}"):
        yield Given(path, value, Source.FILE, f"{file}: {path}")


def from_environment(environ: Mapping[str, str]) -> Iterator[Given]:
    """What variables say, that of a whole section before those of its parts.

    Raises:
        InvalidInput: A variable begins with ``LOOPER_`` and is none of Looper's, or a list is not JSON.
    """
    paths = {_variable(path): path for path in (*known(), *sections())}
    given = {name: text for name, text in environ.items() if name.upper().startswith(PREFIX)}
    for name, text in sorted(given.items(), key=lambda item: item[0].count("__")):
        variable = name.upper()
        if variable in _NOT_SETTINGS or _is_of_kubernetes(variable, environ):
            continue
        path = paths.get(variable)
        if path is None:
            raise InvalidInput(f"{name} is not a setting: {_instead(variable)}")
        setting = known().get(path)
        if setting is not None and not setting.structured:
            yield Given(path, text, Source.ENVIRONMENT, name)
            continue
        try:
            value = json.loads(text)
        except ValueError as error:  # the text is not shown: a section may hold a key
            kind = "a list as JSON, such as '[\"first\"]'" if setting else "a section as JSON, such as '{\"name\": 1}'"
            raise InvalidInput(f"{name} is not JSON: write {kind}") from error
        tree = _below(path, value)
        _refuse_unknown(tree, f" in {name}")
        for leaf, each in _leaves(tree, f" in {name}"):
            yield Given(leaf, each, Source.ENVIRONMENT, name)


def from_flags(flags: Mapping[str, Any]) -> Iterator[Given]:
    """What a caller gives by name: a tree, in which models may stand for sections."""
    _refuse_unknown(flags, " of a flag")
    for path, value in _leaves(flags, " of a flag"):
        yield Given(path, value, Source.FLAG, path)


def read_all(flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> tuple[Path | None, list[Given]]:
    """The file that was read, if any, and all that is given; of a setting that is given twice the later counts."""
    file = find_file(environ)
    return file, [*(from_file(file) if file else ()), *from_environment(environ), *from_flags(flags)]


def _refuse_unknown(tree: Mapping[str, Any], where: str) -> None:
    for path in unknown({str(name): value for name, value in tree.items()}):
        if path in RENAMED:
            raise InvalidInput(f"{path}{where} is not a setting: it is called {RENAMED[path]} now")
        raise InvalidInput(f"{path}{where} is not a setting: {_proposed(nearest(path.replace(ITEM, '')))}")


def _instead(variable: str) -> str:
    for old, new in RENAMED.items():
        if variable == _variable(old):
            return f"it is called {_variable(new)} now"
    meant = nearest(variable.removeprefix(PREFIX).lower().replace("__", "."))
    return _proposed(_variable(meant) if meant else None)


def _proposed(name: str | None) -> str:
    return f"did you mean {name}?" if name else "looper config show lists all there are"


def _leaves(tree: Mapping[str, Any], where: str, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if path + name not in sections():
            yield path + name, value
        elif isinstance(value, BaseModel):
            yield from _leaves(value.model_dump(), where, f"{path}{name}.")
        elif isinstance(value, Mapping):
            yield from _leaves(value, where, f"{path}{name}.")
        elif value is not None:  # a heading whose lines are all commented out is no mistake
            raise InvalidInput(f"{path}{name}{where} is a section, not a value: put its settings below it")


def _below(path: str, value: Any) -> dict[str, Any]:
    for name in reversed(path.split(".")):
        value = {name: value}
    return dict(value)


def _variable(path: str) -> str:
    return PREFIX + path.upper().replace(".", "__")


def _is_of_kubernetes(variable: str, environ: Mapping[str, str]) -> bool:
    return "KUBERNETES_SERVICE_HOST" in environ and _KUBERNETES.fullmatch(variable) is not None
