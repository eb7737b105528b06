"""DeepSpeed is used through one module, which turns off an op that would take over a minute to compile."""

import re
from pathlib import Path

import deepspeed

import looper.jobs
from looper.jobs.consolidation.model import deepspeed_engine

JOBS = Path(looper.jobs.__path__[0]).resolve()


def test_only_one_module_imports_deepspeed() -> None:
    importing = [
        file for file in JOBS.rglob("*.py") if re.search(r"^\s*(import|from) deepspeed\b", file.read_text(), re.M)
    ]
    assert importing == [Path(deepspeed_engine.__file__).resolve()]


def test_the_shared_memory_op_is_never_compiled() -> None:
    assert deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] is False
