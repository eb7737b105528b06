"""The formats we read: one module each, gathered here by name."""

from looper.platform.domain.errors import InvalidInput
from looper.platform.trajectories.readers import atif, openai_chat, openhands, swe_agent, tau2, tau_bench
from looper.platform.trajectories.readers.reader import Reader

READERS: dict[str, Reader] = {
    module.READER.name: module.READER for module in (openai_chat, tau_bench, tau2, swe_agent, openhands, atif)
}


def readers_for(format: str) -> list[Reader]:
    """The readers to try: all of them for ``auto``, else the one of that name. Raises InvalidInput for another name."""
    if format == "auto":
        return list(READERS.values())
    if format not in READERS:
        raise InvalidInput(f"format {format!r} is unknown: use auto or one of {', '.join(READERS)}")
    return [READERS[format]]
