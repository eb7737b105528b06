"""What commands do with a Looper, whether it is on this machine or behind an address.

Commands call ``open_control_plane`` and use what it returns. They do not know which of the two it is:

interface   the methods that commands call
local       over the catalog and the object store of this machine's settings
remote      over HTTP, by the Python client
address     which Looper is meant: the environment goes before ``looper login``, and that before this machine
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from looper.cli.control_plane.interface import ControlPlane


def open_control_plane() -> "ControlPlane":
    """Return the Looper that commands work on.

    Returns:
        The remote one that the environment or ``looper login`` names, or else that of this machine.

    Raises:
        InvalidInput: The address, the key or a setting is not valid.
        StoreUnavailable: The catalog of this machine cannot be opened.
    """
    from looper.cli.control_plane.address import find_address, warn_if_exposed
    from looper.platform.settings import load_settings

    settings = load_settings()
    if address := find_address(settings.home):
        from looper.cli.control_plane.remote import RemoteControlPlane

        warn_if_exposed(address.url)
        return RemoteControlPlane(address)
    from looper.cli.control_plane.local import LocalControlPlane

    return LocalControlPlane(settings)
