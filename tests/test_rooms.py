"""The layout: rooms import as ``looper.<room>``, know each other only as agreed, and never hide Python's platform."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("platform", "basemodel", "jobs", "serve", "cluster", "benchmarks")


def run(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_platform_has_no_init_file() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()


@pytest.mark.parametrize("room", [*ROOMS, "examples"])
def test_rooms_are_links_of_the_front_door(room: str) -> None:
    assert (ROOT / "looper" / room).readlink() == Path("..") / room


def test_a_process_in_the_root_sees_pythons_platform() -> None:
    assert run(sys.executable, "-c", "import platform; print(platform.system())").strip() == "Linux"


def test_pytest_as_a_module_sees_pythons_platform() -> None:
    import platform

    assert platform.system()
    assert "no tests" in subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-k", "no_such_test", "tests/test_rooms.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.replace("deselected", "no tests")


HEAVY = {"torch", "ray", "vllm", "transformers", "peft", "deepspeed"}
PRODUCT = {"looper.cli", "looper.demo", "looper.gym"}
FORBIDDEN = {
    "platform": {"looper.basemodel", "looper.jobs", "looper.serve", "looper.cluster", "looper.benchmarks"}
    | PRODUCT
    | HEAVY,
    "basemodel": {"looper.jobs", "looper.serve", "looper.cluster", "looper.benchmarks"} | PRODUCT,
    "jobs": {"looper.serve", "looper.cluster", "looper.benchmarks"} | PRODUCT,
    "serve": {"looper.jobs", "looper.cluster", "looper.benchmarks"} | PRODUCT,
    "looper/demo": {"looper.benchmarks", "looper.cli"},
    "looper/gym": {"looper.benchmarks", "looper.cli"},
}


def imported(file: Path) -> Iterator[str]:
    """Every module that ``file`` imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


# import-linter cannot be used: it does not look into looper.platform, which has no __init__.py on purpose.
@pytest.mark.parametrize("room", FORBIDDEN)
def test_the_import_rule_holds(room: str) -> None:
    wrong = [
        f"{file.relative_to(ROOT)}: {module}"
        for file in (ROOT / room).rglob("*.py")
        for module in imported(file)
        if any(module == name or module.startswith(f"{name}.") for name in FORBIDDEN[room])
    ]
    assert wrong == []


def test_no_two_modules_import_each_other() -> None:
    """No import cycle, neither directly nor through other modules, and not inside of functions either.

    That a submodule's import also runs its package's ``__init__.py`` does not count.
    """
    files = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for folder in (*ROOMS, "looper/cli", "looper/demo", "looper/gym")
        for file in (ROOT / folder).rglob("*.py")
    }
    modules = {name if name.startswith("looper.") else f"looper.{name}": file for name, file in files.items()}
    imports = {
        name: {target if target in modules else target.rpartition(".")[0] for target in imported(file)} & set(modules)
        for name, file in modules.items()
    }
    try:
        TopologicalSorter({name: targets - {name} for name, targets in imports.items()}).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' imports '.join(error.args[1][::-1])}")


def test_no_room_is_imported_under_its_bare_name() -> None:
    wrong = [
        f"{file.relative_to(ROOT)}: {module}"
        for folder in (*ROOMS, "looper/cli", "tests")
        for file in (ROOT / folder).rglob("*.py")
        for module in imported(file)
        if module.partition(".")[0] in {"jobs", "serve", "cluster", "benchmarks"}
    ]
    assert wrong == []


def test_help_answers_at_once_without_heavy_imports() -> None:
    program = (
        "import sys, looper.cli\n"
        "heavy = {'torch', 'ray', 'vllm', 'transformers', 'sqlalchemy', 'pyarrow', 'openai', 'pydantic_settings'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert run(sys.executable, "-c", program).strip() == "[]"


def command_paths() -> list[list[str]]:
    import typer

    from looper.cli import app

    def below(command: object, path: list[str]) -> list[list[str]]:
        subcommands = getattr(command, "commands", {})
        return [leaf for name, sub in subcommands.items() for leaf in below(sub, [*path, name])] or [path]

    return below(typer.main.get_command(app), [])


@pytest.mark.parametrize("path", command_paths(), ids=" ".join)
def test_every_commands_help_has_an_example(path: list[str]) -> None:
    from typer.testing import CliRunner

    from looper.cli import app

    text = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200"}).output
    assert re.search(rf"Example: looper {' '.join(path)}\b", text), text
