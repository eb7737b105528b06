"""A GPU that is not there: real computing on the CPU, which fails where tensors would meet that a GPU keeps apart.

Whether a tensor lies on the pretended GPU is noted on its storage. It comes there as on a real one, by ``device=``,
``to`` or ``cuda``, and what is computed from it stays there. Programs see it in ``tensor.device``.
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
    """In here there is one."""
    engine = torch.autograd._engine_run_backward  # type: ignore[attr-defined]

    def backward(*args: Any, **kwargs: Any) -> Any:
        with _Places():  # a mode is off within what it handles, and hooks run in here
            return engine(*args, **kwargs)

    with ExitStack() as stack:
        stack.enter_context(patch.object(torch.autograd, "_engine_run_backward", backward))
        for name in ("device_name", "current_device_name"):
            stack.enter_context(patch.object(get_accelerator(), name, lambda *_: str(GPU)))
        stack.enter_context(patch.object(torch.cuda, "get_rng_state", lambda _: torch.get_rng_state()))
        stack.enter_context(patch.object(torch.cuda, "set_rng_state", lambda *_: None))
        stack.enter_context(_Apart())
        stack.enter_context(_Places())
        yield


def _place(tensor: Tensor) -> torch.device:
    with torch._C.DisableTorchFunction():
        return getattr(tensor.untyped_storage(), "pretended", tensor.device)


def _put(tensor: Tensor, place: torch.device) -> None:
    with torch._C.DisableTorchFunction():
        tensor.untyped_storage().pretended = place  # type: ignore[attr-defined]


def _named(device: Any) -> torch.device:
    place = torch.device(device)
    return GPU if place.type == GPU.type else place


class _Apart(TorchDispatchMode):
    """Lets no operation mix places, but for what a real GPU takes: copies, numbers without dimensions, and indices."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.ops.aten.copy_.default, torch.ops.aten._foreach_copy_.default):
            return func(*args, **kwargs)
        given = dict(zip((each.name for each in func._schema.arguments), args, strict=False)) | kwargs
        place = _common(func, given)
        result = func(*args, **kwargs)
        if place == GPU:
            for each in tree_leaves(result):
                if isinstance(each, Tensor):
                    _put(each, GPU)
        return result


def _common(func: Any, given: dict[str, Any]) -> torch.device:
    """Where ``func`` computes. Raises RuntimeError, as torch does, if that is not one place."""
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
            if name in written or not (may_differ and _place(each) == _CPU):
                places.add(_place(each))
    if GPU in places and len(places) > 1:
        raise RuntimeError(f"Expected all tensors to be on the same device: {func} got cuda:0 and cpu")
    return GPU if GPU in places else _CPU


class _Places(TorchFunctionMode):
    """Moves tensors, and tells where they are."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _ANSWERS:
            return _ANSWERS[func](_place(args[0]))
        if func is Tensor.to:
            return _to(*args, **kwargs)
        if func in (Tensor.cpu, Tensor.cuda):
            return _moved(args[0], _CPU if func is Tensor.cpu else GPU)
        if func is torch.svd_lowrank:  # written in Python, and asks where its matrix is
            with _Places():
                return _svd_lowrank(*args, **kwargs)
        if func in (Tensor.numpy, Tensor.__array__) and _place(args[0]) == GPU:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if kwargs.get("device") is None or _named(kwargs["device"]) not in (_CPU, GPU):
            return func(*args, **kwargs)
        made = func(*args, **{**kwargs, "device": _CPU})
        _put(made, _named(kwargs["device"]))
        return made


_ANSWERS: dict[Any, Callable[[torch.device], object]] = {
    Tensor.device.__get__: lambda place: place,  # type: ignore[attr-defined]
    Tensor.is_cuda.__get__: lambda place: place == GPU,  # type: ignore[attr-defined]
    Tensor.is_cpu.__get__: lambda place: place == _CPU,  # type: ignore[attr-defined]
}


def _to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if args and isinstance(args[0], Tensor):
        args = (_place(args[0]), args[0].dtype, *args[1:])
    device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)  # type: ignore[attr-defined]
    if device is not None and _named(device) not in (_CPU, GPU):
        return tensor.to(*args, **kwargs)
    moved = tensor if device is None else _moved(tensor, _named(device))
    return moved.to(dtype or tensor.dtype, copy=moved is tensor and kwargs.get("copy", False))


def _moved(tensor: Tensor, place: torch.device) -> Tensor:
    if _place(tensor) == place:
        return tensor
    moved: Tensor = _Move.apply(tensor, place)  # type: ignore[no-untyped-call]
    return moved


class _Move(torch.autograd.Function):
    """A copy in another place, whose gradient goes back."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, place: torch.device) -> Tensor:
        ctx.before = _place(tensor)
        copy = tensor.clone()
        _put(copy, place)
        return copy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _moved(gradients[0], ctx.before), None
