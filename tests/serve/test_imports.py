"""The gateway's process, and the one that deploys, start without what only an engine needs."""

import subprocess
import sys

import pytest

from looper.serve.deployment.ray_app import plain_errors


def test_the_application_loads_neither_torch_nor_vllm() -> None:
    heavy = (
        "import sys, looper.serve.deployment.ray_app\n"
        "print(sorted({'torch', 'vllm', 'transformers'} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_no_error_of_vllm_s_reaches_the_gateway() -> None:
    class Odd(Exception):
        pass

    with pytest.raises(RuntimeError, match="Odd: the engine is dead") as raised, plain_errors():
        raise Odd("the engine is dead")
    assert type(raised.value) is RuntimeError
    assert raised.value.__suppress_context__
