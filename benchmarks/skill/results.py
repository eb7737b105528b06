"""Keep the result of every episode and every memory on disk, so that an interrupted benchmark continues where it was.

Files below the output folder: ``settings.json`` names the settings that the results depend on, ``episodes.jsonl`` has
one line for each finished episode and ``memories.jsonl`` one for each memory. A line that was cut off is ignored, and
the episode is played again. ``bench.py`` opens the store, and ``run.py`` fills it.
"""

import threading
from pathlib import Path
from typing import NamedTuple, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from looper.platform.domain.errors import InvalidInput

Record = TypeVar("Record", bound=BaseModel)


class EpisodeKey(NamedTuple):
    """What identifies an episode of the benchmark."""

    world: str
    """Name of the world."""
    seed: int
    """Seed of the world's episodes and tasks."""
    arm: str
    """Name of the arm."""
    task: str
    """Id of the task."""


class MemoryKey(NamedTuple):
    """What identifies a memory."""

    world: str
    """Name of the world."""
    seed: int
    """Seed of the world's episodes."""
    system: str
    """Name of the memory system."""
    writer: str
    """Who wrote it."""


class EpisodeRecord(BaseModel):
    """One finished episode."""

    model_config = ConfigDict(frozen=True)

    world: str
    """Name of the world."""
    seed: int
    """Seed of the world's episodes and tasks."""
    arm: str
    """Name of the arm."""
    task: str
    """Id of the task."""
    model: str
    """Name of the model that answered."""
    strict: bool
    """Whether the task was solved with each turn as the world asks for it."""
    success: bool
    """Whether the task was solved."""
    turns: int
    """Turns of the episode."""
    requests: int
    """Requests to the model, with those of the knowledge layer and of earlier trials."""
    prompt_tokens: int
    """Tokens of all prompts."""
    cached_tokens: int | None
    """Prompt tokens that the engine had in its prefix cache. None: the endpoint does not say."""
    completion_tokens: int
    """Tokens that the model wrote."""
    seconds: float
    """Duration, in seconds, beside the other episodes that ran at the same time."""
    refused: bool
    """Whether the endpoint refused a request, because its prompt is longer than the context."""
    trained_tokens: int | None
    """Tokens that the model's adapter was trained on, each pass counted; None if that is not known."""

    @property
    def key(self) -> EpisodeKey:
        """What identifies the episode."""
        return EpisodeKey(self.world, self.seed, self.arm, self.task)


class MemoryRecord(BaseModel):
    """One memory that was written."""

    model_config = ConfigDict(frozen=True)

    world: str
    """Name of the world."""
    seed: int
    """Seed of the world's episodes."""
    system: str
    """Name of the memory system."""
    writer: str
    """Who wrote it."""
    entries: tuple[str, ...]
    """What was written."""
    tokens: int
    """Tokens that its writer read and wrote."""
    seconds: float
    """Duration, in seconds."""

    @property
    def key(self) -> MemoryKey:
        """What identifies the memory."""
        return MemoryKey(self.world, self.seed, self.system, self.writer)


class ResultStore:
    """The results of one output folder.

    Attributes:
        episodes: The finished episodes.
        memories: The memories that were written.
    """

    def __init__(self, out: Path, settings: BaseModel) -> None:
        """Open the folder, and read what it has.

        Args:
            out: The folder.
            settings: Settings that the results depend on.

        Raises:
            InvalidInput: The folder has results of other settings.
        """
        out.mkdir(parents=True, exist_ok=True)
        self._out = out
        self._lock = threading.Lock()
        self._check_settings(settings.model_dump(mode="json"))
        self.episodes = {each.key: each for each in _read(out / "episodes.jsonl", EpisodeRecord)}
        self.memories = {each.key: each for each in _read(out / "memories.jsonl", MemoryRecord)}

    def add_episode(self, record: EpisodeRecord) -> None:
        """Keep an episode.

        Args:
            record: The episode.
        """
        with self._lock:
            _append(self._out / "episodes.jsonl", record)
            self.episodes[record.key] = record

    def add_memory(self, record: MemoryRecord) -> None:
        """Keep a memory.

        Args:
            record: The memory.
        """
        with self._lock:
            _append(self._out / "memories.jsonl", record)
            self.memories[record.key] = record

    def _check_settings(self, settings: dict[str, object]) -> None:
        file = self._out / "settings.json"
        if not file.exists():
            file.write_bytes(orjson.dumps(settings, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
            return
        before = orjson.loads(file.read_bytes())
        changed = [name for name in sorted({*before, *settings}) if before.get(name) != settings.get(name)]
        if changed:
            name = changed[0]
            raise InvalidInput(
                f"folder {str(self._out)!r} has results with {name} {before.get(name)!r}, and not "
                f"{settings.get(name)!r}: name another folder with --out"
            )


def _read(file: Path, kind: type[Record]) -> list[Record]:
    records = []
    for line in file.read_bytes().splitlines() if file.exists() else ():
        try:
            records.append(kind.model_validate_json(line))
        except ValidationError:
            continue
    return records


def _append(file: Path, record: BaseModel) -> None:
    with file.open("ab+") as lines:
        # A line that was cut off ends here, so that it does not spoil this one.
        if lines.tell() and not _ends_with_newline(file):
            lines.write(b"\n")
        lines.write(record.model_dump_json().encode() + b"\n")


def _ends_with_newline(file: Path) -> bool:
    with file.open("rb") as content:
        content.seek(-1, 2)
        return content.read(1) == b"\n"
