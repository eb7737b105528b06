"""What a consolidation leaves in the object store while it runs, so that whoever takes it up goes on from there.

    checkpoints/<consolidation>/step-<n>/state.safetensors, complete.json
    checkpoints/<consolidation>/candidate/adapter_model.safetensors, adapter_config.json, memory.safetensors,
                                          scores.json

Each marker (``complete.json``, ``scores.json``) is written last: what lacks it is not there. Nothing is pickled.
"""

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from looper.platform.domain.consolidation import Scores
from looper.platform.objectstore import ObjectStore, keys

_MARKER = "complete.json"


class Checkpoint(BaseModel):
    """A state of training, complete when this is in the store."""

    model_config = ConfigDict(frozen=True)

    step: int
    loss: float


class CandidateScores(BaseModel):
    """The numbers for the gate."""

    model_config = ConfigDict(frozen=True)

    candidate: Scores
    current: Scores
    conversion_error: float = 0.0
    """Of plain LoRA of the served rank for what was trained: ||dW - dW'|| / ||dW|| over all layers."""


@dataclass(frozen=True)
class Candidate:
    """A trained adapter that awaits its verdict: PEFT's two files, its scores, and what its strategy remembers."""

    weights: bytes
    config: bytes
    memory: bytes
    scores: CandidateScores


def save_state(store: ObjectStore, id: str, checkpoint: Checkpoint, state: bytes) -> None:
    """Write a checkpoint, then remove the older ones."""
    folder = _step(id, checkpoint.step)
    store.put(f"{folder}/state.safetensors", state)
    store.put(f"{folder}/{_MARKER}", checkpoint.model_dump_json().encode())
    for key in store.list(keys.checkpoints(id)):
        if "/step-" in key and key < folder:
            store.delete(key)


def newest_state(store: ObjectStore, id: str) -> tuple[Checkpoint, bytes] | None:
    """The newest complete checkpoint, if there is one."""
    markers = [key for key in store.list(keys.checkpoints(id)) if key.endswith(f"/{_MARKER}")]
    if not markers:
        return None
    checkpoint = Checkpoint.model_validate_json(store.get(markers[-1]))
    return checkpoint, store.get(f"{_step(id, checkpoint.step)}/state.safetensors")


def save_candidate(store: ObjectStore, id: str, candidate: Candidate) -> None:
    folder = f"{keys.checkpoints(id)}/candidate"
    store.put(f"{folder}/adapter_model.safetensors", candidate.weights)
    store.put(f"{folder}/adapter_config.json", candidate.config)
    store.put(f"{folder}/memory.safetensors", candidate.memory)
    store.put(f"{folder}/scores.json", candidate.scores.model_dump_json().encode())


def has_candidate(store: ObjectStore, id: str) -> bool:
    return store.exists(f"{keys.checkpoints(id)}/candidate/scores.json")


def candidate(store: ObjectStore, id: str) -> Candidate:
    """Raises NotFound if training has not ended."""
    folder = f"{keys.checkpoints(id)}/candidate"
    return Candidate(
        scores=CandidateScores.model_validate_json(store.get(f"{folder}/scores.json")),
        weights=store.get(f"{folder}/adapter_model.safetensors"),
        config=store.get(f"{folder}/adapter_config.json"),
        memory=store.get(f"{folder}/memory.safetensors"),
    )


def _step(id: str, step: int) -> str:
    return f"{keys.checkpoints(id)}/step-{step:08d}"
