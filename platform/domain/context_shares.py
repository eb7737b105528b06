"""The contexts in which examples are rendered, and their shares: a part of the recipe."""

from pydantic import BaseModel, ConfigDict, Field

_PHRASES = {
    "": "as recorded",
    "without_notes": "without notes",
    "with_notes": "beside notes",
    "with_episodes": "beside earlier episodes",
    "with_newer_note": "beside a newer note",
    "with_wrong_episodes": "beside wrong earlier episodes",
}

MAX_SHARE = 16
"""Maximum renderings of an example in one context."""


class ContextShares(BaseModel):
    """What stands beside the task in the prompts of training examples.

    Each example is trained on as it was recorded in every epoch. A share of 0.5 renders about every second example
    once more in that context, if it can have it, and a share of 2 each example twice, with other notes and episodes
    each time. What is rendered is trained on in one epoch: repeated, a model learns it by heart and does not read it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    without_notes: float = Field(0.0, ge=0, le=MAX_SHARE, description="Without the notes that its prompt had.")
    with_notes: float = Field(
        0.0, ge=0, le=MAX_SHARE, description="With the notes that other prompts of the instance have."
    )
    with_episodes: float = Field(
        0.0, ge=0, le=MAX_SHARE, description="With one or two similar episodes of other tasks."
    )
    with_newer_note: float = Field(
        0.0, ge=0, le=MAX_SHARE, description="With a note that changes a habit, which the example then follows."
    )
    with_wrong_episodes: float = Field(
        0.0, ge=0, le=MAX_SHARE, description="With episodes that did otherwise, which the example does not follow."
    )


def describe_context(context: str) -> str:
    """Return a context in words, as verdicts and tables name it.

    Args:
        context: Name of a context; the empty text for that in which examples were recorded.

    Returns:
        Words such as ``beside notes``. A context that this release does not know is called by its name.
    """
    return _PHRASES.get(context, f"in context {context}")
