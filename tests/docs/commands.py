"""Whether a line that a page tells people to type is one that would be understood. Nothing is run."""

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import typer

from looper.cli import app
from looper.platform.domain.errors import InvalidInput
from looper.platform.settings import load_settings
from tests.docs.pages import ROOT

_BETWEEN_COMMANDS = {"|", "||", "&&", ";", "&", ">"}


def problems(script: str, *, whole: bool = True) -> list[str]:
    """Say what is wrong with each line of ``script``.

    Unless it is ``whole``, arguments may be missing: a sentence may speak of ``looper jobs show``.
    """
    found = []
    for line in script.replace("\\\n", " ").splitlines():
        try:
            words = shlex.split(line.strip().removeprefix("$ "), comments=True)
        except ValueError as error:
            found.append(f"{line.strip()}: {error}")
            continue
        for command in _split(words):
            found += [f"{line.strip()}: {problem}" for problem in _problems(command, whole)]
    return found


def _split(words: list[str]) -> Iterator[list[str]]:
    command: list[str] = []
    for word in words:
        if word in _BETWEEN_COMMANDS:
            yield command
            command = []
        else:
            command.append(word)
    yield command


def _problems(words: list[str], whole: bool) -> Iterator[str]:
    variables: dict[str, str] = {}
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0], re.DOTALL):
        name, _, variables[name] = words.pop(0).partition("=")
    yield from _variables({name: value for name, value in variables.items() if name.startswith("LOOPER_")})
    match words:
        case ["looper", *arguments]:
            yield from _looper(arguments, whole)
        case ["make", *arguments]:
            yield from (f"the Makefile has no target {word}" for word in arguments if not _is_target(word))
        case ["python" | "python3", "-m", module, *_] if module.startswith("looper"):
            if not module_file(module):
                yield f"there is no module {module}"
        case ["pytest", *arguments]:
            files = (word.partition("::")[0] for word in arguments if word.startswith("tests/"))
            yield from (f"there is no {file}" for file in files if not (ROOT / file).exists())


# Typer's own. It acts on them while it parses, and would change the shell files of the user who runs the tests.
COMPLETION_OPTIONS = {"--install-completion", "--show-completion"}


def _variables(variables: dict[str, str]) -> Iterator[str]:
    with patch.dict(os.environ, variables):
        try:
            load_settings(home=Path("/nowhere"))
        except InvalidInput as error:
            yield str(error)


def _is_target(word: str) -> bool:
    return "=" in word or re.search(rf"^{re.escape(word)}:", (ROOT / "Makefile").read_text(), re.MULTILINE) is not None


def module_file(module: str) -> Path | None:
    """Where a module of ours is, without importing it or the packages around it."""
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None) or (
        path if path.is_dir() else None
    )


def _looper(arguments: list[str], whole: bool) -> Iterator[str]:
    command: Any = typer.main.get_command(app)
    path = "looper"
    while hasattr(command, "commands"):
        if not arguments:
            if whole:
                yield f"{path} wants a command"
            return
        if arguments[0].startswith("-"):
            break
        name = arguments.pop(0)
        if name not in command.commands:
            yield f"{path} has no command {name}"
            return
        command, path = command.commands[name], f"{path} {name}"
    if COMPLETION_OPTIONS.issuperset(arguments):
        return
    try:
        command.make_context(path, arguments)  # parses, and calls nothing
    except typer.Exit:
        pass
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        problem = error.format_message()
        unfinished = problem.startswith("Missing argument") or problem.endswith("requires an argument.")
        if not ("does not exist" in problem or (unfinished and not whole)):  # a file of the reader's
            yield problem
