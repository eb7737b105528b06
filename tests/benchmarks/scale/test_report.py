"""The measurements run at a small size, and the report says what follows from them."""

from pathlib import Path

import pytest

from looper.benchmarks.scale.bench import MEASURED_ENGINE
from looper.benchmarks.scale.costs import catalog, routing
from looper.benchmarks.scale.costs.catalog import CatalogCosts
from looper.benchmarks.scale.costs.known_names import measure_known_names
from looper.benchmarks.scale.costs.rows import CostRow
from looper.benchmarks.scale.costs.store import measure_listings
from looper.benchmarks.scale.plan import plan_scenarios
from looper.benchmarks.scale.report import plot, to_markdown
from looper.benchmarks.scale.results import ScaleReport, compute_ratios
from looper.benchmarks.scale.simulation.simulate import simulate_scenario
from looper.platform.domain.errors import InvalidInput
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import load_settings
from tests.platform.postgresql import run_postgresql


def measure_routing() -> list[CostRow]:
    return [
        *routing.measure_choices((10, 50)),
        routing.measure_routing_memory(50),
        *routing.measure_evictions((20,)),
        *measure_known_names(2, 100, 10, 400, alpha=1.0),
    ]


def test_the_report_has_every_row_and_says_where_it_is_full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(routing, "MEASURED_S", 0.01)
    monkeypatch.setattr(catalog, "LOOKUPS", 20)
    monkeypatch.setattr(catalog, "CHANGES", (2,))
    monkeypatch.setattr(catalog, "BACKLOGS", (10,))
    with run_postgresql() as server:
        url = server.create_database()
        costs = [*measure_routing(), *CatalogCosts(url, 200, 10, lambda _: None).measure()]
        with pytest.raises(InvalidInput, match="give an empty one"):
            CatalogCosts(url, 200, 10, lambda _: None).measure()
    store = ObjectStore.open(load_settings(store={"url": str(tmp_path / "store")}))
    costs += measure_listings(store, (10, 20), lambda _: None)
    scenarios = [
        simulate_scenario(scenario.model_copy(update={"load": scenario.load.model_copy(update={"seconds": 11.0})}))[0]
        for scenario in plan_scenarios(MEASURED_ENGINE, quick=True)
        if scenario.name in ("1 gateways", "promotions", "a day")
    ]
    rows = (*scenarios, *costs)
    report = ScaleReport(machine="a machine", settings={}, rows=rows, ratios=compute_ratios(rows))
    assert ScaleReport.model_validate_json(report.model_dump_json()) == report
    assert report.ratios["requests without an answer, a refusal or an error"] == 0
    assert report.ratios["requests/s that fill a core of a gateway with look-ups"] > 0
    assert all(row.value >= 0 for row in costs)
    text = to_markdown(report)
    for row in rows:
        assert (row.what if isinstance(row, CostRow) else row.scenario) in text
    plot(report, tmp_path / "scale.png")
    assert (tmp_path / "scale.png").stat().st_size > 10_000


def test_a_catalog_that_is_not_postgresql_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is not PostgreSQL"):
        CatalogCosts(f"sqlite:///{tmp_path}/catalog.db", 10, 2, lambda _: None).measure()
