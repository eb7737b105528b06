"""Which Looper commands work on: that of LOOPER_URL and LOOPER_KEY, that of ``looper login``, or this machine's.

``looper login`` writes URL and key into a file that only this user can read.
"""

import json
import os
import re
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.private_files import make_private_folder, open_private

URL_VARIABLE, KEY_VARIABLE = "LOOPER_URL", "LOOPER_KEY"

_KEY = re.compile(r"looper_[0-9A-Za-z]+_[0-9A-Za-z]+")


class RemoteAddress(NamedTuple):
    """A Looper behind an address."""

    url: str
    """Its URL, without a slash at the end."""
    key: str
    """API key."""
    source: Literal["environment", "file"]
    """What named it."""
    where: str
    """The variable or the file."""


def login_path(home: Path) -> Path:
    """Return the file that ``looper login`` writes, in the ``home`` folder."""
    return home / "login.json"


def find_address(home: Path) -> RemoteAddress | None:
    """Return the remote Looper that commands work on.

    Args:
        home: Looper's folder of this user.

    Returns:
        The address, None if commands work on this machine.

    Raises:
        InvalidInput: Only one of the two variables is set, or an address or key is not valid.
    """
    url, key = os.environ.get(URL_VARIABLE, ""), os.environ.get(KEY_VARIABLE, "")
    if url or key:
        if not (url and key):
            given, missing = (URL_VARIABLE, KEY_VARIABLE) if url else (KEY_VARIABLE, URL_VARIABLE)
            raise InvalidInput(f"{given} is set and {missing} is not: set both, or neither")
        return RemoteAddress(check_url(url, URL_VARIABLE), check_key(key, KEY_VARIABLE), "environment", URL_VARIABLE)
    file = login_path(home)
    where = str(file)
    try:
        stored = json.loads(file.read_text())
        return RemoteAddress(check_url(stored["url"], where), check_key(stored["key"], where), "file", where)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"{file} was not written by looper login: run looper logout, then log in again") from error


def save_address(home: Path, url: str, key: str) -> Path:
    """Store URL and key for later commands. A reader sees the old or the new ones, never a part.

    Args:
        home: Looper's folder of this user.
        url: URL of the Looper.
        key: API key.

    Returns:
        The file.
    """
    file = login_path(home)
    make_private_folder(home)
    partial = file.with_suffix(f".{os.getpid()}.partial")
    try:
        with open(partial, "w", opener=open_private) as target:
            json.dump({"url": url, "key": key}, target)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    return file


def check_url(url: str, where: str) -> str:
    """Check the URL of a Looper.

    Args:
        url: The URL.
        where: Where it stands, for the error message.

    Returns:
        The URL without a slash at the end.

    Raises:
        InvalidInput: It is not ``http://HOST[:PORT]`` or ``https://HOST[:PORT]``, with a path or without.
    """
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) and url.isascii()
        is_valid = is_valid and not (parts.query or parts.fragment or parts.username or set(url) & set(" \t\r\n"))
    except ValueError:
        is_valid = False
    if not is_valid:
        raise InvalidInput(f"{where}: {url!r} is not the address of a Looper: write https://HOST or http://HOST:PORT")
    return url.rstrip("/").removesuffix("/api/v1").removesuffix("/v1")


def check_key(key: str, where: str) -> str:
    """Check the form of an API key.

    Args:
        key: The key.
        where: Where it stands, for the error message, which does not show the key.

    Returns:
        The key without white space around it.

    Raises:
        InvalidInput: It does not have the form of a key.
    """
    if not _KEY.fullmatch(key.strip()):
        raise InvalidInput(f"{where}: what is there is not an API key: keys look like looper_ID_SECRET")
    return key.strip()


def warn_if_exposed(url: str) -> None:
    """Print one line on standard error if keys are sent to ``url`` in the clear over a network.

    It is no error: inside a cluster or a virtual private network, TLS often ends before the gateway. Servers that
    listen so are treated alike, by ``looper up``.
    """
    parts = urlsplit(url)
    if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        sys.stderr.write(f"warning: {url} is without TLS: whoever is on the way can read the API key; use https://\n")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
