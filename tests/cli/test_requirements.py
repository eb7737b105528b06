"""Commands that need Linux or an extra of the package say so."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from looper.cli.requirements import describe_missing_module


@pytest.mark.parametrize(
    "command", ["up", "demo", "bench capacity", "bench skill --quick", "consolidate acme/helpdesk --wait"]
)
def test_commands_that_need_linux_say_so_on_other_systems(command: str, tmp_path: Path) -> None:
    program = (
        "import os, sys, looper.cli, looper.cluster.state; sys.platform = 'darwin'; del os.sched_getaffinity;"
        f"sys.argv = ['looper', *{command.split()!r}]; looper.cli.main()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"LOOPER_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    (line,) = ran.stderr.splitlines()
    assert ran.returncode == 1
    assert re.match("error: `looper [^`]*` needs Linux", line)


@pytest.mark.parametrize(
    ("module", "importer", "extra"),
    [
        ("sqlalchemy", "looper.platform.catalog.tables", "serve"),
        ("psutil", "looper.cluster.processes", "serve"),
        ("filelock", "looper.basemodel.prepare", "train"),
        ("openai", "looper.demo.run", "bench"),
        ("vllm", "looper.serve.cache.staging", "cpu"),
    ],
)
def test_a_missing_module_is_reported_with_the_extra_that_installs_it(
    module: str, importer: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")  # no nvidia-smi
    for name in [name for name in sys.modules if name.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, importer, raising=False)
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module(importer)
    assert describe_missing_module(caught.value) == f'{module} is not installed: pip install "looper-skills[{extra}]"'


def test_a_missing_module_of_looper_is_a_bug() -> None:
    assert describe_missing_module(ModuleNotFoundError("No module named 'looper.jobs'", name="looper.jobs")) is None
