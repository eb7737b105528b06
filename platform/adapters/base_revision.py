"""The revision of a base model, which ties an adapter to the weights that it was trained on.

``looper.jobs.basemodel`` writes it. Trainers, the gate and the engines' download processes read it, to refuse adapters
of another revision.
"""

import json
from pathlib import Path

BASE_MANIFEST = "looper.json"
"""File in a base model's folder that holds the revision."""


def read_base_revision(folder: Path) -> str:
    """Return the SHA-256 of the weights in ``folder``, the base model's folder in the cache."""
    return str(json.loads((folder / BASE_MANIFEST).read_text())["revision"])
