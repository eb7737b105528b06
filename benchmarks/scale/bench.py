"""``looper bench scale``: simulate clusters of thousands of engines, and measure what one operation costs at full size.

``looper.cli.bench`` calls ``bench``.
"""

import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

from looper.benchmarks.capacity.simulation.simulator import Cluster, EngineCosts
from looper.benchmarks.scale.costs.catalog import CatalogCosts
from looper.benchmarks.scale.costs.known_names import measure_known_names
from looper.benchmarks.scale.costs.routing import (
    measure_choices,
    measure_evictions,
    measure_moves,
    measure_routing_memory,
)
from looper.benchmarks.scale.costs.rows import CostRow
from looper.benchmarks.scale.costs.store import measure_listings
from looper.benchmarks.scale.plan import RATE_PER_REPLICA, plan_scenarios
from looper.benchmarks.scale.report import plot, to_markdown
from looper.benchmarks.scale.results import ScaleReport, compute_ratios
from looper.benchmarks.scale.simulation.engine import EngineProfile
from looper.benchmarks.scale.simulation.scenarios import ScaleScenario, ScenarioResult
from looper.benchmarks.scale.simulation.simulate import simulate_scenario
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings, load_settings

MEASURED_ENGINE = EngineProfile(
    costs=EngineCosts(
        step=0.04966,
        sequence=0.001088,
        prompt_token=0.0005314,
        adapter=0.001121,
        request=0.0247,
        load=0.08115,
        reload=0.02072,
    ),
    size=Cluster(seats=16, slots=16, in_memory=512, on_disk=3000, step_tokens=64, line=64),
)
"""The engine that the capacity benchmark has measured on two CPU cores: ``docs/results/simulation.json``."""


def bench(
    out: Path,
    *,
    machine: str,
    catalog_url: str | None,
    store: Settings | None,
    quick: bool,
    notify: Callable[[str], None],
) -> ScaleReport:
    """Run what is missing in a folder, and write the report.

    Args:
        out: Folder for the results and the report.
        machine: Description of the machine, for the report.
        catalog_url: URL of an empty PostgreSQL database. None: the catalog is not measured.
        store: Settings of an empty object store. None: a temporary folder is measured.
        quick: Smaller numbers of everything, as a check.
        notify: Called with a line of text before each step and while it lasts.

    Returns:
        The report.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows: list[ScenarioResult | CostRow] = [
        _simulate(scenario, out, notify) for scenario in plan_scenarios(MEASURED_ENGINE, quick=quick)
    ]
    rows += _measure_once(out / "routing.json", lambda: _measure_routing(quick, notify))
    rows += _measure_once(out / "store.json", lambda: _measure_store(store, quick, notify))
    if catalog_url:
        instances, tenants = (10_000, 100) if quick else (1_000_000, 10_000)
        costs = CatalogCosts(catalog_url, instances, tenants, notify)
        rows += _measure_once(out / "catalog.json", costs.measure)
    elif (out / "catalog.json").exists():
        rows += _load(out / "catalog.json")
    report = ScaleReport(
        machine=machine,
        settings={"quick": quick, "rate_per_replica": RATE_PER_REPLICA, "engine": MEASURED_ENGINE.model_dump()},
        rows=tuple(rows),
        ratios=compute_ratios(tuple(rows)),
    )
    (out / "scale.json").write_text(report.model_dump_json(indent=1) + "\n")
    (out / "scale.md").write_text(to_markdown(report))
    plot(report, out / "scale.png")
    return report


def _simulate(scenario: ScaleScenario, out: Path, notify: Callable[[str], None]) -> ScenarioResult:
    file = out / f"{scenario.name.replace(', ', '-').replace(' ', '-')}.json"
    if file.exists():
        return ScenarioResult.model_validate_json(file.read_text())
    seconds = scenario.load.seconds
    notify(f"{scenario.name}: adapters are loaded")
    logging.disable(logging.ERROR)  # each engine that dies is reported by each of its requests
    try:
        result, _ = simulate_scenario(scenario, lambda at_s: notify(f"{scenario.name}: {at_s:.0f} of {seconds:.0f} s"))
    finally:
        logging.disable(logging.NOTSET)
    file.write_text(result.model_dump_json(indent=1) + "\n")
    return result


def _measure_once(file: Path, measure: Callable[[], list[CostRow]]) -> list[CostRow]:
    if not file.exists():
        file.write_text(json.dumps([vars(row) for row in measure()], indent=1) + "\n")
    return _load(file)


def _load(file: Path) -> list[CostRow]:
    return [CostRow(**row) for row in json.loads(file.read_text())]


def _measure_routing(quick: bool, notify: Callable[[str], None]) -> list[CostRow]:
    notify("choices of a replica")
    rows = measure_choices((10, 100, 1000) if quick else (10, 100, 1000, 4000))
    rows += [measure_routing_memory(1000 if quick else 4000), *measure_moves(100 if quick else 1000)]
    notify("evictions")
    rows += measure_evictions((512, 4096) if quick else (512, 4096, 16384))
    notify("what gateways know during an outage")
    outage_s = load_settings().catalog.outage_s
    for gateways in (1, 20) if quick else (1, 20, 50):
        requests = round((100 if quick else 1000) * RATE_PER_REPLICA * outage_s)
        rows += measure_known_names(gateways, 100_000 if quick else 1_000_000, 10_000, requests, alpha=1.0)
    return rows


def _measure_store(store: Settings | None, quick: bool, notify: Callable[[str], None]) -> list[CostRow]:
    counts = (1_000, 4_000) if quick else (1_000, 10_000, 30_000)
    if store is not None:
        return measure_listings(ObjectStore.open(store), counts, notify)
    with tempfile.TemporaryDirectory(prefix="looper-scale-") as folder:
        return measure_listings(ObjectStore.open(load_settings(store={"url": folder})), counts, notify)
