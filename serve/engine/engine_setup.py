"""What a replica has found out before it starts its engine. ``skill_replica`` makes it; importable without vLLM."""

from dataclasses import dataclass
from pathlib import Path

from looper.platform.settings import PoolSettings, Settings
from looper.serve.cache.cache_sizes import CacheSizes
from looper.serve.engine.engine_arguments import Device, EngineSettings


@dataclass(frozen=True)
class EngineSetup:
    """All that is needed to start an engine, and to start it again when it has died."""

    settings: Settings
    """All settings."""
    pool: PoolSettings
    """Settings of the engine's pool."""
    cache_sizes: CacheSizes
    """Number of adapters in each tier."""
    model_dir: Path
    """Folder of the base model."""
    device: Device
    """Where the engine computes."""
    engine: EngineSettings
    """Arguments for vLLM. The environment must be set before vLLM is imported."""
