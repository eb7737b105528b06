"""The HTTP control plane: ``/api/v1``."""

from looper.platform.api.routes import control_plane

__all__ = ["control_plane"]
