"""Agent workflow memory (Wang et al. 2024, AWM, arXiv 2409.07429): workflows that are induced from successes.

The model sees recorded successes and writes workflows: a goal and the calls that reach it, with a name in angle
brackets for what differs from task to task. Each workflow is verified by running: the model works on a recorded task
with this workflow alone, and a workflow that does not solve it is dropped. A task gets all workflows that stand. The
oracle's workflow is the world's true procedure with its codes.
"""

import re

from typing_extensions import override

from looper.benchmarks.skill.arms.demonstrations import to_text
from looper.benchmarks.skill.arms.memory_system import Memory, MemorySystem, Writer
from looper.benchmarks.skill.chat import MeteredChat
from looper.benchmarks.skill.player import PromptKnowledge, TaskPlayer
from looper.benchmarks.skill.worlds import Experience
from looper.gym.notes import write_notes
from looper.gym.workplace import WorkplaceTask

GROUP_SIZE = 4
"""Successes that the model induces workflows from at once."""
WORKFLOW_TOKENS = 256
"""Maximum tokens of an answer with workflows."""
MAX_WORKFLOW_CHARACTERS = 800
"""A longer workflow is cut: a small model may repeat itself to its limit."""

_INSTRUCTION = """These episodes succeeded:

{episodes}

Write the workflows that they have in common. For each one write a line "Workflow: its goal", and then one line for each
call, with <names> in angle brackets for what differs from task to task."""


class WorkflowMemory(MemorySystem):
    """Workflows from successes, verified by running."""

    name = "workflow memory"
    writers = (Writer.MODEL, Writer.ORACLE)

    @override
    def learn(self, experience: Experience, writer: Writer, chat: MeteredChat) -> tuple[str, ...]:
        if writer is Writer.ORACLE:
            return (f"Workflow: any task of {experience.world.instance}\n{write_notes(experience.world)}",)
        successes = experience.successes
        induced: dict[str, WorkplaceTask] = {}
        for start in range(0, len(successes), GROUP_SIZE):
            group = successes[start : start + GROUP_SIZE]
            episodes = "\n\n".join(to_text(episode.result.messages) for episode in group)
            answer = chat.write(_INSTRUCTION.format(episodes=episodes), WORKFLOW_TOKENS)
            induced |= dict.fromkeys(split_workflows(answer), group[0].task)
        player = TaskPlayer(chat, needs_format=True)
        return tuple(each for each, task in induced.items() if player.play(task, _show([each])).success)

    @override
    def recall(self, task: WorkplaceTask, memory: Memory) -> PromptKnowledge:
        return _show(memory.entries)


def split_workflows(answer: str) -> list[str]:
    """Split an answer into its workflows.

    Args:
        answer: What the model wrote.

    Returns:
        The workflows that have a goal and at least one line of calls.
    """
    parts = re.split(r"(?m)^\W*(?=Workflow\b)", answer)
    stripped = (part.strip()[:MAX_WORKFLOW_CHARACTERS] for part in parts)
    return [part for part in stripped if part.startswith("Workflow") and "\n" in part]


def _show(workflows: tuple[str, ...] | list[str]) -> PromptKnowledge:
    return PromptKnowledge("\n\n".join(["Workflows of this work place:", *workflows]) if workflows else "")
