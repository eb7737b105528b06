"""Publishes adapters in the same way as a consolidation does."""

import json
from pathlib import Path

import torch
from safetensors.torch import save

from looper.platform import adapters
from looper.platform.adapters import AdapterFiles, Manifest
from looper.platform.catalog import Catalog
from looper.platform.domain.names import InstanceName
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.scores import GateVerdict, Scores
from looper.platform.domain.states import ConsolidationState, QueueStage
from looper.platform.objectstore import ObjectStore

SCORES = Scores(accuracy=None, loss=1.0, actions=0, tokens=1)
VERDICT = GateVerdict(passed=True, reason="made for a test", candidate=SCORES, current=SCORES)


def random_adapter(base: Path, instance: InstanceName, seed: int, *, rank: int = 8) -> AdapterFiles:
    """Return an adapter with random weights, large enough to change the output of the Llama in ``base``."""
    config = json.loads((base / "config.json").read_text())
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    torch.manual_seed(seed)
    weights = {}
    for layer in range(layers):
        for module in ("q_proj", "o_proj"):
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            weights[f"{name}.lora_A.weight"] = torch.randn(rank, hidden)
            weights[f"{name}.lora_B.weight"] = torch.randn(hidden, rank)
    return adapter_files(base, instance, save(weights), rank=rank, seed=seed)


def adapter_files(
    base: Path,
    instance: InstanceName,
    weights: bytes,
    *,
    rank: int = 8,
    seed: int = 0,
    modules: tuple[str, ...] = ("q_proj", "o_proj"),
) -> AdapterFiles:
    peft = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny",
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(modules),
    }
    manifest = Manifest(
        instance=str(instance),
        base="tiny",
        base_revision=json.loads((base / "looper.json").read_text())["revision"],
        parent=None,
        consolidation=f"{seed:032x}",
        training_data=(),
        recipe=Recipe(rank=rank),
        verdict=VERDICT,
        libraries={},
    )
    return AdapterFiles(weights, json.dumps(peft).encode(), manifest.to_bytes())


def publish_version(catalog: Catalog, store: ObjectStore, instance: InstanceName, files: AdapterFiles) -> str:
    """Store ``files`` and point the instance's ``prod`` to them; return the digest."""
    if instance.tenant not in catalog.list_tenants():
        catalog.create_tenant(instance.tenant)
    catalog.ensure_instance(instance)
    digest = adapters.publish(store, instance.tenant, files)
    catalog.add_batch(instance, digest[:32], source="test", trajectories=1)
    job = catalog.submit(instance, base="tiny", recipe=files.read_manifest().recipe)
    [claimed] = catalog.claim("test", QueueStage.SYNTHESIS, limit=1, lease_s=60)
    assert claimed.id == job.id
    for state in (ConsolidationState.SYNTHESISING, ConsolidationState.TRAINING, ConsolidationState.EVALUATING):
        catalog.advance(job.id, "test", state)
    revision = files.read_manifest().base_revision
    assert catalog.publish(job.id, "test", digest=digest, verdict=VERDICT, base_revision=revision)
    return digest
