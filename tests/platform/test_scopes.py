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
from looper.platform.api.headers import TENANT_HEADER
from looper.platform.catalog import Catalog
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.scopes import (
    DEFAULT_SCOPES,
    OPERATOR_SCOPES,
    TENANT_SCOPES,
    Scope,
    format_scopes,
    granted_scopes,
    parse_scopes,
)
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
    ("POST", "/api/v1/instances"): Scope.SUBMIT,
    ("GET", "/api/v1/instances/desk"): Scope.SUBMIT,
    ("POST", "/api/v1/instances/desk/move"): Scope.SUBMIT,
    ("GET", "/api/v1/instances/desk/batches"): Scope.SUBMIT,
    ("GET", "/api/v1/instances/desk/events"): Scope.SUBMIT,
    ("POST", "/api/v1/instances/desk/trajectories"): Scope.SUBMIT,
    ("POST", "/api/v1/instances/desk/uploads"): Scope.SUBMIT,
    ("PUT", "/api/v1/instances/desk/uploads/0/parts/0"): Scope.SUBMIT,
    ("POST", "/api/v1/instances/desk/uploads/0/end"): Scope.SUBMIT,
    ("GET", "/api/v1/recipe"): Scope.SUBMIT,
    ("POST", "/api/v1/recipe"): Scope.SUBMIT,
    ("GET", "/api/v1/consolidations"): Scope.SUBMIT,
    ("POST", "/api/v1/consolidations"): Scope.SUBMIT,
    ("GET", "/api/v1/consolidations/0"): Scope.SUBMIT,
    ("GET", "/api/v1/consolidations/0/events"): Scope.SUBMIT,
    ("GET", "/api/v1/consolidations/0/report"): Scope.SUBMIT,
    ("POST", "/api/v1/consolidations/0/cancel"): Scope.SUBMIT,
    ("GET", "/api/v1/skills"): Scope.SUBMIT,
    ("GET", "/api/v1/skills/desk"): Scope.SUBMIT,
    ("GET", "/api/v1/skills/desk/versions"): Scope.SUBMIT,
    ("GET", "/api/v1/skills/desk/traffic"): Scope.SUBMIT,
    ("GET", f"/api/v1/skills/desk/versions/{'0' * 64}/files/manifest.json"): Scope.ADMIN,
    ("PUT", "/api/v1/skills/desk/channels/canary"): Scope.ADMIN,
    ("DELETE", "/api/v1/skills/desk/channels/canary"): Scope.ADMIN,
    ("POST", "/api/v1/skills/desk/channels/prod/rollback"): Scope.ADMIN,
    ("POST", f"/api/v1/skills/desk/versions/{'0' * 64}/revoke"): Scope.ADMIN,
    ("GET", "/api/v1/keys"): Scope.ADMIN,
    ("POST", "/api/v1/keys/0/revoke"): Scope.ADMIN,
    ("GET", "/api/v1/limits"): Scope.ADMIN,
    ("GET", "/api/v1/audit"): Scope.ADMIN,
    ("GET", "/api/v1/key"): None,
    ("GET", "/api/v1/tenants"): Scope.OPERATOR,
    ("POST", "/api/v1/tenants"): Scope.OPERATOR,
    ("POST", "/api/v1/tenants/acme/keys"): Scope.OPERATOR,
    ("GET", "/api/v1/tenants/acme/limits"): Scope.OPERATOR,
    ("PUT", "/api/v1/tenants/acme/limits"): Scope.OPERATOR,
    ("GET", "/api/v1/cluster"): Scope.OPERATOR,
    ("GET", "/metrics"): Scope.METRICS,
}
"""Every route that needs a key, and the one scope that opens it. None: any key does."""


def test_each_route_is_opened_by_its_scope_alone(gateway: GatewayHarness) -> None:
    """The keys have one scope each, or all but one. Statuses other than 403 are the route's own business."""
    catalog = gateway.catalog
    keys = {scope: issue_key(catalog, "acme", scopes={scope}) for scope in TENANT_SCOPES}
    keys |= {scope: issue_key(catalog, None, scopes={scope}) for scope in OPERATOR_SCOPES}
    without = {scope: issue_key(catalog, "acme", scopes=TENANT_SCOPES - {scope}) for scope in TENANT_SCOPES}
    without |= {scope: issue_key(catalog, "acme", scopes=TENANT_SCOPES) for scope in OPERATOR_SCOPES}
    opens = {scope: granted_scopes(None if scope in OPERATOR_SCOPES else "acme", {scope}) for scope in Scope}
    for (method, path), needed in SCOPES.items():

        def send(key: str, method: str = method, path: str = path) -> Any:
            headers = {"authorization": f"Bearer {key}", TENANT_HEADER: "acme"}
            return gateway.client.request(method, path, json={}, headers=headers)

        if needed is None:
            assert {send(key).status_code for key in keys.values()} == {200}
            continue
        for key in (without[needed], *(keys[scope] for scope in Scope if needed not in opens[scope])):
            refused = send(key)
            error = refused.json()["error"]
            assert (refused.status_code, error["code"]) == (403, "insufficient_scope"), (method, path)
            assert f"the key lacks scope {needed}, it has" in error["message"]
            assert "\n" not in error["message"]
        for scope in Scope:
            if needed in opens[scope]:
                assert send(keys[scope]).status_code not in (401, 403), (method, path, scope)


def test_an_operators_key_opens_all_but_inference() -> None:
    assert granted_scopes(None, {Scope.OPERATOR}) == set(Scope) - {Scope.INFER}
    assert granted_scopes(None, {Scope.METRICS}) == {Scope.METRICS}
    assert granted_scopes("acme", set(Scope)) == TENANT_SCOPES, "whatever an earlier release has given a tenant's key"


def test_a_key_is_not_issued_with_scopes_of_the_other_kind(gateway: GatewayHarness) -> None:
    with pytest.raises(InvalidInput, match="a tenant's key cannot have scope operator, only infer,submit,admin"):
        issue_key(gateway.catalog, "acme", scopes={Scope.INFER, Scope.OPERATOR})
    with pytest.raises(InvalidInput, match="an operator's key cannot have scope infer, only operator,metrics"):
        issue_key(gateway.catalog, None, scopes={Scope.INFER, Scope.OPERATOR})


def test_an_operators_key_names_the_tenant_that_it_acts_for(gateway: GatewayHarness) -> None:
    operator = {"authorization": f"Bearer {issue_key(gateway.catalog, None, scopes={Scope.OPERATOR})}"}

    def send(path: str, tenant: str | None = None, key: dict[str, str] = operator) -> tuple[int, Any]:
        headers = key | ({} if tenant is None else {TENANT_HEADER: tenant})
        response = gateway.client.get(f"/api/v1/{path}", headers=headers)
        return response.status_code, response.json()

    status, body = send("skills/desk")
    assert (status, body["error"]["code"]) == (400, "invalid_input")
    assert "an operator's key belongs to no tenant: name one in the header looper-tenant" in body["error"]["message"]
    assert send("skills/desk", "acme")[1]["model"] == "acme/desk"
    assert send("skills/desk", "other")[1]["model"] == "other/desk"
    assert send("skills/desk", "../x")[0] == 400
    assert [skill["model"] for skill in send("skills")[1]] == ["acme/desk", "other/desk"]
    assert [skill["model"] for skill in send("skills", "other")[1]] == ["other/desk"]
    own = {"authorization": f"Bearer {gateway.key}"}
    assert send("skills/desk", "acme", own)[1]["model"] == "acme/desk"
    status, body = send("skills/desk", "other", own)
    assert (status, body["error"]["message"]) == (
        403,
        "the key belongs to tenant acme and cannot act for other: use a key of other",
    )


def test_a_key_of_an_earlier_release_with_scope_operator_reaches_no_operators_route(gateway: GatewayHarness) -> None:
    with gateway.catalog._write_transaction() as sql:
        sql.exec_driver_sql("UPDATE keys SET scopes = 'infer,submit,admin,operator'")
    for path in ("/api/v1/tenants", "/metrics"):
        response = gateway.client.get(path, headers={"authorization": f"Bearer {gateway.key}"})
        assert response.status_code == 403
        assert "only an operator's key has it, from looper operator key NAME" in response.json()["error"]["message"]


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
        "{upload}": "0",
        "{number}": "0",
        "{file}": "manifest.json",
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
        with pytest.raises(InvalidInput, match="give some of infer,submit,admin,operator,metrics"):
            parse_scopes(wrong)
