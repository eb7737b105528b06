"""The HTTP control plane: ``/api/v1``."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from looper.platform.api.routes import control_plane

__all__ = ["control_plane"]


def __getattr__(name: str) -> Any:
    """Import the server when it is asked for: the client needs ``looper.platform.api.models`` and no server."""
    if name != "control_plane":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from looper.platform.api.routes import control_plane

    return control_plane
