"""vLLM's scheduler for CPU engines, in whose steps every sequence costs time: who is let ahead is read alone.

A step of a full batch takes twice as long as one that reads a prompt for a single newcomer. A tenant with less than its
share, beside one that floods, would wait for the end of such a step, and then for another whole one with its prompt in
it. Here the others miss one step instead. What that costs is bounded: so many steps of all follow at least.
"""

from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request

from looper.serve.engine.admission import HIGH_PRIORITY

CROWD = 4
"""Sequences, from which on a step without them is worth it."""

STEPS_OF_ALL = 2
"""At least, between two steps without them."""


class PriorityPrefillScheduler(Scheduler):  # type: ignore[misc]
    """vLLM's own, but for the prompts of those who are ahead."""

    running: list[Request]
    max_num_running_reqs: int
    max_num_scheduled_tokens: int

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._steps_of_all = STEPS_OF_ALL

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        seats, tokens, others = self.max_num_running_reqs, self.max_num_scheduled_tokens, self.running
        reads = sum(each.num_tokens for each in self.waiting if each.priority == HIGH_PRIORITY)
        if not reads or not CROWD <= len(others) < seats or self._steps_of_all < STEPS_OF_ALL:
            self._steps_of_all += 1
            return super().schedule(throttle_prefills)
        self._steps_of_all = 0
        self.running = []
        self.max_num_running_reqs, self.max_num_scheduled_tokens = seats - len(others), min(tokens, reads)
        try:
            return super().schedule(throttle_prefills)
        finally:
            self.running = others + self.running
            self.max_num_running_reqs, self.max_num_scheduled_tokens = seats, tokens
