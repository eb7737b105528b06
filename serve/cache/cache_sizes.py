"""How many adapters each tier holds: an engine's slots, its host memory, a replica's disk. Plain arithmetic.

Importable without torch, Ray or vLLM: of the base model, only the header of its file of weights is read.
"""

import json
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from looper.platform.domain.errors import InvalidInput
from looper.platform.settings import PoolSettings, ServeSettings
from looper.serve.engine.admission import SPARE

NUMBER_BYTES = 2
"""Of each of an adapter's numbers: bfloat16 in the store, on disk and in an engine."""

POPULARITY = 1.0
"""The exponent of Zipf's law, by which adapters are expected to be asked for."""


@dataclass(frozen=True)
class CacheSizes:
    """Of one engine."""

    slots: int
    """That are filled; the budget holds ``SPARE`` more."""
    in_memory: int
    on_disk: int
    adapter_bytes: int
    """Of an adapter of the pool's largest rank, wherever it lies."""

    def __str__(self) -> str:
        """For people."""
        slots, memory, disk = (
            _size(count * self.adapter_bytes) for count in (self.slots, self.in_memory, self.on_disk)
        )
        return (
            f"{self.slots} slots ({slots}), {self.in_memory} adapters in memory ({memory}), "
            f"{self.on_disk} on disk ({disk})"
        )


def plan_cache_sizes(serve: ServeSettings, pool: PoolSettings, model_dir: Path) -> CacheSizes:
    """What the budgets of ``pool`` hold, unless its settings say it in adapters."""
    each = pool.max_lora_rank * numbers_per_rank(model_dir) * NUMBER_BYTES
    together = ceil(expected_different(serve.max_num_seqs, serve.expected_adapters))
    slots = pool.max_loras or max(1, min(together, int(pool.loras_gib * 2**30 / each) - SPARE))
    return CacheSizes(
        slots=slots,
        in_memory=max(slots, pool.max_cpu_loras or int(pool.cpu_loras_gib * 2**30 / each)),
        on_disk=max(1, pool.max_disk_loras or int(pool.disk_loras_gib * 2**30 / each)),
        adapter_bytes=each,
    )


def expected_different(requests: int, adapters: int) -> float:
    """How many different adapters that many requests have, on average, where popularity follows Zipf's law."""
    weights = [float(rank) ** -POPULARITY for rank in range(1, adapters + 1)]
    total = sum(weights)
    return float(sum(1 - (1 - weight / total) ** requests for weight in weights))


def numbers_per_rank(model_dir: Path) -> int:
    """In and out features of all linear layers in the blocks of the base model: the numbers that a rank of LoRA has.

    Raises InvalidInput if the folder holds no safetensors.
    """
    return sum(map(sum, _linear(model_dir).values()))


def adapted(model_dir: Path) -> list[str]:
    """What the linear layers in the blocks are called there: all that adapters change. Raises InvalidInput likewise."""
    return sorted({name.split(".")[-2] for name in _linear(model_dir)})


def _linear(model_dir: Path) -> dict[str, tuple[int, int]]:
    shapes: dict[str, tuple[int, int]] = {}
    for file in sorted(model_dir.glob("*.safetensors")):
        with file.open("rb") as content:
            header = json.loads(content.read(int.from_bytes(content.read(8), "little")))
        shapes |= {
            name: tuple(entry["shape"])
            for name, entry in header.items()
            if ".layers." in name and name.endswith(".weight") and len(entry["shape"]) == 2
        }
    if not shapes:
        raise InvalidInput(f"{model_dir} holds no weights of linear layers in *.safetensors")
    return shapes


def _size(bytes: int) -> str:
    return f"{bytes / 2**30:.1f} GiB" if bytes >= 2**30 else f"{bytes / 2**20:.0f} MiB"
