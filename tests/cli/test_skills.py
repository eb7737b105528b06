"""What `looper skills show` tells of each version."""

import json
from contextlib import closing

from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Comparison, Recipe, Scores, Stage, Verdict
from looper.platform.domain.names import InstanceName
from looper.platform.settings import load_settings
from tests.cli.conftest import Home

DESK = InstanceName("acme", "desk")


def scores(accuracy: float | None, loss: float, loops: float | None = None) -> Scores:
    return Scores(accuracy=accuracy, loss=loss, actions=20, tokens=400, loops=loops, tool_errors=loops)


FIRST = Verdict(passed=True, reason="better", candidate=scores(None, 1.0), current=scores(None, 2.5))
SECOND = Verdict(
    passed=True,
    reason="better",
    candidate=scores(0.9, 0.5, 0.0),
    current=scores(0.25, 2.0, 0.1),
    earlier=Comparison(candidate=scores(0.8, 0.5), reference=scores(0.85, 0.5)),
    control=Comparison(candidate=scores(0.0, 3.2), reference=scores(0.1, 2.1)),
    canary=0.4321,
    conversion_error=0.0125,
)


def test_show_prints_the_gates_numbers(home: Home) -> None:
    with closing(Catalog.open(load_settings(home=home.folder / "home"))) as catalog:
        catalog.create_tenant("acme")
        catalog.ensure_instance(DESK)
        for digest, verdict in (("1" * 64, FIRST), ("2" * 64, SECOND)):
            catalog.add_batch(DESK, digest[:8], source="x", trajectories=1)
            job = catalog.submit(DESK, base="b", recipe=Recipe())
            catalog.claim("me", Stage.SYNTHESIS, limit=1, lease_s=60)
            catalog.publish(job.id, "me", digest=digest, verdict=verdict, base_revision="r")
    pointed, head, second, first = home.ok("skills", "show", "acme/desk").splitlines()
    assert pointed == f"prod -> {'2' * 64}"
    assert head.split("  ")[-1].strip() == "conversion error"
    cells = [cell.strip() for cell in second.split("  ") if cell.strip()]
    assert cells[0] == "2" * 12
    assert cells[3:] == [
        "1" * 12,
        "0.25 -> 0.90",
        "0.85 -> 0.80",
        "loss 2.10 -> 3.20",
        "0.10 -> 0.00",
        "0.10 -> 0.00",
        "0.432",
        "0.013",
    ]
    cells = [cell.strip() for cell in first.split("  ") if cell.strip()]
    assert cells[3:] == ["-", "loss 2.50 -> 1.00", "-", "-", "-", "-", "-", "-"]

    shown = json.loads(home.ok("skills", "show", "acme/desk", "--json"))
    assert Verdict.model_validate(shown["versions"][0]["verdict"]) == SECOND
