"""Load and serialize what a strategy keeps from session to session. It is stored beside the version it belongs to.

    memory/<tenant>/<instance>/<version>.safetensors

So a rollback restores the strategy state of the version that it returns to. A missing file means an empty state. The
trainer loads the state when a member joins; the queue worker writes it on publication.
"""

from safetensors.torch import load, save

from looper.jobs.consolidation.strategies.strategy import StrategyState
from looper.platform.domain.names import InstanceName
from looper.platform.objectstore import ObjectStore, keys


def load_strategy_state(store: ObjectStore, instance: InstanceName, version: str | None) -> StrategyState:
    """Load the strategy state that was stored when ``version`` was published.

    Args:
        store: The object store.
        instance: The instance that ``version`` belongs to.
        version: Digest of a version; None before the first one.

    Returns:
        The named tensors, or an empty state if none were stored.
    """
    if version is None or not store.exists(keys.strategy_state(instance, version)):
        return {}
    return load(store.get(keys.strategy_state(instance, version)))


def serialize_strategy_state(state: StrategyState) -> bytes:
    """Return ``state`` as the bytes of a safetensors file."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()})
