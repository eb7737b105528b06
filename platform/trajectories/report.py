"""What ingestion says of what it was given."""

from pydantic import BaseModel


class FileReport(BaseModel):
    """What became of one file: ``trajectories == kept + rejected``, and ``reasons`` counts the rejected by code.

    A file met in a folder that holds no trajectories has no format and the reason ``not_a_trajectory_file``.
    """

    path: str
    format: str | None
    trajectories: int
    kept: int
    rejected: int
    reasons: dict[str, int]


class IngestReport(BaseModel):
    files: list[FileReport]
