"""Computes how many adapters each tier of the adapter cache holds: slots, host memory and disk.

``skill_replica`` sizes an engine and its pager with it, and ``cluster.head`` reports the result. Importable without
torch, Ray or vLLM: only the headers of the base model's weights are read.
"""

from dataclasses import dataclass
from math import ceil
from pathlib import Path

from looper.platform.adapters.base_revision import read_base_manifest
from looper.platform.domain.errors import InvalidInput
from looper.platform.settings import PoolSettings, ServeSettings
from looper.serve.engine.admission import HEADROOM

BYTES_PER_PARAMETER = 2
"""Size of an adapter's parameter, in bytes: bfloat16 in the object store, on disk and in an engine."""

LORAS_GIB, CPU_LORAS_GIB, DISK_LORAS_GIB = 1.0, 1.25, 4.0
"""Room for adapters of an engine on CPUs: in its slots, in host memory and on disk. For GPUs see ``gpu_budgets``."""

ZIPF_EXPONENT = 1.0
"""Exponent of Zipf's law, which the expected popularity of adapters follows."""


@dataclass(frozen=True)
class CacheSizes:
    """Number of adapters in each tier of one engine."""

    slots: int
    """Slots that the admission queue fills. The slots' budget also holds ``HEADROOM`` more."""
    host_memory_adapters: int
    """Maximum number of adapters in host memory."""
    disk_adapters: int
    """Maximum number of adapters on disk."""
    adapter_bytes: int
    """Size of an adapter of the pool's maximum rank, in any tier, in bytes."""

    def __str__(self) -> str:
        """Return one line that ``looper up`` prints."""
        slots, memory, disk = (
            _format_bytes(count * self.adapter_bytes)
            for count in (self.slots, self.host_memory_adapters, self.disk_adapters)
        )
        return (
            f"{self.slots} slots ({slots}), {self.host_memory_adapters} adapters in host memory ({memory}), "
            f"{self.disk_adapters} on disk ({disk})"
        )


def plan_cache_sizes(serve: ServeSettings, pool: PoolSettings, model_dir: Path) -> CacheSizes:
    """Convert the budgets of a pool to numbers of adapters. Numbers in the settings take precedence.

    Args:
        serve: Settings of the endpoint.
        pool: Settings of the pool.
        model_dir: Folder of the base model.

    Returns:
        The sizes of one engine's tiers.

    Raises:
        InvalidInput: The base model has no layers that adapters change.
    """
    adapter_bytes = pool.max_lora_rank * lora_params_per_rank(model_dir) * BYTES_PER_PARAMETER
    # More slots than a full batch has adapters would rarely be used.
    batch_adapters = ceil(expected_distinct_adapters(serve.seats, serve.expected_adapters))
    slots = pool.max_loras or max(
        1, min(batch_adapters, int((pool.loras_gib or LORAS_GIB) * 2**30 / adapter_bytes) - HEADROOM)
    )
    return CacheSizes(
        slots=slots,
        host_memory_adapters=max(
            slots, pool.max_cpu_loras or int((pool.cpu_loras_gib or CPU_LORAS_GIB) * 2**30 / adapter_bytes)
        ),
        disk_adapters=max(
            1, pool.max_disk_loras or int((pool.disk_loras_gib or DISK_LORAS_GIB) * 2**30 / adapter_bytes)
        ),
        adapter_bytes=adapter_bytes,
    )


def expected_distinct_adapters(requests: int, adapters: int) -> float:
    """Return how many distinct adapters a number of requests use on average, if popularity follows Zipf's law.

    Args:
        requests: Number of requests.
        adapters: Number of adapters that requests choose from.

    Returns:
        The sum over all adapters of the probability that at least one request uses the adapter.
    """
    weights = [float(rank) ** -ZIPF_EXPONENT for rank in range(1, adapters + 1)]
    total = sum(weights)
    return float(sum(1 - (1 - weight / total) ** requests for weight in weights))


def lora_params_per_rank(model_dir: Path) -> int:
    """Return how many parameters an adapter has per rank: input plus output features of all its layers.

    Args:
        model_dir: Folder of the base model.

    Returns:
        Number of parameters.

    Raises:
        InvalidInput: The base model has no such layers.
    """
    return sum(map(sum, _read_layers(model_dir).values()))


def lora_target_modules(model_dir: Path) -> list[str]:
    """Return the names of the layers that adapters change.

    Args:
        model_dir: Folder of the base model.

    Returns:
        The last part of each name, sorted, as for PEFT's ``target_modules``.

    Raises:
        InvalidInput: The base model has no such layers.
    """
    return sorted({name.rpartition(".")[2] for name in _read_layers(model_dir)})


def _read_layers(model_dir: Path) -> dict[str, tuple[int, int]]:
    """Return the shape ``[outputs, inputs]`` of each layer that adapters change, by name."""
    layers = read_base_manifest(model_dir).layers
    if not layers:
        raise InvalidInput(
            f"base model {model_dir} has no layers that adapters could change: choose another base model"
        )
    return layers


def _format_bytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
