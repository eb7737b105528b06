"""Keeps vLLM's messages out of the output of commands, which other programs read."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_LOGGING_STREAM": "ext://sys.stderr"}


@contextmanager
def import_vllm_quietly() -> Iterator[None]:
    """Import vLLM in the context. It configures its logging then, as the environment says, and never again.

    The environment is as before afterwards, because processes that are started later inherit it: engines log as usual.
    """
    before = dict(os.environ)
    os.environ.update(
        {name: value for name, value in _QUIET.items() if name not in before and "vllm" not in sys.modules}
    )
    try:
        yield
    finally:
        for name in _QUIET:
            if name not in before:
                os.environ.pop(name, None)
