"""A consolidation: the job that trains an instance's next adapter version.

The catalog stores it and returns it. Queue workers, trainers, the API and the command line read it.
"""

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.learning_rate import SMALL_BASE_RATE
from looper.platform.domain.names import InstanceName
from looper.platform.domain.recipe import Recipe, StoredRecipe
from looper.platform.domain.scores import GateVerdict
from looper.platform.domain.states import ConsolidationState

MIN_PRIORITY, MAX_PRIORITY = -10, 10


def check_priority(priority: int) -> None:
    """Check a ``priority``.

    Raises:
        InvalidInput: It is out of range.
    """
    if not MIN_PRIORITY <= priority <= MAX_PRIORITY:
        raise InvalidInput(f"priority {priority} is not from {MIN_PRIORITY} to {MAX_PRIORITY}")


class TrainingProgress(BaseModel):
    """Progress of the training of one consolidation."""

    model_config = ConfigDict(frozen=True)

    step: int
    """Optimizer steps that are done."""
    steps: int
    """Optimizer steps in total."""
    loss: float | None = None
    """Latest mean loss, in nats per token."""
    training_s: float = 0.0
    """Time that the consolidation has held a place in trainers, in seconds."""
    left_out: int = 0
    """Number of training examples that are left out, because they cannot be encoded."""
    learning_rate: float | None = None
    """Peak learning rate, which the recipe gives or the trainer has chosen. None from trainers of earlier releases."""


class Consolidation(BaseModel):
    """The job that turns an instance's new trajectories into its next adapter version."""

    model_config = ConfigDict(frozen=True)

    id: str
    """32 hexadecimal digits."""
    instance: InstanceName
    """Instance whose adapter is trained."""
    state: ConsolidationState
    """Current state."""
    base: str
    """Base model, as the settings name it."""
    is_move: bool = False
    """Whether it moves the instance to this base model: it trains on the whole history, ``parent`` is on another."""
    recipe: StoredRecipe
    """Hyperparameters of the training."""
    batches: tuple[str, ...]
    """Ids of the trajectory batches that this consolidation trains on."""
    parent: str | None
    """Digest of the version before: where ``prod`` pointed when the job was first claimed."""
    priority: int
    """From ``MIN_PRIORITY`` to ``MAX_PRIORITY``. Higher priorities are claimed first."""
    attempts: int
    """Training attempts since the last checkpoint. An attempt that ended with a clean release does not count."""
    owner: str | None
    """Worker that holds the lease. None while the job waits and after it has ended."""
    reason: str | None
    """Why the job was rejected, failed, cancelled or left undecided, or what it waits for, in one line."""
    verdict: GateVerdict | None
    """Verdict of the gate, once there is one."""
    digest: str | None
    """Digest of the published version."""
    progress: TrainingProgress | None
    """Latest training progress."""
    created_at: datetime
    """When the job was submitted."""
    started_at: datetime | None
    """When the job was first claimed. None while it waits for that."""
    ended_at: datetime | None
    """When the job reached a final state."""
    updated_at: datetime
    """When the job last changed. Heartbeats do not count as changes."""

    @property
    def trained_recipe(self) -> Recipe:
        """The recipe with the learning rate that the trainer has chosen, once there is one that trains."""
        if self.recipe.learning_rate is not None or self.progress is None:
            return self.recipe
        chosen = self.progress.learning_rate
        return self.recipe.model_copy(update={"learning_rate": SMALL_BASE_RATE if chosen is None else chosen})

    @property
    def start(self) -> str | None:
        """Digest of the version that training starts from: ``parent``, unless that is on another base model."""
        return None if self.is_move else self.parent
