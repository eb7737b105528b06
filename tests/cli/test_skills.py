"""`looper skills` and `looper tenant limit`: what they print and change."""

import json
import re
from contextlib import closing

from looper.platform.catalog import Catalog
from looper.platform.domain.names import InstanceName
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.scores import Comparison, GateVerdict, Scores
from looper.platform.domain.states import QueueStage
from looper.platform.settings import load_settings
from tests.cli.conftest import Home

DESK = InstanceName("acme", "desk")


def scores(accuracy: float | None, loss: float, loops: float | None = None) -> Scores:
    return Scores(accuracy=accuracy, loss=loss, actions=20, tokens=400, loops=loops, tool_errors=loops)


FIRST = GateVerdict(passed=True, reason="better", candidate=scores(None, 1.0), current=scores(None, 2.5))
SECOND = GateVerdict(
    passed=True,
    reason="better",
    candidate=scores(0.9, 0.5, 0.0),
    current=scores(0.25, 2.0, 0.1),
    earlier=Comparison(candidate=scores(0.8, 0.5), reference=scores(0.85, 0.5)),
    control=Comparison(candidate=scores(0.0, 3.2), reference=scores(0.1, 2.1)),
    canary=0.4321,
    conversion_error=0.0125,
)


def publish_two_versions(home: Home) -> None:
    with closing(Catalog.open(load_settings(home=home.folder / "home"))) as catalog:
        catalog.create_tenant("acme")
        catalog.ensure_instance(DESK)
        for digest, verdict in (("1" * 64, FIRST), ("2" * 64, SECOND)):
            catalog.add_batch(DESK, digest[:8], source="x", trajectories=1)
            job = catalog.submit(DESK, base="b", recipe=Recipe())
            catalog.claim("me", QueueStage.SYNTHESIS, limit=1, lease_s=60)
            catalog.publish(job.id, "me", digest=digest, verdict=verdict, base_revision="r")


def test_show_prints_the_measurements_of_the_gate(home: Home) -> None:
    publish_two_versions(home)
    channel, head, second, first = home.ok("skills", "show", "acme/desk").splitlines()
    assert channel == f"prod -> {'2' * 64}"
    assert head.split("  ")[-1].strip() == "conversion error"
    cells = [cell.strip() for cell in second.split("  ") if cell.strip()]
    assert cells[0] == "2" * 12
    assert cells[3:] == [
        "1" * 12,
        "passed",
        "0.25 -> 0.90",
        "0.85 -> 0.80",
        "loss 2.10 -> 3.20",
        "0.10 -> 0.00",
        "0.10 -> 0.00",
        "0.432",
        "0.013",
    ]
    cells = [cell.strip() for cell in first.split("  ") if cell.strip()]
    assert cells[3:] == ["-", "passed", "loss 2.50 -> 1.00", "-", "-", "-", "-", "-", "-"]

    shown = json.loads(home.ok("skills", "show", "acme/desk", "--json"))
    assert GateVerdict.model_validate(shown["versions"][0]["verdict"]) == SECOND


def test_an_undecided_version_is_shown_in_its_channel_with_its_verdict(home: Home) -> None:
    publish_two_versions(home)
    undecided = SECOND.model_copy(update={"passed": False, "undecided": True, "reason": "too little evidence"})
    with closing(Catalog.open(load_settings(home=home.folder / "home"))) as catalog:
        catalog.add_batch(DESK, "third", source="x", trajectories=1)
        job = catalog.submit(DESK, base="b", recipe=Recipe())
        catalog.claim("me", QueueStage.SYNTHESIS, limit=1, lease_s=60)
        catalog.publish(job.id, "me", digest="3" * 64, verdict=undecided, base_revision="r")
    lines = home.ok("skills", "show", "acme/desk").splitlines()
    assert lines[:2] == [f"canary -> {'3' * 64} for 10%", f"prod -> {'2' * 64}"]
    assert "undecided" in lines[3]
    listed, shown = home.ok("jobs", "list"), home.ok("jobs", "show", job.id)
    assert "published (undecided)" in listed
    assert f"looper skills promote acme/desk {'3' * 12}" in listed
    assert re.search(r"state +published \(undecided\)", shown)
    assert re.search(r"verdict +undecided", shown)


def test_a_revoked_version_is_removed_from_its_channels(home: Home) -> None:
    publish_two_versions(home)
    lines = home.ok("skills", "revoke", "acme/desk", "2222").splitlines()
    assert lines == [f"{'2' * 64} is revoked", f"acme/desk@prod -> {'1' * 64}"]
    assert f"{'2' * 12} was revoked at" in home.ok("skills", "show", "acme/desk")
    assert home.ok("skills", "revoke", "acme/desk", "2222") == f"{'2' * 64} is revoked\n", "again is no error"
    assert "has no version" in home.refused("skills", "revoke", "acme/desk", "3333")
    assert home.ok("skills", "drop", "acme/desk", "prod") == "acme/desk@prod was dropped\n"
    assert "has no channel" in home.refused("skills", "drop", "acme/desk", "prod")


def test_limit_sets_and_shows_the_limits_of_a_tenant(home: Home) -> None:
    home.ok("tenant", "create", "acme")
    assert home.ok("tenant", "limit", "acme") == "requests per minute: no limit\ntokens per minute: no limit\n"
    shown = home.ok("tenant", "limit", "acme", "--requests", "600", "--tokens", "100000")
    assert shown == "requests per minute: 600\ntokens per minute: 100,000\n"
    assert json.loads(home.ok("tenant", "limit", "acme", "--requests", "0", "--json")) == {
        "requests_per_minute": None,
        "tokens_per_minute": 100000,
    }
    assert "nobody" in home.refused("tenant", "limit", "nobody")
