"""Settings of a cluster of several machines: which Ray it joins, and which of its nodes do what."""

from typing import Annotated

from pydantic import Field

from looper.platform.settings.storage import SettingsSection

ResourceName = Annotated[str, Field(max_length=64, pattern="^[A-Za-z_][A-Za-z0-9_]*$")]
"""Name of a custom resource of Ray."""

_SHARE = 0.001
"""How much of a role's resource one process takes: so little that one unit of it never runs out."""


class RoleSettings(SettingsSection):
    """Which nodes carry what: the name of a custom Ray resource that such nodes offer."""

    gateways: ResourceName | None = Field(None, description="Resource of nodes that run gateways. Default: any node.")
    control: ResourceName | None = Field(
        None, description="Resource of nodes that run control loops. Default: any node."
    )
    engines: ResourceName | None = Field(None, description="Resource of nodes that run engines. Default: any node.")
    trainers: ResourceName | None = Field(None, description="Resource of nodes that run trainers. Default: any node.")
    data: ResourceName | None = Field(None, description="Resource of nodes that run synthesis. Default: any node.")


def require_role(resource: str | None) -> dict[str, float]:
    """Return the resource that keeps a process on the nodes of a role: next to none of it is used up.

    Args:
        resource: Name of the role's resource. None: any node.

    Returns:
        Resources for Ray, by name.
    """
    return {resource: _SHARE} if resource else {}


class ClusterSettings(SettingsSection):
    """The Ray that Looper runs on."""

    address: str | None = Field(
        None,
        max_length=255,
        description="Address of a Ray that exists: auto, HOST:PORT, or ray://HOST:PORT. RAY_ADDRESS sets it, too. "
        "Default: a private Ray on this machine.",
    )
    code: str | None = Field(
        None,
        max_length=255,
        description="Folder on every node with the Looper that runs on a Ray that exists. Default: the installed one.",
    )
    control_loops: int = Field(
        1,
        ge=1,
        le=16,
        description="Number of control loops. One of them works, and another takes its place when it dies.",
    )
    leader_lease_s: float = Field(
        15.0,
        ge=1,
        description="Another control loop takes the place of one that has not renewed its lease for this time.",
    )
