"""Keep as many trainers running as the queue needs. The queue worker polls it.

Each trainer is a Ray Train run (``training_run``) in a thread of its own, because the run blocks its thread.
"""

import logging
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from looper.jobs.consolidation.training.training_run import (
    CannotStart,
    TrainingRun,
    describe_training_wait,
    run_training,
)
from looper.jobs.failures import fail_consolidation
from looper.platform.catalog import Catalog
from looper.platform.domain.errors import InvalidInput, StoreUnavailable
from looper.platform.domain.recipe import TrainerShape
from looper.platform.domain.states import QueueStage
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 30.0
"""Seconds that a trainer has to end after it was told to stop. Ray takes about 12 s."""

EXPECTED_START = timedelta(seconds=10)
"""Time within which Ray places a trainer, if there is room for it."""

RESTART_DELAY_S = 2.0
"""Seconds after a trainer failed before another one takes its place."""


@dataclass(frozen=True)
class _RunningTrainer:
    """A training run and the thread that runs it."""

    run: TrainingRun
    thread: threading.Thread
    started_at: datetime


class TrainerPool:
    """The trainers that one queue worker has started."""

    def __init__(
        self,
        catalog: Catalog,
        store: ObjectStore,
        settings: Settings,
        model_dir: Path,
        owner: str,
        is_stopping: Callable[[], bool],
    ) -> None:
        """Make an empty pool.

        Args:
            catalog: Says how many trainers are needed.
            store: Object store.
            settings: All settings.
            model_dir: Folder of the base model.
            owner: Name of the queue worker. The names of its trainers begin with it.
            is_stopping: Whether the queue worker is releasing its work, so that errors of Ray mean nothing.
        """
        self._catalog = catalog
        self._store = store
        self._settings = settings
        self._model_dir = model_dir
        self._owner = owner
        self._is_stopping = is_stopping
        self._trainers: list[_RunningTrainer] = []

    @property
    def owners(self) -> list[str]:
        """Names under which the trainers lease consolidations."""
        return [trainer.run.owner for trainer in self._trainers]

    def start_missing(self) -> None:
        """Start a trainer for each base model and shape with more waiting consolidations than its trainers can take."""
        limits = self._settings.consolidation
        self._trainers[:] = [trainer for trainer in self._trainers if trainer.thread.is_alive()]
        for trainer in self._trainers:
            self._explain_wait(trainer)
        for demand in self._catalog.list_training_demand(limits.max_concurrent_per_tenant):
            if demand.base != self._settings.base or len(self._trainers) >= limits.max_trainers:
                continue
            running = sum(trainer.run.shape == demand.shape for trainer in self._trainers)
            if demand.waiting > running * limits.cohort_size:
                self._start(demand.shape)

    def stop(self) -> None:
        """Tell all trainers to save their members, release them and end."""
        for trainer in self._trainers:
            trainer.run.stop()

    def join(self) -> None:
        """Wait until all trainers have ended, at most ``STOP_TIMEOUT_S`` for each."""
        for trainer in self._trainers:
            trainer.thread.join(STOP_TIMEOUT_S)

    def _start(self, shape: TrainerShape) -> None:
        owner = f"{self._owner}-trainer-{secrets.token_hex(4)}"
        run = TrainingRun(shape, owner, self._settings, self._model_dir)
        thread = threading.Thread(target=self._run, args=(run,), name=owner, daemon=True)
        self._trainers.append(_RunningTrainer(run, thread, datetime.now(UTC)))
        thread.start()

    def _explain_wait(self, trainer: _RunningTrainer) -> None:
        """Record what a trainer waits for that Ray cannot place. Otherwise nobody sees why nothing is trained."""
        run = trainer.run
        if run.ready_file.exists() or datetime.now(UTC) - trainer.started_at < EXPECTED_START:
            return
        with suppress(InvalidInput):  # the run itself says so, below
            needed = describe_training_wait(run.settings)
            reason = f"waits since {trainer.started_at:%F %T} UTC for {needed}" if needed else None
            self._catalog.explain_wait(reason, base=run.settings.base, shape=run.shape)

    def _run(self, run: TrainingRun) -> None:
        """Run a trainer until it ends. If it fails, release its members; those that may be the cause are charged."""
        try:
            self._run_to_the_end(run)
        finally:
            run.remove_folder()

    def _run_to_the_end(self, run: TrainingRun) -> None:
        try:
            run_training(run)
        except StoreUnavailable as error:
            log.warning("trainer %s stopped: %s", run.owner, error)
        except Exception as error:
            if self._is_stopping():
                return  # Ray was shut down while the trainer ran
            log.exception("trainer %s failed", run.owner)
            if isinstance(error, CannotStart):
                self._fail_waiting(run, str(error))
            elif isinstance(error, InvalidInput):  # the cluster has lost GPUs since it was started
                reason = f"waits for GPUs: {error.detail}"
                with suppress(StoreUnavailable):
                    self._catalog.explain_wait(reason, base=run.settings.base, shape=run.shape)
        else:
            return
        with suppress(StoreUnavailable):
            run.release_after_death(self._catalog)
        time.sleep(RESTART_DELAY_S)

    def _fail_waiting(self, run: TrainingRun, reason: str) -> None:
        """Fail the consolidations for which a trainer could not start. Otherwise they would wait forever."""
        limits = self._settings.consolidation
        with suppress(StoreUnavailable):
            waiting = self._catalog.claim(
                run.owner,
                QueueStage.TRAINING,
                base=self._settings.base,
                shape=run.shape,
                limit=limits.cohort_size,
                lease_s=limits.lease_s,
                tenant_limit=limits.max_concurrent_per_tenant,
            )
            for job in waiting:
                fail_consolidation(self._catalog, self._store, job.id, run.owner, reason)
