"""Precision and recall of a synthesis pipeline, by what its drafts tell and by what they still hold."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from looper.benchmarks.synthesis.planted_defects.truth import DefectKind, Planted
from looper.jobs.synthesis.draft import Draft
from looper.platform.domain.trajectory import Step

_PRUNED = (DefectKind.LOOP, DefectKind.REPEATED_CALL)
_ERRORS = (DefectKind.TRANSIENT, DefectKind.CAUSAL, DefectKind.INFORMATIVE, DefectKind.ENVIRONMENT)
_SCRUBBED = (DefectKind.SECRET, DefectKind.PERSONAL)
_COPIES = {"duplicate", "too_many"}


@dataclass(frozen=True)
class ClassScore:
    """How well one class was found."""

    kind: DefectKind
    cases: int
    """Planted defects of the class."""
    found: int
    """Those of them that were found."""
    false: int
    """What was named, or removed, and is no such defect."""

    @property
    def precision(self) -> float | None:
        """The share of what was named that is such a defect; None if nothing was."""
        named = self.found + self.false
        return self.found / named if named else None

    @property
    def recall(self) -> float | None:
        """The share of the defects that was found; None if none was planted."""
        return self.found / self.cases if self.cases else None


def score(planted: Planted, drafts: Sequence[Draft]) -> list[ClassScore]:
    """Compare what a pipeline made of all of ``planted.batches`` with the truth, class by class.

    Errors are found by ``Placed.error``, or by a verdict of the stage ``errors``, on the step of the answer. Loops and
    repeated calls by a verdict of the stage ``prune`` on any of their steps. Luck by ``lucky`` of the stage ``credit``,
    leaks by ``leak`` of the stage ``split``, copies by why a draft is rejected. Secrets and personal data are found if
    no step holds them any more; a harmless string that a draft holds less often than its source is a false find.
    """
    return [_score(kind, planted, drafts) for kind in DefectKind]


def to_markdown(scores: Iterable[ClassScore]) -> str:
    """The scores as a table, a row per class."""
    lines = ["| class | planted | found | false | precision | recall |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for each in scores:
        shares = " | ".join("" if share is None else f"{share:.3f}" for share in (each.precision, each.recall))
        lines.append(f"| {each.kind} | {each.cases} | {each.found} | {each.false} | {shares} |")
    return "\n".join(lines) + "\n"


def _score(kind: DefectKind, planted: Planted, drafts: Sequence[Draft]) -> ClassScore:
    if kind in _SCRUBBED:
        found, false = _of_texts(kind, planted, drafts)
    elif kind in _PRUNED or kind in _ERRORS:
        found, false = _of_spans(kind, planted, drafts)
    else:
        found, false = _of_groups(kind, planted, drafts)
    return ClassScore(kind, planted.cases(kind), found, false)


def _of_spans(kind: DefectKind, planted: Planted, drafts: Sequence[Draft]) -> tuple[int, int]:
    named = {(draft.source.id, step) for draft in drafts for step in _steps_named(kind, draft)}
    spans = [
        {(span.trajectory, step) for step in range(span.first, span.last + 1)}
        for span in planted.spans
        if span.kind is kind
    ]
    return sum(not span.isdisjoint(named) for span in spans), len(named.difference(*spans))


def _steps_named(kind: DefectKind, draft: Draft) -> set[int | None]:
    stage = "prune" if kind in _PRUNED else "errors"
    named = {verdict.step for verdict in draft.verdicts if (verdict.stage, verdict.what) == (stage, kind.value)}
    return named | {placed.place for placed in draft.steps if placed.error and placed.error.value == kind.value}


def _of_groups(kind: DefectKind, planted: Planted, drafts: Sequence[Draft]) -> tuple[int, int]:
    named = Counter(draft.source.id for draft in drafts if _is_named(kind, draft))
    found, false = 0, named.total()
    for group in planted.groups:
        if group.kind is kind:
            count = sum(named[trajectory] for trajectory in group.trajectories)
            found += min(count, group.cases)
            false -= min(count, group.most)
    return found, false


def _is_named(kind: DefectKind, draft: Draft) -> bool:
    if kind is DefectKind.DUPLICATE:
        return draft.rejected in _COPIES
    stage = "credit" if kind is DefectKind.LUCKY else "split"
    return any((verdict.stage, verdict.what) == (stage, kind.value) for verdict in draft.verdicts)


def _of_texts(kind: DefectKind, planted: Planted, drafts: Sequence[Draft]) -> tuple[int, int]:
    texts = {each.source.id: (_text(each.source.steps), _text(placed.step for placed in each.steps)) for each in drafts}
    found = false = 0
    for text in planted.texts:
        if text.kind is not kind or text.trajectory not in texts:
            continue
        before, after = texts[text.trajectory]
        if text.harmless:
            false += any(after.count(part) < before.count(part) for part in text.parts)
        else:
            found += not any(part in after for part in text.parts)
    return found, false


def _text(steps: Iterable[Step]) -> str:
    """All that is said, called and observed."""
    parts = (
        (step.content, *(text for call in step.tool_calls for text in (call.name, call.arguments))) for step in steps
    )
    return "\n".join(text for step in parts for text in step)
