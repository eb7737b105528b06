"""Names of headers that the control plane and its clients agree on, and the version of what they say to each other."""

from typing import Final

API_VERSION: Final = "2"
"""Version of ``/api/v1`` as clients of this release use it. It changes when a client and a server of different versions
would misunderstand each other, and not when a route or a field is added."""

API_VERSION_HEADER: Final = "looper-api-version"
"""Response header with the version that the server speaks. Servers before version 2 send none."""

TENANT_HEADER: Final = "looper-tenant"
"""Request header with the tenant that a request acts for. An operator's key must name one; a tenant's key may."""
