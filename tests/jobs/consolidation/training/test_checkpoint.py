"""Checkpoints in the object store."""

from looper.jobs.consolidation.training import checkpoint
from looper.jobs.consolidation.training.checkpoint import Checkpoint
from looper.platform.objectstore import ObjectStore, keys


def test_an_incomplete_checkpoint_is_ignored(store: ObjectStore) -> None:
    checkpoint.save_checkpoint(store, "c", Checkpoint(step=3, loss=1.5), b"three")
    store.put(f"{keys.checkpoints('c')}/step-00000004/state.safetensors", b"fo")
    assert checkpoint.list_checkpoint_steps(store, "c") == [3]
    assert checkpoint.load_checkpoint(store, "c", 3) == (Checkpoint(step=3, loss=1.5), b"three")
    assert checkpoint.save_checkpoint(store, "c", Checkpoint(step=4, loss=1.0), b"four")
    assert checkpoint.load_checkpoint(store, "c", 4) == (Checkpoint(step=4, loss=1.0), b"four")
    assert not checkpoint.save_checkpoint(store, "c", Checkpoint(step=4, loss=1.0), b"four again")
