"""Ray's autoscaler imports this on the head of a lab: it asks by files for the lab's other machines.

A file ``NAME.json`` says that the node is wanted. ``autoscaler.NodeStarter``, outside the lab, starts Ray on it and
then writes ``NAME.up``. Nothing here imports Looper, because Ray's monitor does.
"""

import json
from pathlib import Path
from typing import Any

from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import (
    NODE_KIND_HEAD,
    STATUS_UP_TO_DATE,
    STATUS_WAITING_FOR_SSH,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)
from typing_extensions import override


class LabNodeProvider(NodeProvider):  # type: ignore[misc]
    """Provides the machines of a lab, of which the first one is the head. Its methods are those that Ray calls."""

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self._addresses: dict[str, str] = provider_config["nodes"]
        self._head = next(iter(self._addresses))
        self._folder = Path(provider_config["folder"])

    @override
    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        found = [name for name in self._addresses if name == self._head or self._file(name).exists()]
        return [name for name in found if tag_filters.items() <= self.node_tags(name).items()]

    @override
    def is_running(self, node_id: str) -> bool:
        return node_id == self._head or self._file(node_id).exists()

    @override
    def is_terminated(self, node_id: str) -> bool:
        return not self.is_running(node_id)

    @override
    def node_tags(self, node_id: str) -> dict[str, str]:
        if node_id == self._head:
            kind = {TAG_RAY_NODE_KIND: NODE_KIND_HEAD, TAG_RAY_USER_NODE_TYPE: "ray.head.default"}
            return {**kind, TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE}
        is_up = self._file(node_id).with_suffix(".up").exists()
        status = STATUS_UP_TO_DATE if is_up else STATUS_WAITING_FOR_SSH
        return {**json.loads(self._file(node_id).read_text()), TAG_RAY_NODE_STATUS: status}

    @override
    def internal_ip(self, node_id: str) -> str:
        return self._addresses[node_id]

    @override
    def external_ip(self, node_id: str) -> str:
        return self._addresses[node_id]

    @override
    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> None:
        free = [
            name
            for name in self._addresses
            if name != self._head and not (self._file(name).exists() or self._file(name).with_suffix(".up").exists())
        ]
        for name in free[:count]:
            unfinished = self._file(name).with_suffix(".new")
            unfinished.write_text(json.dumps(tags))
            unfinished.replace(self._file(name))

    @override
    def terminate_node(self, node_id: str) -> None:
        self._file(node_id).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.json"
