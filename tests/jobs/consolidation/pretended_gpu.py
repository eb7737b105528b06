"""A simulated GPU: computation runs on the CPU, and fails if tensors of different devices are mixed.

The storage of a tensor records whether it is on the simulated GPU. A tensor gets there as with a real GPU, by
``device=``, ``to`` or ``cuda``, and results of computations with it stay there. Programs see it in ``tensor.device``.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from deepspeed.accelerator import get_accelerator
from torch import Tensor
from torch._lowrank import _svd_lowrank
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU = torch.device("cuda", 0)
_CPU = torch.device("cpu")


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """Simulate one GPU inside the block."""
    engine = torch.autograd._engine_run_backward  # type: ignore[attr-defined]

    def backward(*args: Any, **kwargs: Any) -> Any:
        with _TrackDevices():  # a mode is inactive within the function that it handles, and hooks run inside
            return engine(*args, **kwargs)

    with ExitStack() as stack:
        stack.enter_context(patch.object(torch.autograd, "_engine_run_backward", backward))
        for name in ("device_name", "current_device_name"):
            stack.enter_context(patch.object(get_accelerator(), name, lambda *_: str(GPU)))
        stack.enter_context(patch.object(torch.cuda, "get_rng_state", lambda _: torch.get_rng_state()))
        stack.enter_context(patch.object(torch.cuda, "set_rng_state", lambda *_: None))
        stack.enter_context(_RefuseMixing())
        stack.enter_context(_TrackDevices())
        yield


def _get_device(tensor: Tensor) -> torch.device:
    with torch._C.DisableTorchFunction():
        return getattr(tensor.untyped_storage(), "pretended", tensor.device)


def _set_device(tensor: Tensor, device: torch.device) -> None:
    with torch._C.DisableTorchFunction():
        tensor.untyped_storage().pretended = device  # type: ignore[attr-defined]


def _normalize(device: Any) -> torch.device:
    device = torch.device(device)
    return GPU if device.type == GPU.type else device


class _RefuseMixing(TorchDispatchMode):
    """Refuse operations that mix devices, except those that a real GPU allows: copies, 0-d tensors and indices."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.ops.aten.copy_.default, torch.ops.aten._foreach_copy_.default):
            return func(*args, **kwargs)
        given = dict(zip((each.name for each in func._schema.arguments), args, strict=False)) | kwargs
        device = _find_device(func, given)
        result = func(*args, **kwargs)
        if device == GPU:
            for each in tree_leaves(result):
                if isinstance(each, Tensor):
                    _set_device(each, GPU)
        return result


def _find_device(func: Any, given: dict[str, Any]) -> torch.device:
    """Return the device on which ``func`` computes. Raise RuntimeError, as torch does, if there are two."""
    written = {each.name for each in func._schema.arguments if each.alias_info and each.alias_info.is_write}
    by_number = torch.Tag.pointwise in func.tags or func._schema.name.startswith("aten::_foreach")
    places = set()
    for name, value in given.items():
        for each in tree_leaves(value):
            if isinstance(each, torch.Generator):
                places.add(each.device)
            if not isinstance(each, Tensor):
                continue
            may_differ = (by_number and each.dim() == 0) or (name == "indices" and "index" in func._schema.name)
            if name in written or not (may_differ and _get_device(each) == _CPU):
                places.add(_get_device(each))
    if GPU in places and len(places) > 1:
        raise RuntimeError(f"Expected all tensors to be on the same device: {func} got cuda:0 and cpu")
    return GPU if GPU in places else _CPU


class _TrackDevices(TorchFunctionMode):
    """Move tensors, and report the device that they are on."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _DEVICE_QUERIES:
            return _DEVICE_QUERIES[func](_get_device(args[0]))
        if func is Tensor.to:
            return _to(*args, **kwargs)
        if func in (Tensor.cpu, Tensor.cuda):
            return _move(args[0], _CPU if func is Tensor.cpu else GPU)
        if func is torch.svd_lowrank:  # written in Python; it asks for the device of its matrix
            with _TrackDevices():
                return _svd_lowrank(*args, **kwargs)
        if func in (Tensor.numpy, Tensor.__array__) and _get_device(args[0]) == GPU:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if kwargs.get("device") is None or _normalize(kwargs["device"]) not in (_CPU, GPU):
            return func(*args, **kwargs)
        made = func(*args, **{**kwargs, "device": _CPU})
        _set_device(made, _normalize(kwargs["device"]))
        return made


_DEVICE_QUERIES: dict[Any, Callable[[torch.device], object]] = {
    Tensor.device.__get__: lambda device: device,  # type: ignore[attr-defined]
    Tensor.is_cuda.__get__: lambda device: device == GPU,  # type: ignore[attr-defined]
    Tensor.is_cpu.__get__: lambda device: device == _CPU,  # type: ignore[attr-defined]
}


def _to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if args and isinstance(args[0], Tensor):
        args = (_get_device(args[0]), args[0].dtype, *args[1:])
    device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)  # type: ignore[attr-defined]
    if device is not None and _normalize(device) not in (_CPU, GPU):
        return tensor.to(*args, **kwargs)
    moved = tensor if device is None else _move(tensor, _normalize(device))
    return moved.to(dtype or tensor.dtype, copy=moved is tensor and kwargs.get("copy", False))


def _move(tensor: Tensor, device: torch.device) -> Tensor:
    if _get_device(tensor) == device:
        return tensor
    moved: Tensor = _Move.apply(tensor, device)  # type: ignore[no-untyped-call]
    return moved


class _Move(torch.autograd.Function):
    """A copy on another device. Its gradient goes back to the original device."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, device: torch.device) -> Tensor:
        ctx.before = _get_device(tensor)
        copy = tensor.clone()
        _set_device(copy, device)
        return copy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _move(gradients[0], ctx.before), None
