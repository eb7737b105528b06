"""What goes into a wheel: ``looper/`` and, below it, the rooms, which lie beside it (docs/decisions/0001).

All else is in ``pyproject.toml``. Folders are walked, so nobody keeps a list of packages or of data files: a folder
with Python files is a package, and every other file is data of the package around it. The links ``looper/<room>`` are
not followed, so the wheel is the same where there are none (``git config core.symlinks false``, or an sdist).
"""

import glob
import os
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
ROOMS = ("platform", "basemodel", "jobs", "serve", "cluster", "benchmarks", "examples")


def is_link(path: Path) -> bool:
    """Whether ``path``, in ``looper/``, is a link to a room, or the text that Git writes where there are no links."""
    return path.is_symlink() or (path.is_file() and path.read_bytes().strip() == f"../{path.name}".encode())


def contents(top: Path, package: str) -> tuple[list[str], dict[str, list[str]]]:
    """The packages in ``top``, which is ``package``, and the data files of each, relative to it."""
    packages: dict[Path, str] = {}
    data: dict[str, list[str]] = {}
    for path, below, files in os.walk(top):
        below[:] = sorted(name for name in below if name != "__pycache__" and not name.startswith("."))
        folder = Path(path)
        names = sorted(name for name in files if not name.startswith(".") and not is_link(folder / name))
        if folder == top or any(name.endswith(".py") for name in names):
            packages[folder] = ".".join((package, *folder.relative_to(top).parts))
        around = next(each for each in (folder, *folder.parents) if each in packages)
        others = [(folder / name).relative_to(around).as_posix() for name in names if not name.endswith(".py")]
        data.setdefault(packages[around], []).extend(glob.escape(name) for name in others)
    return list(packages.values()), data


def check_rooms() -> None:
    """Stop the build if a room is not there, or if ``looper/`` links to a folder that no room is."""
    links = {path.name for path in (ROOT / "looper").iterdir() if is_link(path)}
    if unknown := links - set(ROOMS):
        raise SystemExit(f"looper/ links to {', '.join(sorted(unknown))}: add it to ROOMS in setup.py")
    for room in ROOMS:
        if not any((ROOT / room).rglob("*.py")):
            raise SystemExit(f"{room}/ is not beside looper/, or has no Python files: the wheel would lack it")


class BuildFresh(build_py):
    """Without what an earlier build left in ``build/``: modules that have moved since would be in the wheel twice."""

    def run(self) -> None:
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


check_rooms()
all_packages, all_data = contents(ROOT / "looper", "looper")
for room in ROOMS:
    more_packages, more_data = contents(ROOT / room, f"looper.{room}")
    all_packages += more_packages
    all_data |= more_data

setup(
    packages=all_packages,
    package_dir={"looper": "looper"} | {f"looper.{room}": room for room in ROOMS},
    package_data=all_data,
    include_package_data=False,  # as listed here, whatever a MANIFEST says
    cmdclass={"build_py": BuildFresh},
)
