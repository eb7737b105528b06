"""The only place that starts DeepSpeed engines: one for each training session, and one for a sharded base model.

Importing this module turns off a DeepSpeed op that would otherwise be compiled before the first engine starts.
"""

from typing import Any

import deepspeed
from torch import nn
from torch.optim import Optimizer

# A DeepSpeed op for shared-memory collectives on the CPU. DeepSpeed compiles it at first use, which takes more than a
# minute and needs a compiler that may not be installed. Gloo works without it. The table is internal to DeepSpeed, so
# DeepSpeed's version is pinned.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def initialize_engine(model: nn.Module, config: dict[str, Any], optimizer: Optimizer | None = None) -> Any:
    """Start a DeepSpeed engine.

    Args:
        model: Module whose parameters the engine manages.
        config: DeepSpeed's configuration.
        optimizer: Optimizer that the engine steps, or None for an engine that does not train.

    Returns:
        The ``deepspeed.DeepSpeedEngine``.
    """
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    return engine
