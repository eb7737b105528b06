"""The ground truth about planted defects: which there are, and where.

``episode_files.py`` collects it while episodes are written, and ``scoring.py`` compares a pipeline's result with it.
"""

from dataclasses import dataclass
from enum import StrEnum

from looper.platform.domain.trajectory import Trajectory


class DefectKind(StrEnum):
    """A class of defects. Classes of errors have the names that ``ErrorKind`` gives them."""

    LOOP = "loop"
    """One call three times or more in a row, or a cycle of two or three calls three times or more, with the same
    answers."""
    REPEATED_CALL = "repeated_call"
    """One call exactly twice in a row, with the same answer."""
    TRANSIENT = "transient"
    """An error that passes, such as a timeout."""
    CAUSAL = "causal"
    """An error that a wrong call caused."""
    INFORMATIVE = "informative"
    """An error that tells the agent what stands in the way of a correct call."""
    ENVIRONMENT = "environment"
    """A bug of the tool."""
    LUCKY = "lucky"
    """A success without a step that the workplace's rules require."""
    SECRET = "secret"
    """A credential in the text."""
    PERSONAL = "personal"
    """Personal data in the text."""
    DUPLICATE = "duplicate"
    """A task that was done once more in the same way, or in more than three ways."""
    LEAK = "leak"
    """One request with two task ids, in two source files."""


@dataclass(frozen=True)
class PlantedSpan:
    """A defect in steps of a trajectory. An error is one step: the tool's answer."""

    kind: DefectKind
    """Class of the defect."""
    trajectory: str
    """Id of the source trajectory."""
    first: int
    """Index of the first step in the source trajectory."""
    last: int
    """Index of the last step, included."""


@dataclass(frozen=True)
class PlantedGroup:
    """A defect of whole trajectories, where the pipeline can choose which of them it names.

    Either of two copies may be the one that stays. Either of two tasks with one request may be dropped.
    """

    kind: DefectKind
    """Class of the defect."""
    trajectories: frozenset[str]
    """Ids of the trajectories. Exact copies share an id."""
    cases: int
    """Number of trajectories that must be named."""
    max_named: int
    """Number of trajectories that may be named. More are false positives."""


@dataclass(frozen=True)
class PlantedText:
    """A text that the pipeline must remove, or one that only looks like it and must stay."""

    kind: DefectKind
    """Class of the defect."""
    trajectory: str
    """Id of the source trajectory."""
    parts: tuple[str, ...]
    """Strings that no step may contain afterwards: one value, or the lines of a longer one."""
    harmless: bool = False
    """Whether the text only looks like the defect and must stay."""


@dataclass(frozen=True)
class PlantedCorpus:
    """Trajectories with the ground truth about them. What ``spans``, ``groups`` and ``texts`` do not name is clean."""

    batches: list[list[Trajectory]]
    """The trajectories of each source file. All of them have labels."""
    instances: list[str]
    """Workplace of each batch. Each workplace has two files."""
    spans: tuple[PlantedSpan, ...]
    """Defects in steps."""
    groups: tuple[PlantedGroup, ...]
    """Defects of whole trajectories."""
    texts: tuple[PlantedText, ...]
    """Secrets and personal data, and texts that look like them."""

    def cases(self, kind: DefectKind) -> int:
        """Count the defects of ``kind``.

        Args:
            kind: A class of defects.

        Returns:
            How many defects of the class a pipeline should find.
        """
        spans = sum(span.kind is kind for span in self.spans)
        texts = sum(text.kind is kind and not text.harmless for text in self.texts)
        return spans + texts + sum(group.cases for group in self.groups if group.kind is kind)
