"""Names of tenants, instances and models. They are data: validated here, and never part of a shell line or of SQL."""

import re
from typing import NamedTuple, Self

from looper.platform.domain.errors import InvalidInput

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?")
_DIGEST = re.compile(r"[0-9a-f]{64}")


PROD = "prod"
"""The channel that a skill's plain name means."""


def check_name(value: str, what: str) -> str:
    """Return ``value`` if it may name a tenant, an instance or a channel; raise InvalidInput otherwise."""
    if not _NAME.fullmatch(value):
        raise InvalidInput(
            f"{what} {value!r} is not a valid name: use 1 to 63 of a-z, 0-9, '-' and '_', beginning and ending with a "
            "letter or digit"
        )
    return value


def is_digest(value: str) -> bool:
    """Whether ``value`` is a SHA-256 in lower-case hexadecimal."""
    return _DIGEST.fullmatch(value) is not None


class InstanceName(NamedTuple):
    """One deployed agent of a tenant, written ``tenant/instance``."""

    tenant: str
    instance: str

    @classmethod
    def parse(cls, text: str) -> Self:
        tenant, slash, instance = text.partition("/")
        if not slash or "/" in instance:
            raise InvalidInput(f"instance {text!r} is not of the form tenant/instance")
        return cls(check_name(tenant, "tenant"), check_name(instance, "instance"))

    def __str__(self) -> str:
        return f"{self.tenant}/{self.instance}"


class ModelName(NamedTuple):
    """A skill as an OpenAI client names it: ``tenant/instance``, ``tenant/instance@channel`` or ``...@<digest>``."""

    instance: InstanceName
    selector: str = PROD
    """A channel, or the digest of a version."""

    @classmethod
    def parse(cls, text: str) -> Self:
        name, at, selector = text.partition("@")
        instance = InstanceName.parse(name)
        if not at:
            return cls(instance)
        return cls(instance, selector if is_digest(selector) else check_name(selector, "channel"))

    def __str__(self) -> str:
        return str(self.instance) if self.selector == PROD else f"{self.instance}@{self.selector}"
