"""What an instance's strategy remembers from session to session, kept beside the version that it belongs to.

    memory/<tenant>/<instance>/<version>.safetensors

A rollback so brings back the memory of the version it goes back to. Absent, nothing is remembered.
"""

from safetensors.torch import load, save

from looper.jobs.consolidation.strategies.strategy import State
from looper.platform.domain.names import InstanceName
from looper.platform.objectstore import ObjectStore, keys


def recall(store: ObjectStore, instance: InstanceName, version: str | None) -> State:
    """What was remembered when ``version`` was published."""
    if version is None or not store.exists(keys.memory(instance, version)):
        return {}
    return load(store.get(keys.memory(instance, version)))


def to_bytes(state: State) -> bytes:
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()})
