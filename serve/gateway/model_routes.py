"""The model routes of ``/v1``: list the tenant's models, and show one. ``openai_app`` mounts them."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.routing import APIRoute

from looper.platform.api.authenticated_route import Tenant, needs
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.names import InstanceName
from looper.platform.domain.scopes import Scope
from looper.serve.error_responses import RequestRefused, error_response
from looper.serve.gateway.known_catalog import KnownCatalog
from looper.serve.gateway.model_resolver import ModelResolver


def model_router(catalog: KnownCatalog, resolver: ModelResolver, route_class: type[APIRoute]) -> APIRouter:
    """Return the routes under ``/models``.

    Args:
        catalog: Catalog with the tenants' skills.
        resolver: Resolves model names.
        route_class: Class of the routes, which authenticates requests.

    Returns:
        The router.
    """
    router = APIRouter(route_class=route_class, dependencies=[needs(Scope.INFER)])
    base_models = resolver.base_models

    @router.get("/models")
    def list_models(
        tenant: Tenant, limit: Annotated[int, Query(ge=1, le=1000)] = 1000, after: str | None = None
    ) -> dict[str, Any]:
        """List the base models and then the tenant's skills by name: at most ``limit`` after the id ``after``."""
        last = _parse_after(tenant, after) if after and after not in base_models else None
        begin = 0 if after is None else base_models.index(after) + 1 if after in base_models else len(base_models)
        names = list(base_models[begin:])
        if len(names) <= limit:
            names += map(str, catalog.list_skills(tenant, after=last, limit=limit + 1 - len(names)))
        page = names[:limit]
        return {
            "object": "list",
            "data": [_to_model(name) for name in page],
            "first_id": next(iter(page), None),
            "last_id": next(reversed(page), None),
            "has_more": len(names) > limit,
        }

    @router.get("/models/{model:path}")
    def show_model(tenant: Tenant, model: str) -> dict[str, Any]:
        resolver.resolve(tenant, model)
        return _to_model(model)

    return router


def _parse_after(tenant: str, after: str) -> str:
    """Return the instance that ``after`` names."""
    try:
        name = InstanceName.parse(after)
        if name.tenant == tenant:
            return name.instance
    except InvalidInput:
        pass
    raise RequestRefused(error_response(400, f"after is {after[:256]!r}: give an id of this list", param="after"))


def _to_model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "looper"}
