"""The HTTP control plane under ``/api/v1``. The gateway mounts its router; ``platform/client`` calls it.

router                one router of all routes
instance_routes       instances and their trajectories
consolidation_routes  submit, follow and cancel consolidations
skill_routes          channels and versions
tenant_routes         keys, limits and audit trail of a tenant, and the operator's view of all tenants
authenticated_route   checks the API key and its scopes before it reads the body
request_body          reads a body up to a limit
models                request and response types
error_table           Looper's errors as HTTP responses, and back
error_handlers        the error table in a FastAPI application
submission            queues consolidations, for the routes and the command line
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from looper.platform.api.router import control_plane_router

__all__ = ["control_plane_router"]


def __getattr__(name: str) -> Any:
    """Import the server on first use: the client needs ``looper.platform.api.models``, but neither FastAPI nor SQL."""
    if name != "control_plane_router":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from looper.platform.api.router import control_plane_router

    return control_plane_router
