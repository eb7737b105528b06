"""A consolidation written with transformers and PEFT alone, for comparison.

``variants`` calls it for all variants that do not use Looper's trainer.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, PreTrainedModel

from looper.benchmarks.consolidation.workload import RECIPE, InstanceWorkload
from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.data.window_table import read_windows
from looper.jobs.consolidation.model.device import pick_device
from looper.jobs.consolidation.training.schedule import batch_at, learning_rate, total_steps
from looper.platform.adapters.base_revision import read_base_revision


def load_model(model_dir: Path) -> PreTrainedModel:
    """Load a base model in the data type that Looper's trainers use on this device.

    Args:
        model_dir: Folder of the base model.

    Returns:
        The model.
    """
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(model_dir, dtype=pick_device().dtype)
    return model


def consolidate(
    model: PreTrainedModel, model_dir: Path, workload: InstanceWorkload, micro_batch_size: int
) -> PreTrainedModel:
    """Evaluate the base model on the held-out examples, train an adapter, evaluate it and save it.

    Args:
        model: The base model.
        model_dir: Its folder.
        workload: The instance's examples.
        micro_batch_size: Sequences of one forward pass, padded to the longest of them, as transformers' Trainer does. A
            larger batch of the recipe takes several passes.

    Returns:
        The base model without the adapter.
    """
    train, holdout = (
        _read_windows(workload.folder / f"{part}.windows.parquet", model_dir) for part in ("train", "holdout")
    )
    config = LoraConfig(r=RECIPE.rank, lora_alpha=int(RECIPE.alpha), target_modules="all-linear", task_type="CAUSAL_LM")
    torch.manual_seed(RECIPE.seed)
    peft = get_peft_model(model, config)
    _evaluate_loss(peft, holdout, micro_batch_size)
    _train(peft, train, micro_batch_size)
    _evaluate_loss(peft, holdout, micro_batch_size)
    peft.save_pretrained(str(workload.folder / "plain"))
    return peft.unload()


def _train(peft: PeftModel, windows: Sequence[Window], micro_batch_size: int) -> None:
    trained = [parameter for parameter in peft.parameters() if parameter.requires_grad]
    steps = total_steps(len(windows), RECIPE)
    optimizer = torch.optim.AdamW(trained, lr=learning_rate(0, steps, RECIPE), weight_decay=RECIPE.weight_decay)
    peft.train()
    for step in range(steps):
        batch = [windows[i] for i in batch_at(step, len(windows), RECIPE)]
        targets = sum(window.targets for window in batch)
        for start in range(0, len(batch), micro_batch_size):
            loss = peft(**_collate(batch[start : start + micro_batch_size]), num_items_in_batch=targets).loss
            loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, RECIPE.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, RECIPE)
        optimizer.step()
        optimizer.zero_grad()
    assert math.isfinite(loss.item())


@torch.no_grad()
def _evaluate_loss(peft: PeftModel, windows: Sequence[Window], micro_batch_size: int) -> float:
    peft.eval()
    ordered = sorted(windows, key=len)
    batches = [ordered[i : i + micro_batch_size] for i in range(0, len(ordered), micro_batch_size)]
    return sum(float(peft(**_collate(batch)).loss) for batch in batches) / len(batches)


def _collate(windows: Sequence[Window]) -> dict[str, Any]:
    """Return the inputs of transformers' models, ``[batch, seq]`` each; labels are the tokens to predict, or -100."""
    tokens = [torch.tensor(window.tokens, dtype=torch.long) for window in windows]
    labels = [
        torch.where(torch.tensor(window.weights) > 0, ids, -100) for ids, window in zip(tokens, windows, strict=True)
    ]
    mask = pad_sequence([torch.ones_like(ids) for ids in tokens], batch_first=True)
    padded: Tensor = pad_sequence(tokens, batch_first=True)
    return {
        "input_ids": padded,
        "attention_mask": mask,
        "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
    }


def _read_windows(file: Path, model_dir: Path) -> list[Window]:
    return read_windows(file.read_bytes(), read_base_revision(model_dir)).windows
