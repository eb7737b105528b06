"""Tasks that occur under several names: a task that is trained under one name must not be held out under another.

Tasks that ask for the same in the same words have equal digests. Tasks that ask in nearly the same words are found by
MinHash, but only if all their numbers, ids and codes are equal: ``order 17`` and ``order 71`` are different tasks.
``pipeline/`` calls these functions in this order for all tasks of an instance: ``digest_request``,
``find_possible_leaks``, ``request_words``, ``find_similar_tasks``, ``canonical_task_names``.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from typing import NamedTuple

from looper.jobs.synthesis.draft import Draft

STAGE = "split"

MIN_SIMILARITY = 0.85
"""Jaccard similarity of word bigrams from which on two requests count as the same."""

MINHASH_PERMUTATIONS = 128
"""Number of hash functions of MinHash (Broder, 1997)."""

MINHASH_MARGIN = 0.15
"""How far below ``MIN_SIMILARITY`` candidates are still compared exactly. The error of MinHash is 0.04 there."""

MIN_WORDS = 3
"""Minimum number of words of a request that can be similar to another."""

MAX_WORDS = 400
"""Maximum number of words of a request that are compared."""

MAX_PAIRWISE_REQUESTS = 100
"""Maximum number of requests that are compared pair by pair. An index of MinHash takes 20 ms to set up."""

_COURTESY = re.compile(
    r"\b(please|thanks?( you)?( so much| very much| a lot)?|kindly|hi|hello|hey|dear"
    r"|good (morning|afternoon|evening|day)|(could|can|would|will) you"
    r"|por favor|(muchas )?gracias|hola|buen[oa]s (d[ií]as|tardes|noches))\b"
)
_WORD = re.compile(r"\w+")
_NUMBER = r"\S*\d\S*"
_IDENTIFIER = re.compile(rf"{_NUMBER}|\b[A-Z]{{2,}}\b")
"""A number, an id or a code in capital letters."""

_IDENTIFIER_IN_CAPITALS = re.compile(_NUMBER)
"""A number or an id, for requests that are mostly in capital letters, where a code looks like any other word."""


class RequestDigests(NamedTuple):
    """Two digests of what a task asks for. Both also cover the instructions of the agent."""

    text_digest: str
    """Equal for requests with the same words in all messages of the user. Many begin with no more than a greeting."""
    identifier_digest: str
    """Equal for requests that mention the same numbers, ids and codes."""


def digest_request(draft: Draft) -> RequestDigests:
    """Digest what the user of an episode asks for.

    Args:
        draft: The episode, after scrubbing.

    Returns:
        The digests.
    """
    system = next((step.step.content for step in draft.steps if step.step.source == "system"), "")
    request = _user_messages(draft)
    words = _WORD.findall(request)
    pattern = _IDENTIFIER_IN_CAPITALS if sum(map(str.isupper, words)) > len(words) / 2 else _IDENTIFIER
    identifiers = sorted({found.strip(".,;:!?()[]'\"").lower() for found in pattern.findall(request)})
    return RequestDigests(_digest(f"{system}\n{request}".lower()), _digest(f"{system}\n{identifiers}"))


def request_words(draft: Draft) -> str:
    """Return the words of the user without courtesies.

    Args:
        draft: The episode, after scrubbing.

    Returns:
        At most ``MAX_WORDS`` words in lower case, with a space between them.
    """
    return " ".join(_WORD.findall(_COURTESY.sub(" ", _user_messages(draft).lower()))[:MAX_WORDS])


def find_possible_leaks(tasks: Iterable[tuple[str, RequestDigests]]) -> frozenset[str]:
    """Find tasks that mention the same numbers, ids and codes as another task, in other words.

    Only the words of these tasks need to be compared.

    Args:
        tasks: Task id and digests of each episode.

    Returns:
        Ids of the tasks.
    """
    by_identifiers: defaultdict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for task, digests in tasks:
        by_identifiers[digests.identifier_digest][digests.text_digest].add(task)
    found: set[str] = set()
    for by_text in by_identifiers.values():
        names = set().union(*by_text.values())
        if len(by_text) > 1 and len(names) > 1:
            found |= names
    return frozenset(found)


def find_similar_tasks(requests: Iterable[tuple[str, str, str]]) -> Iterator[tuple[str, str]]:
    """Find pairs of tasks that ask for the same in nearly the same words.

    Args:
        requests: Task id, ``identifier_digest`` and ``request_words`` of each episode.

    Yields:
        Pairs of task ids.
    """
    by_identifiers: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for task, identifier_digest, text in sorted(requests):
        if text.count(" ") + 1 >= MIN_WORDS:
            first_task = by_identifiers[identifier_digest].setdefault(text, task)
            if first_task != task:
                yield first_task, task
    for task_by_text in by_identifiers.values():
        if len(set(task_by_text.values())) > 1:
            yield from _similar_pairs(task_by_text)


def _similar_pairs(task_by_text: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    bigrams: dict[str, set[str]] = {}
    for text in task_by_text:
        words = text.split()
        bigrams[text] = {" ".join(words[start : start + 2]) for start in range(len(words) - 1)}
    is_small = len(bigrams) <= MAX_PAIRWISE_REQUESTS
    for first, second in combinations(bigrams, 2) if is_small else _candidate_pairs(bigrams):
        common = len(bigrams[first] & bigrams[second])
        if common >= MIN_SIMILARITY * (len(bigrams[first]) + len(bigrams[second]) - common):
            yield task_by_text[first], task_by_text[second]


def _candidate_pairs(bigrams: Mapping[str, set[str]]) -> Iterator[tuple[str, str]]:
    """Yield pairs of texts that may be similar, without comparing all texts with each other."""
    # Imported late: it imports SciPy, which takes two seconds that most jobs do not need.
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=MIN_SIMILARITY - MINHASH_MARGIN, num_perm=MINHASH_PERMUTATIONS)
    for text, text_bigrams in bigrams.items():
        hashed = MinHash(num_perm=MINHASH_PERMUTATIONS, seed=1)
        hashed.update_batch([bigram.encode() for bigram in sorted(text_bigrams)])
        for other in sorted(index.query(hashed)):
            yield other, text
        index.insert(text, hashed)


def canonical_task_names(
    text_digests: Iterable[tuple[str, str]], similar: Iterable[tuple[str, str]] = ()
) -> dict[str, str]:
    """Give all names of one task the same name: the first of them in alphabetical order.

    Args:
        text_digests: Task id and ``text_digest`` of each episode.
        similar: Pairs of task ids from ``find_similar_tasks``.

    Returns:
        The common name of each task that has another name. Tasks that keep their own name are left out.
    """
    parent: dict[str, str] = {}

    def find_root(task: str) -> str:
        while parent.setdefault(task, task) != task:
            parent[task] = parent[parent[task]]
            task = parent[task]
        return task

    tasks_by_digest: defaultdict[str, set[str]] = defaultdict(set)
    for task, digest in text_digests:
        tasks_by_digest[digest].add(task)
    for same in (*tasks_by_digest.values(), *similar):
        first, *others = sorted({find_root(task) for task in same})
        for other in others:
            parent[other] = first
    return {task: root for task in list(parent) if (root := find_root(task)) != task}


def _user_messages(draft: Draft) -> str:
    """Return all messages of the user, or the task's id if there are none."""
    messages = (step.step.content for step in draft.steps if step.step.source == "user")
    return "\n".join(messages) or draft.source.task_id


def _digest(text: str) -> str:
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:16]
