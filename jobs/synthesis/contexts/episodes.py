"""Earlier episodes as an agent retrieves them: the most similar ones by BM25, as text.

``render_contexts.py`` puts them into the prompts of examples, the demo and the benchmarks into those of live agents.
"""

from collections.abc import Sequence

import bm25s
import numpy as np

from looper.platform.domain.example import Example, Turn

EPISODES_START, EPISODES_END = "<episodes>", "</episodes>"
"""Tags around the episodes in a prompt."""


class EpisodeIndex:
    """Finds the examples whose requests are most similar to a request."""

    def __init__(self, examples: Sequence[Example]) -> None:
        """Index examples.

        Args:
            examples: At least one example.
        """
        self._examples = examples
        self._index = bm25s.BM25()
        self._index.index(_tokenize([find_request(example.turns) for example in examples]), show_progress=False)

    def retrieve(self, request: str, count: int, *, without_task: str | None = None) -> list[Example]:
        """Return similar examples.

        Args:
            request: The request.
            count: Maximum number of examples, each of another task.
            without_task: A task whose examples are not returned.

        Returns:
            The examples, the most similar one last: that is where models attend best.
        """
        (words,) = _tokenize([request])
        scores = self._index.get_scores(words) if words else np.zeros(len(self._examples))
        found: dict[str, Example] = {}
        for number in np.argsort(-scores, kind="stable"):
            example = self._examples[number]
            if example.task_id != without_task:
                found.setdefault(example.task_id, example)
            if len(found) == count:
                break
        return [*found.values()][::-1]


def render_episodes(episodes: Sequence[Sequence[Turn]]) -> str:
    """Render episodes as the text of a prompt.

    Args:
        episodes: The turns of each episode.

    Returns:
        The text, between tags.
    """
    texts = [f"Episode {number}\n{_render_episode(turns)}" for number, turns in enumerate(episodes, 1)]
    return "\n".join([EPISODES_START, *texts, EPISODES_END])


def find_request(turns: Sequence[Turn]) -> str:
    """Return the text of the first message of the user, or an empty text."""
    return next((turn.content for turn in turns if turn.role == "user"), "")


def _render_episode(turns: Sequence[Turn]) -> str:
    lines = []
    for turn in turns:
        if turn.role == "tool":
            lines.append(f"result: {turn.content}")
        elif turn.role in ("user", "assistant") and turn.content.strip():
            lines.append(f"{turn.role}: {turn.content}")
        lines += [f"call: {call.name} {call.arguments}" for call in turn.tool_calls]
    return "\n".join(lines)


def _tokenize(texts: list[str]) -> list[list[str]]:
    words = bm25s.tokenize(texts, stopwords=None, return_ids=False, show_progress=False)
    return [list(each) for each in words]
