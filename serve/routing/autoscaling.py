"""Decides how many engines a pool needs. Ray Serve's controller calls ``EngineCountPolicy`` several times a second.

An engine takes from seconds to minutes to come up, with its node, so the question is what will be needed when one that
is asked for now is ready, ``start_s`` seconds from now. ``required_engines`` answers it:

- **The requests that keep coming**: as many sequences run at a time as arrive per second times the seconds that one
  runs (Little, 1961, "A Proof for the Queuing Formula L = lambda W"). If that rate has risen for the
  last start-up times, it goes on to.
- **The line** of sequences that wait: what will be left of it when the new engines are ready must be gone after another
  start-up time. So a line is not taken for load that stays.
- **The adapters in use**: each needs a slot, and requests of one that has none wait while sequences could still run.

An engine is given up when it was not needed for ``HOLD_STARTS`` start-up times, the rule of Gandhi et al. (2012,
"AutoScale: Dynamic, Robust Capacity Management for Multi-Tier Data Centers", ACM TOCS 30:4): a server that would have
to be started again sooner than that is cheaper to keep. The number of a decision is the largest of that time, as in
Kubernetes' horizontal autoscaler.

The start-up time is measured here, from the moment when Ray Serve asks for an engine until that runs. So it contains
the time in which a node comes.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import ceil, sqrt
from statistics import fmean
from typing import Any, Self

TARGET_UTILIZATION = 0.8
"""Share of its sequences and slots that an engine uses on average. The rest is reserved for bursts."""

MIN_CLEAR_S = 10.0
"""The least time in which the line must be gone once the engines that were asked for are ready, in seconds."""

MAX_RISE = 0.5
"""Largest rise that is expected within a start-up time, as part of the rate: a step looks like the begin of a rise."""

START_S = 60.0
"""Time in which an engine comes up, in seconds, until one has been seen to."""

HOLD_STARTS = 2.0
"""Start-up times for which an engine is kept that is not needed."""

MIN_HOLD_S = 60.0
"""The least time for which it is kept, in seconds."""

RISE_WINDOW_S = 20.0
"""The least time over which a rise of the rate is looked for, in seconds."""

DELAY_S = 15.0
"""How old the known rate is, in seconds: engines count over 10 s and report the mean of 12 s every 10 s."""

UPSCALE_DELAY_S, DOWNSCALE_DELAY_S = 2.0, 0.0
"""Time for which Ray Serve must be asked for more, or for fewer, engines before it changes anything, in seconds."""

LOOK_BACK_S = 12.0
"""Time over which Ray Serve takes the mean of what engines report, in seconds. They report every 10 s."""

DECISION_INTERVAL_S = 1.0
"""Time between two decisions, in seconds."""

Stats = Mapping[str, Mapping[Any, float]]
"""Numbers that engines report: by the name of the number, then by replica."""


@dataclass(frozen=True)
class EngineLoad:
    """What an engine reports about itself every few seconds."""

    running: float
    """Number of sequences that run."""
    waiting: float
    """Number of sequences that wait."""
    rate: float
    """Sequences that arrive per second."""
    duration_s: float
    """How long its recent requests have run, on average, in seconds. 0: none has ended."""
    adapters: float
    """Number of different adapters of running and waiting requests."""
    max_num_seqs: float
    """Number of sequences that the engine runs at a time."""
    slots: float
    """Number of adapters that the engine runs at a time."""

    @classmethod
    def from_stats(cls, stats: Stats) -> list[Self]:
        """Collect the loads of all engines.

        Args:
            stats: The numbers that engines have reported.

        Returns:
            The load of each engine that has reported all numbers.
        """
        names = [field.name for field in fields(cls)]
        replicas = set.intersection(*(set(stats.get(name, {})) for name in names))
        return [cls(*(stats[name][replica] for name in names)) for replica in sorted(replicas, key=str)]


@dataclass(frozen=True)
class Demand:
    """What is asked of a pool, beside what its engines report."""

    queued: float
    """Number of requests that no engine has received yet."""
    rise: float
    """What the rate of arrivals is expected to rise by until a new engine is ready, in sequences per second."""
    start_s: float
    """Time in which an engine comes up, in seconds."""
    starting_s: tuple[float, ...] = ()
    """How long each engine that is coming up will have run when one that is asked for now is ready, in seconds."""


def required_engines(loads: list[EngineLoad], demand: Demand) -> int:
    """Compute how many engines are needed when one that is asked for now is ready.

    Args:
        loads: Loads of the running engines.
        demand: What is asked of them.

    Returns:
        The number of engines, without any limits.
    """
    line = sum(load.waiting for load in loads) + demand.queued
    if not loads:
        return 1 if line else 0
    running, max_num_seqs = sum(load.running for load in loads), fmean(load.max_num_seqs for load in loads)
    by_slots = sum(load.adapters for load in loads) / (TARGET_UTILIZATION * fmean(load.slots for load in loads))
    durations = [load.duration_s for load in loads if load.duration_s]
    if not durations:  # nothing is known but how many there are
        return ceil(max((running + line) / (TARGET_UTILIZATION * max_num_seqs), by_slots))
    engine_rate = max_num_seqs / fmean(durations)  # sequences per second of an engine that is full
    rate = sum(load.rate for load in loads)
    by_rate = (rate + demand.rise) / (TARGET_UTILIZATION * engine_rate)
    arriving = (rate + demand.rise / 2) * demand.start_s
    served = engine_rate * (len(loads) * demand.start_s + sum(demand.starting_s))
    left = max(0.0, line + arriving - served)
    by_line = (rate + demand.rise + left / max(MIN_CLEAR_S, demand.start_s)) / engine_rate
    return ceil(max(by_rate, by_line, by_slots, running / max_num_seqs))


class EngineCountPolicy:
    """The policy of one pool. Ray Serve creates it anew when the pool's settings change or its controller restarts."""

    def __init__(self, start_s: float | None = None) -> None:
        """Create the policy.

        Args:
            start_s: Time in which an engine came up before, in seconds. None: none has been seen to.
        """
        self.start_s = start_s or START_S
        """Time in which an engine comes up, in seconds, as measured so far."""
        self._is_measured = start_s is not None
        self._asked: list[float] = []  # when each engine that is coming up was asked for
        self._target = self._running = 0
        self._begun_at: float | None = None
        self._decision: tuple[float, int] = (0.0, 0)  # time and number
        self._rates: deque[tuple[float, float]] = deque()  # time and rate of arrivals at all engines
        self._needed: deque[tuple[float, int]] = deque()  # time and number, each larger than all that are later

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Return the target number of engines, as Ray Serve expects it.

        Args:
            context: Ray Serve's ``AutoscalingContext`` of the deployment.

        Returns:
            The number of engines within the configured limits, and an empty state.
        """
        now, target = context.current_time, context.target_num_replicas
        loads = EngineLoad.from_stats(context.aggregated_metrics or {})
        if self._begun_at is None:
            self._begun_at = now
            self._target = self._running = context.current_num_replicas
            self._remember(target, now)  # what an earlier policy has held is not known
        self._measure_starts(context)
        if context.current_num_replicas and not loads:
            return target, {}  # the engines have just started and not reported yet
        decided_at, decision = self._decision
        if now - decided_at >= DECISION_INTERVAL_S:
            coming = tuple(min(self.start_s, max(0.0, now - asked_at)) for asked_at in self._asked)
            rise = self._expect_rise(sum(load.rate for load in loads), now)
            needed = required_engines(loads, Demand(context.total_queued_requests or 0, rise, self.start_s, coming))
            low, high = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
            decision = self._hold(max(low, min(high, needed)), target, now)
            self._decision = now, decision
        return decision, {}

    def _measure_starts(self, context: Any) -> None:
        """Learn how long engines took that have come up since the last call."""
        now, target, running = context.current_time, context.target_num_replicas, context.current_num_replicas
        # From zero engines, Ray Serve starts the first one without asking, and says when.
        asked_at = min(now, context.last_scale_up_time or now)
        self._asked += [asked_at] * (target - self._target)
        if running > self._running:
            self._remember(target, now)
        for _ in range(min(len(self._asked), running - self._running)):
            measured_s = now - self._asked.pop(0)
            self.start_s = (self.start_s + measured_s) / 2 if self._is_measured else measured_s
            self._is_measured = True
        del self._asked[max(0, target - running) :]  # they are no longer asked for
        self._target, self._running = target, running

    def _expect_rise(self, rate: float, now: float) -> float:
        """Return what the rate will rise by until a new engine is ready, if it goes on to rise as it does."""
        window_s = max(RISE_WINDOW_S, self.start_s)
        self._rates.append((now, rate))
        while self._rates[0][0] <= now - 2 * window_s:
            self._rates.popleft()
        early = [rate for at, rate in self._rates if at <= now - window_s]
        if not any(early):  # what begins is no rise
            return 0.0
        before, lately = fmean(early), fmean(rate for at, rate in self._rates if at > now - window_s)
        # What two standard deviations of chance could be is not a rise, for arrivals that know nothing of each other.
        if (lately - before) * window_s < 2 * sqrt((lately + before) * window_s):
            return 0.0
        return min((lately - before) / window_s * (DELAY_S + self.start_s), MAX_RISE * rate)

    def _remember(self, needed: int, now: float) -> None:
        """Note that so many engines are needed now."""
        while self._needed and self._needed[-1][1] <= needed:
            self._needed.pop()
        self._needed.append((now, needed))

    def _hold(self, needed: int, target: int, now: float) -> int:
        """Return what is needed, and while that is less than there is, the most of the time for which it is kept."""
        self._remember(needed, now)
        while self._needed[0][0] < now - max(MIN_HOLD_S, HOLD_STARTS * self.start_s):
            self._needed.popleft()
        return max(needed, min(target, self._needed[0][1]))
