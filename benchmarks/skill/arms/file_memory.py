"""File memory with hybrid search, in the manner of OpenClaw: MEMORY.md in the prompt, and a log that is searched.

Each recorded episode becomes an entry of the log, and MEMORY.md has what matters always. A task gets MEMORY.md and the
entries that a hybrid search finds for its request; OpenClaw's agents ask for the search themselves, and here it is done
for them, which favors small models. The model writes both; the oracle's MEMORY.md is the true rules, and its entries
are the recorded successes as they were.
"""

from functools import lru_cache

from typing_extensions import override

from looper.benchmarks.skill.arms.demonstrations import to_text
from looper.benchmarks.skill.arms.memory_system import Memory, MemorySystem, Writer
from looper.benchmarks.skill.chat import MeteredChat
from looper.benchmarks.skill.episode_search import TextSearch
from looper.benchmarks.skill.player import PromptKnowledge
from looper.benchmarks.skill.worlds import Experience
from looper.gym.notes import write_notes
from looper.gym.workplace import WorkplaceTask

FOUND_ENTRIES = 4
"""Entries of the log in a prompt."""
ENTRY_TOKENS = 96
"""Maximum tokens of an entry."""
FILE_TOKENS = 256
"""Maximum tokens of MEMORY.md."""
LOG_CHARACTERS = 6_000
"""Characters of the log that the model reads to write MEMORY.md."""

_ENTRY = """This episode {ended}:
{episode}

Write one line for your log: the request, the calls with their codes, and what to do the same or otherwise."""

_FILE = """This is your log:
{log}

Write MEMORY.md: what always holds at this work place, which calls, in which order, with which codes."""


class FileMemory(MemorySystem):
    """MEMORY.md and entries of the log that a hybrid search finds. The first entry of the memory is MEMORY.md."""

    name = "file memory"
    writers = (Writer.MODEL, Writer.ORACLE)

    @override
    def learn(self, experience: Experience, writer: Writer, chat: MeteredChat) -> tuple[str, ...]:
        if writer is Writer.ORACLE:
            log = [to_text(episode.result.messages) for episode in experience.successes]
            return (write_notes(experience.world), *log)
        log = []
        for episode in experience.episodes:
            ended = "succeeded" if episode.result.success else "failed"
            instruction = _ENTRY.format(ended=ended, episode=to_text(episode.result.messages))
            # The request heads the entry, so that a search finds it however little the model has written.
            log.append(f"{episode.task.request} ({ended}) {chat.write(instruction, ENTRY_TOKENS)}")
        return (chat.write(_FILE.format(log="\n".join(log)[:LOG_CHARACTERS]), FILE_TOKENS), *log)

    @override
    def recall(self, task: WorkplaceTask, memory: Memory) -> PromptKnowledge:
        file, *log = memory.entries
        found = [log[number] for number in reversed(_index(tuple(log)).find(task.request, FOUND_ENTRIES))]
        return PromptKnowledge("\n".join(["MEMORY.md:", file, "From the log:", *found]))


@lru_cache(maxsize=32)
def _index(log: tuple[str, ...]) -> TextSearch:
    return TextSearch(log, hybrid=True)
