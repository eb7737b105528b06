"""What a part of the check has found, and how it tells of its progress."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Notify: TypeAlias = Callable[[str], None]
"""Tells whoever waits what goes on."""


@dataclass
class PartResult:
    """Figures and faults of one part."""

    figures: dict[str, Any] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    """What is wrong, one line each. Empty if the part passed."""
    seconds: float = 0.0

    @property
    def summary(self) -> str:
        """The errors or the figures, on one line. Of figures with parts, the names."""
        figures = (name if isinstance(value, dict) else f"{name} {value}" for name, value in self.figures.items())
        return "; ".join(self.errors) or ", ".join(figures)
