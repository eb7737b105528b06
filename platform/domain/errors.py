"""The errors that Looper raises on purpose. All rooms raise them; the API and the command line show them to the user.

    LooperError
    ├── InvalidInput        the caller made a mistake: in a name, a file, a recipe or a flag
    │   ├── MalformedTrajectory   one trajectory cannot be used, with the reason
    │   ├── TooLarge        the input has more bytes than the limit
    │   └── TooSlow         the input arrived too slowly
    ├── NotFound            the named thing does not exist (for this tenant)
    ├── Unauthorized        the API key is missing, wrong, expired or revoked
    ├── Forbidden           the API key is good, but lacks the scope that the request needs
    ├── Conflict            another process changed the state first: a failed compare-and-swap
    ├── CorruptAdapter      a published adapter's content does not match its digest
    ├── StoreUnavailable    the object store or the catalog is down, slow or full
    │   └── StoreFull       the object store has no space left
    └── Overloaded          the server cannot take the request now
        └── RateLimited     the tenant has reached its rate limit

Every message is one line and names the thing, the value and the way out. Clients get the message. Logs and the command
line show ``detail``, which may name addresses, paths and users. Any other exception that reaches the user is a bug.
"""


class LooperError(Exception):
    """Base class of all errors that Looper raises on purpose."""

    @property
    def detail(self) -> str:
        """The error as the operator sees it, in logs and on the command line."""
        return str(self)


class InvalidInput(LooperError, ValueError):
    """The caller made a mistake."""


class MalformedTrajectory(InvalidInput):
    """One trajectory cannot be used.

    Args:
        reason: Short code that does not change between versions, such as ``empty``.
        message: Text for the user.

    Attributes:
        reason: The code.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class TooLarge(InvalidInput):
    """The input has more bytes than the limit."""


class TooSlow(InvalidInput):
    """The input arrived too slowly."""


class NotFound(LooperError, LookupError):
    """The named thing does not exist, or not for this tenant."""


class Unauthorized(LooperError):
    """The API key is missing, wrong, expired or revoked."""


class Forbidden(LooperError):
    """The API key lacks the scope that the request needs."""


class Conflict(LooperError):
    """Another process changed the state first."""


class CorruptAdapter(LooperError):
    """The content of a published adapter does not match its digest."""


class StoreUnavailable(LooperError):
    """The object store or the catalog is down, too slow or full.

    Args:
        message: Text for clients. It names no address, path or user of the object store or the catalog.
        detail: Text for the operator, with the address and the cause. None: the message says everything.
    """

    def __init__(self, message: str, *, detail: str | None = None) -> None:
        super().__init__(message)
        self._detail = detail

    @property
    def detail(self) -> str:
        """The error as the operator sees it, in logs and on the command line."""
        return self._detail or str(self)


class StoreFull(StoreUnavailable):
    """The object store has no space left on its disk or in its quota."""


class Overloaded(LooperError):
    """The server cannot take the request now.

    Args:
        message: Text for the user.
        retry_after_s: Time after which the client may send the request again, in seconds.

    Attributes:
        retry_after_s: The same time.
    """

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RateLimited(Overloaded):
    """The tenant has reached its rate limit."""
