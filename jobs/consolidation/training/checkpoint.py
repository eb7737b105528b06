"""Checkpoints and candidates of consolidations in the object store, from which another trainer can resume.

    checkpoints/<consolidation>/step-<n>/state.safetensors, complete.json
    checkpoints/<consolidation>/candidate/adapter_model.safetensors, adapter_config.json, memory.safetensors,
                                          marks.json, scores.json
    checkpoints/<consolidation>/start.json

A marker (``complete.json``, ``scores.json``) is written last, so a folder without its marker does not count. Nothing is
pickled. ``start.json`` has the digest of the start that the training began from, also after its name points to another.
The trainer writes all of them; the queue worker reads candidates and deletes what is no longer needed. How often a
trainer writes checkpoints is the setting ``consolidation.checkpoint_interval_s``, which ``trainer.run_trainer`` obeys.
"""

import hashlib
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from looper.platform.catalog import Catalog
from looper.platform.domain.scores import CandidateScores
from looper.platform.objectstore import ObjectStore, keys

_MARKER = "complete.json"


class Checkpoint(BaseModel):
    """How far the training was when a checkpoint was written."""

    model_config = ConfigDict(frozen=True)

    step: int
    """Optimizer steps taken."""
    loss: float
    """Mean cross-entropy of the latest step, in nats per target token."""


class _Marker(Checkpoint):
    """Content of ``complete.json``."""

    sha256: str
    """Digest of ``state.safetensors``."""


class _Begun(BaseModel):
    """Content of ``start.json``."""

    start: str
    """Digest of the start."""


@dataclass(frozen=True)
class Candidate:
    """A trained adapter that waits for its verdict."""

    weights: bytes
    """PEFT's ``adapter_model.safetensors``."""
    config: bytes
    """PEFT's ``adapter_config.json``."""
    strategy_state: bytes
    """What the strategy keeps for the next session, as safetensors."""
    scores: CandidateScores
    """What the gate judges."""
    marks: bytes | None
    """The best results of the lineage, as JSON. None from a trainer of a release that kept none."""


def save_checkpoint(store: ObjectStore, id: str, checkpoint: Checkpoint, state: bytes) -> bool:
    """Write a checkpoint, then delete the older ones.

    Args:
        store: Object store.
        id: Id of the consolidation.
        checkpoint: Step and loss.
        state: What ``TrainingSession.serialize_state`` returned.

    Returns:
        False if a checkpoint of this step is there already; then nothing is written.
    """
    folder = _step_folder(id, checkpoint.step)
    if store.exists(f"{folder}/{_MARKER}"):
        return False
    # A killed trainer may have left a folder without a marker. Objects never change, so it would stay.
    store.delete(folder)
    marker = _Marker(**checkpoint.model_dump(), sha256=hashlib.sha256(state).hexdigest())
    store.put(f"{folder}/state.safetensors", state)
    store.put(f"{folder}/{_MARKER}", marker.model_dump_json().encode())
    for step in list_checkpoint_steps(store, id):
        if step < checkpoint.step:
            delete_checkpoint(store, id, step)
    return True


def list_checkpoint_steps(store: ObjectStore, id: str) -> list[int]:
    """List the steps of the complete checkpoints of a consolidation.

    Args:
        store: Object store.
        id: Id of the consolidation.

    Returns:
        Step numbers, the newest first.
    """
    markers = [key for key in store.list(keys.checkpoints(id)) if key.endswith(f"/{_MARKER}")]
    return [int(key.split("/step-")[1].split("/")[0]) for key in reversed(markers)]


def load_checkpoint(store: ObjectStore, id: str, step: int) -> tuple[Checkpoint, bytes]:
    """Load a complete checkpoint.

    Args:
        store: Object store.
        id: Id of the consolidation.
        step: Step of the checkpoint.

    Returns:
        Step and loss, and the state for ``TrainingSession.resume``.

    Raises:
        ValueError: If the state does not match the digest in the marker.
        NotFound: If there is no such checkpoint.
    """
    folder = _step_folder(id, step)
    marker = _Marker.model_validate_json(store.get(f"{folder}/{_MARKER}"))
    state = store.get(f"{folder}/state.safetensors")
    if hashlib.sha256(state).hexdigest() != marker.sha256:
        raise ValueError(f"{folder}/state.safetensors does not match the SHA-256 in {_MARKER}")
    return Checkpoint(step=marker.step, loss=marker.loss), state


def delete_checkpoint(store: ObjectStore, id: str, step: int) -> None:
    """Delete the checkpoint of ``step`` of the consolidation ``id`` from ``store``."""
    store.delete(_step_folder(id, step))


def keep_start(store: ObjectStore, id: str, digest: str) -> None:
    """Write to ``store`` that the training of the consolidation ``id`` begins from the start with this ``digest``."""
    store.put(_start_key(id), _Begun(start=digest).model_dump_json().encode())


def find_kept_start(store: ObjectStore, id: str) -> str | None:
    """Return the digest of the start that the consolidation ``id`` began from; None if it did not begin from one."""
    return _Begun.model_validate_json(store.get(_start_key(id))).start if store.exists(_start_key(id)) else None


def save_candidate(store: ObjectStore, id: str, candidate: Candidate) -> None:
    """Write the ``candidate`` of the consolidation ``id`` to ``store``."""
    folder = _candidate_folder(id)
    store.put(f"{folder}/adapter_model.safetensors", candidate.weights)
    store.put(f"{folder}/adapter_config.json", candidate.config)
    store.put(f"{folder}/memory.safetensors", candidate.strategy_state)
    if candidate.marks is not None:
        store.put(f"{folder}/marks.json", candidate.marks)
    store.put(f"{folder}/scores.json", candidate.scores.model_dump_json().encode())


def has_candidate(store: ObjectStore, id: str) -> bool:
    """Return whether ``store`` has a complete candidate of the consolidation ``id``."""
    return store.exists(f"{_candidate_folder(id)}/scores.json")


def load_candidate(store: ObjectStore, id: str) -> Candidate:
    """Load the candidate of a consolidation.

    Args:
        store: Object store.
        id: Id of the consolidation.

    Returns:
        The candidate.

    Raises:
        NotFound: If training has not ended.
    """
    folder = _candidate_folder(id)
    marks = f"{folder}/marks.json"
    return Candidate(
        scores=CandidateScores.model_validate_json(store.get(f"{folder}/scores.json")),
        weights=store.get(f"{folder}/adapter_model.safetensors"),
        config=store.get(f"{folder}/adapter_config.json"),
        strategy_state=store.get(f"{folder}/memory.safetensors"),
        marks=store.get(marks) if store.exists(marks) else None,
    )


def delete_orphaned_checkpoints(catalog: Catalog, store: ObjectStore) -> None:
    """Delete what ended consolidations left in the store.

    That happens to cancelled consolidations, and to those whose last holder died just before it deleted them.

    Args:
        catalog: Says which consolidations have ended.
        store: Object store.
    """
    for id in catalog.filter_ended(store.list_folders(keys.CHECKPOINTS)):
        store.delete(keys.checkpoints(id))


def _step_folder(id: str, step: int) -> str:
    return f"{keys.checkpoints(id)}/step-{step:08d}"


def _candidate_folder(id: str) -> str:
    return f"{keys.checkpoints(id)}/candidate"


def _start_key(id: str) -> str:
    return f"{keys.checkpoints(id)}/start.json"
