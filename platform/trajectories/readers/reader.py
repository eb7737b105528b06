"""Defines what a reader is: three functions that recognize, split and convert the documents of one format.

The modules beside this one each define a ``READER``; ``ingest`` calls them through ``Reader.read``.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeGuard

from pydantic import ValidationError

from looper.platform.domain.errors import MalformedTrajectory
from looper.platform.domain.trajectory import Trajectory
from looper.platform.trajectories.rejection import Rejection


@dataclass(frozen=True)
class Reader:
    """One trajectory format."""

    name: str
    """Name of the format, for ``--format`` and for reports."""
    recognizes: Callable[[Any], bool]
    """Whether a parsed document has the shape of this format. It never raises."""
    split_episodes: Callable[[Any], Iterable[object]]
    """The episodes of a recognized document, each in the source's own form."""
    to_trajectory: Callable[[Any], Trajectory]
    """The trajectory of one episode. It raises ``MalformedTrajectory`` or pydantic's ``ValidationError`` for an episode
    that cannot be kept."""
    companion_suffix: str | None = None
    """Suffix of a JSON file with the same stem beside the trajectory file. Its content is put into the document under
    this suffix."""

    def read(self, document: object) -> Iterator[Trajectory | Rejection]:
        """Read all episodes of a document. A bad episode does not stop the others.

        Args:
            document: A document that ``recognizes`` accepts.

        Yields:
            Each episode's trajectory, or the reason why it is rejected.
        """
        for number, episode in enumerate(self.split_episodes(document)):
            try:
                yield self.to_trajectory(episode)
            except MalformedTrajectory as error:
                yield Rejection(error.reason, f"episode {number}: {error}")
            except ValidationError as error:
                first = error.errors(include_url=False, include_input=False)[0]
                location = ".".join(str(part) for part in first["loc"]) or "the episode"
                yield Rejection("malformed_episode", f"episode {number}: {location}: {first['msg']}")


def single_episode(document: object) -> tuple[object]:
    """Return the document itself: ``split_episodes`` of a format whose document is one episode.

    Args:
        document: A recognized document.
    """
    return (document,)


def is_list_with_keys(value: object, *keys: str) -> TypeGuard[list[Any]]:
    """Return whether a value is a list whose first item is an object with certain keys.

    Args:
        value: A parsed JSON value.
        *keys: Keys that the first item must have.
    """
    return isinstance(value, list) and bool(value) and has_keys(value[0], *keys)


def has_keys(value: object, *keys: str) -> TypeGuard[dict[str, Any]]:
    """Return whether a value is an object with certain keys.

    Args:
        value: A parsed JSON value.
        *keys: Keys that it must have.
    """
    return isinstance(value, dict) and all(key in value for key in keys)
