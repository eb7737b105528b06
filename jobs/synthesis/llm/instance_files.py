"""What an instance's episodes say together: files beside its examples.

``rules.json`` holds notes for the knowledge layer, and hints for distillation. ``variants.json`` holds requests that
the agent was not asked yet: with a simulator they would be played; without one, they are for its operator to try.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict
from heapq import nsmallest

import orjson

from looper.jobs.synthesis.draft import Draft, StageVerdict
from looper.jobs.synthesis.llm.request import Ask
from looper.jobs.synthesis.llm.rules import extract
from looper.jobs.synthesis.llm.task_variants import vary
from looper.platform.settings import ModelStage

RULES: ModelStage = "rules"
VARIANTS: ModelStage = "variants"
SHARED: tuple[ModelStage, ...] = (RULES, VARIANTS)


MOST = 240
"""Episodes of an instance that are asked about: 40 questions about rules, and one for each of their tasks."""


def sample(drafts: Iterable[Draft]) -> list[Draft]:
    """At most ``MOST`` of them, chosen by their ids, which are digests: the same in whatever parts they come."""
    return nsmallest(MOST, drafts, key=lambda draft: draft.source.id)


def files(
    drafts: Sequence[Draft], requests: Sequence[str], ask: Ask, stages: Collection[ModelStage]
) -> Iterator[tuple[str, bytes]]:
    """Of those of ``stages`` that are on. ``requests`` are all that are known, also of episodes not in ``drafts``."""
    if RULES in stages:
        notes, dropped = extract(drafts, ask)
        yield f"{RULES}.json", _file(RULES, map(asdict, notes), dropped)
    if VARIANTS in stages:
        variants, dropped = vary(drafts, ask, known=requests)
        yield f"{VARIANTS}.json", _file(VARIANTS, map(asdict, variants), dropped)


def hints(content: bytes) -> tuple[str, ...]:
    """The notes of a ``rules.json``, best supported first."""
    return tuple(note["text"] for note in orjson.loads(content)[RULES])


def count(name: str, content: bytes) -> int:
    """How many a file of that name holds."""
    return len(orjson.loads(content)[name.removesuffix(".json")])


def _file(name: str, found: Iterable[dict[str, object]], dropped: Iterable[StageVerdict]) -> bytes:
    reasons = [{"reason": verdict.what, "detail": verdict.detail} for verdict in dropped]
    return orjson.dumps({name: [*found], "dropped": reasons}, option=orjson.OPT_INDENT_2)
