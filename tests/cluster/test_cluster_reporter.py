"""What waits for a node is reported with what it needs and since when."""

from datetime import timedelta

from looper.cluster.cluster_reporter import GPU_GROUP_NAME, PATIENCE_S, ClusterReporter
from looper.platform.settings import load_settings

ENGINE = {"CPU": 1.0, "GPU": 1.0, "accelerator_type:L4": 0.001}


def test_an_engine_that_no_node_has_room_for_is_reported_until_it_is_placed() -> None:
    reporter = ClusterReporter(load_settings())
    names = {"a": "SERVE_REPLICA::looper#skills-r16#abc", "b": GPU_GROUP_NAME, "c": "train"}
    groups = {
        id: {"placement_group_id": id, "name": name, "state": "PENDING", "bundles": {0: ENGINE, 1: {"GPU": 1.0}}}
        for id, name in names.items()
    }
    assert reporter._report_waiting(groups.values()) == [], "Ray may be about to place them"
    since = reporter._waiting_since["a"] - timedelta(seconds=PATIENCE_S)
    reporter._waiting_since = dict.fromkeys(names, since)
    waits = reporter._report_waiting(groups.values())
    assert [wait.what for wait in waits] == ["skills-r16 abc", "the deployment, for GPUs that it measures", "a trainer"]
    assert {wait.since for wait in waits} == {since}
    assert waits[0].resources == {"CPU": 1, "GPU": 2, "accelerator_type:L4": 0.001}
    groups["a"]["state"] = "CREATED"
    assert len(reporter._report_waiting(groups.values())) == 2
    groups["a"]["state"] = "PENDING"
    assert len(reporter._report_waiting(groups.values())) == 2, "what waits again begins anew"
