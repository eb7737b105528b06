"""One run: starts the cluster, follows the schedule, waits until everything has ended, and checks."""

import random
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from math import sqrt
from pathlib import Path
from statistics import quantiles

from looper.benchmarks.machine import describe_machine
from looper.platform.domain.scopes import TENANT_SCOPES
from looper.platform.tenancy import issue_key
from tests.chaos.cluster import ChaosCluster, chaos_cluster
from tests.chaos.faults import FAULTS, LOSES_CONNECTIONS
from tests.chaos.hostile import Attacks, HostileTenant
from tests.chaos.operations import Operations
from tests.chaos.report import ChaosResult
from tests.chaos.resources import ResourceMonitor
from tests.chaos.schedule import ScheduledFault, plan_faults
from tests.chaos.skills import publish_skills
from tests.chaos.traffic import Ledger, Traffic

TENANTS = ["acme", "globex", "initech", "umbrella"]
HOSTILE = "hostile"
SKILLS, VERSIONS = 3, 6

MAX_RECOVERY_S = 240.0
"""Nobody waits longer for the next complete answer after a fault, in seconds. A new head imports everything again."""

SETTLE_S = 10.0
"""How long after the death of a process that holds connections others still lose theirs, in seconds."""

MAX_DRAIN_S = 900.0
"""All consolidations end within this time after the last fault, in seconds."""

MAX_UNFAIRNESS = 1.5
"""Most complete answers of a tenant in quiet times divided by the fewest: all tenants ask as much. Three standard
deviations of a count are allowed on top."""


def run_chaos(folder: Path, seed: int, minutes: float, notify: Callable[[str], None]) -> ChaosResult:
    """Run a cluster, hurt it, and check it.

    Args:
        folder: Empty folder for everything that the run needs.
        seed: Decides the schedule and all details. Threads and processes run at their own speed all the same.
        minutes: How long faults happen.
        notify: Called with what happens, one line each.

    Returns:
        What was found.
    """
    with chaos_cluster(folder) as cluster:
        skills = publish_skills(cluster, TENANTS, SKILLS, VERSIONS)
        (hostile_skill,) = publish_skills(cluster, [HOSTILE], 1, 1)
        keys = {tenant: issue_key(cluster.catalog, tenant, scopes=TENANT_SCOPES) for tenant in TENANTS}
        notify("starting the cluster")
        cluster.start()
        ledger, monitor = Ledger(), ResourceMonitor(cluster)
        operations = Operations(cluster, keys, skills, ledger, seed)
        hostile_key = issue_key(cluster.catalog, HOSTILE, scopes=TENANT_SCOPES)
        recovery: dict[str, list[float]] = defaultdict(list)
        with ExitStack() as stack:
            stack.enter_context(monitor)
            stack.enter_context(Traffic(lambda: cluster.url, keys, skills, ledger, seed))
            attacks = Attacks(lambda: cluster.url, hostile_key, str(hostile_skill.name), ledger, random.Random(seed))
            with operations, HostileTenant(attacks, random.Random(seed)):
                _follow(cluster, seed, minutes, ledger, recovery, notify)
            notify("waiting for the consolidations to end")
            operations.wait_until_ended(MAX_DRAIN_S)
        for error in monitor.find_growth():
            ledger.report_error(error)
        if any(ledger.answered[tenant] == 0 for tenant in TENANTS):
            ledger.report_error(f"a tenant got no complete answer: {ledger.answered}")
        counts = [ledger.answered_in_quiet[tenant] for tenant in TENANTS]
        unfairness = max(counts) / max(1, min(counts))
        if max(counts) > MAX_UNFAIRNESS * min(counts) + 3 * sqrt(max(counts)):
            ledger.report_error(
                f"some tenants got {unfairness:.2f} times as many answers as others: {ledger.answered_in_quiet}"
            )
        quiet = ledger.seconds_to_first_token["quiet"]
        return ChaosResult(
            seed=seed,
            minutes=minutes,
            machine=describe_machine(),
            commit=_commit(),
            consolidations=operations.check(),
            errors=ledger.errors,
            outcomes=dict(ledger.outcomes),
            hostile=dict(ledger.hostile),
            operations=dict(operations.counts),
            answered=dict(ledger.answered),
            unfairness=unfairness,
            quiet_ttft_p95_s=quantiles(quiet, n=20)[-1] if len(quiet) > 1 else None,
            recovery_s=dict(recovery),
            resources=monitor.summarize(),
        )


def _follow(
    cluster: ChaosCluster,
    seed: int,
    minutes: float,
    ledger: Ledger,
    recovery: dict[str, list[float]],
    notify: Callable[[str], None],
) -> None:
    """Let one fault after another happen until the time is over."""
    ends_at = time.monotonic() + 60 * minutes
    _wait_for_answer(ledger, time.monotonic())
    for fault in plan_faults(seed, sorted(FAULTS), count=10_000):
        if time.monotonic() > ends_at:
            return
        notify(f"{fault.name} ({(ends_at - time.monotonic()) / 60:.1f} min left, {len(ledger.errors)} errors)")
        recovery[fault.name].append(_hurt(cluster, fault, ledger))
        ledger.phase = "quiet"
        time.sleep(fault.pause_s)


def _hurt(cluster: ChaosCluster, fault: ScheduledFault, ledger: Ledger) -> float:
    """Let one fault happen; return the seconds until the next complete answer after its end."""
    ledger.phase = fault.name
    ledger.may_lose_connections = fault.name in LOSES_CONNECTIONS
    FAULTS[fault.name](cluster, random.Random(fault.seed), fault.duration_s)
    if ledger.may_lose_connections:
        time.sleep(SETTLE_S)  # the other processes of a dead head end one after another
    recovery_s = _wait_for_answer(ledger, time.monotonic())
    if recovery_s > MAX_RECOVERY_S:
        ledger.report_error(f"no complete answer for {recovery_s:.0f} s")
    ledger.may_lose_connections = False
    return recovery_s


def _wait_for_answer(ledger: Ledger, since: float) -> float:
    """Wait until a complete answer has arrived after ``since``; return how long that took, in seconds."""
    while ledger.last_success_at <= since and time.monotonic() < since + 2 * MAX_RECOVERY_S:
        time.sleep(0.1)
    return time.monotonic() - since


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip() or "unknown"
