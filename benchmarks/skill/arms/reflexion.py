"""Reflexion (Shinn et al. 2023, arXiv 2303.11366): try, hear whether it worked, reflect in words, try the task again.

It is told after each trial whether the task was solved, which no other arm is. At most three reflections stand in the
prompt, as in the paper. The reflection of an oracle is the world's true rules.
"""

from typing_extensions import override

from looper.benchmarks.skill.arms.demonstrations import to_text
from looper.benchmarks.skill.arms.memory_system import Memory, MemorySystem, Writer
from looper.benchmarks.skill.player import PromptKnowledge, TaskPlayer
from looper.gym.episode import EpisodeResult
from looper.gym.notes import write_notes
from looper.gym.workplace import WorkplaceTask

MAX_REFLECTIONS = 3
"""Reflections on one task, after each of which it is tried again."""
REFLECTION_TOKENS = 128
"""Maximum tokens of a reflection."""

_INSTRUCTION = """You tried a task and failed. This is what happened:
{episode}
In a few sentences, say what went wrong, and what you will do next time."""


class Reflexion(MemorySystem):
    """Retries of the same task, with reflections on what went wrong."""

    name = "reflexion"
    writers = (Writer.MODEL, Writer.ORACLE)

    @override
    def recall(self, task: WorkplaceTask, memory: Memory) -> PromptKnowledge:
        return PromptKnowledge()

    @override
    def play(self, task: WorkplaceTask, memory: Memory, player: TaskPlayer) -> EpisodeResult:
        reflections: list[str] = []
        result = player.play(task, self.recall(task, memory))
        while not result.success and len(reflections) < MAX_REFLECTIONS:
            if memory.writer is Writer.ORACLE:
                reflections = [write_notes(memory.experience.world)] * (len(reflections) + 1)
            else:
                instruction = _INSTRUCTION.format(episode=to_text(result.messages))
                reflections.append(player.chat.write(instruction, REFLECTION_TOKENS))
            told = dict.fromkeys(reflections)  # the same words again say nothing new
            text = "\n".join(["Your reflections on earlier trials of this task:", *(f"- {each}" for each in told)])
            result = player.play(task, PromptKnowledge(text))
        return result
