"""Keeps Ray Serve's log file of a replica open. ``skill_replica`` and the control loop call it before anything else."""

import logging
from logging.handlers import MemoryHandler


def keep_serve_log_open() -> None:
    """Let nothing close the handler of Ray Serve's log in this process.

    Configuring logging closes every handler of the process, and vLLM does it when it is imported, Ray Data when it
    runs. A closed MemoryHandler has lost its target. Serve would write no more logs. Its controller asks every replica
    for the path of its log when the controller restarts, and it would stop this replica for not knowing it.
    """
    for handler in logging.getLogger("ray.serve").handlers:
        if isinstance(handler, MemoryHandler):
            handler.close = handler.flush  # type: ignore[method-assign]
