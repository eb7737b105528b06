"""What the fork server imports for the engine cores."""

import os
import subprocess
import sys

NAME_A_CORE = """
import os
import looper.serve.engine.core_imports
os.environ.update(dict(os.environ))
import setproctitle
setproctitle.setproctitle("VLLM::EngineCore")
print(open("/proc/self/cmdline").read().rstrip("\\0"))
"""


def test_a_core_gets_its_name_even_if_an_import_changes_the_first_variable() -> None:
    # In this order, and vLLM's import changes it. In a Ray worker, any variable may be the first.
    environment = {"LD_LIBRARY_PATH": "/nowhere", **{name: os.environ[name] for name in ("PATH", "HOME")}}
    command = [sys.executable, "-c", NAME_A_CORE]
    result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert result.stdout.splitlines()[-1].strip() == "VLLM::EngineCore"
