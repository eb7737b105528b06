"""vLLM's scheduler for CPU engines, with steps that prefill high-priority requests alone.

On a CPU, every sequence makes a step longer. A step of a full batch takes twice as long as one that reads the prompt of
a single new request. A tenant with less than its share would wait for the end of such a step, and then for another full
step with its prompt in it. Here, the running sequences skip one step instead. The cost is bounded, because at least
``MIN_FULL_STEPS`` full steps follow.

vLLM creates the scheduler, as ``engine_arguments`` tells it to. ``admission`` sets the priorities.
"""

from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request

from looper.serve.engine.admission import HIGH_PRIORITY

MIN_RUNNING_SEQS = 4
"""Minimum number of running sequences for which a step without them is worth it."""

MIN_FULL_STEPS = 2
"""Minimum number of full steps between two prefill-only steps."""


class PriorityPrefillScheduler(Scheduler):  # type: ignore[misc]
    """vLLM's scheduler, which prefills high-priority requests in steps of their own."""

    running: list[Request]
    """Running sequences, as in vLLM's scheduler."""
    max_num_running_reqs: int
    """Maximum number of running sequences, as in vLLM's scheduler."""
    max_num_scheduled_tokens: int
    """Maximum number of tokens in a step, as in vLLM's scheduler."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take the arguments of vLLM's scheduler.

        Args:
            *args: As in vLLM's scheduler.
            **kwargs: As in vLLM's scheduler.
        """
        super().__init__(*args, **kwargs)
        self._full_steps = MIN_FULL_STEPS

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        """Choose the sequences and tokens of the next step.

        Args:
            throttle_prefills: As in vLLM's scheduler.

        Returns:
            vLLM's description of the step.
        """
        max_seqs, max_tokens, running = self.max_num_running_reqs, self.max_num_scheduled_tokens, self.running
        prefill_tokens = sum(request.num_tokens for request in self.waiting if request.priority == HIGH_PRIORITY)
        if not prefill_tokens or not MIN_RUNNING_SEQS <= len(running) < max_seqs or self._full_steps < MIN_FULL_STEPS:
            self._full_steps += 1
            return super().schedule(throttle_prefills)
        self._full_steps = 0
        self.running = []
        self.max_num_running_reqs = max_seqs - len(running)
        self.max_num_scheduled_tokens = min(max_tokens, prefill_tokens)
        try:
            return super().schedule(throttle_prefills)
        finally:
            self.running = running + self.running
            self.max_num_running_reqs, self.max_num_scheduled_tokens = max_seqs, max_tokens
