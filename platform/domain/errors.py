"""The tree of errors that Looper raises on purpose.

    LooperError
    ├── InvalidInput        the caller's mistake: a name, a file, a recipe, a flag
    │   ├── MalformedTrajectory   one trajectory that cannot be kept, with the reason
    │   └── TooLarge        more bytes than are read
    ├── NotFound            what was named does not exist (for this tenant)
    ├── Unauthorised        no key, a wrong one, or an expired one
    ├── Conflict            the state moved under the caller: a lost compare-and-swap
    ├── CorruptAdapter      a published adapter's bytes are not what its digest says
    ├── StoreUnavailable    object store or catalog: down, slow, full
    │   └── StoreFull       the object store has no room for what was to be written
    └── Overloaded          more is asked than can be served now, or than the tenant may ask
        └── OverLimit       the tenant's own limit

Every message names the thing, the value and the way out, in one line. Anything else that escapes is a bug.
"""


class LooperError(Exception):
    """Base of every error that Looper raises on purpose."""


class InvalidInput(LooperError, ValueError):
    """The caller's mistake."""


class MalformedTrajectory(InvalidInput):
    """One trajectory that cannot be kept; ``reason`` is a short stable code such as ``empty``."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class TooLarge(InvalidInput):
    """More bytes than are read."""


class NotFound(LooperError, LookupError):
    """What was named does not exist, or not for this tenant."""


class Unauthorized(LooperError):
    """No key, a wrong one, or an expired one."""


class Conflict(LooperError):
    """The state moved under the caller."""


class CorruptAdapter(LooperError):
    """The bytes of a published adapter are not what its digest says."""


class StoreUnavailable(LooperError):
    """The object store or the catalog is down, too slow or full."""


class StoreFull(StoreUnavailable):
    """The object store has no room for what was to be written: by its disk or by a quota."""


class Overloaded(LooperError):
    """More is asked than can be served; it may be asked again after ``retry_after_s``."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OverLimit(Overloaded):
    """The tenant asks more than it may."""
