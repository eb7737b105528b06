"""Places two pools of engines and a trainer on a Ray of two nodes with different GPUs; reports where each landed.

``python -m tests.cluster.two_gpu_types FOLDER``: it is a process of its own, because a test session has a Ray already.
Instead of engines there are actors that only tell where they are. All else is what ``looper up`` deploys.
"""

import json
import sys
from pathlib import Path

import ray
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group_table

from looper.basemodel.node_copies import BaseModelSource
from looper.jobs.consolidation.training.training_run import describe_training_wait, scale
from looper.platform.settings import PoolSettings, Settings, load_settings
from looper.serve.deployment import ray_app
from looper.serve.deployment.loopback import use_loopback_node
from looper.serve.deployment.ray_environment import set_ray_environment

TYPES = ("A100", "L4")

REPORT = "report.json"
"""A file, because Ray prints to standard output too."""


class EngineStandIn:
    """Has a skill replica's constructor. Writes down its node and its part of a GPU."""

    def __init__(self, settings: Settings, pool: PoolSettings, _base: BaseModelSource, gpu_share: float) -> None:
        place = (ray.get_runtime_context().get_node_id(), gpu_share)
        (settings.home / f"rank-{pool.max_lora_rank}.json").write_text(json.dumps(place))


def main(folder: Path) -> None:
    """Write the type of GPU and the part of it that each pool and the trainer have to ``REPORT``, as JSON."""
    set_ray_environment()
    use_loopback_node()
    cluster = Cluster()
    nodes = {}
    for name in TYPES:
        resources = {f"accelerator_type:{name}": 1}
        node = cluster.add_node(num_cpus=4, num_gpus=1, resources=resources, include_dashboard=False)
        nodes[node.node_id] = name
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        (folder / REPORT).write_text(json.dumps(place(folder, nodes)))
    finally:
        ray.shutdown()
        cluster.shutdown()


def place(folder: Path, nodes: dict[str, str]) -> dict[str, object]:
    """Deploy the pools and reserve the resources of two trainers, one too many; return where each landed.

    Args:
        folder: Folder for the state.
        nodes: Types of GPUs by id of the node.
    """
    settings = load_settings(
        home=folder,
        base=str(folder),
        # On purpose not in the order of the nodes.
        serve={
            "port": 0,
            "max_lora_rank": 8,
            "accelerator_type": "L4",
            "pools": [{"max_lora_rank": 16, "accelerator_type": "A100"}],
        },
        consolidation={"accelerator_type": "L4"},
    )
    ray_app.SkillReplica = EngineStandIn  # type: ignore[assignment, misc]
    bases = {settings.base: BaseModelSource(folder)}
    ray_app.deploy(settings, ray_app.build_app(settings, bases, ray_app.plan_cluster(settings)))
    landed: dict[str, object] = {}
    for rank in (8, 16):
        node, share = json.loads((settings.home / f"rank-{rank}.json").read_text())
        landed[f"engines for rank {rank}"] = (nodes[node], share)
    scaling = scale(settings, ray_app.plan_cluster(settings))
    group = scaling.as_placement_group_factory().to_placement_group()
    ray.get(group.ready(), timeout=60)
    [trainer] = placement_group_table(group)["bundles_to_node_id"].values()
    landed["trainer"] = (nodes[trainer], scaling.num_gpus_per_worker)
    assert not scaling.as_placement_group_factory().to_placement_group().wait(1)
    landed["second trainer"] = describe_training_wait(settings)
    return landed


if __name__ == "__main__":
    main(Path(sys.argv[1]))
