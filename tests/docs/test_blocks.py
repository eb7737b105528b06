"""Code on the pages is right: Python compiles, and imports, settings, commands and files that it names exist."""

import ast
import json
import re
from pathlib import Path

import pytest
import yaml

from looper.platform.domain.errors import InvalidInput
from looper.platform.settings import Settings, load_settings
from looper.platform.settings.sources import OTHER_VARIABLES
from tests.docs.commands import module_file, problems
from tests.docs.pages import ROOT, Piece, code_blocks, code_spans, pages

BLOCKS = [block for page in pages() for block in code_blocks(page)]
SPANS = [span for page in pages() for span in code_spans(page)]
SHELL = ("", "sh", "shell", "bash", "console")


def _in(*languages: str) -> list[Piece]:
    return [block for block in BLOCKS if block.language in languages]


def test_every_block_is_in_a_language_that_is_checked() -> None:
    assert {block.language for block in BLOCKS} <= {*SHELL, "python", "yaml", "json", "text"}


def _names(file: Path) -> set[str]:
    """What a module defines or imports, as far as can be read off it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.alias(name=name, asname=other):
                names.add(other or name)
    return names


def missing_imports(code: str) -> list[str]:
    """What ``code`` imports of Looper and there is not. Nothing is imported for that, torch least of all."""
    missing = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            ours = [alias.name for alias in node.names if alias.name.partition(".")[0] == "looper"]
            missing += [module for module in ours if module_file(module) is None]
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "looper":
            file = module_file(node.module)
            defined = _names(file) if file and file.is_file() else set()
            missing += [
                f"{node.module}.{alias.name}"
                for alias in node.names
                if alias.name not in defined and module_file(f"{node.module}.{alias.name}") is None
            ]
    return missing


@pytest.mark.parametrize("block", _in("python"), ids=str)
def test_python_compiles_and_imports_what_there_is(block: Piece) -> None:
    compile(block.text, str(block), "exec")
    assert missing_imports(block.text) == []


@pytest.mark.parametrize(
    ("code", "missing"),
    [
        ("from looper.platform.client import Client", []),
        ("from looper.platform import settings", []),
        ("from looper.platform.client import Clint", ["looper.platform.client.Clint"]),
        ("from looper.platform.clients import Client", ["looper.platform.clients.Client"]),
        ("import looper.server", ["looper.server"]),
    ],
)
def test_a_wrong_import_is_found(code: str, missing: list[str]) -> None:
    assert missing_imports(code) == missing


def check_settings(text: str) -> None:
    """Raise if ``text`` is not a looper.yaml."""
    load_settings(home=ROOT, **yaml.safe_load(text))


@pytest.mark.parametrize("block", _in("yaml"), ids=str)
def test_yaml_is_a_looper_yaml_unless_its_title_says_otherwise(block: Piece) -> None:
    """Another file's is written as ```yaml title="values.yaml"."""
    if "title=" in block.info and "looper.yaml" not in block.info:
        list(yaml.safe_load_all(block.text))
    else:
        check_settings(block.text)


@pytest.mark.parametrize("wrong", ["serv: {port: 8000}", "serve: {prot: 8000}", "serve: {port: none}"])
def test_wrong_settings_are_found(wrong: str) -> None:
    with pytest.raises(InvalidInput):
        check_settings(wrong)


def test_json_is_json() -> None:
    for block in _in("json"):
        json.loads(block.text)


@pytest.mark.parametrize("block", _in(*SHELL), ids=str)
def test_commands_and_options_exist(block: Piece) -> None:
    assert problems("\n".join(line for line in block.text.splitlines() if _is_command(line))) == []


def _is_command(line: str) -> bool:
    """Blocks without a language also hold output and drawings."""
    return re.match(r"(\$ )?([A-Z_]+=\S+ )*(looper|make|python3?|pytest|docker) ", line.strip()) is not None


COMMAND_SPANS = [span for span in SPANS if _is_command(f"{span.text} ") and "(" not in span.text]


@pytest.mark.parametrize("span", COMMAND_SPANS, ids=str)
def test_commands_within_sentences_exist(span: Piece) -> None:
    assert problems(span.text.removesuffix(" ..."), whole=False) == []


def unknown_setting(path: list[str]) -> str | None:
    """The first part of a setting's path that is none; ``*`` stands for all that is there."""
    model: object = Settings
    for part in path:
        fields = getattr(model, "model_fields", None)
        if fields is None or part == "*":
            return None
        if part not in fields:
            return part
        model = fields[part].annotation
    return None


def _settings_of(span: Piece) -> list[list[str]]:
    """Settings that a span names, as LOOPER_SERVE__PORT or as serve.port."""
    fields = Settings.model_fields.items()
    sections = "|".join(name for name, field in fields if hasattr(field.annotation, "model_fields"))
    names = re.findall(r"\bLOOPER_[A-Z0-9_]+", span.text)
    variables = [name.removeprefix("LOOPER_") for name in names if name not in OTHER_VARIABLES]
    dotted = re.fullmatch(rf"({sections})(\.[a-z_0-9*]+)+", span.text)
    suffix = span.text.rpartition(".")[2]
    named = [span.text.split(".")] if dotted and suffix not in ("py", "json", "yaml", "sqlite") else []
    return [[part.lower() for part in name.split("__") if part] for name in variables] + named


@pytest.mark.parametrize("span", [span for span in SPANS if _settings_of(span)], ids=str)
def test_settings_within_sentences_exist(span: Piece) -> None:
    assert [unknown for path in _settings_of(span) if (unknown := unknown_setting(path))] == []


def test_an_unknown_setting_is_found() -> None:
    spans = ("LOOPER_SERVE__PORT", "serve.port", "consolidation.gate.*", "LOOPER_SERVE__PROT=1", "serve.prot")
    unknown = [unknown_setting(path) for text in spans for path in _settings_of(Piece(ROOT, 1, text))]
    assert unknown == [None, None, None, "prot", "prot"]


FOLDERS = ("benchmarks", "cluster", "docs", "examples", "jobs", "looper", "platform", "requirements", "serve", "tests")
PATH = re.compile(rf"(?:{'|'.join(FOLDERS)})/[\w./-]*(?:\.\w+|/)")


@pytest.mark.parametrize("span", [span for span in SPANS if PATH.fullmatch(span.text)], ids=str)
def test_files_within_sentences_exist(span: Piece) -> None:
    assert (ROOT / span.text).exists()
