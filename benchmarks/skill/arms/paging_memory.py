"""Paging memory in the manner of MemGPT and Letta (Packer et al. 2023, arXiv 2310.08560), simplified.

A core memory stands in every prompt, and a tool searches an archive of all recorded episodes; its calls and answers go
into the conversation, and the world does not see them. What is left out: the agent does not edit its memories while it
works on the tasks, and its conversation is never summarized, because no task outgrows the context. The model writes the
core memory from the recorded episodes, a few at a time; the oracle's core memory is the true rules.
"""

from collections.abc import Mapping

from typing_extensions import override

from looper.benchmarks.skill.arms.demonstrations import to_text
from looper.benchmarks.skill.arms.memory_system import Memory, MemorySystem, Writer
from looper.benchmarks.skill.arms.retrieval import find_episodes
from looper.benchmarks.skill.chat import MeteredChat
from looper.benchmarks.skill.player import OwnTool, PromptKnowledge, TaskPlayer
from looper.benchmarks.skill.worlds import Experience
from looper.gym.episode import EpisodeResult
from looper.gym.notes import write_notes
from looper.gym.workplace import Tool, WorkplaceTask

SEARCH = "archival_memory_search"
"""Name of the search tool."""
FOUND_EPISODES = 2
"""Episodes in an answer of the search."""
CORE_CHARACTERS = 2_000
"""Maximum characters of the core memory."""
PAGE_SIZE = 8
"""Episodes that the model reads at once."""
PAGE_TOKENS = 256
"""Maximum tokens of a new core memory."""

_INSTRUCTION = """Your memory of this work place:
{core}

These episodes are new:

{episodes}

Write your memory anew, with all that helps with later tasks: which calls, in which order, with which codes."""


class PagingMemory(MemorySystem):
    """A core memory in the prompt, and an archive that the agent searches by a tool."""

    name = "paging memory"
    writers = (Writer.MODEL, Writer.ORACLE)

    @override
    def learn(self, experience: Experience, writer: Writer, chat: MeteredChat) -> tuple[str, ...]:
        if writer is Writer.ORACLE:
            return (write_notes(experience.world),)
        core = ""
        for start in range(0, len(experience.episodes), PAGE_SIZE):
            page = experience.episodes[start : start + PAGE_SIZE]
            episodes = "\n\n".join(f"{to_text(each.result.messages)}\nsolved: {each.result.success}" for each in page)
            core = chat.write(_INSTRUCTION.format(core=core, episodes=episodes), PAGE_TOKENS)[:CORE_CHARACTERS]
        return (core,)

    @override
    def recall(self, task: WorkplaceTask, memory: Memory) -> PromptKnowledge:
        (core,) = memory.entries
        hint = f"Call {SEARCH} with a query to find earlier episodes."
        return PromptKnowledge(f"Core memory:\n{core}\n{hint}")

    @override
    def play(self, task: WorkplaceTask, memory: Memory, player: TaskPlayer) -> EpisodeResult:
        def search(arguments: Mapping[str, object]) -> str:
            found = find_episodes(memory.experience, str(arguments.get("query", "")), FOUND_EPISODES, hybrid=False)
            return "\n\n".join(to_text(episode.result.messages) for episode in found)

        return player.play(task, self.recall(task, memory), [OwnTool(Tool(SEARCH, ("query",)), search)])
