"""Rules that no linter checks: unique class names, documented signatures, modules of a readable size."""

import ast
import collections
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("platform", "basemodel", "jobs", "serve", "cluster", "benchmarks")
FOLDERS = (*ROOMS, "looper/cli", "looper/demo", "looper/gym")

MAX_LINES = 350
"""Lines of one module. A longer one says why in its docstring, with the words "longer than"."""

MIN_DOCUMENTED = 0.85
"""Share of public functions and classes whose docstring says what they take and return."""

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


def modules() -> list[Path]:
    """All Python modules of the rooms, of the command line, of the demo and of the gym."""
    return sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def public_definitions(node: ast.AST) -> Iterator[FunctionNode | ast.ClassDef]:
    """Yield public functions, classes and methods below ``node``, except those marked ``@override``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FunctionNode | ast.ClassDef) and not child.name.startswith("_"):
            if not any(ast.unparse(decorator) == "override" for decorator in child.decorator_list):
                yield child
            if isinstance(child, ast.ClassDef):
                yield from public_definitions(child)


def documents_fields(node: ast.ClassDef) -> bool:
    """Whether every annotated field of a class is described below itself, by ``Field(description=...)`` or by name."""
    text = ast.get_docstring(node) or ""
    for i, child in enumerate(node.body):
        if not isinstance(child, ast.AnnAssign) or not isinstance(child.target, ast.Name):
            continue
        name = child.target.id
        after = node.body[i + 1] if i + 1 < len(node.body) else None
        described = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        in_field = child.value is not None and "description=" in ast.unparse(child.value)
        if not (name.startswith("_") or described or in_field or re.search(rf"\b{name}\b", text)):
            return False
    return True


def is_documented(node: FunctionNode | ast.ClassDef) -> bool:
    """Whether the docstring of ``node`` says its arguments and what it returns, where it has any."""
    text = ast.get_docstring(node) or ""
    if not text:
        return False
    if isinstance(node, ast.ClassDef):
        init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        documented = text + (ast.get_docstring(init) or "") if init else text
        return documents_fields(node) and (init is None or names_arguments(init, documented))
    if "Example: `looper " in text:
        return has_help(node)
    returns = node.returns is not None and ast.unparse(node.returns) not in ("None", "NoReturn")
    is_property = any("property" in ast.unparse(decorator) for decorator in node.decorator_list)
    says_returns = is_property or bool(re.search(r"^(Returns|Yields):|\A(Returns?|Yields?|Whether)\b", text, re.M))
    return names_arguments(node, text) and (not returns or says_returns)


def has_help(node: FunctionNode) -> bool:
    """Whether all parameters of a command have a help text, in their annotation or in that of an alias such as Json."""
    annotations = [each.annotation for each in (*node.args.args, *node.args.kwonlyargs)]
    aliases = [isinstance(each, ast.Name) and each.id.istitle() for each in annotations]
    return all(
        alias or (each is not None and "help=" in ast.unparse(each))
        for each, alias in zip(annotations, aliases, strict=True)
    )


def names_arguments(node: FunctionNode, text: str) -> bool:
    """Whether ``text`` names each argument, in an ``Args:`` section or in double backticks."""
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    names = [each.arg for each in arguments if each.arg not in ("self", "cls") and not each.arg.startswith("_")]
    return all(re.search(rf"``{name}``|^\s*\*{{0,2}}{name}\b.*:", text, re.M) for name in names)


def test_no_class_name_is_defined_twice() -> None:
    """One word means one thing. A class that shares a name on purpose says so: "same name as" in its docstring."""
    defined = collections.defaultdict(list)
    for file in modules():
        for node in ast.walk(parse(file)):
            if isinstance(node, ast.ClassDef) and "same name as" not in (ast.get_docstring(node) or ""):
                defined[node.name.lstrip("_")].append(f"{file.relative_to(ROOT)}:{node.lineno}")
    twice = {name: places for name, places in defined.items() if len(places) > 1}
    assert twice == {}


def test_no_module_is_too_long() -> None:
    long = {
        str(file.relative_to(ROOT)): lines
        for file in modules()
        if (lines := len(file.read_text().splitlines())) > MAX_LINES
        and "longer than" not in (ast.get_docstring(parse(file)) or "")
    }
    assert long == {}


@pytest.mark.parametrize("folder", FOLDERS)
def test_public_signatures_are_documented(folder: str) -> None:
    missing, total = [], 0
    for file in sorted((ROOT / folder).rglob("*.py")):
        for node in public_definitions(parse(file)):
            total += 1
            if not is_documented(node):
                missing.append(f"{file.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert total == 0 or 1 - len(missing) / total >= MIN_DOCUMENTED, "\n".join(missing)


def test_every_module_says_what_it_is_for() -> None:
    silent = [str(f.relative_to(ROOT)) for f in modules() if f.read_text().strip() and not ast.get_docstring(parse(f))]
    assert silent == []
