"""The gateway: what clients talk to. It knows tenants and model names; behind it there are digests only.

A request is authorised, its model's name is resolved to a version through the catalog (never cached, so that promoting
a version takes effect with the next request), and handed to the engine. vLLM's answer goes back as it is, except that
``model`` says again what the client asked for.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import orjson
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from looper.platform.api.errors import answer_errors
from looper.platform.catalog import Catalog
from looper.platform.domain.errors import InvalidInput, NotFound
from looper.platform.domain.names import InstanceName, ModelName
from looper.platform.tenancy import authenticate
from looper.serve.metrics import Metered, Metrics
from looper.serve.protocol import Body, Call, Engine, Reply, Whole, error

MAX_BODY = 8 * 2**20
"""Bytes of one request."""

VERSION_HEADER = "x-looper-version"
"""Carries the digest of the version that answered. Absent from the base model's answers."""

log = logging.getLogger(__name__)


class Refused(Exception):
    """Ends a request with ``answer``."""

    def __init__(self, answer: Whole) -> None:
        super().__init__(answer.body.decode())
        self.answer = answer


def gateway(*, base: str, catalog: Catalog, engine: Engine, control_plane: APIRouter) -> FastAPI:
    """The HTTP application: ``/v1`` in OpenAI's protocol, ``/api/v1``, ``/healthz`` and ``/metrics``.

    ``base`` is the base model's name on ``/v1``; it comes before a tenant's instance of the same name.
    """
    metrics = Metrics()
    app = FastAPI(title="Looper", summary="Control plane: instances, consolidations, skills")
    answer_errors(app)
    app.include_router(control_plane)
    app.mount("/v1", Metered(_openai(base, catalog, engine), metrics))

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics", include_in_schema=False)
    async def exposition() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def _openai(base: str, catalog: Catalog, engine: Engine) -> FastAPI:
    # An application of its own, so that even a wrong path is answered in OpenAI's form.
    app = FastAPI(openapi_url=None)
    answer_errors(app)
    app.add_exception_handler(Refused, _on_refused)
    app.add_exception_handler(HTTPException, _on_http_exception)

    def tenant_of(request: Request) -> str:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        return authenticate(catalog, key.strip() if scheme.lower() == "bearer" else None)

    def resolve(tenant: str, model: str) -> str | None:
        """The digest that ``model`` means to ``tenant``, or None for the base model."""
        if model == base:
            return None
        try:
            name = ModelName.parse(model)
            if name.instance.tenant != tenant:
                raise NotFound(f"model {model} belongs to another tenant")
            return catalog.resolve(name)
        except (InvalidInput, NotFound) as missing:
            # One answer, whatever the reason: a name tells nothing about other tenants.
            raise Refused(_no_such_model(model)) from missing

    def skills(tenant: str) -> list[InstanceName]:
        return [instance for instance in catalog.instances(tenant) if catalog.channel(instance, "prod")]

    async def answer(call: Call, request: Request) -> Response:
        tenant = await run_in_threadpool(tenant_of, request)
        body = _parse(await _read(request))
        model = body.get("model")
        if not isinstance(model, str) or not model:
            raise Refused(error(400, "the request names no model: set model to tenant/instance", param="model"))
        digest = await run_in_threadpool(resolve, tenant, model)
        # Ids are the server's to give: one chosen by a client could be that of another tenant's request.
        body.pop("request_id", None)
        replies = engine.answer(call, body | {"model": digest or base}, digest)
        headers = {VERSION_HEADER: digest} if digest else {}
        try:
            first = await anext(replies)
        except Exception as failure:
            log.exception("the engine failed on a request for %s", digest or model)
            raise Refused(error(500, "the engine failed on this request", code="engine_failed")) from failure
        if isinstance(first, Whole):
            content = first.body if digest is None else _say(model, digest, first.body.decode())
            return Response(content, first.status, headers, media_type="application/json")
        events = _events(first, replies, model, digest)
        return StreamingResponse(events, headers=headers, media_type="text/event-stream")

    @app.post("/chat/completions")
    async def chat(request: Request) -> Response:
        return await answer("chat", request)

    @app.post("/completions")
    async def completions(request: Request) -> Response:
        return await answer("completions", request)

    @app.get("/models")
    def models(request: Request) -> dict[str, Any]:
        tenant = tenant_of(request)
        names = [base, *(str(instance) for instance in skills(tenant))]
        return {"object": "list", "data": [_model(name) for name in names]}

    @app.get("/models/{model:path}")
    def model(request: Request, model: str) -> dict[str, Any]:
        resolve(tenant_of(request), model)
        return _model(model)

    return app


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise Refused(error(413, f"the request is larger than {MAX_BODY // 2**20} MiB", code="request_too_large"))
    return bytes(body)


def _parse(content: bytes) -> Body:
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError as reason:
        raise Refused(error(400, f"the request is not JSON: {reason}", code="invalid_json")) from reason
    if not isinstance(body, dict):
        raise Refused(error(400, "the request is not a JSON object", code="invalid_json"))
    return body


async def _events(first: str, rest: AsyncGenerator[Reply, None], model: str, digest: str | None) -> AsyncIterator[str]:
    yield _say(model, digest, first)
    try:
        async with aclosing(rest):
            async for reply in rest:
                # The status is out, so a failure on the way is told as an event, as vLLM does.
                text = reply if isinstance(reply, str) else f"data: {reply.body.decode()}\n\n"
                yield _say(model, digest, text)
    except Exception:
        log.exception("the engine failed while it streamed an answer of %s", digest or model)
        yield f"data: {error(500, 'the answer broke off: the engine failed', code='engine_failed').body.decode()}\n\n"
        yield "data: [DONE]\n\n"


def _say(model: str, digest: str | None, text: str) -> str:
    """``text``, vLLM's compact JSON, naming ``model`` where it names ``digest``.

    Unescaped quotes around ``model`` are JSON's own, so this cannot touch what the model wrote.
    """
    if digest is None:
        return text
    return text.replace(f'"model":"{digest}"', f'"model":{orjson.dumps(model).decode()}')


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "looper"}


def _no_such_model(model: str) -> Whole:
    message = f"The model `{model[:256]}` does not exist or you do not have access to it."
    return error(404, message, code="model_not_found")


def _respond(answer: Whole) -> Response:
    return Response(answer.body, answer.status, media_type="application/json")


async def _on_refused(_: Request, raised: Exception) -> Response:
    assert isinstance(raised, Refused)
    return _respond(raised.answer)


async def _on_http_exception(request: Request, raised: Exception) -> Response:
    assert isinstance(raised, HTTPException)
    return _respond(error(raised.status_code, f"{request.method} {request.url.path}: {raised.detail}"))
