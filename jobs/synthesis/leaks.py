"""One task under several names: trained under one of them, it must not be judged under another."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable

from looper.jobs.synthesis.draft import Draft

STAGE = "split"


def asked(draft: Draft) -> str:
    """The same for episodes whose user says the same, in the same place. Many begin with no more than a greeting."""
    system = next((each.step.content for each in draft.steps if each.step.source == "system"), "")
    said = "\n".join(each.step.content for each in draft.steps if each.step.source == "user") or draft.source.task_id
    return hashlib.sha256(" ".join(f"{system}\n{said}".lower().split()).encode()).hexdigest()[:16]


def one_name(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Of ``(task_id, asked)`` pairs, the name that each task goes by: the first of all that ask for the same.

    Tasks that go by their own name are left out.
    """
    parent: dict[str, str] = {}

    def root(task: str) -> str:
        while parent.setdefault(task, task) != task:
            parent[task] = parent[parent[task]]
            task = parent[task]
        return task

    tasks: defaultdict[str, set[str]] = defaultdict(set)
    for task, what in pairs:
        tasks[what].add(task)
    for same in tasks.values():
        first, *others = sorted({root(task) for task in same})
        for other in others:
            parent[other] = first
    return {task: found for task in list(parent) if (found := root(task)) != task}
