"""Load the trajectories of real tenants, and divide each tenant's tasks into training and held-out ones by seed.

``bench.py`` calls it. **What is trained on** are the examples of the default synthesis, so text is scrubbed. **What is
held out** are the successes as they were said, because agents in life do not see scrubbed text; errors and detours in
them count neither way, as in training.

**Folds.** The tasks of a tenant are put into ``FOLDS`` folds of equal size by the hashes of their names. Seed s holds
out fold s. So no task is held out by two of the first ``FOLDS`` seeds, and three seeds cover three quarters of the
tasks. A single split would hold out three tasks of a tenant, and intervals would be too wide to say anything.

**The policy** is the system turn that the reader makes of a file's ``policy``. It is taken out of all examples and kept
apart, so that an arm can have it or not.

**The tool list** is not in the data: ``tool_defs`` is null in every file. An agent is always given one, so it is made
of all calls of the tenant's agent: names, and the names of arguments in the order of their use. All arms have it.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from looper.jobs.synthesis.output.example_table import read_examples
from looper.jobs.synthesis.output.output_files import synthesize_in_memory
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.example import Example
from looper.platform.domain.trajectory import Trajectory
from looper.platform.trajectories.ingest import read_path

FOLDS = 4
"""Folds of the tasks. One is held out."""

_UNSCRUBBED = ("scrub", "duplicates", "pairs")
"""Stages that held-out examples do not go through."""


@dataclass(frozen=True)
class Tenant:
    """The examples of one tenant, without its policy in their turns."""

    name: str
    """Name of the tenant: its folder."""
    policy: str
    """The policy that its agent had in the system turn. An empty text if there was none."""
    learned: tuple[Example, ...]
    """All examples as they would be trained on."""
    recorded: tuple[Example, ...]
    """The same episodes as they were said."""
    trajectories: int
    """Number of all trajectories, failed ones included."""


@dataclass(frozen=True)
class TenantSplit:
    """One tenant's examples with one seed."""

    tenant: Tenant
    """The tenant."""
    train: tuple[Example, ...]
    """Examples to train on."""
    memory: tuple[Example, ...]
    """The same episodes as they were said: what is retrieved."""
    holdout: tuple[Example, ...]
    """Examples of the held-out tasks, with at least one action in each."""


def load_tenants(folder: Path) -> list[Tenant]:
    """Load all tenants of a folder.

    Args:
        folder: Folder with one folder of trajectories per tenant.

    Returns:
        The tenants, sorted by name.

    Raises:
        InvalidInput: There are none.
    """
    folders = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    tenants = [_load_tenant(each) for each in folders]
    found = [tenant for tenant in tenants if tenant.trajectories]
    if not found:
        raise InvalidInput(f"{folder} has no folder with trajectories: name a folder with one folder for each tenant")
    return found


def split_tasks(tenant: Tenant, seed: int) -> TenantSplit:
    """Divide the tasks of a tenant into training and held-out ones.

    Args:
        tenant: The tenant.
        seed: Number of the fold that is held out; the remainder of its division by ``FOLDS``.

    Returns:
        The examples of both sides. No task is on both.
    """
    tasks = sorted({each.task_id for each in tenant.recorded}, key=lambda task: (_hash_task(task), task))
    held_out = set(tasks[seed % FOLDS :: FOLDS])
    return TenantSplit(
        tenant,
        tuple(each for each in tenant.learned if each.task_id not in held_out),
        tuple(each for each in tenant.recorded if each.task_id not in held_out),
        tuple(each for each in tenant.recorded if each.task_id in held_out and count_actions(each)),
    )


def count_actions(example: Example) -> int:
    """Return the number of tool calls of an example that count: those of turns with a weight."""
    return sum(len(turn.tool_calls) for turn in example.turns if turn.weight > 0)


def _load_tenant(folder: Path) -> Tenant:
    batches = [_name_tasks(folder.name, batch) for _, batch in read_path(folder)]
    recorded = _synthesize(batches, _UNSCRUBBED)
    # A task that occurs under several names has one canonical name. It is found in the unscrubbed text, for both.
    names = {each.trajectory_id: each.task_id for each in recorded}
    learned = [
        each.model_copy(update={"task_id": names[each.trajectory_id]})
        for each in _synthesize(batches, ())
        if each.trajectory_id in names
    ]
    policies = Counter(each.turns[0].content for each in recorded if each.turns and each.turns[0].role == "system")
    policy = max(policies, key=lambda text: (policies[text], text), default="")
    tools = list_tools(recorded_tools=_recorded_tools(batches), trajectories=[t for batch in batches for t in batch])
    return Tenant(
        name=folder.name,
        policy=policy,
        learned=tuple(_strip(each, tools) for each in learned),
        recorded=tuple(_strip(each, tools) for each in recorded),
        trajectories=sum(map(len, batches)),
    )


def list_tools(trajectories: Iterable[Trajectory], recorded_tools: str | None = None) -> str:
    """Return the tool list of a tenant's agent.

    Args:
        trajectories: All trajectories of the tenant.
        recorded_tools: The tool list as JSON text, if the source has one.

    Returns:
        ``recorded_tools``, or else the list that the agent's calls show, sorted by name, as JSON text.
    """
    if recorded_tools is not None:
        return recorded_tools
    arguments: dict[str, dict[str, Any]] = {}
    for trajectory in trajectories:
        for step in trajectory.steps:
            for call in step.tool_calls if step.source == "agent" else ():
                arguments.setdefault(call.name, {}).update({name: {} for name in _read_arguments(call.arguments)})
    functions = [
        {"name": name, "parameters": {"type": "object", "properties": arguments[name]}} for name in sorted(arguments)
    ]
    return json.dumps([{"type": "function", "function": function} for function in functions])


def _read_arguments(text: str) -> dict[str, Any]:
    try:
        arguments = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return arguments if isinstance(arguments, dict) else {}


def _recorded_tools(batches: Iterable[Sequence[Trajectory]]) -> str | None:
    return next((each.tools for batch in batches for each in batch if each.tools), None)


def _name_tasks(tenant: str, batch: Sequence[Trajectory]) -> list[Trajectory]:
    """Put the tenant's name before its task ids, which are unique only within a tenant."""
    return [trajectory.model_copy(update={"task_id": f"{tenant}/{trajectory.task_id}"}) for trajectory in batch]


def _synthesize(batches: Sequence[Sequence[Trajectory]], disabled_stages: Sequence[str]) -> list[Example]:
    _, files = synthesize_in_memory(batches, 0.5, disabled_stages=disabled_stages)
    return [each for name in ("train.parquet", "holdout.parquet") for each in read_examples(files[name])]


def _strip(example: Example, tools: str) -> Example:
    """Take the system turns out: the policy is kept apart, and ``arms.py`` writes its own."""
    turns = tuple(turn for turn in example.turns if turn.role != "system")
    return example.model_copy(update={"turns": turns, "tools": tools if tools != "[]" else None})


def _hash_task(task: str) -> str:
    return hashlib.sha256(task.encode()).hexdigest()
