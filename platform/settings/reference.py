"""Writes docs/reference/settings.md from the models: ``python -m looper.platform.settings.reference > FILE``.

A test compares the page with what this module writes.
"""

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from looper.platform.settings.models import Settings
from looper.platform.settings.names import Setting, sections_by_path, settings_by_path

_HEAD = """\
# Settings

`python -m looper.platform.settings.reference` writes this page from `platform/settings/models.py`, and a test compares
them.

## Where do values come from?

A setting has its default unless another source gives a value. A later source in this list overrides an earlier one:

1. the default, as in the tables below;
2. the settings file;
3. an environment variable: `LOOPER_`, then the path in capitals with `__` for each dot. For example, `serve.port` is
   `LOOPER_SERVE__PORT`. Write a list as JSON: `LOOPER_SERVE__PINNED='["acme/helpdesk"]'`;
4. a flag of a command, such as `looper up --port 8001`.

## Which settings file is read?

One YAML file is read: the first one in this list that exists. Files are not merged.

1. The file of `looper --config FILE COMMAND`. It must exist.
2. The file that the environment variable `LOOPER_CONFIG` names. It must exist; `/dev/null` is an empty file.
3. `looper.yaml` in the working directory.
4. `~/.looper/looper.yaml`.

`looper up` passes its settings to the processes that it starts. These read no file and no variables of their own. After
you change a setting, run `looper down` and `looper up`.

## What happens with a wrong name?

Looper refuses a name that is not a setting, in the file and in every variable that begins with `LOOPER_`, and suggests
the most similar setting. Three variables are not settings: `LOOPER_CONFIG`, and `LOOPER_URL` and `LOOPER_KEY`, which
make commands work on a [remote Looper](../guides/from-a-laptop.md). Inside Kubernetes, Looper ignores the variables
that Kubernetes sets for Services whose names begin with `looper`.

## How do I see my settings?

`looper config show` prints every value and its source, with secrets hidden. `looper config schema` prints the JSON
schema of the settings file, for editors. Sizes that end in `_gib` are in GiB; times that end in `_s` are in seconds.
"""


def write_reference() -> str:
    """Return the page as Markdown."""
    return "\n".join((_HEAD, *_tables()))


def _tables() -> Iterator[str]:
    models = {"": Settings, **sections_by_path()}
    for section, model in models.items():
        settings = [setting for path, setting in settings_by_path().items() if path.rpartition(".")[0] == section]
        if not settings:
            continue
        yield f"## `{section}`" if section else "## Top level"
        yield ""
        if section and model.__doc__:
            yield " ".join(model.__doc__.split()) + "\n"
        yield "| setting | default | value | what it does |"
        yield "| --- | --- | --- | --- |"
        yield from map(_row, settings)
        yield ""


def _row(setting: Setting) -> str:
    expected = setting.expected.replace("[", "&#91;")  # a pattern's bracket would be read as a link
    cells = (f"`{setting.name}`", _default(setting.field.default), expected, setting.field.description or "")
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
    print(write_reference(), end="")
