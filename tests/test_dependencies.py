"""What is imported is declared in ``pyproject.toml``, and what is declared is in the locks."""

import re
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.test_rooms import ROOT, imported

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def declared(*extras: str) -> list[Requirement]:
    """What ``extras`` and the package itself ask for, those extras included that extras name."""
    lines = [*PROJECT["dependencies"], *(line for one in extras for line in PROJECT["optional-dependencies"][one])]
    asked = [Requirement(line) for line in lines]
    more = {extra for each in asked if each.name == PROJECT["name"] for extra in each.extras} - set(extras)
    return declared(*extras, *more) if more else [each for each in asked if each.name != PROJECT["name"]]


@pytest.mark.parametrize(
    ("room", "extra"),
    [
        ("platform", "serve"),
        ("serve", "serve"),
        ("cluster", "serve"),
        ("basemodel", "train"),
        ("jobs", "train"),
        ("benchmarks", "bench"),
        ("looper/demo", "bench"),
        ("looper/gym", "bench"),
    ],
)
def test_what_a_room_imports_is_in_its_extra(room: str, extra: str) -> None:
    """Of other packages, extras are not looked at: ``ray`` is one package, whether with Serve, Data or Train."""
    names = {canonicalize_name(each.name) for each in declared(extra, "cpu", "gpu")}
    distributions = packages_distributions()
    wrong = {
        module.partition(".")[0]
        for file in (ROOT / room).rglob("*.py")
        for module in imported(file)
        if (top := module.partition(".")[0]) not in sys.stdlib_module_names and top != "looper"
        if not names & {canonicalize_name(name) for name in distributions.get(top, [top])}
    }
    assert wrong == set(), f"add them to the extra {extra!r} in pyproject.toml, and make lock"


@pytest.mark.parametrize("machine", ["cpu", "gpu"])
def test_the_lock_holds_what_is_declared(machine: str) -> None:
    text = (ROOT / "requirements" / f"{machine}.lock").read_text()
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE))
    if machine == "cpu":  # torch has a step of its own in the Makefile, which reads its version here
        overrides = (ROOT / "requirements" / "overrides-cpu.txt").read_text()
        locked |= dict(re.findall(r"^(torch)==(\S+)", overrides, re.MULTILINE))
    missing = []
    for each in declared("dev", machine):
        name = canonicalize_name(each.name)
        if name not in locked or locked[name] not in each.specifier:
            missing.append(str(each))
    assert missing == [], "make lock"
