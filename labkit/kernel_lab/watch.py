"""Watch every load and store of interpreted kernels, and stop those that leave their tensors.

The interpreter reads and writes through raw addresses: one address past a tensor reads garbage, and a far one ends
the process, and with it a notebook's kernel. Its builder has one method for each kind of access; here they are
wrapped while a `with` block lasts. The argument tensors of a launch, with their names, are taken from the executor.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from triton.runtime.errors import InterpreterError
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder

import kernels

KINDS = {
    "create_masked_load": ("load", 1),  # (kind, position of the mask among the arguments)
    "create_masked_store": ("store", 2),
    "create_atomic_rmw": ("atomic", 3),
    "create_atomic_cas": ("atomic", None),
}


@dataclass(frozen=True)
class Launch:
    """The kernel that is running, and the tensors it was given, by the names of its parameters."""

    kernel: str
    tensors: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Touch:
    """One access of one program: the addresses of the lanes that are not masked off."""

    launch: Launch
    program: tuple[int, ...]
    kind: str  # "load", "store" or "atomic"
    lanes: np.ndarray
    addresses: np.ndarray
    width: int  # lanes, masked off or not


class OutOfBounds(IndexError):
    """An access outside every tensor of the launch."""


@contextlib.contextmanager
def watching(see: Callable[[Touch], None]) -> Iterator[None]:
    """Call see(touch) before each access of every kernel launched within."""
    if kernels.WHERE != "interpreted":
        raise RuntimeError(
            "only interpreted kernels can be watched, and here they run compiled: "
            "set TRITON_INTERPRET=1 before Python starts"
        )
    launch = Launch("", {})

    def arguments(executor: Any, args: Any, kwargs: Any, original: Callable) -> Any:
        nonlocal launch
        host_args, host_kwargs = original(executor, args, kwargs)
        named = {**dict(zip(executor.arg_names, host_args, strict=False)), **host_kwargs}
        tensors = {name: x for name, x in named.items() if isinstance(x, torch.Tensor)}
        launch = Launch(executor.fn.__name__, tensors)
        return host_args, host_kwargs

    def access(original: Callable, kind: str, mask_at: int | None) -> Callable:
        def wrapped(builder: Any, *args: Any) -> Any:
            handles = args[1:] if kind == "atomic" and mask_at is not None else args  # the first names the operation
            addresses = np.asarray(handles[0].data, np.uint64)
            mask = None if mask_at is None else args[mask_at]
            active = np.ones(addresses.shape, bool) if mask is None else np.broadcast_to(mask.data, addresses.shape)
            lanes = np.flatnonzero(active)
            program = tuple(int(n) for n in builder.grid_idx)
            see(Touch(launch, program, kind, lanes, addresses.ravel()[lanes], addresses.size))
            return original(builder, *args)

        return wrapped

    methods = {name: getattr(InterpreterBuilder, name) for name in KINDS}
    take = GridExecutor._init_args_hst
    try:
        GridExecutor._init_args_hst = lambda executor, args, kwargs: arguments(executor, args, kwargs, take)
        for name, (kind, mask_at) in KINDS.items():
            setattr(InterpreterBuilder, name, access(methods[name], kind, mask_at))
        yield
    finally:
        GridExecutor._init_args_hst = take
        for name, method in methods.items():
            setattr(InterpreterBuilder, name, method)


def extent(x: torch.Tensor) -> tuple[int, int]:
    """The first address of a tensor and the first one after it."""
    if x.numel() == 0:
        return x.data_ptr(), x.data_ptr()
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return x.data_ptr(), x.data_ptr() + (last + 1) * x.element_size()


@contextlib.contextmanager
def guard(*tensors: torch.Tensor) -> Iterator[None]:
    """Within, a kernel that leaves the tensors of its launch ends in an IndexError that names program and lanes.

    tensors: further memory that it may use, such as what a tensor of addresses points to. What lies between the
    elements of a strided tensor counts as inside it.
    """
    further = {f"tensor {n}": x for n, x in enumerate(tensors)}

    def see(touch: Touch) -> None:
        outside = np.ones(touch.addresses.shape, bool)
        extents = {name: extent(x) for name, x in {**touch.launch.tensors, **further}.items()}
        for start, end in extents.values():
            outside &= (touch.addresses < start) | (touch.addresses >= end)
        if outside.any():
            raise OutOfBounds(complaint(touch, outside, extents))

    with watching(see):
        try:
            yield
        except InterpreterError as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, OutOfBounds):
                cause = cause.__cause__
            raise (cause or error) from None


def complaint(touch: Touch, outside: np.ndarray, extents: dict[str, tuple[int, int]]) -> str:
    """Which program, which lanes, and how far from the nearest tensor the first of them is."""
    lanes = touch.lanes[outside]
    address = int(touch.addresses[outside][0])
    past = {name: max(start - address, address - end + 1) for name, (start, end) in extents.items()}
    near = min(past, key=lambda name: past[name], default="any tensor")
    shown = ", ".join(str(n) for n in lanes[:4]) + (", …" if len(lanes) > 4 else "")
    kind = {"load": "a load", "store": "a store", "atomic": "an atomic"}[touch.kind]
    return (
        f"{touch.launch.kernel}, program {touch.program}: {kind} of {touch.width} lanes has {len(lanes)} "
        f"(lane {shown}) outside every tensor, the first {past.get(near, 0)} bytes outside {near}: is a mask missing?"
    )
