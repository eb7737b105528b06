"""``looper upgrade --plan``: what it says of the schema, of settings, of another base model and of training."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from looper.cluster import migration, upgrade_plan
from looper.cluster.deployment_versions import deployment_versions, describe_deployment
from looper.cluster.migration import migrate_catalog
from looper.cluster.upgrade_plan import Place, UpgradeStep, make_plan
from looper.platform.catalog import Catalog
from looper.platform.catalog.cluster_reports import DEPLOYED, REPORT
from looper.platform.catalog.schema import SchemaVersion
from looper.platform.domain.cluster_report import ClusterReport, DeployedFrom
from looper.platform.domain.errors import InvalidInput
from looper.platform.settings import Settings, load_settings

STAYS = "its replicas stay; if their number changes, then in place"


def settings_of(home: Path, **changed: Any) -> Settings:
    return load_settings(home=home, base="org/base", **changed)


def report(settings: Settings, **changed: Any) -> None:
    """Write what a cluster with these settings would report."""
    deployed = describe_deployment(settings).model_copy(update=changed)
    found = ClusterReport(nodes=[], deployments=[], waiting=[], problems=[], ray="2")
    with closing(Catalog.open(settings)) as catalog:
        catalog.save_cluster_report(DEPLOYED, deployed.model_dump(mode="json"))
        catalog.save_cluster_report(REPORT, found.model_dump(mode="json"))


def plan(settings: Settings, place: Place = "existing ray") -> dict[str, UpgradeStep]:
    found = make_plan(settings, place)
    assert not found.refusal
    return {step.part: step for step in found.steps}


def test_only_replicas_that_a_setting_concerns_are_replaced(tmp_path: Path) -> None:
    running = settings_of(tmp_path, serve={"replicas": 2, "pools": [{"max_lora_rank": 64}]})
    versions = deployment_versions(running)
    counts = {"replicas": 3, "max_replicas": 5, "pools": [{"max_lora_rank": 64, "replicas": 2}]}
    for changed, replaced in (
        ({"serve": counts}, {"gateway"}),
        ({"serve": {"replicas": 2, "pools": [{"max_lora_rank": 64}], "requests_per_minute": 9}}, {"gateway"}),
        ({"api": {"requests_per_minute": 9}, "serve": running.serve.model_dump()}, {"gateway"}),
        ({"serve": running.serve.model_dump() | {"max_model_len": 99}}, set(versions)),
        ({"serve": running.serve.model_dump(), "cluster": {"leader_lease_s": 9}}, {"control-loop"}),
        ({"serve": running.serve.model_dump(), "cluster": {"control_loops": 2}}, set()),
    ):
        after = deployment_versions(settings_of(tmp_path, **changed))
        assert {name for name in versions if versions[name] != after[name]} == replaced, changed


def test_a_plan_says_what_changes_in_place_and_what_is_replaced(tmp_path: Path) -> None:
    report(settings_of(tmp_path, serve={"replicas": 2}))
    parts = plan(settings_of(tmp_path, serve={"replicas": 3}))
    assert (parts["serve.replicas"].before, parts["serve.replicas"].after) == ("2", "3")
    assert "in place" in parts["skills-r16"].how
    assert "each replica is replaced" in parts["gateway"].how
    assert parts["training"].how == "goes on"
    assert parts["looper"].how == "stays"
    older = dict.fromkeys(deployment_versions(settings_of(tmp_path)), "older")
    report(settings_of(tmp_path), looper="0.0.9 (older)", versions=older)
    parts = plan(settings_of(tmp_path))
    assert parts["looper"].before == "0.0.9 (older)"
    assert "room for 1 more is needed" in parts["skills-r16"].how
    parts = plan(settings_of(tmp_path, serve={"surge_percent": 0}))
    assert parts["skills-r16"].requests == "503 until the new one has started"
    assert "then goes on from it" in parts["training"].how


def test_a_plan_without_changes_has_no_work(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    report(settings)
    assert {step.how for step in make_plan(settings, "existing ray").steps} == {"stays", STAYS, "goes on"}
    assert not make_plan(settings, "private ray").has_work
    assert make_plan(settings_of(tmp_path, serve={"replicas": 3}), "private ray").has_work
    assert "all fail" in plan(settings_of(tmp_path, serve={"replicas": 3}), "private ray")["cluster"].requests


def test_another_base_model_and_another_port_are_refused_with_the_way_out(tmp_path: Path) -> None:
    report(settings_of(tmp_path))
    other = make_plan(load_settings(home=tmp_path, base="org/other"), "existing ray").refusal
    assert other.startswith("the base model changes from org/base to org/other")
    port = make_plan(settings_of(tmp_path, serve={"port": 9}), "existing ray").refusal
    assert port.startswith("serve.port cannot change while")


def test_what_runs_must_be_able_to_go_on_with_the_new_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later release contracts the schema."""
    settings = settings_of(tmp_path)
    report(settings, looper="0.1.0 (old)", schema_revision="0009")
    later = SchemaVersion("9999", "9998")
    for module in (migration, upgrade_plan):
        monkeypatch.setattr(module, "newest_schema", lambda: later)
    found = make_plan(settings, "existing ray")
    assert found.refusal.startswith("Looper 0.1.0 (old) runs, and could not go on with schema 9999")
    assert "contracted: code before schema 9998 cannot use it any more" in found.steps[0].how
    with pytest.raises(InvalidInput, match="could not go on with schema 9999"):
        migrate_catalog(settings)
    monkeypatch.setattr(migration, "MAX_REPORT_AGE_S", -1)
    assert not make_plan(settings, "existing ray").refusal, "nobody has reported lately"


def test_secrets_and_paths_are_not_reported(tmp_path: Path) -> None:
    settings = load_settings(
        home=tmp_path, catalog={"url": "postgresql://looper:hunter2@db/looper"}, synthesis={"model": {"api_key": "sk"}}
    )
    deployed: DeployedFrom = describe_deployment(settings)
    assert deployed.settings == {}
