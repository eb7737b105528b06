"""The scrub stage: replace secrets and personal data, each value by the same placeholder throughout an episode.

An agent that reads an email in a tool result learns to pass it on in its next call, so both must stay equal. The names
of people are known from fields and from introductions, they are not guessed: a name that nothing introduces stays, and
so do record ids, unless a known name is part of them. Numbers, ids, dates, amounts and code stay, because the agent
works with them. The list of tools is not changed.

``pipeline/stages.py`` calls this stage first, so that no other verdict quotes a sensitive value. ``sensitive/`` does
the search and the replacement.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from looper.jobs.synthesis.draft import Draft, DraftStep, StageVerdict
from looper.jobs.synthesis.sensitive.fields import is_about_person
from looper.jobs.synthesis.sensitive.kinds import SensitiveKind
from looper.jobs.synthesis.sensitive.replacement_plan import ReplacementPlan, ScannedText

STAGE = "scrub"


def scrub(draft: Draft) -> Draft:
    """Replace secrets and personal data in the contents, the reasoning and the tool calls of all steps.

    JSON stays JSON, with the same keys in the same order and values of the same types.

    Args:
        draft: The episode.

    Returns:
        The changed draft. Its verdicts tell each kind that was replaced, how often, and in which step first, without
        the values. A draft without sensitive data is returned as it is.
    """
    texts_by_step = [_scan(step) for step in draft.steps]
    plan = ReplacementPlan.from_texts(list(chain.from_iterable(texts_by_step)))
    if plan.is_empty:
        return draft
    steps, places = [], defaultdict[SensitiveKind, list[int]](list)
    for step, texts in zip(draft.steps, texts_by_step, strict=True):
        applied = [plan.apply(text) for text in texts]
        steps.append(_with_texts(step, [text for text, _ in applied]))
        counts: Counter[SensitiveKind] = Counter()
        for _, replaced in applied:
            counts.update(replaced)
        for kind, count in (+counts).items():
            places[SensitiveKind.NAME if kind.is_name else kind] += [step.source_index] * count
    return draft.with_steps(tuple(steps), *map(_verdict, places, places.values()))


def _scan(step: DraftStep) -> list[ScannedText]:
    """Return the content of a step, its reasoning, then the arguments of each of its calls."""
    content = ScannedText.from_text(step.step.content, is_user=step.step.source == "user")
    arguments = (
        ScannedText.from_text(call.arguments, about_person=is_about_person(call.name)) for call in step.step.tool_calls
    )
    return [content, ScannedText.from_text(step.step.reasoning), *arguments]


def _with_texts(step: DraftStep, texts: Sequence[str]) -> DraftStep:
    """Return ``step`` with new texts, in the order of ``_scan``."""
    content, reasoning, *arguments = texts
    if texts == [step.step.content, step.step.reasoning, *(call.arguments for call in step.step.tool_calls)]:
        return step
    calls = tuple(
        call.model_copy(update={"arguments": new}) for new, call in zip(arguments, step.step.tool_calls, strict=True)
    )
    return replace(
        step, step=step.step.model_copy(update={"content": content, "reasoning": reasoning, "tool_calls": calls})
    )


def _verdict(kind: SensitiveKind, places: Sequence[int]) -> StageVerdict:
    count = f"{len(places)} place{'s' * (len(places) > 1)}"
    return StageVerdict(STAGE, "secret" if kind.is_secret else "personal", f"{kind}: {count}", min(places))
