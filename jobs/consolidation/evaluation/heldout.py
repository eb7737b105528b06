"""Gather the held-out tasks for a candidate: of its own session, of earlier sessions, and of sibling instances.

Held-out tasks of other tenants are never used: nothing of a tenant, not even a loss, may depend on another tenant's
agents. Gathering again, in any worker, gives the same tasks. The trainer calls ``gather_heldout``.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from random import Random
from typing import TypeVar

from looper.jobs.consolidation.data.window_table import ExampleWindow, WindowTable, read_task_ids, read_windows
from looper.jobs.consolidation.evaluation.high_water_marks import HighWaterMarks, WindowKey, load_marks
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.errors import InvalidInput, NotFound
from looper.platform.domain.example import find_context
from looper.platform.objectstore import ObjectStore, keys

T = TypeVar("T")

_NumberedWindow = tuple[WindowKey, ExampleWindow]

MAX_NEW_TOKENS = 6_144
"""Maximum tokens of the candidate's own session: several dozen actions, and a quarter of a minute on two cores."""

MAX_EARLIER_TOKENS = 12_288
"""Maximum tokens of all earlier sessions together. Only the candidate is asked them: the best results are stored."""

MAX_CONTROL_TOKENS = 768
"""Maximum tokens of sibling instances. They only have to show a collapse."""

MAX_LINEAGE = 64
"""Maximum earlier sessions whose tasks are read."""

MAX_SESSIONS = 8
"""Maximum earlier sessions of which windows are asked: of more, each would have too few of ``MAX_EARLIER_TOKENS``."""

MAX_SIBLINGS = 8
"""Maximum versions of sibling instances whose held-out tasks are used."""


@dataclass(frozen=True)
class HeldOutQuestions:
    """All held-out windows for one candidate."""

    new: list[ExampleWindow]
    """Of its own session, in the fixed order of the session."""
    earlier: list[ExampleWindow]
    """Of the sessions before."""
    control: list[ExampleWindow]
    """Of the tenant's other instances."""
    session: str = ""
    """Id of its consolidation."""
    earlier_keys: Sequence[WindowKey] = ()
    """Which windows of which sessions ``earlier`` are, in the same order."""
    marks: HighWaterMarks = field(default_factory=HighWaterMarks)
    """The best results of the lineage."""

    @property
    def new_keys(self) -> list[WindowKey]:
        """Which windows ``new`` are, in the same order."""
        return [WindowKey(self.session, number) for number in range(len(self.new))]


def gather_heldout(
    job: Consolidation, catalog: Catalog, store: ObjectStore, base_revision: str
) -> tuple[HeldOutQuestions, dict[str, int]]:
    """Gather the held-out windows for the candidate of ``job``.

    Windows of earlier sessions are drawn by the version that ``job`` starts from. So another attempt from it is asked
    the same, and what that version has forgotten among them is not missed by a luckier draw.
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
    known = {row.task_id for row in table.rows} | _read_training_task_ids(store, job.id)
    earlier: dict[str, list[_NumberedWindow]] = {}
    for id in _list_earlier_sessions(job, catalog):
        with suppress(NotFound, InvalidInput):
            session = _read_heldout(store, id, base_revision)
            # Numbered before any is left out, so that a window has the same number whichever version is asked.
            # No more than its own candidate was asked, since of the others there are no results to compare with.
            asked = take_turns([_order_windows(session)], MAX_NEW_TOKENS, _size)
            numbered = [(WindowKey(id, i), row) for i, row in enumerate(asked)]
            drawn = start_anywhere(numbered, str(job.start), id)
            earlier[id] = [(key, row) for key, row in drawn if row.task_id not in known]
            known |= {row.task_id for row in session.rows}
    control = []
    for version in _list_sibling_sessions(job, catalog):
        with suppress(NotFound, InvalidInput):
            control.append(_windows_of_other_tasks(_read_heldout(store, version, base_revision), known))
    sessions = draw_sessions((id for id, rows in earlier.items() if rows), str(job.start))
    chosen = take_turns([earlier[id] for id in sessions], MAX_EARLIER_TOKENS, lambda each: len(each[1].window))
    questions = HeldOutQuestions(
        new=take_turns([_order_windows(table)], MAX_NEW_TOKENS, _size),
        earlier=[row for _, row in chosen],
        control=take_turns(control, MAX_CONTROL_TOKENS, _size),
        session=job.id,
        earlier_keys=tuple(key for key, _ in chosen),
        marks=load_marks(store, job.instance, job.start),
    )
    return questions, table.left_out


def _windows_of_other_tasks(session: WindowTable, known: Collection[str]) -> list[ExampleWindow]:
    return [row for row in _order_windows(session) if row.task_id not in known]


def _size(row: ExampleWindow) -> int:
    return len(row.window)


def take_turns(queues: Sequence[Sequence[T]], tokens: int, size: Callable[[T], int]) -> list[T]:
    """Take the first of each queue, then the second of each and so on, so that a long queue does not take everything.

    Args:
        queues: The queues.
        tokens: Maximum tokens in all. At least one is taken.
        size: Tells the tokens of one.

    Returns:
        What was taken.
    """
    taken: list[T] = []
    total = 0
    for each in chain.from_iterable(zip_longest(*queues)):
        if each is None:
            continue
        total += size(each)
        if taken and total > tokens:
            break
        taken.append(each)
    return taken


def _order_windows(session: WindowTable) -> list[ExampleWindow]:
    """Return the windows of a session in a random order that depends on the session alone.

    One window of each example comes first, then the rest, so a long example does not take everything. Of the first
    ones, every second is of an example in another context, as long as there are any of both.
    """
    rng = Random(0)
    recorded: list[ExampleWindow] = []
    rendered: list[ExampleWindow] = []
    rest: list[ExampleWindow] = []
    examples = session.by_example()
    for example in rng.sample(examples, len(examples)):
        windows = list(example)
        first = windows.pop(rng.randrange(len(windows)))
        (rendered if find_context(first.example_id) else recorded).append(first)
        rest += windows
    rng.shuffle(rest)
    turns = chain.from_iterable(zip_longest(recorded, rendered))
    return [*filter(None, turns), *rest]


def draw_sessions(sessions: Iterable[str], start: str) -> list[str]:
    """Draw the earlier sessions of which windows are asked.

    Args:
        sessions: Ids of the sessions that have any.
        start: Version that the candidate starts from. Each version has another draw, so none is left out for long.

    Returns:
        ``MAX_SESSIONS`` of the ids at most. One that is missing changes nothing about the others.
    """
    return sorted(sessions, key=lambda id: Random(f"{start} {id}").random())[:MAX_SESSIONS]


def start_anywhere(windows: Sequence[T], start: str, session: str) -> list[T]:
    """Turn the order of a session's windows to begin at a random one, so that each is asked of some versions.

    If it were always the first ones, then only what keeps these would pass, and the others would be forgotten unseen.

    Args:
        windows: The windows, in the fixed order of the session.
        start: Version that the candidate starts from.
        session: Id of the session.

    Returns:
        The same windows.
    """
    first = Random(f"{start} {session} window").randrange(len(windows)) if windows else 0
    return [*windows[first:], *windows[:first]]


def _list_earlier_sessions(job: Consolidation, catalog: Catalog) -> list[str]:
    """Return the consolidations that led to the version that ``job`` continues, newest first."""
    if job.start is None:
        return []
    ids = [version.consolidation for version in catalog.get_lineage(job.start)]
    if len(ids) <= MAX_LINEAGE:
        return ids
    chosen = set(Random(job.start).sample(ids, MAX_LINEAGE))  # a different sample from each version
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
