"""One frozen base model in memory, and the adapters of a whole cohort on it."""

import json
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load, save
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from looper.jobs import basemodel
from looper.jobs.consolidation.device import Device
from looper.platform.domain.consolidation import Recipe
from looper.platform.domain.errors import InvalidInput


class SharedBase:
    """The base model of a folder that ``looper.jobs.basemodel.prepare`` returned, frozen, with named adapters."""

    def __init__(self, folder: Path, device: Device) -> None:
        self.device = device.place
        self.revision = basemodel.revision(folder)
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=device.dtype).to(device.place)
        model.requires_grad_(False)
        model.eval()  # no dropout: a training step is a function of the recipe
        _check_head(model)
        self._causal = model
        self._linear = _linear_layers(model)
        self._peft: PeftModel | None = None

    def add(self, name: str, recipe: Recipe) -> "Adapter":
        """A fresh adapter on all linear layers, initialised from ``recipe.seed``; its update is zero."""
        config = LoraConfig(
            r=recipe.rank, lora_alpha=recipe.alpha, target_modules=self._linear, lora_dropout=0.0, task_type="CAUSAL_LM"
        )
        torch.manual_seed(recipe.seed)
        if self._peft is None:
            self._peft = get_peft_model(self._causal, config, adapter_name=name)
            self._peft.eval()
        else:
            self._peft.add_adapter(name, config)
        return Adapter(self._peft, name)


class Adapter(nn.Module):
    """One tenant's view of the shared base.

    As a module it consists of this tenant's LoRA parameters and nothing else, so that whatever works on
    ``parameters()``, DeepSpeed's broadcast, gradient clipping and zeroing among it, cannot reach another tenant's.
    """

    def __init__(self, peft: PeftModel, name: str) -> None:
        super().__init__()
        self.name = name
        self.config: LoraConfig = peft.peft_config[name]
        self._shared = (peft,)  # in a tuple, so that the base and the other adapters are no part of this module
        marker = f".{name}."
        self.named: dict[str, nn.Parameter] = {
            key.replace(marker, "."): parameter for key, parameter in peft.named_parameters() if marker in key
        }
        """The parameters by the names that PEFT saves them under and vLLM reads."""
        self._own = nn.ParameterList(self.named.values())

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Logits ``[targets.sum(), vocabulary]``, float32, for those of ``tokens`` ``[B, T]`` that ``targets`` marks.

        Sequences are padded on the right: causal attention needs no mask then, and the language model's head, the most
        expensive layer of a small base, works on the targets only.
        """
        (peft,) = self._shared
        peft.set_adapter(self.name)
        causal = peft.get_base_model()
        hidden = causal.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        logits: Tensor = causal.get_output_embeddings()(hidden[:, :-1][targets[:, 1:]])
        return logits.float()

    def to_bytes(self) -> bytes:
        """The weights as safetensors, under PEFT's names."""
        return save({key: parameter.detach().cpu().contiguous() for key, parameter in self.named.items()})

    def config_bytes(self, base: str) -> bytes:
        """PEFT's ``adapter_config.json``, naming the base as ``base`` and no folder of this machine."""
        config = {**self.config.to_dict(), "base_model_name_or_path": base, "inference_mode": True}
        config["target_modules"] = sorted(config["target_modules"])
        return json.dumps(config, sort_keys=True, indent=2, default=str).encode()

    def load_bytes(self, weights: bytes) -> None:
        """Take over weights that ``to_bytes`` wrote. Raises InvalidInput if they are of another shape."""
        loaded = load(weights)
        mine = {key: parameter.shape for key, parameter in self.named.items()}
        if {key: tensor.shape for key, tensor in loaded.items()} != mine:
            raise InvalidInput(
                "the current version's layers are not those of this base and rank: consolidate with the recipe and "
                "the base that it was trained with"
            )
        with torch.no_grad():
            for key, parameter in self.named.items():
                parameter.copy_(loaded[key])


def _linear_layers(model: PreTrainedModel) -> list[str]:
    """The names of the linear layers in each block, as PEFT and vLLM match them: by their last part."""
    head = model.get_output_embeddings()
    found = {name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head}
    return sorted({name.rpartition(".")[2] for name in found})


@torch.no_grad()
def _check_head(model: PreTrainedModel) -> None:
    """Some families scale or cap their logits after the head; computing the head on the targets alone misses that."""
    tokens = torch.arange(4, device=model.device).unsqueeze(0)
    whole = model(input_ids=tokens, use_cache=False).logits
    head = model.get_output_embeddings()(model.base_model(input_ids=tokens, use_cache=False).last_hidden_state)
    if not torch.allclose(whole, head, rtol=1e-3, atol=1e-3):
        raise InvalidInput(
            f"base model {model.name_or_path!r} changes its logits after the head ({type(model).__name__}), which "
            "consolidation does not support: choose another base"
        )
