"""What kernel files share: tiles of (b h t d) tensors on a grid of (block of t, h, b), read, written and multiplied."""

import torch
from torch import Tensor

from kernels import need

triton, tl = need()

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# How float32 is multiplied on tensor cores: what is stored in half precision needs no more than tf32's ten bits.
PRECISION = {torch.float16: "tf32", torch.bfloat16: "tf32", torch.float32: "tf32x3", torch.float64: "ieee"}
if torch.version.hip:
    PRECISION[torch.float32] = "ieee"


@triton.jit
def product(a, b, SUM: tl.constexpr, PRECISION: tl.constexpr):
    """a @ b, summed in SUM."""
    return tl.dot(a, b, input_precision=PRECISION, out_dtype=SUM)


@triton.jit
def load(x, start, stride, t, d, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Rows start, start + 1, … of a (t, d) matrix as a ROWS × COLS tile, zero outside the matrix."""
    x += tl.cast(start, tl.int64) * stride
    i = tl.arange(0, ROWS)[:, None]
    j = tl.arange(0, COLS)[None, :]
    return tl.load(x + i * stride + j, mask=(start + i < t) & (j < d), other=0.0)


@triton.jit
def store(x, start, tile, stride, t, d, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Write a tile to rows start, start + 1, … of a (t, d) matrix."""
    x += tl.cast(start, tl.int64) * stride
    i = tl.arange(0, ROWS)[:, None]
    j = tl.arange(0, COLS)[None, :]
    tl.store(x + i * stride + j, tile.to(x.dtype.element_ty), mask=(start + i < t) & (j < d))


@triton.jit
def of_head(x, stride):
    """Where this program's batch and head begin in x."""
    return x + tl.program_id(2).to(tl.int64) * stride[0] + tl.program_id(1).to(tl.int64) * stride[1]


@triton.jit
def row_of_head(t):
    """The row at which this program's batch and head begin in a contiguous (b h t …) tensor."""
    return (tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)).to(tl.int64) * t


def rows(x: Tensor) -> Tensor:
    """x with its last dimension contiguous, which is all that the kernels ask of its strides."""
    return x if x.stride(-1) == 1 else x.contiguous()
