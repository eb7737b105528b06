"""The held-out tasks that a candidate is asked: those of its own session, of the sessions before, of other instances.

Other tenants' are never asked: nothing of a tenant, not even a loss, may depend on what another tenant's agents do.
What is asked is the same whenever, and in whichever worker, it is gathered again.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from random import Random

import pyarrow.parquet as pq

from looper.jobs.consolidation.data.encode import Window
from looper.jobs.synthesis.output.example_table import read_examples
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.errors import NotFound
from looper.platform.domain.example import Example
from looper.platform.objectstore import ObjectStore, keys

NEW_TOKENS = 6_144
"""Of its own session that are asked at most: several dozen actions, and on two cores a quarter of a minute."""

EARLIER_TOKENS = 6_144
"""Of all earlier sessions together, however many there are."""

CONTROL_TOKENS = 768
"""Of other instances. They only have to tell a collapse."""

MOST_SESSIONS = 64
"""Earlier sessions that are asked of: with more, ``EARLIER_TOKENS`` would not do for a call of each."""

MOST_NEIGHBOURS = 8


@dataclass(frozen=True)
class HeldOut:
    """A window of a held-out example, and the JSON text of the tools that the agent had."""

    window: Window
    tools: str | None


@dataclass(frozen=True)
class HeldOutQuestions:
    """All that one candidate is asked; ``new`` is not empty."""

    new: list[HeldOut]
    earlier: list[HeldOut]
    control: list[HeldOut]


Encode = Callable[[Example], list[Window]]


def gather(job: Consolidation, catalog: Catalog, store: ObjectStore, encode: Encode) -> HeldOutQuestions:
    """What the candidate of ``job`` is asked.

    Of a task that comes again in a later session, only the later one counts: the way to do it may have changed. Tasks
    that ``job`` trains on are asked nowhere. What is no longer in the store is left out. Raises NotFound if the
    held-out examples of ``job`` are not there.
    """
    new = _heldout(store, job.id)
    known = {example.task_id for example in new} | _task_ids(store, job.id)
    earlier = []
    for id in _sessions(job, catalog):
        with suppress(NotFound):
            session = _heldout(store, id)
            earlier.append([example for example in session if example.task_id not in known])
            known |= {example.task_id for example in session}
    control = []
    for version in _neighbours(job, catalog):
        with suppress(NotFound):
            theirs = _heldout(store, version)
            control.append([example for example in theirs if example.task_id not in known])
    return HeldOutQuestions(
        new=draw([new], encode, NEW_TOKENS),
        earlier=draw(earlier, encode, EARLIER_TOKENS),
        control=draw(control, encode, CONTROL_TOKENS),
    )


def draw(sets: Sequence[Sequence[Example]], encode: Encode, tokens: int) -> list[HeldOut]:
    """Windows of at most ``tokens`` tokens in all, one at least, picked at random but always the same.

    The sets take turns, and in each its examples do, so that neither a large set nor a long example takes all.
    """
    rng = Random(0)
    turns = [_windows(examples, encode, rng) for examples in sets]
    picked: list[HeldOut] = []
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


def _windows(examples: Sequence[Example], encode: Encode, rng: Random) -> Iterator[HeldOut]:
    """One of each example, then the rest. An example is encoded when its turn comes, and most never are."""
    rest: list[HeldOut] = []
    for example in rng.sample(examples, len(examples)):
        windows = [HeldOut(window, example.tools) for window in encode(example)]
        yield windows.pop(rng.randrange(len(windows)))
        rest += windows
    rng.shuffle(rest)
    yield from rest


def _sessions(job: Consolidation, catalog: Catalog) -> list[str]:
    """The consolidations that led to the version that ``job`` goes on from, newest first."""
    if job.parent is None:
        return []
    ids = [version.consolidation for version in catalog.lineage(job.parent)]
    if len(ids) <= MOST_SESSIONS:
        return ids
    chosen = set(Random(job.id).sample(ids, MOST_SESSIONS))  # others in each consolidation, so that all get their turn
    return [id for id in ids if id in chosen]


def _neighbours(job: Consolidation, catalog: Catalog) -> list[str]:
    """The consolidations of other instances of the tenant."""
    assert job.started_at is not None, "claimed, so it has begun"
    versions = catalog.neighbours(job.instance, base=job.base, before=job.started_at, limit=MOST_NEIGHBOURS)
    return [version.consolidation for version in versions]


def _heldout(store: ObjectStore, consolidation: str) -> list[Example]:
    return read_examples(store.get(keys.examples(consolidation, "holdout.parquet")))


def _task_ids(store: ObjectStore, consolidation: str) -> set[str]:
    """Of the training examples."""
    content = store.get(keys.examples(consolidation, "train.parquet"))
    return set(pq.read_table(BytesIO(content), columns=["task_id"]).column("task_id").to_pylist())
