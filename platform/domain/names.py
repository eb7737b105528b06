"""Names of tenants, instances, models and starts.

Every room validates names here. Validated names are safe in paths; they never become part of a shell command or of SQL
text.
"""

import re
from typing import NamedTuple, Self

from looper.platform.domain.errors import InvalidInput

NAME_PATTERN = r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?"
"""Regular expression of a whole name."""

_NAME = re.compile(NAME_PATTERN)
_DIGEST = re.compile(r"[0-9a-f]{64}")

PROD = "prod"
"""The channel that a plain skill name such as ``acme/helpdesk`` refers to."""

CANARY = "canary"
"""The channel of a version with too little evidence for ``prod``."""


def check_name(value: str, kind: str) -> str:
    """Check the name of a tenant, an instance, a channel or a start.

    Args:
        value: The name.
        kind: What it names, for the error message, such as ``tenant``.

    Returns:
        ``value`` unchanged.

    Raises:
        InvalidInput: The name is not valid.
    """
    if not _NAME.fullmatch(value):
        raise InvalidInput(
            f"{kind} {value!r} is not a valid name: use 1 to 63 of a-z, 0-9, '-' and '_', beginning and ending with a "
            "letter or digit"
        )
    return value


def is_digest(value: str) -> bool:
    """Return whether ``value`` is a SHA-256 digest in lowercase hexadecimal."""
    return _DIGEST.fullmatch(value) is not None


class InstanceName(NamedTuple):
    """Name of one deployed agent of a tenant, written as ``tenant/instance``."""

    tenant: str
    """Name of the tenant."""
    instance: str
    """Name of the instance within the tenant."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a name.

        Args:
            text: ``tenant/instance``.

        Returns:
            The name.

        Raises:
            InvalidInput: The form or one of the names is not valid.
        """
        tenant, slash, instance = text.partition("/")
        if not slash or "/" in instance:
            raise InvalidInput(f"instance {text!r} does not have the form tenant/instance")
        return cls(check_name(tenant, "tenant"), check_name(instance, "instance"))

    def __str__(self) -> str:
        return f"{self.tenant}/{self.instance}"


class ModelName(NamedTuple):
    """Model name in an OpenAI request.

    It has the form ``tenant/instance``, ``tenant/instance@channel`` or ``tenant/instance@digest``.
    """

    instance: InstanceName
    """Instance of the skill."""
    selector: str = PROD
    """A channel, or the digest of a version."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a model name.

        Args:
            text: One of the three forms.

        Returns:
            The model name.

        Raises:
            InvalidInput: The form or one of the names is not valid.
        """
        name, at, selector = text.partition("@")
        instance = InstanceName.parse(name)
        if not at:
            return cls(instance)
        return cls(instance, selector if is_digest(selector) else check_name(selector, "channel"))

    def __str__(self) -> str:
        return str(self.instance) if self.selector == PROD else f"{self.instance}@{self.selector}"
