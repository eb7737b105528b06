"""Score a synthesis pipeline on planted defects: precision and recall per class.

The tests of ``looper.jobs.synthesis`` call it with the drafts that the pipeline returns. A draft says which defects
were found, and its steps show what was removed.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from looper.benchmarks.synthesis.planted_defects.ground_truth import DefectKind, PlantedCorpus
from looper.jobs.synthesis.draft import Draft
from looper.platform.domain.trajectory import Step

_REPETITIONS = (DefectKind.LOOP, DefectKind.REPEATED_CALL)
_ERRORS = (DefectKind.TRANSIENT, DefectKind.CAUSAL, DefectKind.INFORMATIVE, DefectKind.ENVIRONMENT)
_SENSITIVE = (DefectKind.SECRET, DefectKind.PERSONAL)
_DUPLICATE_REASONS = {"duplicate", "too_many"}


@dataclass(frozen=True)
class ClassScore:
    """How well a pipeline finds one class of defects."""

    kind: DefectKind
    """Class of the defects."""
    cases: int
    """Number of planted defects."""
    found: int
    """Number of planted defects that were found."""
    false: int
    """Number of false positives: named or removed without being such a defect."""

    @property
    def precision(self) -> float | None:
        """Share of true positives in what was named, or None if nothing was named."""
        named = self.found + self.false
        return self.found / named if named else None

    @property
    def recall(self) -> float | None:
        """Share of the planted defects that were found, or None if none was planted."""
        return self.found / self.cases if self.cases else None


def score_drafts(corpus: PlantedCorpus, drafts: Sequence[Draft]) -> list[ClassScore]:
    """Compare the drafts of a pipeline with the ground truth.

    A defect counts as found as follows:

    - errors: by ``DraftStep.error``, or by a verdict of the stage ``errors``, on the step of the answer
    - loops and repeated calls: by a verdict of the stage ``prune`` on any of their steps
    - lucky successes: by the verdict ``lucky`` of the stage ``credit``
    - leaks: by the verdict ``leak`` of the stage ``split``
    - duplicates: by the reason why a draft is rejected
    - secrets and personal data: if no step contains them anymore. A harmless text that a draft contains less often than
      its source is a false positive.

    Args:
        corpus: The trajectories with planted defects.
        drafts: The pipeline's drafts of all trajectories.

    Returns:
        One score per class.
    """
    return [_score_class(kind, corpus, drafts) for kind in DefectKind]


def to_markdown(scores: Iterable[ClassScore]) -> str:
    """Return the scores as a Markdown table.

    Args:
        scores: The scores.

    Returns:
        The table, with one row per class.
    """
    lines = ["| class | planted | found | false | precision | recall |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for score in scores:
        shares = " | ".join("" if share is None else f"{share:.3f}" for share in (score.precision, score.recall))
        lines.append(f"| {score.kind} | {score.cases} | {score.found} | {score.false} | {shares} |")
    return "\n".join(lines) + "\n"


def _score_class(kind: DefectKind, corpus: PlantedCorpus, drafts: Sequence[Draft]) -> ClassScore:
    if kind in _SENSITIVE:
        found, false = _score_texts(kind, corpus, drafts)
    elif kind in _REPETITIONS or kind in _ERRORS:
        found, false = _score_spans(kind, corpus, drafts)
    else:
        found, false = _score_groups(kind, corpus, drafts)
    return ClassScore(kind, corpus.cases(kind), found, false)


def _score_spans(kind: DefectKind, corpus: PlantedCorpus, drafts: Sequence[Draft]) -> tuple[int, int]:
    named = {(draft.source.id, step) for draft in drafts for step in _named_steps(kind, draft)}
    spans = [
        {(span.trajectory, step) for step in range(span.first, span.last + 1)}
        for span in corpus.spans
        if span.kind is kind
    ]
    return sum(not span.isdisjoint(named) for span in spans), len(named.difference(*spans))


def _named_steps(kind: DefectKind, draft: Draft) -> set[int | None]:
    stage = "prune" if kind in _REPETITIONS else "errors"
    named = {verdict.step for verdict in draft.verdicts if (verdict.stage, verdict.code) == (stage, kind.value)}
    return named | {placed.source_index for placed in draft.steps if placed.error and placed.error.value == kind.value}


def _score_groups(kind: DefectKind, corpus: PlantedCorpus, drafts: Sequence[Draft]) -> tuple[int, int]:
    named = Counter(draft.source.id for draft in drafts if _names_defect(kind, draft))
    found, false = 0, named.total()
    for group in corpus.groups:
        if group.kind is kind:
            count = sum(named[trajectory] for trajectory in group.trajectories)
            found += min(count, group.cases)
            false -= min(count, group.max_named)
    return found, false


def _names_defect(kind: DefectKind, draft: Draft) -> bool:
    if kind is DefectKind.DUPLICATE:
        return draft.rejected in _DUPLICATE_REASONS
    stage = "credit" if kind is DefectKind.LUCKY else "split"
    return any((verdict.stage, verdict.code) == (stage, kind.value) for verdict in draft.verdicts)


def _score_texts(kind: DefectKind, corpus: PlantedCorpus, drafts: Sequence[Draft]) -> tuple[int, int]:
    texts = {
        draft.source.id: (_join_text(draft.source.steps), _join_text(placed.step for placed in draft.steps))
        for draft in drafts
    }
    found = false = 0
    for text in corpus.texts:
        if text.kind is not kind or text.trajectory not in texts:
            continue
        before, after = texts[text.trajectory]
        if text.harmless:
            false += any(after.count(part) < before.count(part) for part in text.parts)
        else:
            found += not any(part in after for part in text.parts)
    return found, false


def _join_text(steps: Iterable[Step]) -> str:
    """Return all messages, calls and answers as one text."""
    parts = (
        (step.content, *(text for call in step.tool_calls for text in (call.name, call.arguments))) for step in steps
    )
    return "\n".join(text for step in parts for text in step)
