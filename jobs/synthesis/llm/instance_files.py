"""The stages that compare all episodes of an instance and write files next to its examples.

``rules.json`` holds notes for the knowledge layer; context distillation uses them as hints. ``variants.json`` holds
requests that nobody has made yet: a simulator could play them; without one, an operator can try them on the agent.
``pipeline/llm_actors.py`` writes these files.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict
from heapq import nsmallest

import orjson

from looper.jobs.synthesis.draft import Draft, StageVerdict
from looper.jobs.synthesis.llm import rules, task_variants
from looper.jobs.synthesis.llm.request import Generate
from looper.platform.settings import ModelStage

INSTANCE_STAGES: tuple[ModelStage, ...] = (rules.STAGE, task_variants.STAGE)
"""Names of the stages that write a file ``<stage>.json``."""

MAX_SAMPLED_EPISODES = 240
"""Maximum number of episodes of an instance in these stages: 40 requests for rules, and one for each of their tasks."""


def sample_drafts(drafts: Iterable[Draft]) -> list[Draft]:
    """Choose at most ``MAX_SAMPLED_EPISODES`` drafts.

    Args:
        drafts: Drafts of one instance.

    Returns:
        Those with the smallest trajectory ids. Ids are digests, so the choice is arbitrary, but it does not depend on
        how the drafts are divided into blocks.
    """
    return nsmallest(MAX_SAMPLED_EPISODES, drafts, key=lambda draft: draft.source.id)


def build_instance_files(
    drafts: Sequence[Draft], requests: Sequence[str], generate: Generate, stages: Collection[ModelStage]
) -> Iterator[tuple[str, bytes]]:
    """Run the instance stages that are on.

    Args:
        drafts: A sample of the instance's drafts, without held-out tasks.
        requests: All requests of the instance's users, also of episodes that are not in ``drafts``.
        generate: Sends requests to the model.
        stages: Names of the stages that are on. Others than the instance stages are ignored.

    Yields:
        The name and content of each file.
    """
    if rules.STAGE in stages:
        notes, dropped = rules.extract_notes(drafts, generate)
        yield f"{rules.STAGE}.json", _to_json(rules.STAGE, map(asdict, notes), dropped)
    if task_variants.STAGE in stages:
        variants, dropped = task_variants.generate_variants(drafts, generate, known_requests=requests)
        yield f"{task_variants.STAGE}.json", _to_json(task_variants.STAGE, map(asdict, variants), dropped)


def read_hints(content: bytes) -> tuple[str, ...]:
    """Read the notes of a ``rules.json``.

    Args:
        content: Content of the file.

    Returns:
        The texts, best supported first.
    """
    return tuple(note["text"] for note in orjson.loads(content)[rules.STAGE])


def count_entries(name: str, content: bytes) -> int:
    """Count the entries of a file.

    Args:
        name: Name of the file, such as ``rules.json``.
        content: Content of the file.

    Returns:
        The number of notes or variants.
    """
    return len(orjson.loads(content)[name.removesuffix(".json")])


def _to_json(stage: str, entries: Iterable[dict[str, object]], dropped: Iterable[StageVerdict]) -> bytes:
    reasons = [{"reason": verdict.code, "detail": verdict.detail} for verdict in dropped]
    return orjson.dumps({stage: [*entries], "dropped": reasons}, option=orjson.OPT_INDENT_2)
