"""All settings, in one tree: flags over environment variables (``LOOPER_SERVE__PORT=9000``) over ``looper.yaml``.

Importable without torch, Ray or vLLM. With nothing configured, everything runs on one machine: a folder, SQLite, a
local Ray and the SmolLM2-135M that a package carries.

    models      the tree: sections, fields, defaults, bounds
    names       every name in the tree, and the nearest one to a name that is not in it
    renamed     what settings were called before
    sources     the file, the environment, flags: what each says
    loading     the three laid over each other, and where each value came from
    reference   docs/reference/settings.md, written from the models
"""

from looper.platform.settings.loading import Loaded, load, load_settings
from looper.platform.settings.models import (
    CatalogSettings,
    ConsolidationSettings,
    GateSettings,
    ModelSettings,
    ModelStage,
    PoolSettings,
    ServeSettings,
    Settings,
    StoreSettings,
    SynthesisSettings,
    SynthesisStage,
)
from looper.platform.settings.sources import CONFIG_VARIABLE, Source

__all__ = [
    "CONFIG_VARIABLE",
    "CatalogSettings",
    "ConsolidationSettings",
    "GateSettings",
    "Loaded",
    "ModelSettings",
    "ModelStage",
    "PoolSettings",
    "ServeSettings",
    "Settings",
    "Source",
    "StoreSettings",
    "SynthesisSettings",
    "SynthesisStage",
    "load",
    "load_settings",
]
