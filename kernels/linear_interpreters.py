"""The gates of piecewise linear units in Triton: written down in two bits a unit, and applied to other inputs.

A unit is a line of slope 1 between two corners, low and high, with a slope of its own under low and level above high
(ReLU, leaky ReLU, PReLU, ReLU6, Hardtanh; arXiv 1908.05168, figure 2). What it decides at z is one of three pieces:

    0, z <= low: y = s u + low − s low        1, between: y = u        2, z >= high: y = high

so that sixteen units go into one int32 word: unit e of an example is bits 2 (e mod 16) and up of word ⌊e / 16⌋. A slope
and an offset for each would be 32 times as much to keep, and to read again for every replay. Backward is the same
replay without what is constant: dz = s dy, dy or 0.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Int32
from torch import Tensor

from kernels import Case, launch, need, refuse
from kernels.inputs import check_float
from kernels.tiles import DTYPES

triton, tl = need()

PER_WORD = 16  # units in an int32
WORDS = 64  # of a program: 1,024 units
VARYING = ["n", "b", "inner", "channels"]  # one compilation serves all their values


@triton.jit(do_not_specialize=["n"])
def gate_record(z, pieces, n, low, high, PER_WORD: tl.constexpr, WORDS: tl.constexpr):
    """Which piece each of n units of an example is on, for a block of words of that example."""
    word = tl.program_id(0) * WORDS + tl.arange(0, WORDS)
    lane = tl.arange(0, PER_WORD)
    e = word[:, None] * PER_WORD + lane[None, :]
    example = tl.program_id(1).to(tl.int64)
    x = tl.load(z + example * n + e, mask=e < n, other=0.0)
    piece = tl.where(x <= low, 0, tl.where(x >= high, 2, 1))
    packed = tl.sum(tl.where(e < n, piece, 0) << (2 * lane)[None, :], 1)
    words = tl.cdiv(n, PER_WORD)
    tl.store(pieces + example * words + word, packed, mask=word < words)


@triton.jit(do_not_specialize=VARYING)
def gate_replay(
    u, pieces, slopes, y, n, b, inner, channels, low, high,
    OFFSET: tl.constexpr, PER_WORD: tl.constexpr, WORDS: tl.constexpr,
):  # fmt: skip
    """What the recorded pieces make of a block of units of an example of u; the b recorded examples go round."""
    word = tl.program_id(0) * WORDS + tl.arange(0, WORDS)
    lane = tl.arange(0, PER_WORD)
    e = word[:, None] * PER_WORD + lane[None, :]
    example = tl.program_id(1)
    words = tl.cdiv(n, PER_WORD)
    packed = tl.load(pieces + (example % b).to(tl.int64) * words + word, mask=word < words, other=0)
    piece = (packed[:, None] >> (2 * lane)[None, :]) & 3
    at = example.to(tl.int64) * n + e
    x = tl.load(u + at, mask=e < n, other=0.0)
    s = tl.load(slopes + (e // inner) % channels, mask=e < n, other=0.0)
    if OFFSET:
        under, over = s * (x - low) + low, high
    else:
        under, over = s * x, 0.0
    out = tl.where(piece == 1, x.to(s.dtype), tl.where(piece == 0, under, over))
    tl.store(y + at, out.to(y.dtype.element_ty), mask=e < n)


class Replay(torch.autograd.Function):
    """A replay as PyTorch sees it: linear in u, and so is its backward, which can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, pieces: Tensor, slopes: Tensor, unit: tuple, offset: bool) -> Tensor:
        ctx.save_for_backward(pieces, slopes)
        ctx.unit = unit
        n, b, inner, low, high = unit
        u = u.contiguous()
        y = torch.empty_like(u)
        if u.numel():
            with launch(u):
                gate_replay[triton.cdiv(n, PER_WORD * WORDS), len(u)](
                    u, pieces, slopes, y, n, b, inner, len(slopes), low, high, **constants(OFFSET=offset)
                )  # fmt: skip
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple:
        return Replay.apply(dy, *ctx.saved_tensors, ctx.unit, False), None, None, None, None


def constants(**options: bool) -> dict[str, Any]:
    """What a launch fixes at compile time."""
    return {**options, "PER_WORD": PER_WORD, "WORDS": WORDS, "num_warps": 4, "num_stages": 1}


def record(z: Float[Tensor, "b *shape"], low: float = 0.0, high: float = math.inf) -> Int32[Tensor, "b words"]:
    """Which piece each unit of z is on, two bits a unit; words = ⌈units of an example / 16⌉.

    z: float16, bfloat16 (on a GPU) or float32; float64 when interpreted. Raises ValueError for low above high.
    """
    _check("z", z, z)
    if not low <= high:
        raise ValueError(f"low: expected at most high = {high}, got {low}")
    n = math.prod(z.shape[1:])
    pieces = torch.empty((len(z), triton.cdiv(n, PER_WORD)), dtype=torch.int32, device=z.device)
    if z.numel():
        with launch(z):
            gate_record[triton.cdiv(n, PER_WORD * WORDS), len(z)](
                z.contiguous(), pieces, n, float(low), float(high), **constants()
            )  # fmt: skip
    return pieces


def replay(
    u: Float[Tensor, "nb *shape"],
    pieces: Int32[Tensor, "b words"],
    slopes: Float[Tensor, " c"],
    low: float = 0.0,
    high: float = math.inf,
    *,
    offset: bool,
) -> Float[Tensor, "nb *shape"]:
    """The recorded units on another input, each of b examples on every b-th of u's; without offset, its linear part.

    slopes: one under `low` for all units, or one for each channel, the second axis of u. Differentiable in u, twice
    too. Compiled and read for four GPUs, never yet run on one by us.
    """
    _check("u", u, u)
    check_float("slopes", slopes, u, "(c)")
    n = math.prod(u.shape[1:])
    b, words = len(pieces), triton.cdiv(n, PER_WORD)
    if pieces.dtype != torch.int32 or tuple(pieces.shape[1:]) != (words,) or (len(u) % b if b else len(u)):
        raise ValueError(
            f"pieces: expected int32 (b {words}) for u {tuple(u.shape)} with a multiple of b examples, "
            f"got {tuple(pieces.shape)} {pieces.dtype}"
        )
    if slopes.ndim != 1 or len(slopes) not in (1, u.shape[1]):
        raise ValueError(
            f"slopes: expected (1) or (c) = ({u.shape[1]}) for u {tuple(u.shape)}, got {tuple(slopes.shape)}"
        )
    unit = (n, b, math.prod(u.shape[2:]), float(low), float(high))
    return Replay.apply(u, pieces, slopes.to(_sums(u)), unit, offset)


def _sums(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _check(name: str, x: Tensor, like: Tensor) -> None:
    check_float(name, x, like, "(b …)")
    if x.ndim < 2 or x.dtype not in DTYPES:
        raise ValueError(
            f"{name}: expected (b …) of float16, bfloat16, float32 or float64, got {tuple(x.shape)} {x.dtype}"
        )
    refuse(**{name: x})


def case(kernel: Any, dtype: torch.dtype) -> Case:
    """A launch of one of the kernels on 96 channels of 112 × 112 units, as EfficientNet-Lite0 has them."""
    n, c = 96 * 112 * 112, 96
    x = torch.empty((1, n), dtype=dtype, device="meta")
    pieces = torch.empty((1, n // PER_WORD), dtype=torch.int32, device="meta")
    slopes = torch.empty(c, dtype=torch.float32, device="meta")
    name = f"{kernel.__name__} {dtype}".replace("torch.", "")
    grid = (triton.cdiv(n, PER_WORD * WORDS), 1)
    if kernel is gate_record:
        return Case(name, kernel, (x, pieces, n, 0.0, 6.0), constants(), grid)
    return Case(name, kernel, (x, pieces, slopes, x, n, 1, n // c, c, 0.0, 6.0), constants(OFFSET=True), grid)


CASES = tuple(
    case(kernel, dtype)
    for dtype in (torch.float32, torch.float16, torch.bfloat16)
    for kernel in (gate_record, gate_replay)
)
