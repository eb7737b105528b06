"""What was planted, and where: the truth that a synthesis pipeline is measured against."""

from dataclasses import dataclass
from enum import StrEnum

from looper.platform.domain.trajectory import Trajectory


class DefectKind(StrEnum):
    """A class of defects. Those of errors are named as ``Error`` of the drafts names them."""

    LOOP = "loop"
    """A call three times or more in a row, or a cycle of two or three calls three times or more, answered the same."""
    REPEATED_CALL = "repeated_call"
    """A call exactly twice in a row, answered the same."""
    TRANSIENT = "transient"
    CAUSAL = "causal"
    INFORMATIVE = "informative"
    ENVIRONMENT = "environment"
    LUCKY = "lucky"
    """A success without a step that the house asks for."""
    SECRET = "secret"
    PERSONAL = "personal"
    DUPLICATE = "duplicate"
    """A task done the same way once more, or in more than three ways."""
    LEAK = "leak"
    """One request under two task ids, in two source files."""


@dataclass(frozen=True)
class Span:
    """A defect of steps ``first`` to ``last`` of the source trajectory, both included: one step, if it is an error."""

    kind: DefectKind
    trajectory: str
    first: int
    last: int


@dataclass(frozen=True)
class Group:
    """A defect of whole trajectories, where it is the pipeline's choice which of them it names.

    Of two copies either may be the one that stays, and of two tasks with one request either may give way: so
    ``cases`` of ``trajectories`` have to be named, and more than ``most`` is wrong. Exact copies share an id.
    """

    kind: DefectKind
    trajectories: frozenset[str]
    cases: int
    most: int


@dataclass(frozen=True)
class PlantedText:
    """A string that must go, or one that only looks like it and must stay (``harmless``).

    ``parts`` are what must not be found in any step afterwards: a value, or the lines of a longer one.
    """

    kind: DefectKind
    trajectory: str
    parts: tuple[str, ...]
    harmless: bool = False


@dataclass(frozen=True)
class Planted:
    """Trajectories and the truth about them. What ``spans``, ``groups`` and ``texts`` do not name, is clean."""

    batches: list[list[Trajectory]]
    """One per source file; all trajectories of all of them have labels."""
    instances: list[str]
    """Whose work each batch is: the name of a work place of the gym. Each has two files."""
    spans: tuple[Span, ...]
    groups: tuple[Group, ...]
    texts: tuple[PlantedText, ...]

    def cases(self, kind: DefectKind) -> int:
        """How many defects of ``kind`` there are to be found."""
        spans = sum(span.kind is kind for span in self.spans)
        texts = sum(text.kind is kind and not text.harmless for text in self.texts)
        return spans + texts + sum(group.cases for group in self.groups if group.kind is kind)
