"""What the demo does, and with what. Importable where nothing but the client is installed."""

from pathlib import Path
from typing import Literal

from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.names import InstanceName

Stage = Literal["base model", "ingest", "ray", "synthesise", "train", "gate", "serve", "ask", "stop"]

STAGES: dict[Stage, str] = {
    "base model": "makes the base model ready for training and serving, once for all runs",
    "ingest": "reads the trajectories into the catalog and the object store",
    "ray": "starts a Ray of its own on this machine",
    "synthesise": "turns trajectories into training examples, and keeps some tasks from training",
    "train": "trains one adapter per instance, all in one trainer",
    "gate": "publishes each adapter that does better on the tasks kept from training",
    "serve": "serves the base model with all adapters by OpenAI's API",
    "ask": "asks the base model and each skill to do the tasks kept from training",
    "stop": "ends Ray and all it started",
}
"""In their order."""


def instances_in(examples: Path) -> dict[InstanceName, Path]:
    """The instances whose trajectories are in ``examples``, with their files. Raises InvalidInput if there are none."""
    files = sorted(examples.glob("*/*.jsonl"))
    if not files:
        raise InvalidInput(f"--examples {examples} has no TENANT/INSTANCE.jsonl")
    return {InstanceName.parse(f"{file.parent.name}/{file.stem}"): file for file in files}


def trajectories_in(file: Path) -> int:
    """How many trajectories are in a JSONL file, one a line, before any is rejected."""
    with file.open("rb") as lines:
        return sum(1 for line in lines if line.strip())
