"""The autoscaling policy as plain numbers and over time, and from zero engines on a real cluster."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve._private.autoscaling_state import _resolve_policy_callable

from looper.platform.settings import PoolSettings
from looper.serve.deployment import ray_app
from looper.serve.routing.autoscaling import (
    HOLD_STARTS,
    LOOK_BACK_S,
    MIN_HOLD_S,
    START_S,
    Demand,
    EngineCountPolicy,
    EngineLoad,
    required_engines,
)

IDLE = EngineLoad(running=0, waiting=0, rate=0, duration_s=4, adapters=0, max_num_seqs=16, slots=8)
"""An engine that can do four sequences per second."""
STEADY = Demand(queued=0, rise=0, start_s=60)


def vary(**changes: float) -> EngineLoad:
    return replace(IDLE, **changes)


@pytest.mark.parametrize(
    ("load", "engines"),
    [
        (IDLE, 0),
        (vary(rate=0.1), 1),
        (vary(rate=3.2), 1),
        (vary(rate=3.3), 2),
        (vary(rate=1, adapters=20), 4),
        (vary(running=3), 1),
    ],
)
def test_engines_follow_the_rate_or_the_adapters_whichever_need_more(load: EngineLoad, engines: int) -> None:
    assert required_engines([load], STEADY) == engines


def test_the_loads_of_several_engines_are_added() -> None:
    assert required_engines([vary(rate=3)] * 4, STEADY) == 4
    assert required_engines([vary(rate=3), IDLE, IDLE], STEADY) == 1


def test_a_line_is_not_taken_for_load_that_stays() -> None:
    """One engine has 40 sequences more than it can run, and serves 3 per second more than arrive."""
    busy = vary(rate=1, running=16, waiting=40)
    assert required_engines([busy], STEADY) == 1, "the line is gone long before another engine would be ready"
    assert required_engines([busy], replace(STEADY, start_s=1)) == 2, "37 are left, for ten seconds"


def test_a_line_that_grows_until_engines_are_ready_counts_as_it_will_be() -> None:
    busy = vary(rate=8, running=16, waiting=10)
    assert required_engines([busy], replace(STEADY, start_s=25)) == 4, "by the line, which will be 110; by the rate, 3"
    starting = replace(STEADY, start_s=25, starting_s=(20,))
    assert required_engines([busy], starting) == 3, "one that comes up in 5 s will have served 80 of them"


def test_a_rise_is_met_before_it_has_happened() -> None:
    assert required_engines([vary(rate=3)], STEADY) == 1
    assert required_engines([vary(rate=3)], replace(STEADY, rise=1)) == 2


def test_before_a_request_has_ended_only_their_number_counts() -> None:
    assert required_engines([vary(duration_s=0, running=16, waiting=20)], STEADY) == 3
    assert required_engines([], replace(STEADY, queued=1)) == 1, "from zero engines"
    assert required_engines([], STEADY) == 0


class Pool:
    """A pool as Ray Serve's controller sees it, with a clock that the test moves."""

    def __init__(self, engines: int = 0, start_s: float = 30.0) -> None:
        self.policy, self.now, self.start_s = EngineCountPolicy(), 1000.0, start_s
        self.target = self.running = engines
        self.ready_at: list[float] = []
        self.asked_at: float | None = None

    def run(self, seconds: float, load: Callable[[int], EngineLoad] = lambda _: IDLE, queued: float = 0) -> list[int]:
        """Return the targets of each half second. ``load`` gives that of each engine, of as many as there are."""
        targets = []
        for _ in range(round(seconds * 2)):
            self.now += 0.5
            while self.ready_at and self.ready_at[0] <= self.now:
                self.ready_at.pop(0)
                self.running += 1
            stats = [asdict(load(self.running))] * self.running
            named = {name: {number: each[name] for number, each in enumerate(stats)} for name in asdict(IDLE)}
            context = SimpleNamespace(
                aggregated_metrics=named,
                current_time=self.now,
                current_num_replicas=self.running,
                target_num_replicas=self.target,
                last_scale_up_time=self.asked_at,
                total_queued_requests=queued,
                capacity_adjusted_min_replicas=0,
                capacity_adjusted_max_replicas=8,
            )
            # From zero engines, Ray Serve starts the first one itself, and asks no policy until it runs.
            target = max(1, self.target) if queued and not self.running else self.policy(context)[0]
            if target > self.target:
                self.asked_at = self.now
                self.ready_at += [self.now + self.start_s] * (target - self.target)
            self.running = min(self.running, target)
            self.target = target
            targets.append(target)
        return targets


def test_the_policy_respects_its_limits() -> None:
    assert Pool(1).run(3, lambda _: vary(rate=200))[-1] == 8


def test_an_engine_that_has_not_reported_yet_does_not_count_as_idle() -> None:
    context: Any = SimpleNamespace(
        aggregated_metrics=None,
        current_time=1000.0,
        current_num_replicas=2,
        target_num_replicas=2,
        last_scale_up_time=None,
    )
    assert EngineCountPolicy()(context) == (2, {})


def test_the_time_in_which_engines_come_up_is_measured() -> None:
    pool = Pool(start_s=40)
    pool.run(5)
    assert pool.policy.start_s == START_S, "none has been seen yet"
    pool.run(41, queued=1)
    assert pool.running == 1
    assert pool.policy.start_s == pytest.approx(40, abs=1)
    pool.start_s = 20
    pool.run(25, lambda engines: vary(rate=6 / engines))
    assert pool.running == 2
    assert pool.policy.start_s == pytest.approx(30, abs=1), "half of what was known and half of the new"


def test_the_engine_that_came_up_for_one_request_is_held_too() -> None:
    pool = Pool(start_s=40)
    pool.run(1)
    pool.run(41, queued=1)
    assert pool.run(70) == [1] * 140
    assert pool.run(20)[-1] == 0


def test_an_engine_that_is_replaced_was_not_asked_for() -> None:
    pool = Pool(2)
    pool.run(5, lambda _: vary(rate=3))
    pool.running = 1
    pool.run(90, lambda _: vary(rate=3))
    pool.running = 2
    pool.run(1, lambda _: vary(rate=3))
    assert pool.policy.start_s == START_S


@pytest.mark.parametrize("start_s", [10.0, 100.0])
def test_engines_are_held_for_longer_than_they_take_to_start(start_s: float) -> None:
    pool = Pool(start_s=start_s)
    pool.run(1)
    pool.run(start_s + 1, queued=1)
    pool.run(start_s + 5, lambda engines: vary(rate=9 / engines))
    assert pool.running >= 3
    hold_s = max(MIN_HOLD_S, HOLD_STARTS * start_s)
    pool.run(hold_s - 5, lambda _: IDLE)
    pool.run(1, lambda engines: vary(rate=9 / engines))
    targets = pool.run(hold_s + 20)
    assert min(targets[: round(2 * (hold_s - 2))]) >= 3, "a moment of load begins the time anew"
    assert targets[-1] == 0


def test_after_a_restart_of_the_controller_engines_are_held_too() -> None:
    assert Pool(5).run(HOLD_STARTS * START_S - 5)[-1] == 5


def test_a_rate_that_rises_is_followed_ahead_and_one_that_varies_is_not() -> None:
    rising, varying = Pool(1, start_s=20), Pool(1, start_s=20)
    for pool in (rising, varying):
        pool.policy = EngineCountPolicy(20)
    rates = [1 + 0.05 * second for second in range(40)]
    for rate in rates:
        rising.run(1, lambda _, rate=rate: vary(rate=rate))  # type: ignore[misc]
        varying.run(1, lambda _, rate=rate: vary(rate=2.8 + 0.2 * (rate % 0.1 < 0.05)))  # type: ignore[misc]
    assert rates[-1] < 3.2, "one engine is enough for the rate that there is"
    assert rising.target == 2
    assert varying.target == 1


def test_ray_serve_makes_a_policy_of_its_own_for_each_pool() -> None:
    config = ray_app._autoscaling_config(PoolSettings(replicas=0, max_replicas=3))
    first, second = (_resolve_policy_callable(config.policy) for _ in range(2))
    assert isinstance(first, EngineCountPolicy)
    assert first is not second
    assert (config.min_replicas, config.max_replicas, config.look_back_period_s) == (0, 3, LOOK_BACK_S)


@pytest.mark.bench
@pytest.mark.timeout(1800)
def test_engines_start_from_zero_under_load_and_stop_without_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.serve.from_zero", str(tmp_path)]
    process = subprocess.run(command, cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, text=True, check=True)
    # Ray writes to standard output too.
    report = json.loads(next(line for line in process.stdout.splitlines() if line.startswith("{")))
    print(report)
    assert report["engines_at_start"] == 0
    assert report["under_load"].keys() == {"completed"}
    assert report["same_response"]
