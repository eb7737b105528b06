"""The Grafana dashboard asks for metrics that the gateway has."""

import json
import re
from importlib.resources import files

from looper.serve.gateway.metrics import GatewayMetrics

DASHBOARD = files("looper.cluster") / "grafana" / "serving.json"


def test_every_panel_asks_for_metrics_that_there_are() -> None:
    there = {
        sample
        for family in GatewayMetrics().registry.collect()
        for sample in (family.name, f"{family.name}_total", f"{family.name}_bucket")
    }
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = {name for panel in panels for each in panel["targets"] for name in re.findall(r"looper_\w+", each["expr"])}
    assert asked
    assert asked <= there
    counted = {family.name for family in GatewayMetrics().registry.collect()}
    assert {re.sub("_(total|bucket)$", "", name) for name in asked} == counted, "every metric is on it"
