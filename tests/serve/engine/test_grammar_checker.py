"""The process that tries grammars, with an engine that records what it compiles."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from looper.serve.engine.grammars import Constraint, ConstraintRefused, GrammarChecker
from tests.tiny import tiny_base

GOOD = Constraint("structured_outputs", "REGEX", "[ab]{3}")
SLOW = Constraint("structured_outputs", "REGEX", "((a{1,300}){1,300}){1,300}")
ENDLESS = Constraint("structured_outputs", "GRAMMAR", "root ::= root")


class RecordingCore:
    def __init__(self) -> None:
        self.compiled: list[str] = []

    async def call_utility_async(self, method: str, kind: str, spec: str) -> None:
        self.compiled.append(spec)


async def enter(checker: GrammarChecker, constraint: Constraint, tenant: str = "a") -> None:
    async with checker.ready(constraint, tenant):
        pass


def test_grammars_are_tried_once_and_a_process_that_died_is_replaced(tmp_path: Path) -> None:
    async def test() -> None:
        checker, core = await GrammarChecker.start(tiny_base(tmp_path), os.sched_getaffinity(0)), RecordingCore()
        checker._core_client = core
        waiting = asyncio.create_task(enter(checker, ENDLESS))
        await asyncio.sleep(0)
        waiting.cancel()  # it must leave no answer for the next caller
        await asyncio.gather(*(enter(checker, GOOD, tenant) for tenant in "aabb"))
        assert core.compiled == [GOOD.spec]
        for constraint in (SLOW, ENDLESS):
            with pytest.raises(ConstraintRefused, match="structured_outputs"):
                await enter(checker, constraint)
        assert core.compiled == [GOOD.spec]
        assert checker._process
        os.kill(checker._process.pid, signal.SIGKILL)
        await checker._process.wait()
        await enter(checker, Constraint("tools", "JSON", '{"type": "object"}'))
        assert len(core.compiled) == 2
        assert checker._process.returncode is None
        checker._process.kill()
        await checker._process.wait()

    asyncio.run(asyncio.wait_for(test(), 120))
