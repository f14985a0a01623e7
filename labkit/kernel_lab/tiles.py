"""Which tile of which tensor each program reads and writes."""

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from labkit.kernel_lab.watch import Launch, Touch, extent, watching


@dataclass(frozen=True)
class Access:
    """One load or store of one program in one tensor."""

    kernel: str
    program: tuple[int, ...]
    kind: str  # "load", "store" or "atomic"
    name: str
    shape: tuple[int, ...]  # of the tensor
    elements: np.ndarray  # indices into the flattened tensor, in the order of the lanes
    bytes: int
    launch: int = 0  # which launch of the trace this belongs to


@contextlib.contextmanager
def trace(**tensors: torch.Tensor) -> Iterator[list[Access]]:
    """A list that fills with the accesses of every kernel launched within, in order.

    Tensors go by the names of the kernel's parameters; those given here go by these names, and then only they are
    recorded.
    """
    log: list[Access] = []
    launches: list[Launch] = []

    def see(touch: Touch) -> None:
        if not launches or launches[-1] is not touch.launch:
            launches.append(touch.launch)
        number = len(launches) - 1
        for name, x in (tensors or touch.launch.tensors).items():
            start, end = extent(x)
            inside = (touch.addresses >= start) & (touch.addresses < end)
            if inside.any():
                offsets = (touch.addresses[inside] - np.uint64(start)).astype(np.int64) // x.element_size()
                elements = flattened(offsets, x)
                size = len(elements) * x.element_size()
                about = touch.launch.kernel, touch.program, touch.kind, name, tuple(x.shape)
                log.append(Access(*about, elements, size, number))
                return  # the same memory under a second name is one access

    with watching(see):
        yield log


def flattened(offsets: np.ndarray, x: torch.Tensor) -> np.ndarray:
    """Offsets from x's first element, as indices into x.flatten()."""
    strides = x.stride()
    index = [np.zeros_like(offsets)] * x.ndim
    for dim in sorted((d for d in range(x.ndim) if strides[d] and x.shape[d] > 1), key=lambda d: -strides[d]):
        index[dim], offsets = np.divmod(offsets, strides[dim])
    return np.ravel_multi_index(index, tuple(x.shape)) if x.ndim else offsets


def tile_map(log: Iterable[Access], name: str, *, block: int, kind: str = "load", kernel: str = "") -> np.ndarray:
    """(programs, blocks): how often each program touches each block of rows of a (… t d) tensor.

    Programs are those along the first axis of the grid, of head 0 and batch 0. kernel="" takes every kernel.
    """
    chosen = [
        a for a in log if (a.name, a.kind) == (name, kind) and not any(a.program[1:]) and kernel in ("", a.kernel)
    ]
    if not chosen:
        raise ValueError(f"name: no {kind} of a tensor called {name!r} was recorded")
    t, d = chosen[0].shape[-2:]
    visits = np.zeros((1 + max(a.program[0] for a in chosen), -(-t // block)), int)
    for access in chosen:
        visits[access.program[0], np.unique(access.elements // d % t // block)] += 1
    return visits


def traffic(log: Iterable[Access]) -> dict[tuple[str, str], tuple[int, int]]:
    """{(kind, name): (accesses, bytes)} of a trace."""
    totals: dict[tuple[str, str], tuple[int, int]] = defaultdict(lambda: (0, 0))
    for access in log:
        accesses, size = totals[access.kind, access.name]
        totals[access.kind, access.name] = (accesses + 1, size + access.bytes)
    return dict(totals)
