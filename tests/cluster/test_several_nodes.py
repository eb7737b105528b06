"""Looper on a Ray over three nodes with addresses of their own: brought up, asked, trained, and asked again."""

from pathlib import Path

import pytest

from tests.cluster.lab.deployed import SMALL_ENGINES, DeployedLooper, deployed_looper

pytestmark = pytest.mark.bench

SETTINGS = {
    "LOOPER_SERVE__REPLICAS": "2",
    "LOOPER_SERVE__GATEWAYS": "2",
    **SMALL_ENGINES,
    "LOOPER_CONSOLIDATION__NUM_WORKERS": "2",
    "LOOPER_CLUSTER__CONTROL_LOOPS": "2",
}


REQUESTS_PER_MINUTE = 60


@pytest.mark.timeout(3600)
def test_three_nodes_serve_and_train(tmp_path: Path) -> None:
    with deployed_looper(tmp_path / "lab", 3, SETTINGS) as looper:
        looper.drive("publish", str(looper.base))
        urls = looper.up()
        assert looper.drive("ask", "1000", "8", *urls)["outcomes"] == {"right": 1000}
        train_from_logs(looper)
        share_with_a_canary(looper, urls)
        limit_a_tenant(looper, urls)
        looper.looper("down", "--address", f"{looper.operator.address}:6379")


def train_from_logs(looper: DeployedLooper) -> None:
    """Ingest the logs of four agents and train on two nodes at once, by commands."""
    logs = looper.drive("logs")
    for instance, path in logs.items():
        looper.looper("ingest", path, "--instance", instance, "--format", "openai_chat")
    before = looper.drive("wait", "1")["states"]["published"]
    recipe = ("--rank", "4", "--learning-rate", "0.01", "--epochs", "2", "--batch-size", "4", "--max-seq-length", "256")
    looper.looper("consolidate", *logs, *recipe, "--wait")
    states = looper.drive("wait", "1")["states"]
    assert states == {"published": before + len(logs)}


def share_with_a_canary(looper: DeployedLooper, urls: list[str]) -> None:
    """Every gateway gives every conversation to the same version."""
    versions = looper.drive("publish-newer", str(looper.base), "acme/agent")
    looper.looper("skills", "promote", "acme/agent", versions["older"], "--channel", "canary", "--share", "0.3")
    answers = looper.drive("canary", "acme/agent", "200", *urls)
    assert answers["wrong"] == 0
    assert sum(answers["versions"].values()) == 200 * len(urls)
    assert 0.2 < answers["versions"][versions["older"]] / (200 * len(urls)) < 0.4


def limit_a_tenant(looper: DeployedLooper, urls: list[str]) -> None:
    """Two gateways together allow what one would."""
    looper.looper("tenant", "limit", "globex", "--requests", str(REQUESTS_PER_MINUTE))
    answers = looper.drive("flood", "globex/agent", "300", *urls)
    allowed = answers["statuses"].pop("200")
    assert set(answers["statuses"]) == {"429"}
    assert REQUESTS_PER_MINUTE / 2 <= allowed <= REQUESTS_PER_MINUTE * (1 + answers["seconds"] / 60)
