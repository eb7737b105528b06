"""Requests that schemathesis generates from the OpenAPI document of the control plane."""

import threading
from collections.abc import Mapping
from typing import Any

import hypothesis
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, strategies
from schemathesis import Case, GenerationMode
from schemathesis.schemas import APIOperation, BaseSchema

_drawing = threading.Lock()


def operations(schema: BaseSchema) -> list[APIOperation[Any, Any, Any, Any]]:
    """Return all operations of a document; every one must be understood."""
    return [result.ok() for result in schema.get_all_operations()]


def draw_cases(
    found: list[APIOperation[Any, Any, Any, Any]], count: int, seed: int, names: Mapping[str, str] | None = None
) -> list[Case]:
    """Draw requests, half of them such as the document allows, and half of them not.

    Args:
        found: The operations that are drawn from.
        count: How many requests to draw.
        seed: Decides them.
        names: Values of parameters in paths. Every second path has them, so that it leads somewhere.

    Returns:
        At most ``count`` requests, the simplest first.
    """
    cases: list[Case] = []
    drawn = [
        operation.as_strategy(mode, path_parameters=known)
        for operation in found
        for mode in GenerationMode
        for known in [None, _known(operation, names or {})]
        if known != {}
        if mode == GenerationMode.POSITIVE or operation.query or operation.body or operation.path_parameters
    ]

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(case=strategies.one_of(drawn))
    def collect(case: Case) -> None:
        cases.append(case)

    with _drawing:
        collect()
    return cases


def _known(operation: APIOperation[Any, Any, Any, Any], names: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in names.items() if f"{{{name}}}" in operation.path}


def to_request(case: Case, url: str, headers: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments for ``httpx.Client.request``.

    Args:
        case: The request.
        url: Address of the server.
        headers: Headers to add, with names in lower case. They replace generated ones: schemathesis makes up keys.
    """
    prepared = requests.Request(**case.as_transport_kwargs(base_url=url)).prepare()
    sent = {name.lower(): value for name, value in prepared.headers.items() if name.lower() != "content-length"}
    return {"method": prepared.method, "url": prepared.url, "content": prepared.body, "headers": {**sent, **headers}}


def load_document(document: dict[str, Any]) -> BaseSchema:
    """Return the schema of an OpenAPI document."""
    return schemathesis.openapi.from_dict(document)
