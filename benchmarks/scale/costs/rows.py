"""One measured cost, and how its size was varied."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CostRow:
    """What one operation costs at one size."""

    what: str
    """The operation."""
    unit_of_size: str
    """What the size is a number of."""
    size: int
    """The size."""
    unit: str
    """Unit of the value."""
    value: float
    """The measured value."""
