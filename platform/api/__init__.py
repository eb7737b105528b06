"""The HTTP control plane under ``/api/v1``. The gateway mounts its router; ``platform/client`` calls it.

router                one router of all routes
instance_routes       instances, what was ingested for them, and what happened
upload_routes         take trajectories: whole files, or files in parts
consolidation_routes  submit, follow and cancel consolidations
skill_routes          channels and versions
tenant_routes         keys, limits and audit trail of a tenant, and the operator's view of all tenants
authenticated_route   checks the API key and its scopes before it reads the body
request_body          reads a body up to a limit
upload_queue          reads uploaded files a few at a time; ``part_uploads`` collects their parts
downloads             sends files of adapters
headers               the headers and the version that server and clients agree on
models                request and response types; also ``tenant_models`` and ``upload_models``
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
