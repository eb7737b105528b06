"""Request and response types of uploads in parts."""

from datetime import datetime

from pydantic import Field

from looper.platform.api.models import ApiModel

MAX_NAME_CHARACTERS = 4096
"""Maximum length of the name of a file: the length of a path on Linux."""

MAX_COMPANIONS = 4
"""Maximum number of companion files of one file."""

PART_BYTES = 8 * 2**20
"""Size of the parts of an upload, in bytes. A file that is not larger is sent whole."""


class UploadRequest(ApiModel):
    """A file that a client is about to upload in parts."""

    name: str = Field(min_length=1, max_length=MAX_NAME_CHARACTERS, description="File name, for the report")
    format: str = Field("auto", max_length=64, description="Name of a trajectory format, or auto")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="SHA-256 of the file")
    size: int = Field(ge=1, le=2**40, description="Size of the file in bytes")


class UploadInfo(ApiModel):
    """An upload in parts: how to cut the file, and what has arrived."""

    id: str = Field(description="Id of the upload")
    part_bytes: int = Field(description="Size of each part but the last, in bytes")
    parts: int = Field(description="Number of parts")
    arrived: list[int] = Field(description="Numbers of the parts that have arrived, from 0")
    expires_at: datetime = Field(description="When it is deleted, unless another part arrives")


class UploadEnd(ApiModel):
    """What to do with an upload whose parts have all arrived."""

    companions: dict[str, str] = Field(
        {},
        max_length=MAX_COMPANIONS,
        description="Text of the files that belong to the file, by suffix, such as .report.json",
    )
    is_named: bool = Field(
        True,
        description="Whether a file without trajectories is an error. Otherwise it is reported, as in a folder",
    )
