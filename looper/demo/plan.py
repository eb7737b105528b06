"""The stages and the input files of the demo.

``looper demo --dry-run`` prints them, so this module must import where only the client is installed.
"""

from pathlib import Path
from typing import Literal

from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.names import InstanceName

DemoStage = Literal["base model", "ingest", "ray", "synthesize", "train", "gate", "serve", "ask", "stop"]
"""Name of a stage, which is its key in ``demo.json``."""

STAGES: dict[DemoStage, str] = {
    "base model": "prepares the base model for training and serving, once for all runs",
    "ingest": "reads the trajectories into the catalog and the object store",
    "ray": "starts a local Ray on this machine",
    "synthesize": "turns trajectories into training examples, and holds out some tasks",
    "train": "trains one adapter per instance, all in one trainer",
    "gate": "publishes each adapter that does better on the held-out tasks",
    "serve": "serves the base model with all adapters through OpenAI's API",
    "ask": "lets the base model and each skill work on the held-out tasks",
    "stop": "stops Ray and everything that it started",
}
"""What each stage does, in the order of the stages."""


def find_instances(examples: Path) -> dict[InstanceName, Path]:
    """Find the trajectory files of a folder.

    Args:
        examples: Folder with one ``TENANT/INSTANCE.jsonl`` per instance.

    Returns:
        The file of each instance.

    Raises:
        InvalidInput: The folder has no such file.
    """
    files = sorted(examples.glob("*/*.jsonl"))
    if not files:
        raise InvalidInput(
            f"folder {str(examples)!r} of --examples has no TENANT/INSTANCE.jsonl: add one or name another folder"
        )
    return {InstanceName.parse(f"{file.parent.name}/{file.stem}"): file for file in files}


def count_trajectories(file: Path) -> int:
    """Count the trajectories of a JSONL file, before ingestion rejects any.

    Args:
        file: A file with one trajectory per line.

    Returns:
        Number of lines that are not empty.
    """
    with file.open("rb") as lines:
        return sum(1 for line in lines if line.strip())
