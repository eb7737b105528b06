"""The numbers that the gate judges, and its verdict.

Evaluation fills these models, the gate (``looper.jobs.gate``) decides on them, and the catalog and the manifest store
them. Field names are part of the stored format.
"""

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
    """Candidate against the parent version, on the held-out tasks of earlier consolidations."""
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


class GateVerdict(CandidateScores):
    """Decision of the gate, and the numbers that it is based on."""

    passed: bool
    """Whether the candidate may be published."""
    reason: str
    """Why the gate decided so, in one line."""
