"""Gather the held-out tasks for a candidate: of its own session, of earlier sessions, and of sibling instances.

Held-out tasks of other tenants are never used: nothing of a tenant, not even a loss, may depend on another tenant's
agents. Gathering again, in any worker, gives the same tasks. The trainer calls ``gather_heldout``.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from random import Random

import pyarrow.parquet as pq

from looper.jobs.consolidation.data.encode import Encode, Window
from looper.jobs.synthesis.output.example_table import read_examples
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.errors import NotFound
from looper.platform.domain.example import Example
from looper.platform.objectstore import ObjectStore, keys

MAX_NEW_TOKENS = 6_144
"""Maximum tokens of the candidate's own session: several dozen actions, and a quarter of a minute on two cores."""

MAX_EARLIER_TOKENS = 6_144
"""Maximum tokens of all earlier sessions together."""

MAX_CONTROL_TOKENS = 768
"""Maximum tokens of sibling instances. They only have to show a collapse."""

MAX_SESSIONS = 64
"""Maximum earlier sessions: with more, ``MAX_EARLIER_TOKENS`` would not suffice for one call of each."""

MAX_SIBLINGS = 8
"""Maximum versions of sibling instances whose held-out tasks are used."""


@dataclass(frozen=True)
class HeldOutWindow:
    """A window of a held-out example."""

    window: Window
    """The encoded window."""
    tools: str | None
    """The agent's tool list as JSON text."""


@dataclass(frozen=True)
class HeldOutQuestions:
    """All held-out windows for one candidate."""

    new: list[HeldOutWindow]
    """Of its own session; empty if none of its examples can be encoded."""
    earlier: list[HeldOutWindow]
    """Of the sessions before."""
    control: list[HeldOutWindow]
    """Of the tenant's other instances."""


def gather_heldout(job: Consolidation, catalog: Catalog, store: ObjectStore, encode: Encode) -> HeldOutQuestions:
    """Gather the held-out windows for the candidate of ``job``.

    If a task appears in several sessions, only the latest one counts, because the way to solve it may have changed.
    Tasks that ``job`` trains on are never used. Sessions that are no longer in the store are skipped.

    Args:
        job: The consolidation, already claimed.
        catalog: The catalog, for the lineage and the sibling instances.
        store: The object store with the examples.
        encode: Encodes one example as windows. An example without windows is left out.

    Returns:
        The held-out windows.

    Raises:
        NotFound: If the held-out examples of ``job`` are missing.
    """
    new = _read_heldout(store, job.id)
    known = {example.task_id for example in new} | _read_training_task_ids(store, job.id)
    earlier = []
    for id in _list_earlier_sessions(job, catalog):
        with suppress(NotFound):
            session = _read_heldout(store, id)
            earlier.append([example for example in session if example.task_id not in known])
            known |= {example.task_id for example in session}
    control = []
    for version in _list_sibling_sessions(job, catalog):
        with suppress(NotFound):
            theirs = _read_heldout(store, version)
            control.append([example for example in theirs if example.task_id not in known])
    return HeldOutQuestions(
        new=sample_windows([new], encode, MAX_NEW_TOKENS),
        earlier=sample_windows(earlier, encode, MAX_EARLIER_TOKENS),
        control=sample_windows(control, encode, MAX_CONTROL_TOKENS),
    )


def sample_windows(sets: Sequence[Sequence[Example]], encode: Encode, tokens: int) -> list[HeldOutWindow]:
    """Sample windows with a fixed seed.

    The sets take turns, and so do the examples of each set, so neither a large set nor a long example takes everything.

    Args:
        sets: Sets of examples.
        encode: Encodes one example as windows.
        tokens: Maximum tokens in all. At least one window is returned.

    Returns:
        The sampled windows.
    """
    rng = Random(0)
    turns = [_iterate_windows(examples, encode, rng) for examples in sets]
    picked: list[HeldOutWindow] = []
    size = 0
    while turns:
        for turn in list(turns):
            heldout = next(turn, None)
            if heldout is None:
                turns.remove(turn)
                continue
            size += len(heldout.window)
            if picked and size > tokens:
                return picked
            picked.append(heldout)
    return picked


def _iterate_windows(examples: Sequence[Example], encode: Encode, rng: Random) -> Iterator[HeldOutWindow]:
    """Yield one window of each example, then the rest. Examples are encoded lazily, and most never are."""
    rest: list[HeldOutWindow] = []
    for example in rng.sample(examples, len(examples)):
        windows = [HeldOutWindow(window, example.tools) for window in encode(example)]
        if not windows:
            continue
        yield windows.pop(rng.randrange(len(windows)))
        rest += windows
    rng.shuffle(rest)
    yield from rest


def _list_earlier_sessions(job: Consolidation, catalog: Catalog) -> list[str]:
    """Return the consolidations that led to the version that ``job`` continues, newest first."""
    if job.parent is None:
        return []
    ids = [version.consolidation for version in catalog.get_lineage(job.parent)]
    if len(ids) <= MAX_SESSIONS:
        return ids
    chosen = set(Random(job.id).sample(ids, MAX_SESSIONS))  # a different sample for each consolidation
    return [id for id in ids if id in chosen]


def _list_sibling_sessions(job: Consolidation, catalog: Catalog) -> list[str]:
    """Return consolidations of other instances of the tenant."""
    assert job.started_at is not None, "claimed, so it has begun"
    versions = catalog.list_sibling_versions(job.instance, base=job.base, before=job.started_at, limit=MAX_SIBLINGS)
    return [version.consolidation for version in versions]


def _read_heldout(store: ObjectStore, consolidation: str) -> list[Example]:
    return read_examples(store.get(keys.examples(consolidation, "holdout.parquet")))


def _read_training_task_ids(store: ObjectStore, consolidation: str) -> set[str]:
    """Return the task ids of the training examples."""
    content = store.get(keys.examples(consolidation, "train.parquet"))
    return set(pq.read_table(BytesIO(content), columns=["task_id"]).column("task_id").to_pylist())
