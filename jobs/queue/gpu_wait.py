"""Says what a trainer that Ray cannot place waits for: how many GPUs, and who has them.

``TrainerPool`` records it for the consolidations that wait for the trainer.
"""

from collections.abc import Collection, Mapping
from typing import Any

from ray.train import ScalingConfig

_ENGINE_GROUP = "SERVE_REPLICA::"
"""How the name of an engine's placement group begins. Ray Serve gives it."""


def describe_gpu_wait(
    scaling: ScalingConfig, groups: Collection[Mapping[str, Any]], nodes: Collection[Mapping[str, Any]]
) -> str | None:
    """Say what a trainer waits for.

    Args:
        scaling: What the trainer asks Ray for.
        groups: The placement groups, as ``ray.util.placement_group_table()`` has them.
        nodes: The nodes, as ``ray.nodes()`` returns them.

    Returns:
        Which GPUs it needs and who has them, or None if Ray has placed all trainers.
    """
    if not any(group["state"] == "PENDING" and _asks_for_gpus(group) for group in groups):
        return None
    needed_type = scaling.accelerator_type
    gpus = {
        node["NodeID"]: node["Resources"].get("GPU", 0.0)
        for node in nodes
        if node["Alive"] and (needed_type is None or f"accelerator_type:{needed_type}" in node["Resources"])
    }
    taken = {True: 0.0, False: 0.0}
    for group in groups:
        if group["state"] == "CREATED":
            is_engine = group["name"].startswith(_ENGINE_GROUP)
            for number, bundle in group["bundles"].items():
                if group["bundles_to_node_id"][number] in gpus:
                    taken[is_engine] += bundle.get("GPU", 0.0)
    needed = scaling.min_workers * scaling.num_gpus_per_worker  # type: ignore[attr-defined]  # as in training_run
    return (
        f"{needed:g} GPU{'' if needed == 1 else 's'}{f' of type {needed_type}' if needed_type else ''}: "
        f"engines have {taken[True]:g} of {sum(gpus.values()):g}, others {taken[False]:g}"
    )


def _asks_for_gpus(group: Mapping[str, Any]) -> bool:
    is_engine = group["name"].startswith(_ENGINE_GROUP)
    return not is_engine and any(bundle.get("GPU") for bundle in group["bundles"].values())
