"""Generate answers greedily in several conversations at once, for ``live_evaluation.py``."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedTokenizerBase

from looper.jobs.consolidation.adapters.lora import Lora

MAX_ANSWER_TOKENS = 64
"""Maximum length of an answer. No turn of an expert is as long."""


class BatchGenerator:
    """The base model with an adapter, in several conversations, which are the rows of one batch.

    The KV cache is kept from turn to turn, so no token goes through the model twice.
    """

    def __init__(self, folder: Path, lora: Lora | None, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
        """Load the base model and merge the adapter into its weights.

        Args:
            folder: Folder of the base model.
            lora: The adapter, or None for the base model alone.
            tokenizer: Tokenizer of the base model.
            rows: Number of conversations.
        """
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        for name, factors in (lora or {}).items():
            layer = self._model.get_submodule(name)
            layer.weight += factors.update().to(layer.weight)
        self._eos_token_id: int = tokenizer.eos_token_id
        self._tokenizer = tokenizer
        self._cache = DynamicCache(config=self._model.config)
        self._attention_mask = torch.zeros(rows, 0, dtype=torch.long)

    def generate(self, new_tokens: Sequence[Sequence[int]]) -> list[str]:
        """Continue every conversation with new tokens, and generate an answer.

        Args:
            new_tokens: Token ids that follow the previous answer, for each row.

        Returns:
            The answer of each row, up to and including the end of the turn.
        """
        longest = max(map(len, new_tokens))
        padding = [longest - len(row) for row in new_tokens]
        tokens = torch.tensor(
            [[*row, *[self._eos_token_id] * count] for count, row in zip(padding, new_tokens, strict=True)]
        )
        mask = torch.tensor([[1] * len(row) + [0] * count for count, row in zip(padding, new_tokens, strict=True)])
        answers: list[list[int]] = [[] for _ in new_tokens]
        next_tokens, active = self._forward(tokens, mask), torch.ones(len(new_tokens), dtype=torch.bool)
        for _ in range(MAX_ANSWER_TOKENS):
            for row in active.nonzero().flatten().tolist():
                answers[row].append(int(next_tokens[row]))
            tokens, mask = next_tokens[:, None], active.long()[:, None]
            active = active & (next_tokens != self._eos_token_id)
            next_tokens = self._forward(tokens, mask)  # The end of a turn goes through the model too.
            if not active.any():
                break
        return [self._tokenizer.decode(answer) for answer in answers]

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Continue with these rows only.

        Args:
            rows: Indices of the rows to keep.
        """
        kept = torch.tensor(rows, dtype=torch.long)
        self._cache.batch_select_indices(kept)
        self._attention_mask = self._attention_mask[kept]

    def _forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return the most likely token after the last unmasked one of each row of ``tokens``, ``[rows]``.

        ``tokens`` and ``mask`` are ``[rows, length]``. The mask is 1 for a token and 0 for padding.
        """
        self._attention_mask = torch.cat([self._attention_mask, mask], dim=1)
        hidden = self._model.base_model(
            input_ids=tokens,
            attention_mask=self._attention_mask,
            position_ids=(self._attention_mask.cumsum(1) - 1)[:, -tokens.shape[1] :].clamp(min=0),
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        last = hidden[torch.arange(len(tokens)), (mask.sum(1) - 1).clamp(min=0)]
        most_likely: Tensor = self._model.get_output_embeddings()(last).argmax(-1)
        return most_likely
