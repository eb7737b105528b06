"""The gateway's process, and the one that deploys, start without what only an engine needs."""

import subprocess
import sys


def test_the_application_loads_neither_torch_nor_vllm() -> None:
    heavy = "import sys, looper.serve.app; print(sorted({'torch', 'vllm', 'transformers'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
