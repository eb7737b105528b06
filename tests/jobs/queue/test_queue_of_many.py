"""A queue that is much longer than a cohort: all of it is completed, and no tenant waits much longer than others."""

import time
from collections import defaultdict
from pathlib import Path
from statistics import mean, median

import pytest

from looper.benchmarks.machine import describe_machine
from looper.cluster.run_until_complete import run_until_complete
from looper.platform import adapters
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.states import ConsolidationState
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings
from tests.jobs.episodes import RECIPE, episode, submit

TENANTS, INSTANCES = 50, 10


@pytest.mark.bench
@pytest.mark.timeout(3000)
@pytest.mark.usefixtures("ray_local")
def test_five_hundred_consolidations_of_fifty_tenants(
    catalog: Catalog, store: ObjectStore, settings: Settings, base_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = RECIPE.model_copy(update={"rank": 2, "alpha": 4, "max_steps": 3})
    batch = [episode(task) for task in range(8)]
    queued = [
        submit(catalog, store, f"t{tenant}/i{instance}", batch, base=settings.base, recipe=recipe)
        for tenant in range(TENANTS)
        for instance in range(INSTANCES)
    ]
    start = time.monotonic()
    run_until_complete(catalog, store, settings, {settings.base: base_dir}, [job.id for job in queued])
    elapsed_s = time.monotonic() - start

    ended = [catalog.get_consolidation(job.id) for job in queued]
    for job in ended:
        assert job.state is ConsolidationState.PUBLISHED, job.reason
        events = [event.what for event in catalog.list_events(consolidation=job.id)]
        assert sum(what.startswith("published") for what in events) == 1
        assert [version.digest for version in catalog.list_versions(job.instance)] == [job.digest]
        assert catalog.get_channel(job.instance, "prod") == job.digest
        adapters.fetch(store, job.instance.tenant, str(job.digest))

    with capsys.disabled():
        print(f"\n{describe_machine()}\n{len(ended)} consolidations of {TENANTS} tenants in {elapsed_s:.0f} s\n")
        print("| a tenant's | median of the tenants | longest of the tenants | ratio |\n| --- | ---: | ---: | ---: |")
        ratios = [_print_row(name, times) for name, times in _times(ended).items()]
    assert max(ratios) <= 2


def _times(ended: list[Consolidation]) -> dict[str, list[float]]:
    """Return how long each tenant waited, in seconds, until its consolidations started and were published."""
    waits: dict[str, list[float]] = defaultdict(list)
    durations: dict[str, list[float]] = defaultdict(list)
    for job in ended:
        assert job.started_at is not None
        assert job.ended_at is not None
        waits[job.instance.tenant].append((job.started_at - job.created_at).total_seconds())
        durations[job.instance.tenant].append((job.ended_at - job.created_at).total_seconds())
    return {
        "mean wait until start": [mean(times) for times in waits.values()],
        "longest wait until start": [max(times) for times in waits.values()],
        "mean wait until published": [mean(times) for times in durations.values()],
        "longest wait until published": [max(times) for times in durations.values()],
    }


def _print_row(name: str, times: list[float]) -> float:
    ratio = max(times) / median(times)
    print(f"| {name} | {median(times):.1f} s | {max(times):.1f} s | {ratio:.2f} |")
    return ratio
