"""The stages with a language model that are about one episode, in order. ``pipeline/llm_actors.py`` calls them."""

from collections.abc import Collection, Sequence

from looper.jobs.synthesis.draft import Draft
from looper.jobs.synthesis.llm import context_distillation, critique, hindsight, judge
from looper.jobs.synthesis.llm.request import Generate
from looper.platform.settings import ModelStage


def run_draft_stages(
    drafts: Sequence[Draft],
    generate: Generate,
    stages: Collection[ModelStage],
    confirm: hindsight.ConfirmRequest | None = None,
    hints: Sequence[Sequence[str]] | None = None,
) -> list[Draft]:
    """Run those of ``stages`` that are about one episode.

    Judging comes first, so that hindsight can relabel what the judge finds failed. Critique comes last, because it
    compares with the request and the context that will be learned from.

    Args:
        drafts: Drafts after the episode stages: graded, with classified errors, scrubbed. They must not be weighed yet,
            because a relabeled draft counts again.
        generate: Sends requests to the model.
        stages: Names of the stages that are on. Those about whole instances are ignored.
        confirm: Checks a new request against the environment, for hindsight.
        hints: For each draft, the rules of its instance, for context distillation.

    Returns:
        The drafts after the stages, in the same order.
    """
    drafts = list(drafts)
    if judge.STAGE in stages:
        drafts = judge.grade_unlabeled(drafts, generate)
    if hindsight.STAGE in stages:
        drafts = hindsight.relabel(drafts, generate, confirm)
    if context_distillation.STAGE in stages:
        drafts = context_distillation.distill_context(drafts, generate, hints)
    if critique.STAGE in stages:
        drafts = critique.critique_and_revise(drafts, generate)
    return drafts
