"""A consolidation as one would write it with transformers and PEFT alone, for comparison."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from looper.benchmarks.consolidation.workload import RECIPE, InstanceWorkload
from looper.jobs.consolidation.data.encode import Window, encode
from looper.jobs.consolidation.model.device import pick_device
from looper.jobs.consolidation.training.schedule import batch_at, learning_rate, total_steps
from looper.jobs.synthesis.output.example_table import read_examples


def load(model_dir: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """In the number format that Looper's trainers choose here, too."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=pick_device().dtype)
    return model, AutoTokenizer.from_pretrained(model_dir)


def consolidate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, work: InstanceWorkload, at_once: int
) -> PreTrainedModel:
    """Judge the base on the held-out examples, train, judge again, save; return the model without the adapter.

    ``at_once`` sequences are in one pass, padded to the longest as transformers' Trainer does; a batch that is larger
    takes several.
    """
    train, holdout = (_windows(work.folder / part, tokenizer) for part in ("train.parquet", "holdout.parquet"))
    config = LoraConfig(r=RECIPE.rank, lora_alpha=int(RECIPE.alpha), target_modules="all-linear", task_type="CAUSAL_LM")
    torch.manual_seed(RECIPE.seed)
    peft = get_peft_model(model, config)
    _loss(peft, holdout, at_once)
    _train(peft, train, at_once)
    _loss(peft, holdout, at_once)
    peft.save_pretrained(str(work.folder / "plain"))
    return peft.unload()


def _train(peft: PeftModel, windows: Sequence[Window], at_once: int) -> None:
    trained = [parameter for parameter in peft.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RECIPE.learning_rate, weight_decay=RECIPE.weight_decay)
    steps = total_steps(len(windows), RECIPE)
    peft.train()
    for step in range(steps):
        batch = [windows[i] for i in batch_at(step, len(windows), RECIPE)]
        targets = sum(window.targets for window in batch)
        for start in range(0, len(batch), at_once):
            loss = peft(**_batch(batch[start : start + at_once]), num_items_in_batch=targets).loss
            loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, RECIPE.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, RECIPE)
        optimizer.step()
        optimizer.zero_grad()
    assert math.isfinite(loss.item())


@torch.no_grad()
def _loss(peft: PeftModel, windows: Sequence[Window], at_once: int) -> float:
    peft.eval()
    ordered = sorted(windows, key=len)
    batches = [ordered[i : i + at_once] for i in range(0, len(ordered), at_once)]
    return sum(float(peft(**_batch(batch)).loss) for batch in batches) / len(batches)


def _batch(windows: Sequence[Window]) -> dict[str, Any]:
    """As transformers' models take it: labels are tokens to be predicted, or -100."""
    tokens = [torch.tensor(window.tokens) for window in windows]
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


def _windows(file: Path, tokenizer: PreTrainedTokenizerBase) -> list[Window]:
    examples = read_examples(file.read_bytes())
    return [window for example in examples for window in encode(example, tokenizer, RECIPE.max_seq_length)]
