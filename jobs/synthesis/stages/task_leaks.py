"""One task under several names: trained under one of them, it must not be judged under another.

Tasks that ask for the same in the same words are told by a digest. Those that ask in nearly the same words are told by
MinHash, if all their numbers, ids and codes are equal: ``order 17`` is no near miss of ``order 71``.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from typing import NamedTuple

from looper.jobs.synthesis.draft import Draft

STAGE = "split"

ALIKE = 0.85
"""Jaccard similarity of the words, in twos, from which on two requests are one."""
PERMUTATIONS = 128
MARGIN = 0.15
"""How much less alike are those that are looked at: the error of MinHash is 0.04 there."""
FEWEST = 3
"""Words of a request that can be nearly another."""
LONGEST = 400
"""Words that are compared."""
FEW = 100
"""Requests of which each is compared with each: an index of MinHash takes longer to set up, 20 ms."""

_COURTESY = re.compile(
    r"\b(please|thanks?( you)?( so much| very much| a lot)?|kindly|hi|hello|hey|dear"
    r"|good (morning|afternoon|evening|day)|(could|can|would|will) you"
    r"|por favor|(muchas )?gracias|hola|buen[oa]s (d[ií]as|tardes|noches))\b"
)
_WORD = re.compile(r"\w+")
_NUMBER = r"\S*\d\S*"
_MARK, _MARK_IN_CAPITALS = re.compile(rf"{_NUMBER}|\b[A-Z]{{2,}}\b"), re.compile(_NUMBER)
"""A number, an id or a code; where most is written in capitals, a code is not told from other words."""


class TaskRequest(NamedTuple):
    """What is asked for, in digests."""

    same: str
    """Equal where the user says the same, in the same place. Many begin with no more than a greeting."""
    marks: str
    """Equal where the same numbers, ids and codes are named, in the same place."""


def asked(draft: Draft) -> TaskRequest:
    system = next((each.step.content for each in draft.steps if each.step.source == "system"), "")
    said = _said(draft)
    spoken = _WORD.findall(said)
    mark = _MARK_IN_CAPITALS if sum(map(str.isupper, spoken)) > len(spoken) / 2 else _MARK
    marks = sorted({found.strip(".,;:!?()[]'\"").lower() for found in mark.findall(said)})
    return TaskRequest(_digest(f"{system}\n{said}".lower()), _digest(f"{system}\n{marks}"))


def words(draft: Draft) -> str:
    """What the user says, without the courtesies: in lower case, a space between words."""
    return " ".join(_WORD.findall(_COURTESY.sub(" ", _said(draft).lower()))[:LONGEST])


def doubtful(tasks: Iterable[tuple[str, TaskRequest]]) -> frozenset[str]:
    """Tasks that name the same numbers, ids and codes as another, in other words."""
    by_marks: defaultdict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for task, what in tasks:
        by_marks[what.marks][what.same].add(task)
    found: set[str] = set()
    for same in by_marks.values():
        named = set().union(*same.values())
        if len(same) > 1 and len(named) > 1:
            found |= named
    return frozenset(found)


def alike(said: Iterable[tuple[str, str, str]]) -> Iterator[tuple[str, str]]:
    """Of ``(task, marks, words)``, the tasks that ask for the same in nearly the same words, in pairs."""
    by_marks: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for task, marks, text in sorted(said):
        if text.count(" ") + 1 >= FEWEST:
            by_marks[marks].setdefault(text, task)
            if by_marks[marks][text] != task:
                yield by_marks[marks][text], task
    for tasks in by_marks.values():
        if len(set(tasks.values())) > 1:
            yield from _alike(tasks)


def _alike(tasks: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Of tasks by their words."""
    twos: dict[str, set[str]] = {}
    for text in tasks:
        spoken = text.split()
        twos[text] = {" ".join(spoken[at : at + 2]) for at in range(len(spoken) - 1)}
    for one, other in combinations(twos, 2) if len(twos) <= FEW else _near(twos):
        common = len(twos[one] & twos[other])
        if common >= ALIKE * (len(twos[one]) + len(twos[other]) - common):
            yield tasks[one], tasks[other]


def _near(twos: Mapping[str, set[str]]) -> Iterator[tuple[str, str]]:
    """Of many texts by their words in twos, those that may be alike, without comparing all with all."""
    from datasketch import MinHash, MinHashLSH  # with all of SciPy: two seconds, which most jobs need not pay

    index = MinHashLSH(threshold=ALIKE - MARGIN, num_perm=PERMUTATIONS)
    for text, some in twos.items():
        hashed = MinHash(num_perm=PERMUTATIONS, seed=1)
        hashed.update_batch([two.encode() for two in sorted(some)])
        for other in sorted(index.query(hashed)):
            yield other, text
        index.insert(text, hashed)


def one_name(pairs: Iterable[tuple[str, str]], near: Iterable[tuple[str, str]] = ()) -> dict[str, str]:
    """Of ``(task, Asked.same)`` pairs, the name that each task goes by: the first of all that ask for the same.

    ``near`` are tasks that do so in other words. Tasks that go by their own name are left out.
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
    for same in (*tasks.values(), *near):
        first, *others = sorted({root(task) for task in same})
        for other in others:
            parent[other] = first
    return {task: found for task in list(parent) if (found := root(task)) != task}


def _said(draft: Draft) -> str:
    return "\n".join(each.step.content for each in draft.steps if each.step.source == "user") or draft.source.task_id


def _digest(text: str) -> str:
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:16]
