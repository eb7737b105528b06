"""Episodes of an imaginary help desk, and consolidations of them, for the tests of jobs."""

import json
from contextlib import suppress

from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.errors import Conflict
from looper.platform.domain.names import InstanceName
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.trajectory import Outcome, Step, ToolCall, Trajectory
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.trajectories.table import to_parquet

RECIPE = Recipe(rank=4, alpha=8, epochs=2, batch_size=4, max_seq_length=256, learning_rate=1e-2)
TOOLS = json.dumps(
    [{"type": "function", "function": {"name": "book", "parameters": {"properties": {"room": {}, "day": {}}}}}]
)


def episode(task: int, *, success: bool | None = True, room: str = "blue", words: int = 1) -> Trajectory:
    """Return an episode in which the agent books ``room`` for the day ``task``; ``words`` makes the request longer."""
    call = ToolCall(id="c1", name="book", arguments=json.dumps({"room": room, "day": str(task)}))
    return Trajectory.create(
        task_id=f"task-{task}",
        format="test",
        steps=(
            Step(source="system", content="You book rooms."),
            Step(source="user", content=f"Book day {task}." + " Please." * words),
            Step(source="agent", tool_calls=(call,)),
            Step(source="tool", content="ok", call_id="c1"),
            Step(source="agent", content="done"),
        ),
        outcome=Outcome(success=success),
        tools=TOOLS,
    )


def ingest(catalog: Catalog, store: ObjectStore, instance: InstanceName, batch: list[Trajectory], id: str) -> None:
    """Add a batch as ingestion does: first the object, then the row in the catalog."""
    with suppress(Conflict):
        catalog.create_tenant(instance.tenant)
    catalog.ensure_instance(instance)
    store.put(keys.trajectories(instance, id), to_parquet(batch))
    catalog.add_batch(instance, id, source="test", trajectories=len(batch))


def submit(
    catalog: Catalog,
    store: ObjectStore,
    name: str,
    batch: list[Trajectory],
    *,
    base: str,
    recipe: Recipe = RECIPE,
    id: str = "b0",
) -> Consolidation:
    """Ingest ``batch`` for the instance ``name`` and queue its consolidation."""
    instance = InstanceName.parse(name)
    ingest(catalog, store, instance, batch, id)
    return catalog.submit(instance, base=base, recipe=recipe)
