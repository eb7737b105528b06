"""ExpeL (Zhao et al. 2023, arXiv 2308.10144): rules with votes from comparing episodes, and retrieved successes.

The model compares each recorded failure with the most similar success, and then looks at groups of successes; after
each look it edits the list of rules. A task gets all rules and the most similar successes. The paper gathers several
trials of one task by Reflexion first; here the recorded episodes are given, so that a failure and a success are of
similar tasks and not of the same one. The oracle's rules are the true ones.
"""

from collections.abc import Iterator

from typing_extensions import override

from looper.benchmarks.skill.arms.demonstrations import show_conversations, to_text
from looper.benchmarks.skill.arms.memory_system import Memory, MemorySystem, Writer
from looper.benchmarks.skill.arms.retrieval import find_episodes
from looper.benchmarks.skill.arms.rule_edits import EDIT_INSTRUCTION, VotedRule, apply_edits, write_rules
from looper.benchmarks.skill.chat import MeteredChat
from looper.benchmarks.skill.player import PromptKnowledge
from looper.benchmarks.skill.worlds import Experience
from looper.gym.notes import write_notes
from looper.gym.workplace import WorkplaceTask

SHOWN_EPISODES = 2
"""Successes in a prompt beside the rules."""
GROUP_SIZE = 8
"""Successes that the model looks at together."""
EDIT_TOKENS = 256
"""Maximum tokens of an answer with edits."""

_INSTRUCTION = """{what}

{episodes}

The rules so far:
{rules}

Improve the rules, so that they help with other tasks of this work place. {edits}"""


class Expel(MemorySystem):
    """Rules with votes, and retrieved successes."""

    name = "expel"
    writers = (Writer.MODEL, Writer.ORACLE)

    @override
    def learn(self, experience: Experience, writer: Writer, chat: MeteredChat) -> tuple[str, ...]:
        if writer is Writer.ORACLE:
            return tuple(write_notes(experience.world).splitlines())
        rules: list[VotedRule] = []
        for what, episodes in _list_looks(experience):
            text = _INSTRUCTION.format(what=what, episodes=episodes, rules=write_rules(rules), edits=EDIT_INSTRUCTION)
            rules = apply_edits(rules, chat.write(text, EDIT_TOKENS))
        return tuple(rule.text for rule in sorted(rules, key=lambda rule: -rule.votes))

    @override
    def recall(self, task: WorkplaceTask, memory: Memory) -> PromptKnowledge:
        found = find_episodes(memory.experience, task.request, SHOWN_EPISODES, hybrid=False)
        shown = show_conversations([episode.result.messages for episode in found])
        rules = "\n".join(f"- {rule.removeprefix('- ')}" for rule in memory.entries)
        return PromptKnowledge(f"Rules from experience:\n{rules}" if rules else "", shown.turns)


def _list_looks(experience: Experience) -> Iterator[tuple[str, str]]:
    """Yield what the model is told, with the episodes that it looks at."""
    for episode in experience.episodes:
        if not episode.result.success:
            (success,) = find_episodes(experience, episode.task.request, 1, hybrid=False)
            failed, succeeded = to_text(episode.result.messages), to_text(success.result.messages)
            yield "One episode failed, and one succeeded.", f"Failed:\n{failed}\n\nSucceeded:\n{succeeded}"
    successes = experience.successes
    for start in range(0, len(successes), GROUP_SIZE):
        texts = tuple(to_text(episode.result.messages) for episode in successes[start : start + GROUP_SIZE])
        yield "All of these episodes succeeded.", "\n\n".join(texts)
