"""Gather the held-out tasks for a candidate: of its own session, of earlier sessions, and of sibling instances.

Held-out tasks of other tenants are never used: nothing of a tenant, not even a loss, may depend on another tenant's
agents. Gathering again, in any worker, gives the same tasks. The trainer calls ``gather_heldout``.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random

from looper.jobs.consolidation.data.window_table import ExampleWindow, WindowTable, read_task_ids, read_windows
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.errors import InvalidInput, NotFound
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
class HeldOutQuestions:
    """All held-out windows for one candidate."""

    new: list[ExampleWindow]
    """Of its own session."""
    earlier: list[ExampleWindow]
    """Of the sessions before."""
    control: list[ExampleWindow]
    """Of the tenant's other instances."""


def gather_heldout(
    job: Consolidation, catalog: Catalog, store: ObjectStore, base_revision: str
) -> tuple[HeldOutQuestions, dict[str, int]]:
    """Gather the held-out windows for the candidate of ``job``.

    If a task appears in several sessions, only the latest one counts, because the way to solve it may have changed.
    Tasks that ``job`` trains on are never used. Sessions that are no longer in the store, or were encoded for another
    base model, are skipped.

    Args:
        job: The consolidation, already claimed.
        catalog: The catalog, for the lineage and the sibling instances.
        store: The object store with the windows.
        base_revision: Revision of the base model.

    Returns:
        The held-out windows, and the number of held-out turns of ``job`` that were left out, by reason.

    Raises:
        NotFound: If the held-out windows of ``job`` are missing.
        InvalidInput: If there are none, or if they were encoded for another base model.
    """
    table = _read_heldout(store, job.id, base_revision)
    table.require("held-out examples")
    new = table.by_example()
    known = {row.task_id for row in table.rows} | _read_training_task_ids(store, job.id)
    earlier = []
    for id in _list_earlier_sessions(job, catalog):
        with suppress(NotFound, InvalidInput):
            session = _read_heldout(store, id, base_revision)
            earlier.append(_examples_of_other_tasks(session, known))
            known |= {row.task_id for row in session.rows}
    control = []
    for version in _list_sibling_sessions(job, catalog):
        with suppress(NotFound, InvalidInput):
            control.append(_examples_of_other_tasks(_read_heldout(store, version, base_revision), known))
    questions = HeldOutQuestions(
        new=sample_windows([new], MAX_NEW_TOKENS),
        earlier=sample_windows(earlier, MAX_EARLIER_TOKENS),
        control=sample_windows(control, MAX_CONTROL_TOKENS),
    )
    return questions, table.left_out


def _examples_of_other_tasks(session: WindowTable, known: Collection[str]) -> list[list[ExampleWindow]]:
    return [rows for rows in session.by_example() if rows[0].task_id not in known]


def sample_windows(sets: Sequence[Sequence[Sequence[ExampleWindow]]], tokens: int) -> list[ExampleWindow]:
    """Sample windows with a fixed seed.

    The sets take turns, and so do the examples of each set, so neither a large set nor a long example takes everything.

    Args:
        sets: Sets of examples, each given by its windows.
        tokens: Maximum tokens in all. At least one window is returned.

    Returns:
        The sampled windows.
    """
    rng = Random(0)
    turns = [_iterate_windows(examples, rng) for examples in sets]
    picked: list[ExampleWindow] = []
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


def _iterate_windows(examples: Sequence[Sequence[ExampleWindow]], rng: Random) -> Iterator[ExampleWindow]:
    """Yield one window of each example, then the rest."""
    rest: list[ExampleWindow] = []
    for example in rng.sample(examples, len(examples)):
        windows = list(example)
        yield windows.pop(rng.randrange(len(windows)))
        rest += windows
    rng.shuffle(rest)
    yield from rest


def _list_earlier_sessions(job: Consolidation, catalog: Catalog) -> list[str]:
    """Return the consolidations that led to the version that ``job`` continues, newest first."""
    if job.start is None:
        return []
    ids = [version.consolidation for version in catalog.get_lineage(job.start)]
    if len(ids) <= MAX_SESSIONS:
        return ids
    chosen = set(Random(job.id).sample(ids, MAX_SESSIONS))  # a different sample for each consolidation
    return [id for id in ids if id in chosen]


def _list_sibling_sessions(job: Consolidation, catalog: Catalog) -> list[str]:
    """Return consolidations of other instances of the tenant."""
    assert job.started_at is not None, "claimed, so it has begun"
    versions = catalog.list_sibling_versions(job.instance, base=job.base, before=job.started_at, limit=MAX_SIBLINGS)
    return [version.consolidation for version in versions]


def _read_heldout(store: ObjectStore, consolidation: str, base_revision: str) -> WindowTable:
    content = store.get(keys.examples(consolidation, "holdout.windows.parquet"))
    return read_windows(content, base_revision)


def _read_training_task_ids(store: ObjectStore, consolidation: str) -> set[str]:
    """Return the task ids of the training examples."""
    return read_task_ids(store.get(keys.examples(consolidation, "train.windows.parquet")))
