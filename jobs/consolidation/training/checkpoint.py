"""What a consolidation leaves in the object store while it runs, so that whoever takes it up goes on from there.

    checkpoints/<consolidation>/step-<n>/state.safetensors, complete.json
    checkpoints/<consolidation>/candidate/adapter_model.safetensors, adapter_config.json, memory.safetensors,
                                          scores.json

Each marker (``complete.json``, ``scores.json``) is written last: what lacks it is not there. Nothing is pickled.
"""

import hashlib
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import CandidateScores
from looper.platform.objectstore import ObjectStore, keys

_MARKER = "complete.json"


class Checkpoint(BaseModel):
    """A state of training."""

    model_config = ConfigDict(frozen=True)

    step: int
    loss: float


class _Marker(Checkpoint):
    """``complete.json``."""

    sha256: str
    """Of ``state.safetensors``."""


@dataclass(frozen=True)
class Candidate:
    """A trained adapter that awaits its verdict: PEFT's two files, its scores, and what its strategy remembers."""

    weights: bytes
    config: bytes
    memory: bytes
    scores: CandidateScores


def save_state(store: ObjectStore, id: str, checkpoint: Checkpoint, state: bytes) -> bool:
    """Write a checkpoint, then remove the older ones. False if that of its step was there already."""
    folder = _step(id, checkpoint.step)
    if store.exists(f"{folder}/{_MARKER}"):
        return False
    store.delete(folder)  # what a killed trainer left without the marker: it would stay, since objects never change
    marker = _Marker(**checkpoint.model_dump(), sha256=hashlib.sha256(state).hexdigest())
    store.put(f"{folder}/state.safetensors", state)
    store.put(f"{folder}/{_MARKER}", marker.model_dump_json().encode())
    for step in saved_steps(store, id):
        if step < checkpoint.step:
            drop_state(store, id, step)
    return True


def saved_steps(store: ObjectStore, id: str) -> list[int]:
    """Of the complete checkpoints, the newest first."""
    markers = [key for key in store.list(keys.checkpoints(id)) if key.endswith(f"/{_MARKER}")]
    return [int(key.split("/step-")[1].split("/")[0]) for key in reversed(markers)]


def state(store: ObjectStore, id: str, step: int) -> tuple[Checkpoint, bytes]:
    """A complete checkpoint. Raises ValueError if it is not what was written."""
    folder = _step(id, step)
    marker = _Marker.model_validate_json(store.get(f"{folder}/{_MARKER}"))
    content = store.get(f"{folder}/state.safetensors")
    if hashlib.sha256(content).hexdigest() != marker.sha256:
        raise ValueError(f"{folder}/state.safetensors is not what was written")
    return Checkpoint(step=marker.step, loss=marker.loss), content


def drop_state(store: ObjectStore, id: str, step: int) -> None:
    store.delete(_step(id, step))


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


def sweep(catalog: Catalog, store: ObjectStore) -> None:
    """Remove what consolidations that have ended left: cancelled ones, and those whose last holder died just then."""
    left = {key.split("/")[1] for key in store.list(keys.CHECKPOINTS)}
    for id in catalog.ended(left):
        store.delete(keys.checkpoints(id))
