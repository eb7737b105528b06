"""The processes of the gateway and of the deployer do not import what only an engine needs."""

import subprocess
import sys

import pytest

from looper.serve.deployment.skill_replica import convert_to_builtin_errors


def test_the_application_loads_neither_torch_nor_vllm() -> None:
    code = (
        "import sys, looper.serve.deployment.ray_app\n"
        "print(sorted({'torch', 'vllm', 'transformers'} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_errors_of_the_engine_are_converted_to_builtin_ones() -> None:
    class EngineError(Exception):
        pass

    with pytest.raises(RuntimeError, match="EngineError: the engine is dead") as raised, convert_to_builtin_errors():
        raise EngineError("the engine is dead")
    assert type(raised.value) is RuntimeError
    assert raised.value.__suppress_context__
