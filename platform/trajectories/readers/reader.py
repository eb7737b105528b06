"""What a reader is."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeGuard

from pydantic import ValidationError

from looper.platform.domain.errors import MalformedTrajectory
from looper.platform.domain.trajectory import Trajectory
from looper.platform.trajectories.documents import Rejection


@dataclass(frozen=True)
class Reader:
    """One trajectory format.

    ``recognises`` tells by its shape whether a JSON document is of this format; ``episodes`` takes such a document
    apart; ``trajectory`` turns one episode into a Trajectory, or raises MalformedTrajectory or pydantic's
    ValidationError for that episode alone.
    """

    name: str
    recognises: Callable[[Any], bool]
    episodes: Callable[[Any], Iterable[object]]
    trajectory: Callable[[Any], Trajectory]
    companion: str | None = None
    """Suffix of a JSON file beside the trajectory file (same stem) that is joined to its document under this suffix."""

    def read(self, document: object) -> Iterator[Trajectory | Rejection]:
        """Every episode of a recognised document: kept, or rejected with its reason. One never stops the others."""
        for number, episode in enumerate(self.episodes(document)):
            try:
                yield self.trajectory(episode)
            except MalformedTrajectory as error:
                yield Rejection(error.reason, f"episode {number}: {error}")
            except ValidationError as error:
                first = error.errors(include_url=False, include_input=False)[0]
                place = ".".join(str(part) for part in first["loc"]) or "the episode"
                yield Rejection("malformed_episode", f"episode {number}: {place}: {first['msg']}")


def one(document: object) -> tuple[object]:
    """``episodes`` of a format whose document is one episode."""
    return (document,)


def is_list_of(value: object, *keys: str) -> TypeGuard[list[Any]]:
    """Whether ``value`` is a list whose first item is an object with all these keys."""
    return isinstance(value, list) and bool(value) and has(value[0], *keys)


def has(value: object, *keys: str) -> TypeGuard[dict[str, Any]]:
    """Whether ``value`` is an object with all these keys."""
    return isinstance(value, dict) and all(key in value for key in keys)
