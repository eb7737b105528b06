"""The Grafana dashboard shows exactly the metrics that the gateway has."""

import json
import re
from importlib.resources import files

from looper.serve.gateway.metrics import GatewayMetrics

DASHBOARD = files("looper.cluster") / "grafana" / "serving.json"


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    samples = {
        sample
        for family in GatewayMetrics().registry.collect()
        for sample in (family.name, f"{family.name}_total", f"{family.name}_bucket")
    }
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queried = {
        name for panel in panels for target in panel["targets"] for name in re.findall(r"looper_\w+", target["expr"])
    }
    assert queried
    assert queried <= samples
    metrics = {family.name for family in GatewayMetrics().registry.collect()}
    assert {re.sub("_(total|bucket)$", "", name) for name in queried} == metrics, "a metric is missing on the dashboard"
