"""What ingestion reports about the files it was given. Also the JSON of ``looper ingest --json``."""

from pydantic import BaseModel

NO_TRAJECTORY_FILE = "not_a_trajectory_file"
"""Reason of a file in a folder that holds no trajectories."""


class FileReport(BaseModel):
    """What happened to one file. ``trajectories`` is always ``kept + rejected``."""

    path: str
    """Path or name of the file."""
    format: str | None
    """Name of its format. None if no document could be parsed, or if it is not a trajectory file at all."""
    trajectories: int
    """Number of episodes in the file, those that cannot be read included."""
    kept: int
    """Number of episodes in the batch."""
    rejected: int
    """Number of episodes that were rejected."""
    reasons: dict[str, int]
    """Number of rejected episodes by reason. A file in a folder that holds no trajectories has
    ``NO_TRAJECTORY_FILE``."""


class IngestReport(BaseModel):
    """What happened to each file of one ingestion."""

    files: list[FileReport]
    """One report per file, in the order of the paths."""
