"""Commands that start something, on a machine that cannot."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from looper.cli.needs import in_words


@pytest.mark.parametrize("command", ["up", "demo", "bench capacity", "consolidate acme/helpdesk --wait"])
def test_what_needs_linux_says_so_elsewhere(command: str, tmp_path: Path) -> None:
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
        ("psutil", "looper.cluster.state", "serve"),
        ("filelock", "looper.jobs.basemodel.prepare", "train"),
        ("openai", "looper.demo.run", "bench"),
        ("vllm", "looper.serve.cache.staging", "cpu"),
    ],
)
def test_the_room_that_imports_what_is_missing_tells_the_extra(
    module: str, importer: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")  # no nvidia-smi
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, importer, raising=False)
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module(importer)
    assert in_words(caught.value) == f'{module} is not installed: pip install "looper-skills[{extra}]"'


def test_a_missing_module_of_our_own_is_a_bug() -> None:
    assert in_words(ModuleNotFoundError("No module named 'looper.jobs'", name="looper.jobs")) is None
