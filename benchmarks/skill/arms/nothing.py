"""The two arms without knowledge: the task alone, and the task with how calls are written."""

from typing_extensions import override

from looper.benchmarks.skill.arms.memory_system import Memory, MemorySystem
from looper.benchmarks.skill.player import PromptKnowledge
from looper.gym.workplace import WorkplaceTask


class NoKnowledge(MemorySystem):
    """The task alone."""

    name = ""

    @override
    def recall(self, task: WorkplaceTask, memory: Memory) -> None:
        return None


class CallFormat(MemorySystem):
    """The task, and how calls are written, so that the base's success says something about the task."""

    name = "call format"

    @override
    def recall(self, task: WorkplaceTask, memory: Memory) -> PromptKnowledge:
        return PromptKnowledge()
