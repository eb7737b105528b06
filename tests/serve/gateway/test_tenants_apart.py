"""What belongs to another tenant is answered like what does not exist, word for word."""

from pathlib import Path

import pytest

from looper.platform.domain.names import InstanceName
from looper.platform.domain.scopes import TENANT_SCOPES
from looper.platform.tenancy import issue_key
from tests.serve.gateway.harness import GatewayHarness

OWN = InstanceName("rival", "own")
NOWHERE = {"desk": "nowhere", "id": "2" * 32, "digest": "1" * 64, "key": "3" * 16}
"""Names and ids that nobody has."""


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/api/v1/instances/{desk}", None),
        ("GET", "/api/v1/consolidations?instance={desk}", None),
        ("GET", "/api/v1/consolidations/{id}", None),
        ("GET", "/api/v1/consolidations/{id}/events", None),
        ("POST", "/api/v1/consolidations/{id}/cancel", None),
        ("POST", "/api/v1/consolidations", {"instances": ["{desk}"]}),
        ("GET", "/api/v1/skills/{desk}", None),
        ("GET", "/api/v1/skills/{desk}/versions", None),
        ("GET", "/api/v1/skills/{desk}/traffic", None),
        ("PUT", "/api/v1/skills/{desk}/channels/prod", {"digest": "{digest}"}),
        ("PUT", "/api/v1/skills/own/channels/prod", {"digest": "{digest}"}),
        ("DELETE", "/api/v1/skills/{desk}/channels/prod", None),
        ("POST", "/api/v1/skills/{desk}/channels/prod/rollback", None),
        ("POST", "/api/v1/skills/{desk}/versions/{digest}/revoke", None),
        ("POST", "/api/v1/skills/own/versions/{digest}/revoke", None),
        ("POST", "/api/v1/keys/{key}/revoke", None),
        ("GET", "/v1/models/acme/{desk}", None),
        ("GET", "/v1/models/rival/own@{digest}", None),
        ("POST", "/v1/chat/completions", {"model": "acme/{desk}", "messages": [{"role": "user", "content": "hi"}]}),
        ("POST", "/v1/completions", {"model": "rival/own@{digest}", "prompt": "hi"}),
    ],
)
def test_another_tenants_things_do_not_exist(
    gateway: GatewayHarness, method: str, path: str, body: dict[str, object] | None, tmp_path: Path
) -> None:
    catalog = gateway.catalog
    catalog.create_tenant("rival")
    catalog.ensure_instance(OWN)
    acme_key, rival_key = (issue_key(catalog, tenant, scopes=TENANT_SCOPES) for tenant in ("acme", "rival"))
    theirs = {
        "desk": "desk",
        "id": catalog.get_version(gateway.digest).consolidation,
        "digest": gateway.digest,
        "key": acme_key.split("_")[1],
    }

    def fill(value: object, names: dict[str, str]) -> object:
        if isinstance(value, dict):
            return {key: fill(each, names) for key, each in value.items()}
        if isinstance(value, list):
            return [fill(each, names) for each in value]
        return value.format(**names) if isinstance(value, str) else value

    def ask(names: dict[str, str]) -> tuple[int, str, dict[str, str]]:
        headers = {"authorization": f"Bearer {rival_key}"}
        response = gateway.client.request(method, path.format(**names), json=fill(body, names), headers=headers)
        text = response.text
        for name, value in names.items():
            text = text.replace(value, f"<{name}>")
        differing = ("x-request-id", "content-length", "date")
        return response.status_code, text, {k: v for k, v in response.headers.items() if k not in differing}

    assert ask(theirs) == ask(NOWHERE)
    assert gateway.engine.requests == []
    assert catalog.get_channels(InstanceName("acme", "desk")) == {"prod": gateway.digest}
    assert catalog.get_version(gateway.digest).revoked_at is None
