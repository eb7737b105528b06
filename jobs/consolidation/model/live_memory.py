"""The memory of all tensors that exist, counted operation by operation. ``memory_plan.py`` counts a pass with it."""

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the tensors that are made within the block, until they are freed. They need not have contents.

    Attributes:
        live: Bytes of the tensors that exist now.
        peak: Most bytes that existed at once since ``reset_peak``.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: set[int] = set()

    def reset_peak(self) -> None:
        """Count the peak from now on."""
        self.peak = self.live

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        known = {storage_of(each) for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor) and (storage := storage_of(each)) not in known | self._known:
                self._add(storage, each.untyped_storage())
        return result

    def _add(self, number: int, storage: torch.UntypedStorage) -> None:
        self._known.add(number)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, number, storage.nbytes())

    def _remove(self, number: int, size: int) -> None:
        self._known.discard(number)
        self.live -= size


def storage_of(tensor: Tensor) -> int:
    """Return a number that tensors of the same memory have in common."""
    return int(tensor.untyped_storage()._cdata)
