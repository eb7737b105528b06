"""Generated requests to the control plane: each is answered as its OpenAPI document says, and no server error occurs.

schemathesis draws them from the document, both such as it allows and such as it does not.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from fastapi.testclient import TestClient
from schemathesis import Case
from schemathesis.core.failures import FailureGroup
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi import checks

from looper.platform.api.headers import TENANT_HEADER
from looper.platform.api.models import ErrorBody
from looper.platform.catalog import Catalog
from looper.platform.domain.scopes import Scope
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import load_settings
from looper.platform.tenancy import issue_key
from looper.serve.gateway.app import build_gateway
from tests.openapi_requests import draw_cases, load_document, operations, to_request
from tests.serve.gateway.harness import DESK, ScriptedEngine, publish

CASES_PER_OPERATION = 16
UPLOADS = 3
"""Each starts a process."""

SEED = 16


@dataclass
class ControlPlane:
    client: TestClient
    key: str
    schema: BaseSchema
    names: dict[str, str]
    """Values of parameters in paths that lead to something."""
    statuses: Counter[int] = field(default_factory=Counter)
    """Responses by status."""


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    folder = tmp_path_factory.mktemp("plane")
    (folder / "looper.json").write_text('{"revision": "r"}')
    settings = load_settings(home=folder / "home", base="org/base", api={"requests_per_minute": 10**6})
    catalog, store = Catalog.open(settings), ObjectStore.open(settings)
    digest = publish(folder, catalog, store, DESK, b"one")
    (job,) = catalog.list_consolidations(DESK.tenant, limit=1)
    issue_key(catalog, DESK.tenant, name="spare")
    key = issue_key(catalog, None, scopes={Scope.OPERATOR})
    app = build_gateway(settings, catalog, store, ScriptedEngine())
    with TestClient(app, raise_server_exceptions=False) as client:
        names = {"file": "manifest.json", "instance": DESK.instance, "channel": "prod", "digest": digest, "id": job.id}
        schema = load_document(client.get("/openapi.json").json())
        yield ControlPlane(client, key, schema, names | {"key": "spare", "tenant": DESK.tenant})
    catalog.close()


def find_fault(plane: ControlPlane, case: Case) -> str | None:
    """Send a request; return what is wrong with the response."""
    headers = {"authorization": f"Bearer {plane.key}", TENANT_HEADER: DESK.tenant}
    response = plane.client.request(**to_request(case, "http://testserver", headers))
    plane.statuses[response.status_code] += 1
    if response.status_code >= 500 and response.status_code != 503:
        return f"status {response.status_code}: {response.text}"
    try:
        if response.status_code >= 400:
            ErrorBody.model_validate_json(response.content)
        conformance = [
            checks.status_code_conformance,
            checks.content_type_conformance,
            checks.response_schema_conformance,
        ]
        case.validate_response(response, checks=conformance)
    except (ValueError, FailureGroup) as error:
        failures = error.exceptions if isinstance(error, FailureGroup) else [error]
        return f"status {response.status_code}: {response.text[:300]}\n{failures}"
    return None


def test_every_generated_request_is_answered_as_the_document_says(plane: ControlPlane) -> None:
    faults = []
    for number, operation in enumerate(operations(plane.schema)):
        count = UPLOADS if operation.path.endswith("/trajectories") else CASES_PER_OPERATION
        cases = draw_cases([operation], count, SEED + number, plane.names)
        found = ((case, find_fault(plane, case)) for case in cases)
        faults += [f"{case.as_curl_command()}\n{fault}" for case, fault in found if fault]
    assert not faults, "\n\n".join(faults[:20])
    assert plane.statuses[401] == 0
    assert plane.statuses[200] > len(operations(plane.schema)), "the requests reach what the routes do"
