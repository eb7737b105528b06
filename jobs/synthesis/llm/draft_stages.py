"""The stages with a model that take drafts and give drafts, in their order."""

from collections.abc import Collection, Sequence

from looper.jobs.synthesis.draft import Draft
from looper.jobs.synthesis.llm.context_distillation import distil
from looper.jobs.synthesis.llm.critique import revise
from looper.jobs.synthesis.llm.hindsight import Confirm, relabel
from looper.jobs.synthesis.llm.judge import grade_unlabelled
from looper.jobs.synthesis.llm.request import Ask
from looper.platform.settings import ModelStage


def improve(
    drafts: Sequence[Draft],
    ask: Ask,
    stages: Collection[ModelStage],
    confirm: Confirm | None = None,
    hints: Sequence[Sequence[str]] | None = None,
) -> list[Draft]:
    """``drafts`` in their order after those of ``stages`` that are about one episode.

    They come graded, with errors told apart, scrubbed, and not yet weighed: what is relabelled counts again.
    Judged first, so that what the judge finds failed can be relabelled; criticised last, against the request and the
    context that will be learned from. ``hints`` are, for each draft, the rules of its instance.
    """
    drafts = list(drafts)
    if "judge" in stages:
        drafts = grade_unlabelled(drafts, ask)
    if "hindsight" in stages:
        drafts = relabel(drafts, ask, confirm)
    if "distillation" in stages:
        drafts = distil(drafts, ask, hints)
    if "critique" in stages:
        drafts = revise(drafts, ask)
    return drafts
