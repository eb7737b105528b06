"""Self-instructed task variants: new requests like those that an agent has had, but not too similar to known ones.

After Wang et al., 2023, Self-Instruct (arXiv 2212.10560): its filter by ROUGE-L and its bounds on length. The results
are requests, not episodes: an agent has to work on them first. ``instance_files.py`` calls ``generate_variants``.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from looper.jobs.synthesis.draft import Draft, StageVerdict
from looper.jobs.synthesis.llm.novelty import Words, is_novel, split_words
from looper.jobs.synthesis.llm.prompt import build_request, shorten, to_one_line
from looper.jobs.synthesis.llm.request import Generate, LLMRequest, generate_by_key
from looper.jobs.synthesis.llm.response_parser import has_markup, no_response, parse_response, unusable_response
from looper.platform.settings import ModelStage

STAGE: ModelStage = "variants"
"""Name of the stage in the settings and in verdicts."""

SAME_REQUEST_ROUGE_L = 0.7
"""ROUGE-L from which two requests count as the same, as in Self-Instruct."""

MIN_REQUEST_WORDS, MAX_REQUEST_WORDS = 3, 150
"""Minimum and maximum number of words of a request."""

_TASK = """
"request" is what a user asked of an agent that works with "tools", where they are known. Write {wanted} other requests
that the same agent could be asked: the same kind of work in the same place, with the same tools, but with other things
to be done, other values, other circumstances, and in other words. Each must stand on its own, with every value that it
takes, and must be one that the tools allow to be done.
"""
_FORM = '{"requests": ["<request>", ...]}'


@dataclass(frozen=True)
class Variant:
    """A request to try. The fields are those of ``variants.json``."""

    request: str
    """Text of the request."""
    task_id: str
    """Id of the original task. A variant is on its side of the split, so that no held-out task is trained on."""


def generate_variants(
    drafts: Sequence[Draft], generate: Generate, *, known_requests: Iterable[str] = (), per_task: int = 4
) -> tuple[list[Variant], list[StageVerdict]]:
    """Generate variants of the tasks of some drafts.

    Each variant differs from the requests of ``drafts``, from ``known_requests`` and from the variants before it.

    Args:
        drafts: Drafts of one instance.
        generate: Sends requests to the model.
        known_requests: Further requests that must not come back. Pass the held-out ones.
        per_task: Maximum number of variants of each task.

    Returns:
        The variants, and the reasons why others were dropped.
    """
    tasks: dict[str, Draft] = {}
    for draft in sorted(drafts, key=lambda draft: (draft.source.task_id, draft.source.id)):
        if first_user_request(draft) and draft.rejected in (None, "failed"):
            tasks.setdefault(draft.source.task_id, draft)
    known = [split_words(request) for request in (*map(first_user_request, drafts), *known_requests) if request]
    responses = generate_by_key(generate, {id: _build_request(draft, per_task) for id, draft in tasks.items()})
    variants: list[Variant] = []
    verdicts: list[StageVerdict] = []
    for id, response in responses.items():
        requests = _parse_requests(response, id)
        if isinstance(requests, StageVerdict):
            verdicts.append(requests)
            continue
        for request in requests[:per_task]:
            fault = _find_fault(request, known)
            if fault:
                verdicts.append(StageVerdict(STAGE, fault, f"task {id}: {to_one_line(request)}"))
            else:
                known.append(split_words(request))
                variants.append(Variant(request, id))
    return variants, verdicts


def first_user_request(draft: Draft) -> str:
    """Return the first text of the user.

    Args:
        draft: A draft.

    Returns:
        The text without surrounding white space, or an empty text if the user says nothing.
    """
    return next((step.step.content.strip() for step in draft.steps if step.step.source == "user"), "")


def _build_request(draft: Draft, wanted: int) -> LLMRequest:
    record = {
        "request": shorten(first_user_request(draft), 4_000),
        "tools": shorten(draft.source.tools or "unknown", 6_000),
    }
    return build_request(_TASK.format(wanted=wanted), _FORM, record, max_tokens=128 * wanted)


def _parse_requests(response: str | None, task: str) -> list[str] | StageVerdict:
    if response is None:
        return no_response(STAGE, f"task {task}")
    parsed = parse_response(response, "requests")
    requests = parsed["requests"] if parsed is not None else None
    if not isinstance(requests, list) or not all(isinstance(request, str) for request in requests):
        return unusable_response(STAGE, response, f"task {task}")
    return [request.strip() for request in requests]


def _find_fault(request: str, known: Sequence[Words]) -> str | None:
    """Return why ``request`` is no variant, in one word, or None if it is one."""
    request_words = split_words(request)
    if not MIN_REQUEST_WORDS <= len(request_words) <= MAX_REQUEST_WORDS:
        return "variant_length"
    if has_markup(request):
        return "variant_markup"
    return None if is_novel(request_words, known, SAME_REQUEST_ROUGE_L) else "variant_known"
