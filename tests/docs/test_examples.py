"""Examples on the pages that can be run are run, against the real thing."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import orjson
import pytest
from fastapi import APIRouter, Depends, FastAPI
from prometheus_client import CollectorRegistry, Counter, generate_latest
from pydantic import BaseModel, Field

from looper.gym import HARD_WORKPLACES, record_episodes
from looper.gym.sessions import build_sessions
from looper.gym.streams import build_stream
from looper.gym.workplace import Convention
from looper.gym.workplaces import DISPATCH
from looper.platform.api.error_handlers import install_error_handlers
from looper.platform.client import Client
from looper.platform.domain.names import InstanceName, check_name
from looper.platform.domain.scopes import TENANT_SCOPES
from looper.platform.tenancy import issue_key
from looper.serve.gateway.metrics import GatewayMetrics
from tests.docs.pages import ROOT, code_blocks
from tests.platform.test_api import EPISODE, Platform, platform, publish, served
from tests.serve.gateway.harness import GatewayHarness, gateway

__all__ = ["gateway", "platform"]

URL, KEY = "http://127.0.0.1:8000", "looper_..."


def examples(page: str) -> list[str]:
    return [block.text for block in code_blocks(ROOT / page) if block.language == "python"]


def run(code: str, **given: Any) -> dict[str, Any]:
    names = {"__name__": "example", **given}
    exec(compile(code, "example", "exec"), names)  # noqa: S102 (our own pages)
    return names


def test_the_readmes_openai_client(gateway: GatewayHarness) -> None:
    (code,) = (code for code in examples("README.md") if "openai" in code)
    with served(gateway.client.app) as url:  # type: ignore[arg-type]
        run(code.replace(URL, url).replace(KEY, gateway.key).replace("acme/helpdesk", "acme/desk"))
    (request,) = gateway.engine.requests
    assert request.body["model"] == gateway.digest
    assert request.body["messages"] == [{"role": "user", "content": "Order 1207 arrived broken"}]


def test_the_readmes_client(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = (code for code in examples("README.md") if "looper.platform.client" in code)
    helpdesk, runs = InstanceName("acme", "helpdesk"), tmp_path / "runs"
    runs.mkdir()
    with platform.client("acme") as client:
        (runs / "sunday.jsonl").write_bytes(orjson.dumps(EPISODE))
        client.ingest("helpdesk", runs / "sunday.jsonl")
        (job,) = client.consolidate(["helpdesk"])
        before = publish(platform, helpdesk, job.id)
        (runs / "monday.jsonl").write_bytes(orjson.dumps(EPISODE | {"task_id": "t2"}))

        def work(_: float) -> None:
            """Whoever waits for the queue lets it be worked."""
            (job, _older) = client.consolidations()
            publish(platform, helpdesk, job.id)

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("looper.platform.client.client.time", SimpleNamespace(sleep=work))
        run(code.replace(URL, platform.url).replace(KEY, issue_key(platform.catalog, "acme", scopes=TENANT_SCOPES)))
        after, _ = (version.digest for version in client.skill("helpdesk").versions)
        assert capsys.readouterr().out == f"acme/helpdesk published {after}\n"
        assert client.skill("helpdesk").channels == {"prod": before}


def test_the_guides_format() -> None:
    (code,) = examples("docs/guides/add-a-format.md")
    reader = run(code)["READER"]
    document = {"goal": "Find it", "moves": [{"tool": "look", "with": {"at": "door"}, "saw": "a key"}], "won": True}
    assert reader.recognizes(document)
    (trajectory,) = reader.read(document)
    assert [step.source for step in trajectory.steps] == ["user", "agent", "tool"]
    assert trajectory.outcome.success is True


def test_the_guides_route(platform: Platform, tmp_path: Path) -> None:
    model, route, method = examples("docs/guides/add-a-route.md")
    info = run(model, ApiModel=BaseModel, Field=Field)["BatchInfo"]
    app, router = FastAPI(), APIRouter(prefix="/api/v1/instances")
    desk = Annotated[InstanceName, Depends(lambda: InstanceName("acme", "desk"))]
    run(route, router=router, Instance=desk, BatchInfo=info, catalog=platform.catalog)
    app.include_router(router)
    install_error_handlers(app)
    file = tmp_path / "monday.jsonl"
    file.write_bytes(orjson.dumps(EPISODE))
    with platform.client("acme") as client:
        client.ingest("desk", file)
    batches: Callable[[Client, str], list[Any]] = run(method, check_name=check_name, BatchInfo=info)["batches"]
    with served(app) as url, Client(url, "looper_any") as client:
        assert [(batch.source, batch.trajectories) for batch in batches(client, "desk")] == [("monday.jsonl", 1)]


def test_the_guides_metric() -> None:
    definition, use = examples("docs/guides/add-a-metric.md")
    metrics = SimpleNamespace(registry=CollectorRegistry())
    run(definition, self=metrics, Counter=Counter)
    run(use, metrics=metrics)
    assert b'looper_answers_truncated_total{channel="prod"} 1.0' in generate_latest(metrics.registry)


def test_the_gyms_examples() -> None:
    change, months, stream, recording = examples("docs/gym.md")
    changed = run(change, Convention=Convention, replace=replace, DISPATCH=DISPATCH)["changed"]
    assert changed.conventions["lane"] != DISPATCH.conventions["lane"]
    assert run(months, build_sessions=build_sessions, DISPATCH=DISPATCH)["september"].instance == DISPATCH.instance
    assert len(run(stream, build_stream=build_stream, DISPATCH=DISPATCH)["months"]) == 50
    recorded = run(recording, record_episodes=record_episodes, HARD_WORKPLACES=HARD_WORKPLACES)["episodes"]
    assert 40 <= sum(not episode.result.success for episode in recorded) <= 72


def test_the_page_on_serving_has_every_metric_and_no_other() -> None:
    counted = {
        family.name + ("_total" if family.type == "counter" else "") for family in GatewayMetrics().registry.collect()
    }
    assert set(re.findall(r"`(looper_\w+)`", (ROOT / "docs" / "serving.md").read_text())) == counted
