"""States of a consolidation, and the queue stages in which workers claim it.

The catalog stores the states. Queue workers, the command line and the API read them.
"""

from enum import StrEnum


class ConsolidationState(StrEnum):
    """State of a consolidation.

    The order is ``queued -> synthesising -> training -> evaluating``, then one of the final states ``published``,
    ``rejected``, ``failed`` and ``cancelled``. The values are stored in the catalog and returned by the API.
    """

    QUEUED = "queued"
    SYNTHESISING = "synthesising"
    TRAINING = "training"
    EVALUATING = "evaluating"
    PUBLISHED = "published"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the consolidation has ended and its state never changes again."""
        return self in (
            ConsolidationState.PUBLISHED,
            ConsolidationState.REJECTED,
            ConsolidationState.FAILED,
            ConsolidationState.CANCELLED,
        )


class QueueStage(StrEnum):
    """Stage of the queue. A different kind of worker claims from each stage and hands over to the next one."""

    SYNTHESIS = "synthesis"
    TRAINING = "training"
    CONCLUSION = "conclusion"

    @property
    def states(self) -> tuple[ConsolidationState, ...]:
        """States of a consolidation that waits for this stage or that a worker of this stage has claimed."""
        match self:
            case QueueStage.SYNTHESIS:
                return (ConsolidationState.QUEUED, ConsolidationState.SYNTHESISING)
            case QueueStage.TRAINING:
                return (ConsolidationState.TRAINING,)
            case QueueStage.CONCLUSION:
                return (ConsolidationState.EVALUATING,)
