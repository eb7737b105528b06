"""ACE (Zhang et al. 2025, arXiv 2510.04618): a playbook of bullets that grows by small edits.

A reflector looks at each recorded episode and says what it teaches, and a curator turns that into edits of the
playbook: bullets are added, counted as helpful or removed, and the playbook is never written anew as a whole. Here the
generator's episodes are the recorded ones, reflector and curator are asked once for each episode, and a bullet's votes
stand for the paper's counters of helpful and harmful. The oracle's bullets are the true rules.
"""

from typing_extensions import override

from looper.benchmarks.skill.arms.demonstrations import to_text
from looper.benchmarks.skill.arms.memory_system import Memory, MemorySystem, Writer
from looper.benchmarks.skill.arms.rule_edits import (
    EDIT_INSTRUCTION,
    START_VOTES,
    VotedRule,
    apply_edits,
    write_rules,
)
from looper.benchmarks.skill.chat import MeteredChat
from looper.benchmarks.skill.player import PromptKnowledge
from looper.benchmarks.skill.worlds import Experience
from looper.gym.notes import write_notes
from looper.gym.workplace import WorkplaceTask

REFLECTION_TOKENS = 128
"""Maximum tokens of a reflection."""
EDIT_TOKENS = 128
"""Maximum tokens of an answer with edits."""

_REFLECT = """This episode {ended}:
{episode}

In a few sentences, say what it teaches for other tasks of this work place."""

_CURATE = """A new insight about this work place:
{insight}

The playbook so far:
{rules}

Bring the insight into the playbook. {edits}"""


class Playbook(MemorySystem):
    """A playbook of bullets with counters."""

    name = "playbook"
    writers = (Writer.MODEL, Writer.ORACLE)

    @override
    def learn(self, experience: Experience, writer: Writer, chat: MeteredChat) -> tuple[str, ...]:
        if writer is Writer.ORACLE:
            rules = [VotedRule(line.removeprefix("- ")) for line in write_notes(experience.world).splitlines()]
            return _write(rules)
        rules = []
        for episode in experience.episodes:
            ended = "succeeded" if episode.result.success else "failed"
            episode_text = to_text(episode.result.messages)
            insight = chat.write(_REFLECT.format(ended=ended, episode=episode_text), REFLECTION_TOKENS)
            text = _CURATE.format(insight=insight, rules=write_rules(rules), edits=EDIT_INSTRUCTION)
            rules = apply_edits(rules, chat.write(text, EDIT_TOKENS))
        return _write(rules)

    @override
    def recall(self, task: WorkplaceTask, memory: Memory) -> PromptKnowledge:
        return PromptKnowledge("\n".join(["Playbook:", *memory.entries]) if memory.entries else "")


def _write(rules: list[VotedRule]) -> tuple[str, ...]:
    return tuple(
        f"[{number}] helpful={max(0, rule.votes - START_VOTES)} :: {rule.text}" for number, rule in enumerate(rules, 1)
    )
