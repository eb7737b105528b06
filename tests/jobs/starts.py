"""Starts with random factors, for the tests of jobs."""

import torch

from looper.jobs.consolidation.adapters.adapter_file import serialize_config, serialize_weights
from looper.jobs.consolidation.adapters.lora import Factors, Lora
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.platform.adapters.files import AdapterFiles
from looper.platform.adapters.starts import Start, StartManifest, add_start
from looper.platform.objectstore import ObjectStore


def make_start(base: SharedBase, rank: int = 4, seed: int = 7, scale: float = 2.0) -> dict[str, Factors]:
    """Return an adapter of all layers that changes what the base model says."""
    generator = torch.Generator().manual_seed(seed)
    return {
        layer: Factors(
            0.1 * torch.randn(rank, linear.in_features, generator=generator),
            0.1 * torch.randn(linear.out_features, rank, generator=generator),
            scale,
        )
        for layer, linear in base.linear_layers.items()
    }


def put_start(store: ObjectStore, base: SharedBase, lora: Lora, revision: str | None = None) -> Start:
    """Add ``lora`` as the start ``tool-use`` of the base model ``tiny``."""
    about = StartManifest(
        base="tiny",
        base_revision=revision or base.revision,
        rank=next(iter(lora.values())).rank,
        target_modules=tuple(sorted({layer.rpartition(".")[2] for layer in lora})),
        adapts_all=True,
    )
    files = AdapterFiles(serialize_weights(lora), serialize_config(lora, "tiny"), about.to_bytes())
    return add_start(store, "tool-use", files)
