"""docs/reference/settings.md, from the models: ``python -m looper.platform.settings.reference > FILE``."""

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from looper.platform.settings.models import Settings
from looper.platform.settings.names import Setting, known, sections

_HEAD = """\
# Settings

Written by `python -m looper.platform.settings.reference` from `platform/settings/models.py`; a test compares them.

A setting has its default unless something says otherwise. What says more counts more, in this order:

1. a default, as below;
2. the settings file;
3. an environment variable: `LOOPER_`, then the path in capitals with `__` for each dot. `serve.port` is
   `LOOPER_SERVE__PORT`. A list is written as JSON: `LOOPER_SERVE__PINNED='["acme/helpdesk"]'`;
4. a flag of a command, such as `looper up --port 8001`.

The settings file is one YAML file, the first of these that there is:

1. `looper --config FILE COMMAND`; a file that does not exist is refused;
2. the file that the environment variable `LOOPER_CONFIG` names; again, it must exist (`/dev/null` is an empty one);
3. `looper.yaml` in the working directory;
4. `~/.looper/looper.yaml`.

Files are not laid over each other: the first one counts alone. `looper up` hands all settings as they are then to the
processes that it starts, which read no file and no variable of their own. After a change: `looper down`, `looper up`.

A name that is no setting is refused, in the file and in any variable that begins with `LOOPER_`, with the nearest name
that is one. Besides settings, Looper knows `LOOPER_CONFIG`, `LOOPER_URL` and `LOOPER_KEY`; inside Kubernetes it passes
over the variables that Kubernetes makes for Services whose names begin with `looper`.

`looper config show` prints every value that is in force and where it came from, with secrets hidden, and
`looper config schema` this page as a JSON schema, for editors. Sizes that end in `_gib` are in GiB, times that end in
`_s` in seconds.
"""


def reference() -> str:
    """The page as Markdown."""
    return "\n".join((_HEAD, *_tables()))


def _tables() -> Iterator[str]:
    models = {"": Settings, **sections()}
    for section, model in models.items():
        mine = [setting for path, setting in known().items() if path.rpartition(".")[0] == section]
        if not mine:
            continue
        yield f"## `{section}`" if section else "## Top level"
        yield ""
        if section and model.__doc__:
            yield " ".join(model.__doc__.split()) + "\n"
        yield "| setting | default | value | what it does |"
        yield "| --- | --- | --- | --- |"
        yield from map(_row, mine)
        yield ""


def _row(setting: Setting) -> str:
    cells = (f"`{setting.name}`", _default(setting.field.default), setting.expected, setting.field.description or "")
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _default(value: Any) -> str:
    if value is None:
        return "none"
    if value == ():
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return f"`{value}`" if isinstance(value, str | Path | Enum) else str(to_jsonable_python(value))


if __name__ == "__main__":
    print(reference(), end="")
