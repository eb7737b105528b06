"""High-water marks: the best results that any version of a lineage had on each earlier session.

    memory/<tenant>/<instance>/<version>.marks.json

A candidate is compared with them, and not with its parent: a parent has forgotten something too, and many small losses
would add up. They are carried forward from parent to child, so only the parent's file is read, and a rollback restores
those of the version that it returns to. ``heldout.py`` reads them, ``candidate_scores.py`` compares and raises them,
and the queue worker writes them on publication.

A session's own candidate is asked its windows in a fixed order from the first on, and later ones some of them. So a
mark is kept for each window, by its number in that order. Marks of several windows rise together, to those of the
version that got the most actions right on them: the best of each window alone would be a version that never existed.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from looper.platform.domain.names import InstanceName
from looper.platform.domain.scores import TaskCounts
from looper.platform.objectstore import ObjectStore, keys


class WindowKey(NamedTuple):
    """A held-out window: its session, and its number in the fixed order in which that session's windows are asked."""

    session: str
    """Id of the consolidation that the window was held out of."""
    number: int
    """Number of the window, from 0."""


class HighWaterMarks(BaseModel):
    """The best results of a lineage."""

    model_config = ConfigDict(frozen=True)

    sessions: Mapping[str, Mapping[int, TaskCounts]] = {}
    """Results by session and number of the window."""

    def get(self, key: WindowKey) -> TaskCounts | None:
        """Return the best result on the window ``key``, or None if no version of the lineage was asked it."""
        return self.sessions.get(key.session, {}).get(key.number)

    def raise_to(self, results: Mapping[WindowKey, TaskCounts]) -> "HighWaterMarks":
        """Raise the marks of each session on which a version is better.

        Args:
            results: Results of the version, by window. On the windows of a session, the marks become these results if
                more actions are right, or equally many at a lower loss. A window without a mark gets one.

        Returns:
            The raised marks.
        """
        sessions = {session: dict(marks) for session, marks in self.sessions.items()}
        for session in dict.fromkeys(key.session for key in results):
            asked = {key.number: counts for key, counts in results.items() if key.session == session}
            marks = sessions.setdefault(session, {})
            known = asked.keys() & marks.keys()
            is_better = _quality(asked[number] for number in known) > _quality(marks[number] for number in known)
            marks |= {number: counts for number, counts in asked.items() if is_better or number not in known}
        return HighWaterMarks(sessions=sessions)


def load_marks(store: ObjectStore, instance: InstanceName, version: str | None) -> HighWaterMarks:
    """Load the marks that were stored when ``version`` was published.

    Args:
        store: The object store.
        instance: The instance that ``version`` belongs to.
        version: Digest of a version; None before the first one.

    Returns:
        The marks. There are none if the version is of a release that kept none.
    """
    if version is None or not store.exists(keys.high_water_marks(instance, version)):
        return HighWaterMarks()
    return HighWaterMarks.model_validate_json(store.get(keys.high_water_marks(instance, version)))


def _quality(results: Iterable[TaskCounts]) -> tuple[int, float]:
    """Return the number of right actions and the negative loss, for a comparison of results on the same windows."""
    counts = list(results)
    return sum(each.right for each in counts), -sum(each.loss for each in counts)
