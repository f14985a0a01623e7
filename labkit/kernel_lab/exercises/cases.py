"""The solutions at sizes that a GPU would get, to be compiled ahead of time: `compile_reports(cases())`."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch

import kernels

from .chunk import launch_linear_attention, linear_attention
from .first import launch_scale_rows, launch_transpose, scale_rows, transpose
from .products import launch_matmul, matmul
from .rows import launch_softmax, online_softmax, softmax
from .sums import column_sums, launch_column_sums


def cases() -> list[kernels.Case]:
    """A case for each puzzle, in the order of the lesson; the tensors are on the "meta" device."""
    wide = empty(4096, 1000)
    heads = [empty(32, 60, 64) for _ in range(3)]
    return [
        case(scale_rows, launch_scale_rows, wide, empty(4096), BLOCK=1024),
        case(transpose, launch_transpose, wide, BLOCK=32),
        case(softmax, launch_softmax, wide, BLOCK=1024),
        case(column_sums, launch_column_sums, wide, ROWS=32, COLS=64),
        case(online_softmax, launch_softmax, empty(64, 50000), BLOCK=1024),
        case(matmul, launch_matmul, wide.half(), wide.T.half(), ROWS=64, COLS=64, DEPTH=32),
        case(linear_attention, launch_linear_attention, *heads, empty(32, 64, 64), CHUNK=64),
    ]


def case(solution: Callable, launch: Callable, *args: torch.Tensor, **blocks: int) -> kernels.Case:
    """The launch of a solution as its puzzle launches it, written down instead of run."""
    recorder = Recorder()
    launch(recorder, *args, **blocks)
    kernel = kernels.need()[0].jit(solution)
    return kernels.Case(solution.__name__, kernel, recorder.args, recorder.options)


class Recorder:
    """Stands where a kernel is launched, and keeps the arguments."""

    args: tuple[Any, ...] = ()
    options: Mapping[str, Any] = MappingProxyType({})

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return self.keep

    def keep(self, *args: Any, **options: Any) -> None:
        self.args, self.options = args, options


def empty(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta")
