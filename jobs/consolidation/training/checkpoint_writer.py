"""Writes checkpoints in a thread, so that the loop of the trainer does not wait for the store. Rank 0 only."""

from concurrent.futures import Future, ThreadPoolExecutor, wait

from looper.jobs.consolidation.training.checkpoint import Checkpoint, save_checkpoint
from looper.platform.objectstore import ObjectStore


class CheckpointWriter:
    """Writes one checkpoint at a time, so that only one is in memory."""

    def __init__(self, store: ObjectStore) -> None:
        """Prepare; the thread starts with the first checkpoint.

        Args:
            store: Object store.
        """
        self._store = store
        self._pool = ThreadPoolExecutor(1, "checkpoints")
        self._write: Future[bool] | None = None

    def begin(self, id: str, checkpoint: Checkpoint, state: bytes) -> None:
        """Begin to write a checkpoint. The one before it has ended.

        Args:
            id: Id of the consolidation.
            checkpoint: Step and loss.
            state: What ``TrainingSession.serialize_state`` returned.
        """
        self._write = self._pool.submit(save_checkpoint, self._store, id, checkpoint, state)

    def has_ended(self) -> bool:
        """Return whether no checkpoint is being written."""
        return self._write is None or self._write.done()

    def wait(self) -> None:
        """Wait for the checkpoint that is being written. Its outcome stays."""
        if self._write is not None:
            wait([self._write])

    def result(self) -> bool:
        """Wait for the checkpoint that is being written, and forget it.

        Returns:
            False, if there is none, or if there was one of its step already.

        Raises:
            StoreUnavailable: The store is down.
            StoreFull: The store is full.
        """
        write, self._write = self._write, None
        return write is not None and write.result()

    def close(self) -> None:
        """Wait for the checkpoint that is being written, and end the thread."""
        self._pool.shutdown()
