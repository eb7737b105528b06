"""The control loop: a Ray Serve deployment whose leading replica works the queue and reports on the cluster.

Several replicas may run on several nodes. The catalog's lease decides which one leads; when it dies or is cut off,
another one takes its place and resumes from what is in the catalog and the object store.
"""

import logging
import os
import secrets
import threading
from collections.abc import Mapping
from contextlib import closing, suppress
from functools import partial
from logging.handlers import RotatingFileHandler

from ray import serve

from looper.basemodel.node_copies import BaseModelSource
from looper.cluster.cluster_reporter import report_regularly
from looper.platform.catalog import Catalog
from looper.platform.domain.errors import LooperError, StoreUnavailable
from looper.platform.domain.private_files import keep_files_private, make_private_folder
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings
from looper.platform.settings.roles import require_role
from looper.serve.deployment.ray_app import versioned
from looper.serve.deployment.serve_log import keep_serve_log_open

log = logging.getLogger(__name__)

NAME = "control-loop"
"""Name of the deployment."""

STOP_TIMEOUT_S = 45.0
"""How long the work may take to be released when the deployment is deleted, in seconds."""

RETRY_S = 1.0
"""Seconds until the next attempt while the catalog does not answer."""

_LOG_BYTES = 16 * 2**20


class ControlLoop:
    """One replica.

    Args:
        settings: Settings of the cluster.
        bases: The base models of the settings, by name.
    """

    def __init__(self, settings: Settings, bases: Mapping[str, BaseModelSource]) -> None:
        keep_serve_log_open()
        keep_files_private()
        _log_to_file(settings)
        self._settings, self._bases = settings, bases
        self._name = f"{os.uname().nodename}-{os.getpid()}-{secrets.token_hex(4)}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=NAME, daemon=True)
        self._thread.start()

    def check_health(self) -> None:
        """Raise if the thread has ended. Ray Serve calls it periodically and replaces the replica."""
        if not self._thread.is_alive():
            raise RuntimeError("the control loop has ended")

    def __del__(self) -> None:
        """Release all work. Ray Serve calls it when it stops the replica."""
        self._stop.set()
        self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        """Lead whenever nobody else does."""
        try:
            while not self._stop.is_set():
                try:
                    with closing(Catalog.open(self._settings)) as catalog:
                        self._wait_and_lead(catalog, ObjectStore.open(self._settings))
                except StoreUnavailable as error:
                    log.warning("the control loop waits: %s", error.detail)
                    self._stop.wait(RETRY_S)
        except Exception:
            log.exception("the control loop failed")  # the health check has it replaced

    def _wait_and_lead(self, catalog: Catalog, store: ObjectStore) -> None:
        # Seconds of imports, which only a replica needs. The head of a private cluster imports this module, too, and
        # everybody waits for a head that starts again.
        from looper.cluster.engine_model import open_cluster_model
        from looper.jobs.queue import worker

        lease_s = self._settings.cluster.leader_lease_s
        while not catalog.lead(self._name, lease_s=lease_s):
            if self._stop.wait(lease_s / 3):
                return
        log.info("%s leads", self._name)
        ended = threading.Event()
        keeper = threading.Thread(target=self._keep_leading, args=(catalog, ended), name="lease", daemon=True)
        keeper.start()
        reporter = threading.Thread(
            target=report_regularly, args=(self._settings, catalog, ended), name="report", daemon=True
        )
        reporter.start()
        open_model = partial(open_cluster_model, self._settings)
        try:
            catalog.forget_trainers()  # those of an earlier leader end with it, and why some failed may be mended
            worker.work_queue(catalog, store, self._settings, self._bases, ended.is_set, open_model)
        finally:
            ended.set()
            with suppress(StoreUnavailable):  # then the lease expires
                catalog.resign(self._name)
            keeper.join()
            reporter.join()

    def _keep_leading(self, catalog: Catalog, ended: threading.Event) -> None:
        """Renew the lease until another control loop leads, or this one is stopped.

        While the catalog does not answer, nobody else can lead, and all that needs it waits.
        """
        lease_s = self._settings.cluster.leader_lease_s
        while not ended.is_set():
            try:
                if not catalog.lead(self._name, lease_s=lease_s):
                    log.warning("%s was not heard of in time, and another control loop leads now", self._name)
                    ended.set()
                    return
            except StoreUnavailable as error:
                log.warning("the leader's lease was not renewed: %s", error.detail)
            if self._stop.wait(lease_s / 3):
                ended.set()


def build_control_loop(settings: Settings, bases: Mapping[str, BaseModelSource], version: str) -> serve.Application:
    """Return the deployment of the control loop.

    Args:
        settings: Settings of the cluster.
        bases: The base models of the settings, by name.
        version: What it is made from, as ``versioned`` takes it.

    Returns:
        The deployment, for ``build_app``.
    """
    return versioned(
        ControlLoop,
        version,
        name=NAME,
        num_replicas=settings.cluster.control_loops,
        ray_actor_options={"num_cpus": 0, "resources": require_role(settings.roles.control)},
        health_check_timeout_s=60,
        graceful_shutdown_timeout_s=STOP_TIMEOUT_S + 5,
        graceful_shutdown_wait_loop_s=0.1,
        max_surge_percent=100,
    ).bind(settings, bases)


def log_path(settings: Settings) -> str:
    """Return the path of a control loop's log on its node.

    Args:
        settings: Settings with the home folder.
    """
    return str(settings.home / "logs" / "control-loop.log")


def _log_to_file(settings: Settings) -> None:
    """Write what Looper logs to a file in the home folder of this node. Ray's own logs are elsewhere."""
    try:
        make_private_folder(settings.home / "logs")
        handler = RotatingFileHandler(log_path(settings), maxBytes=_LOG_BYTES, backupCount=1)
    except OSError as error:
        raise LooperError(f"the control loop cannot write {log_path(settings)}: {error}") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("looper")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
