"""What becomes of an episode, or of a document, that is not kept. Readers and ``documents`` return it in its place."""

from typing import NamedTuple


class Rejection(NamedTuple):
    """An episode, or a document of unknown content, that is not kept."""

    reason: str
    """Stable code: ``malformed_json``, ``not_utf8``, ``too_large``, ``malformed_episode``, ``empty``,
    ``unknown_role``, ``unanswered_call`` or ``orphan_result``."""
    message: str
    """What is wrong, in one line."""
