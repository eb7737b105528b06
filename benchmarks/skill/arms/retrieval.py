"""Knowledge layers that put recorded episodes into the prompt: retrieved, as many as fit, perfect ones, wrong ones."""

from dataclasses import replace
from functools import lru_cache

from typing_extensions import override

from looper.benchmarks.skill.arms.changed_rules import move_task, shuffle_codes
from looper.benchmarks.skill.arms.demonstrations import Conversation, show_conversations, show_text, to_text
from looper.benchmarks.skill.arms.memory_system import Memory, MemorySystem, Writer
from looper.benchmarks.skill.episode_search import TextSearch
from looper.benchmarks.skill.player import PromptKnowledge
from looper.benchmarks.skill.worlds import Experience
from looper.gym.generate import RecordedEpisode
from looper.gym.policies import run_expert
from looper.gym.workplace import WorkplaceTask

CHARACTERS_PER_TOKEN = 2.5
"""Characters a token of tool calls and codes, at the least: a prompt that is planned with it fits."""
RESERVED_TOKENS = 1_200
"""Tokens of a context that many-shot prompting leaves for the system message, the tools and the episode itself."""


class Retrieval(MemorySystem):
    """The recorded successes whose requests are most similar to the task's, the most similar one last."""

    def __init__(self, count: int, *, hybrid: bool = False, as_text: bool = False) -> None:
        """Choose how many episodes, found how, and shown how.

        Args:
            count: Number of episodes.
            hybrid: Whether they are found by words and character trigrams, or by words alone.
            as_text: Whether they stand in the system message as text, or before the request as conversations.
        """
        self.name = f"retrieval {count}{' hybrid' if hybrid else ''}{' as text' if as_text else ''}"
        self._count, self._hybrid, self._show = count, hybrid, show_text if as_text else show_conversations

    @override
    def recall(self, task: WorkplaceTask, memory: Memory) -> PromptKnowledge:
        found = find_episodes(memory.experience, task.request, self._count, hybrid=self._hybrid)
        return self._show([episode.result.messages for episode in found])


class ManyShot(MemorySystem):
    """The recorded successes from the first one on, as many as fit into the context: one prefix for all tasks."""

    name = "many-shot"

    def __init__(self, context_tokens: int) -> None:
        """Plan for a context.

        Args:
            context_tokens: Maximum tokens of prompt and answer together.
        """
        self._max_characters = max(0, context_tokens - RESERVED_TOKENS) * CHARACTERS_PER_TOKEN

    @override
    def recall(self, task: WorkplaceTask, memory: Memory) -> PromptKnowledge:
        shown: list[Conversation] = []
        characters = 0
        for episode in memory.experience.successes:
            messages = episode.result.messages
            # Each message has a role and tags around it, and each call its names: about 20 characters a line.
            characters += len(text := to_text(messages)) + 20 * (text.count("\n") + 1)
            if characters > self._max_characters:
                break
            shown.append(messages)
        return show_conversations(shown)


class OracleDemonstrations(MemorySystem):
    """Four perfect episodes of other records under the very words of this task: what perfect retrieval would find."""

    name = "oracle demonstrations"
    writers = (Writer.ORACLE,)
    count = 4

    @override
    def recall(self, task: WorkplaceTask, memory: Memory) -> PromptKnowledge:
        world = task.workplace
        rules = {name: task.facts[name] for name in world.conventions}
        rules |= {each.fact: task.facts[each.fact] for each in world.conventions.values()}
        shown = []
        for number in range(self.count):
            other = world.task(f"{task.id}-like-{number}", memory.experience.seed)
            shown.append(run_expert(replace(other, facts={**other.facts, **rules})).messages)
        return show_conversations(shown)


class WrongDemonstrations(MemorySystem):
    """The four retrieved episodes as text, played under wrong codes. The goal of the task does not follow them."""

    name = "wrong demonstrations"
    is_robustness = True
    count = 4

    @override
    def recall(self, task: WorkplaceTask, memory: Memory) -> PromptKnowledge:
        wrong = shuffle_codes(memory.experience.world)
        found = find_episodes(memory.experience, task.request, self.count, hybrid=False)
        return show_text([run_expert(move_task(episode.task, wrong)).messages for episode in found])


def find_episodes(experience: Experience, request: str, count: int, *, hybrid: bool) -> list[RecordedEpisode]:
    """Find the recorded successes whose requests are most similar.

    Args:
        experience: The recorded episodes.
        request: The request of a task.
        count: Maximum number of episodes.
        hybrid: Whether they are found by words and character trigrams, or by words alone.

    Returns:
        The episodes, the most similar one last: that is where models attend best.
    """
    found = _index(experience, hybrid).find(request, count)
    return [experience.successes[number] for number in reversed(found)]


@lru_cache(maxsize=64)
def _index(experience: Experience, hybrid: bool) -> TextSearch:
    return TextSearch([episode.task.request for episode in experience.successes], hybrid=hybrid)
