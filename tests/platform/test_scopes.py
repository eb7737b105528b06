"""What a key may do is decided by its scopes, for every route of both APIs, before the body is read."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.routing import Mount

from looper.platform.api.authenticated_route import authenticated_route
from looper.platform.catalog import Catalog
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.scopes import DEFAULT_SCOPES, Scope, format_scopes, parse_scopes
from looper.platform.settings import load_settings
from looper.platform.tenancy import issue_key
from tests.platform.test_authenticated_route import ControlPlane
from tests.serve.gateway.harness import GatewayHarness, gateway

__all__ = ["gateway"]

SCOPES = {
    ("POST", "/v1/chat/completions"): Scope.INFER,
    ("POST", "/v1/completions"): Scope.INFER,
    ("GET", "/v1/models"): Scope.INFER,
    ("GET", "/v1/models/acme/desk"): Scope.INFER,
    ("GET", "/api/v1/instances"): Scope.SUBMIT,
    ("GET", "/api/v1/instances/desk"): Scope.SUBMIT,
    ("POST", "/api/v1/instances/desk/trajectories"): Scope.SUBMIT,
    ("GET", "/api/v1/consolidations"): Scope.SUBMIT,
    ("POST", "/api/v1/consolidations"): Scope.SUBMIT,
    ("GET", "/api/v1/consolidations/0"): Scope.SUBMIT,
    ("GET", "/api/v1/consolidations/0/events"): Scope.SUBMIT,
    ("POST", "/api/v1/consolidations/0/cancel"): Scope.SUBMIT,
    ("GET", "/api/v1/skills"): Scope.SUBMIT,
    ("GET", "/api/v1/skills/desk"): Scope.SUBMIT,
    ("GET", "/api/v1/skills/desk/versions"): Scope.SUBMIT,
    ("GET", "/api/v1/skills/desk/traffic"): Scope.SUBMIT,
    ("PUT", "/api/v1/skills/desk/channels/canary"): Scope.ADMIN,
    ("DELETE", "/api/v1/skills/desk/channels/canary"): Scope.ADMIN,
    ("POST", "/api/v1/skills/desk/channels/prod/rollback"): Scope.ADMIN,
    ("POST", f"/api/v1/skills/desk/versions/{'0' * 64}/revoke"): Scope.ADMIN,
    ("GET", "/api/v1/keys"): Scope.ADMIN,
    ("POST", "/api/v1/keys/0/revoke"): Scope.ADMIN,
    ("GET", "/api/v1/limits"): Scope.ADMIN,
    ("GET", "/api/v1/audit"): Scope.ADMIN,
    ("GET", "/api/v1/tenants"): Scope.OPERATOR,
    ("GET", "/api/v1/tenants/acme/limits"): Scope.OPERATOR,
    ("PUT", "/api/v1/tenants/acme/limits"): Scope.OPERATOR,
    ("GET", "/metrics"): Scope.OPERATOR,
}
"""Every route that needs a key, and the one scope that opens it."""


def test_each_route_is_opened_by_its_scope_alone(gateway: GatewayHarness) -> None:
    """The keys have one scope each, or all but one. Statuses other than 403 are the route's own business."""
    keys = {scope: issue_key(gateway.catalog, "acme", scopes={scope}) for scope in Scope}
    without = {scope: issue_key(gateway.catalog, "acme", scopes=set(Scope) - {scope}) for scope in Scope}
    for (method, path), needed in SCOPES.items():

        def send(key: str, method: str = method, path: str = path) -> Any:
            return gateway.client.request(method, path, json={}, headers={"authorization": f"Bearer {key}"})

        for key in (without[needed], *(keys[scope] for scope in Scope if scope != needed)):
            refused = send(key)
            error = refused.json()["error"]
            assert (refused.status_code, error["code"]) == (403, "insufficient_scope"), (method, path)
            assert f"the key lacks scope {needed}, it has" in error["message"]
            assert "\n" not in error["message"]
        assert send(keys[needed]).status_code not in (401, 403), (method, path)


def test_the_table_above_has_every_route_with_a_key(gateway: GatewayHarness) -> None:
    def routes(app: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
        for route in app.routes:
            if isinstance(route, Mount):
                inner = route.app
                while hasattr(inner, "_app"):  # middlewares
                    inner = inner._app
                yield from routes(inner, prefix + route.path)
            elif isinstance(route, APIRoute) and type(route) is not APIRoute:
                yield from ((method, prefix + route.path) for method in route.methods)

    names = {
        "{instance}": "desk",
        "{model:path}": "acme/desk",
        "{id}": "0",
        "{key}": "0",
        "{tenant}": "acme",
        "{digest}": "0" * 64,
    }
    found = set()
    for method, path in routes(gateway.client.app):
        for placeholder, value in names.items():
            path = path.replace(placeholder, value)
        found.add((method, path.replace("{channel}", "prod" if path.endswith("rollback") else "canary")))
    assert found == set(SCOPES)


def test_the_openapi_document_says_which_scope_each_route_needs(gateway: GatewayHarness) -> None:
    document = gateway.client.get("/openapi.json").json()
    listed = [
        requirement
        for path in document["paths"].values()
        for operation in path.values()
        for requirement in operation["security"]
    ]
    assert len(listed) == sum(path.startswith("/api/v1") for _, path in SCOPES)
    assert document["paths"]["/api/v1/skills/{instance}/channels/{channel}"]["put"]["security"][0] == {
        "HTTPBearer": ["admin"]
    }
    assert document["paths"]["/api/v1/skills"]["get"]["security"][0] == {"HTTPBearer": ["submit"]}


def test_a_route_without_a_scope_cannot_be_defined(tmp_path: Path) -> None:
    with closing(Catalog.open(load_settings(home=tmp_path))) as catalog:
        router = APIRouter(route_class=authenticated_route(catalog))
        with pytest.raises(TypeError, match="route /forgotten declares no scope"):
            router.get("/forgotten")(lambda: None)


def test_without_the_scope_no_body_is_read(tmp_path: Path) -> None:
    with closing(Catalog.open(load_settings(home=tmp_path))) as catalog:
        plane = ControlPlane(tmp_path, catalog)
        key = issue_key(catalog, "acme", scopes={Scope.INFER})
        status, _ = plane.send(("POST", "/api/v1/consolidations"), b"[" * 2**20, key)
        assert (status, plane.bytes_read) == (403, 0)


def test_a_key_for_an_agent_cannot_change_what_is_served(gateway: GatewayHarness) -> None:
    headers = {"authorization": f"Bearer {issue_key(gateway.catalog, 'acme')}"}
    body = {"digest": gateway.digest, "share": 0.5}
    refused = gateway.client.put("/api/v1/skills/desk/channels/canary", json=body, headers=headers)
    assert refused.status_code == 403
    assert gateway.client.get("/api/v1/skills/desk", headers=headers).json()["channels"] == {"prod": gateway.digest}


def test_scopes_are_read_and_written() -> None:
    assert parse_scopes("admin, infer") == {Scope.INFER, Scope.ADMIN}
    assert format_scopes(parse_scopes("submit,infer")) == "infer,submit" == format_scopes(DEFAULT_SCOPES)
    for wrong in ("", ",", "infer,root", "INFER"):
        with pytest.raises(InvalidInput, match="give some of infer,submit,admin,operator"):
            parse_scopes(wrong)
