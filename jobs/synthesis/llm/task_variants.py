"""Self-instructed variants: new requests of the kind that an agent has had, none too like one that is known.

After Wang et al., 2023, Self-Instruct (arXiv 2212.10560): its filter by ROUGE-L, its bounds on length. Requests come of
it, not episodes: an agent has to do them first.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from looper.jobs.synthesis.draft import Draft, StageVerdict
from looper.jobs.synthesis.llm.answer import has_markup, nonsense, read_object, silent
from looper.jobs.synthesis.llm.novelty import Words, is_novel, words
from looper.jobs.synthesis.llm.prompt import in_one_line, question, shorten
from looper.jobs.synthesis.llm.request import Ask, LLMRequest, ask_each

STAGE = "variants"

ALIKE = 0.7
"""ROUGE-L from which two requests count as the same, as in Self-Instruct."""

SHORTEST, LONGEST = 3, 150
"""Words of a request."""

_TASK = """
"request" is what a user asked of an agent that works with "tools", where they are known. Write {wanted} other requests
that the same agent could be asked: the same kind of work in the same place, with the same tools, but with other things
to be done, other values, other circumstances, and in other words. Each must stand on its own, with every value that it
takes, and must be one that the tools allow to be done.
"""
_FORM = '{"requests": ["<request>", ...]}'


@dataclass(frozen=True)
class Variant:
    """A request to be tried."""

    request: str
    task_id: str
    """Of the task that it is a variant of: beside it in the split, so that none of a held-out task is trained on."""


def vary(
    drafts: Sequence[Draft], ask: Ask, *, known: Iterable[str] = (), wanted: int = 4
) -> tuple[list[Variant], list[StageVerdict]]:
    """Up to ``wanted`` variants of each task in ``drafts``, and what was not taken and why.

    ``drafts`` are of one instance. Each variant is new against the requests in ``drafts``, those in ``known`` (give the
    held-out ones, so that none comes back by this way), and the variants before it.
    """
    tasks: dict[str, Draft] = {}
    for draft in sorted(drafts, key=lambda draft: (draft.source.task_id, draft.source.id)):
        if request_of(draft) and draft.rejected in (None, "failed"):
            tasks.setdefault(draft.source.task_id, draft)
    seen = [words(request) for request in (*map(request_of, drafts), *known) if request]
    answers = ask_each(ask, {id: _question(draft, wanted) for id, draft in tasks.items()})
    variants: list[Variant] = []
    verdicts: list[StageVerdict] = []
    for id, answer in answers.items():
        requests = _read(answer, id)
        if isinstance(requests, StageVerdict):
            verdicts.append(requests)
            continue
        for request in requests[:wanted]:
            fault = _fault(request, seen)
            if fault:
                verdicts.append(StageVerdict(STAGE, fault, f"task {id}: {in_one_line(request)}"))
            else:
                seen.append(words(request))
                variants.append(Variant(request, id))
    return variants, verdicts


def request_of(draft: Draft) -> str:
    """What the user asked for first, or nothing."""
    return next((placed.step.content.strip() for placed in draft.steps if placed.step.source == "user"), "")


def _question(draft: Draft, wanted: int) -> LLMRequest:
    record = {"request": shorten(request_of(draft), 4_000), "tools": shorten(draft.source.tools or "unknown", 6_000)}
    return question(_TASK.format(wanted=wanted), _FORM, record, max_tokens=128 * wanted)


def _read(answer: str | None, task: str) -> list[str] | StageVerdict:
    if answer is None:
        return silent(STAGE, f"task {task}")
    read = read_object(answer, "requests")
    requests = read["requests"] if read is not None else None
    if not isinstance(requests, list) or not all(isinstance(each, str) for each in requests):
        return nonsense(STAGE, answer, f"task {task}")
    return [each.strip() for each in requests]


def _fault(request: str, seen: Sequence[Words]) -> str | None:
    """Why ``request`` is no variant, in one word."""
    said = words(request)
    if not SHORTEST <= len(said) <= LONGEST:
        return "variant_length"
    if has_markup(request):
        return "variant_markup"
    return None if is_novel(said, seen, ALIKE) else "variant_known"
