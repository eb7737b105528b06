"""The trajectory formats: one module each, collected here by name. docs/guides/add-a-format.md adds another one."""

from looper.platform.domain.errors import InvalidInput
from looper.platform.trajectories.readers import atif, openai_chat, openhands, swe_agent, tau2, tau_bench
from looper.platform.trajectories.readers.reader import Reader

READERS: dict[str, Reader] = {
    module.READER.name: module.READER for module in (openai_chat, tau_bench, tau2, swe_agent, openhands, atif)
}
"""All readers by the name of their format."""


def select_readers(format: str) -> list[Reader]:
    """Return the readers to try for a file.

    Args:
        format: Name of a format, or ``auto`` for all of them.

    Raises:
        InvalidInput: There is no such format.
    """
    if format == "auto":
        return list(READERS.values())
    if format not in READERS:
        raise InvalidInput(f"format {format!r} is unknown: use auto or one of {', '.join(READERS)}")
    return [READERS[format]]
