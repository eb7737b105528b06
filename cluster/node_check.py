"""Looks at each node of a cluster from within: whether it has what Looper needs, before something fails there."""

import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any, NamedTuple

import ray
from ray.exceptions import GetTimeoutError, NodeDiedError, TaskUnschedulableError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from looper.platform.catalog import Catalog
from looper.platform.domain.errors import LooperError
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings
from looper.platform.settings.models import models_folder

CHECK_TIMEOUT_S = 60.0
"""Maximum time for the checks of all nodes, in seconds. A new process imports Looper first."""

MAX_CLOCK_DIFFERENCE_S = 10.0
"""A node's clock that differs more from the catalog's is a problem, in seconds."""

ANSWER_TIMEOUT_S = 5.0
"""How long catalog and store may take to answer a node, in seconds. Twice that must be well below CHECK_TIMEOUT_S."""

MIN_FREE_BYTES = 10**9
"""A disk with less free space is a problem, in bytes."""


class NodeFindings(NamedTuple):
    """What a node says of itself."""

    looper: str
    """Version of Looper."""
    python: tuple[int, int]
    """Version of Python."""
    problems: list[str]
    """What it lacks, each in one line."""


def check_nodes(settings: Settings, nodes: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Look at nodes from within.

    Args:
        settings: Settings of the cluster.
        nodes: The nodes, as ``ray.nodes()`` returns them.

    Returns:
        What each node lacks, in one line each, by its id. Nodes that are not alive are left out.
    """
    names = {node["NodeID"]: describe_node(node) for node in nodes if node["Alive"]}
    inspect: Any = ray.remote(num_cpus=0, max_retries=0)(inspect_node)
    waiting = {
        inspect.options(scheduling_strategy=NodeAffinitySchedulingStrategy(id, soft=False)).remote(settings): id
        for id in names
    }
    done, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=CHECK_TIMEOUT_S)
    problems: dict[str, list[str]] = {}
    for result, id in waiting.items():
        if result not in done:
            ray.cancel(result, force=True)
            problems[id] = [f"{names[id]} did not answer within {CHECK_TIMEOUT_S:g} s"]
            continue
        try:
            findings: NodeFindings = ray.get(result, timeout=CHECK_TIMEOUT_S)
        except GetTimeoutError:
            problems[id] = [f"{names[id]} did not answer within {CHECK_TIMEOUT_S:g} s"]
        except (NodeDiedError, TaskUnschedulableError):
            problems[id] = [f"{names[id]} has just ended, or takes no work: wait some seconds and try again"]
        except Exception as error:  # Ray raises many types for a process that does not start
            problems[id] = [f"{names[id]} cannot run Looper: {_first_line(error)}"]
        else:
            problems[id] = [f"{names[id]} {problem}" for problem in _compare(findings)]
    return problems


def describe_node(node: Mapping[str, Any]) -> str:
    """Return "node NAME (ADDRESS)" for a node as ``ray.nodes()`` returns it."""
    return f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']})"


def inspect_node(settings: Settings) -> NodeFindings:
    """Look at the node of this process.

    Args:
        settings: Settings of the cluster.

    Returns:
        What it lacks.
    """
    import time

    problems = []
    settings = _without_patience(settings)
    try:
        ahead_s = time.time() - Catalog.open(settings).now().timestamp()
        if abs(ahead_s) > MAX_CLOCK_DIFFERENCE_S:
            which = "ahead of" if ahead_s > 0 else "behind"
            problems.append(f"has a clock {abs(ahead_s):.0f} s {which} the catalog's: synchronize it")
    except LooperError as error:
        problems.append(f"does not reach the catalog: {error.detail}")
    try:
        ObjectStore.open(settings).exists("bases")
    except LooperError as error:
        problems.append(f"does not reach the object store: {error.detail}")
    files = [file for file in (settings.serve.tls_cert, settings.serve.tls_key) if file is not None]
    problems += [
        f"has no readable {file}, which serve.tls_cert or serve.tls_key names: put it there"
        for file in files
        if not os.access(file, os.R_OK)
    ]
    for folder in {settings.home, models_folder()}:
        there = next(each for each in (folder, *folder.parents) if each.exists())
        free = shutil.disk_usage(there).free
        if free < MIN_FREE_BYTES:
            problems.append(f"has {free / 1e9:.1f} GB free in {folder}: free some space")
    return NodeFindings(version("looper-skills"), sys.version_info[:2], problems)


def _without_patience(settings: Settings) -> Settings:
    """Return settings with which a catalog or a store that does not answer is an error soon."""
    store = settings.store.model_copy(update={"timeout_s": ANSWER_TIMEOUT_S, "max_retries": 1})
    catalog = settings.catalog.model_copy(update={"timeout_s": ANSWER_TIMEOUT_S, "outage_s": ANSWER_TIMEOUT_S})
    return settings.model_copy(update={"store": store, "catalog": catalog})


def _compare(findings: NodeFindings) -> list[str]:
    """Return a node's problems, with what differs from this process."""
    problems = list(findings.problems)
    if findings.looper != (mine := version("looper-skills")):
        problems.append(f"has Looper {findings.looper}, and this is {mine}: install the same version")
    return problems


def _first_line(error: Exception) -> str:
    cause = getattr(error, "cause", None) or error
    lines = [line for line in str(cause).strip().splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else type(cause).__name__
