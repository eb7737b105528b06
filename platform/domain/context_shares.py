"""Shares of the contexts in which examples are rendered: a part of the recipe."""

from pydantic import BaseModel, ConfigDict, Field


class ContextShares(BaseModel):
    """What stands beside the task in the prompts of training examples.

    Each example is rendered once as it was recorded. A share of 0.5 renders about every second example once more in
    that context, if it can have it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    without_notes: float = Field(0.0, ge=0, le=1, description="Without the notes that its prompt had.")
    with_notes: float = Field(0.0, ge=0, le=1, description="With the notes that other prompts of the instance have.")
    with_episodes: float = Field(0.0, ge=0, le=1, description="With one or two similar episodes of other tasks.")
    with_newer_note: float = Field(
        0.0, ge=0, le=1, description="With a note that changes a habit, which the example then follows."
    )
    with_wrong_episodes: float = Field(
        0.0, ge=0, le=1, description="With episodes that did otherwise, which the example does not follow."
    )
