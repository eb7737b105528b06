"""The numbers that the gate judges, and its verdict.

Evaluation fills these models, the gate (``looper.jobs.gate``) decides on them, and the catalog and the manifest store
them. Field names are part of the stored format.
"""

from collections.abc import Iterable, Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict


class Scores(BaseModel):
    """Scores of an adapter, or of the base model without an adapter, on held-out examples."""

    model_config = ConfigDict(frozen=True)

    accuracy: float | None
    """Share of held-out tool calls whose every token is the argmax, given the true history. None without tool calls."""
    loss: float
    """Mean cross-entropy over the agent's held-out tokens, in nats per token."""
    actions: int
    """Number of tool calls that were scored."""
    tokens: int
    """Number of the agent's tokens that were scored."""
    loops: float | None = None
    """Share of the tool calls that would repeat the previous call where the true call is a different one."""
    tool_errors: float | None = None
    """Share of the tool calls that would be invalid: malformed, of an unknown tool, or with an unknown argument."""


class Comparison(BaseModel):
    """Scores of a candidate and of its reference on the same held-out examples."""

    model_config = ConfigDict(frozen=True)

    candidate: Scores
    """Scores of the candidate."""
    reference: Scores
    """Scores of the version, or of the base model, that the candidate is compared with."""


class TaskCounts(BaseModel):
    """What one adapter did on the held-out tool calls of one task, as counts."""

    model_config = ConfigDict(frozen=True)

    actions: int
    """Number of tool calls that were scored."""
    right: int
    """Number of them whose every token is the argmax."""
    loss: float
    """Sum of weight times cross-entropy over the agent's tokens, in nats."""
    weight: float
    """Sum of the weights. The mean loss of the task is ``loss / weight``."""
    loops: int = 0
    """Number of tool calls that would repeat the previous call where the true call is a different one."""
    tool_errors: int = 0
    """Number of tool calls that would be invalid."""
    judged: int = 0
    """Number of tool calls of which it can be told whether they are valid."""

    @classmethod
    def total(cls, counts: Iterable[Self]) -> Self:
        """Add up counts.

        Args:
            counts: Counts of several windows or tasks.

        Returns:
            The sum of each number.
        """
        parts = list(counts)
        return cls(**{name: sum(getattr(each, name) for each in parts) for name in cls.model_fields})


class TaskPair(BaseModel):
    """Results of the candidate and of what it is compared with on the same windows of one task.

    It does not name the task: only the number of pairs and their counts decide.
    """

    model_config = ConfigDict(frozen=True)

    candidate: TaskCounts
    """Results of the candidate."""
    reference: TaskCounts
    """Results of what it is compared with."""


class Evidence(BaseModel):
    """What a paired test by task has found: by how much, and how likely that is by chance.

    Both probabilities are of an exact sign-flip test over the differences of the tasks. Under its null hypothesis, the
    difference of a task is as likely to have the other sign.
    """

    model_config = ConfigDict(frozen=True)

    tasks: int
    """Number of tasks that were compared."""
    better: int
    """Number of tasks on which the candidate is better."""
    worse: int
    """Number of tasks on which it is worse."""
    net: int
    """Sum of the differences: the number of right actions that the candidate has more."""
    p_better: float
    """Probability that a candidate that is no better would have at least this sum."""
    p_worse: float
    """Probability that a candidate that is no worse would have at most this sum."""
    needed: int | None = None
    """About how many tasks would suffice as evidence if this is the true effect. None: there is no such number."""


class ExactTasks(BaseModel):
    """How many tasks are solved exactly: every held-out tool call that was scored is right, given the true history.

    It stands for success where tasks cannot be played: the world would be right after these calls.
    """

    model_config = ConfigDict(frozen=True)

    tasks: int
    """Number of tasks with tool calls."""
    candidate: int
    """Number of them that the candidate solves exactly."""
    reference: int
    """Number of them that what it is compared with solves exactly."""
    evidence: Evidence
    """Paired test of the tasks that only one of them solves exactly (McNemar's)."""


class ContextResults(BaseModel):
    """Results on the held-out tasks of this consolidation in one context, such as beside notes."""

    model_config = ConfigDict(frozen=True)

    candidate: TaskCounts
    """Results of the candidate, over all tasks."""
    reference: TaskCounts
    """Results of the current version."""
    exact: ExactTasks
    """How many tasks they solve exactly in this context."""
    evidence: Evidence
    """Whether the candidate is better or worse than the current version in this context."""


class Margins(BaseModel):
    """Effect of the preference loss, measured on the pairs that were trained on.

    The margin of a pair is the log odds of the better turn minus the log odds of the worse turn. The odds are
    P / (1 - P), where P is the geometric mean of the turn's token probabilities (Hong et al. 2024, ORPO, 2403.07691).
    """

    model_config = ConfigDict(frozen=True)

    pairs: int
    """Number of pairs that were trained on. With 0 pairs, only the language modeling loss was used."""
    left_out: dict[str, int]
    """Number of pairs that could not be used, by reason."""
    before: float | None
    """Mean margin of the parent version, or of the base model, on a sample of the pairs."""
    after: float | None
    """Mean margin of the candidate on the same sample."""


class CandidateScores(BaseModel):
    """All numbers that the gate judges. A field is None if there was no data to measure it on."""

    model_config = ConfigDict(frozen=True)

    candidate: Scores
    """Scores of the candidate on the held-out tasks of this consolidation."""
    current: Scores
    """Scores of the parent version, or of the base model, on the same tasks."""
    earlier: Comparison | None = None
    """On the held-out tasks of earlier consolidations: candidate against the version of its lineage that was best on
    each. Trainers of earlier releases compared it with the parent version."""
    control: Comparison | None = None
    """Candidate against the base model, on held-out tasks of the tenant's other instances."""
    canary: float | None = None
    """Relative change of the logits z after one held-out prompt, against the base model: ||z' - z|| / ||z||."""
    conversion_error: float | None = None
    """Error of the published plain LoRA against the trained update: ||dW - dW'|| / ||dW|| over all layers.

    For qlora it is ||W - W'|| / ||W||: the distance between the base that was trained on and the base that is served.
    """
    trained: Scores | None = None
    """Scores like ``candidate``, of the trained adapter before its conversion to plain LoRA."""
    margins: Margins | None = None
    """Effect of the preference loss. None if the recipe's ``preference_weight`` is 0."""
    left_out: dict[str, int] | None = None
    """Number of held-out examples that could not be encoded, by reason. None if there are none."""
    skipped_steps: int = 0
    """Number of steps that were not taken, because the loss or a gradient was not a finite number."""
    new_tasks: tuple[TaskPair, ...] | None = None
    """Results on each held-out task of this consolidation. None in a verdict, and from trainers of earlier releases."""
    earlier_tasks: tuple[TaskPair, ...] | None = None
    """Results on each held-out task of earlier consolidations. None as ``new_tasks``."""
    new_tasks_by_context: Mapping[str, tuple[TaskPair, ...]] | None = None
    """``new_tasks`` in each context that their examples are rendered in. The empty text is the context that they were
    recorded in. None where that is the only one, and as ``new_tasks``."""


class GateVerdict(CandidateScores):
    """Decision of the gate, and the numbers that it is based on.

    There are three decisions: passed, undecided, and refused, which is neither. Releases that know only ``passed`` read
    a verdict that is undecided as one that did not pass.
    """

    passed: bool
    """Whether the candidate may be served by the instance's plain name."""
    undecided: bool = False
    """Whether there is too little evidence to pass or refuse it. Its version is published, for the canary channel."""
    reason: str
    """Why the gate decided so, in one line."""
    evidence: Evidence | None = None
    """Whether it is better than the current version on the held-out tasks of this consolidation."""
    earlier_evidence: Evidence | None = None
    """Whether it is worse than the best versions of its lineage on the held-out tasks of earlier consolidations."""
    exact: ExactTasks | None = None
    """How many held-out tasks of this consolidation are solved exactly. None without results by task."""
    contexts: Mapping[str, ContextResults] | None = None
    """Results on the held-out tasks of this consolidation in each context. None if all are as they were recorded."""

    @property
    def decision(self) -> str:
        """The decision in one word: ``passed``, ``undecided`` or ``refused``."""
        return "passed" if self.passed else "undecided" if self.undecided else "refused"
