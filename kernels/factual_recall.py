"""The logit lens in Triton: what a residual says about a few tokens, without the logits of all the others.

Of a residual x, with W the unembedding (vocab d) and for each chosen token c,

    h = x gain / √(mean x² + ε)    s_j = h·W_j    lse = log Σ_j e^s_j    rank_c = |{j ≠ c : s_j > s_c}|

and, with dlse and ds_c the gradients that arrive at lse and s_c,

    dh = dlse Σ_j e^(s_j - lse) W_j + Σ_c ds_c W_c    u = x / √(mean x² + ε)    dgain = Σ_rows dh u
    dx = (dh gain - u mean(dh gain u)) / √(mean x² + ε)

A program steps through its share of the vocabulary and keeps only the largest logit, the sum of exponentials and the
counts of a block of rows: many shares let few rows fill a GPU. The chosen logits come first, summed in the same order.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kernels import Case, launch, need, refuse
from kernels.inputs import check_float, check_shape, widest
from kernels.tiles import DTYPES, PRECISION, load, product, rows, store

triton, tl = need()

MOST = 16  # chosen tokens a row
PROGRAMS = 512  # a few for each multiprocessor of a large GPU: few rows share the vocabulary among so many


class Lens(NamedTuple):
    """Statistics of each row's logits; log-probabilities are logits - lse[:, None]. Only these two have gradients."""

    lse: Float[Tensor, " n"]
    logits: Float[Tensor, "n m"]
    rank: Int[Tensor, "n m"]  # entries of the vocabulary above each chosen token: 0 is the first place
    top: Int[Tensor, " n"]  # the token with the largest logit
    top_logit: Float[Tensor, " n"]


@triton.jit
def scores(
    x, r, gain, W, start, j, n, vocab, x_stride, W_stride,
    D: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The logits of as many tokens j, of which none is below 0, for a block of rows."""
    k = tl.arange(0, DEPTH)
    i = start + tl.arange(0, BLOCK)
    r_i = tl.load(r + i, mask=i < n, other=0.0)
    s = tl.zeros([BLOCK, BLOCK], SUM)
    W_j = W + j.to(tl.int64)[:, None] * W_stride + k[None, :]
    for c in range(0, D, DEPTH):
        x_c = load(x + c, start, x_stride, n, D - c, BLOCK, DEPTH).to(SUM)
        g = tl.load(gain + c + k, mask=c + k < D, other=0.0).to(SUM)
        w = tl.load(W_j + c, mask=(j[:, None] < vocab) & (c + k < D)[None, :], other=0.0)
        h = (x_c * r_i[:, None] * g[None, :]).to(w.dtype)
        s += product(h, tl.trans(w), SUM, PRECISION)
    return s


@triton.jit(do_not_specialize=["n", "vocab", "m"])
def lens_chosen(
    x, r, gain, W, ids, logits, x_stride, W_stride, n, vocab, m,
    D: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The logit of one chosen token of each of a block of rows: the diagonal of a tile."""
    start = tl.program_id(0) * BLOCK
    i = start + tl.arange(0, BLOCK)
    at = i.to(tl.int64) * m + tl.program_id(1)
    j = tl.load(ids + at, mask=i < n, other=0)
    s = scores(x, r, gain, W, start, j, n, vocab, x_stride, W_stride, D, BLOCK, DEPTH, SUM, PRECISION)
    tl.store(logits + at, tl.sum(tl.where(i[:, None] == i[None, :], s, 0.0), 1), mask=i < n)


@triton.jit(do_not_specialize=["n", "vocab", "m", "share"])
def lens_forward(
    x, r, gain, W, ids, logits, lse, rank, top, top_logit, x_stride, W_stride, n, vocab, m, share,
    D: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
    CHOSEN: tl.constexpr,
):  # fmt: skip
    """lse, rank, top and its logit of a block of rows, as far as a share of the vocabulary goes."""
    start = tl.program_id(0) * BLOCK
    i = start + tl.arange(0, BLOCK)
    row = i.to(tl.int64)
    c = tl.arange(0, CHOSEN)
    first = tl.program_id(1) * share
    largest = tl.zeros([BLOCK], SUM) + float("-inf")  # logit so far
    l = tl.zeros([BLOCK], SUM)  # Σ e^(s - largest) so far
    leader = tl.zeros([BLOCK], tl.int32) + first
    above = tl.zeros([BLOCK, CHOSEN], tl.int32)
    for at in range(first, tl.minimum(first + share, vocab), BLOCK):
        j = at + tl.arange(0, BLOCK)
        s = scores(x, r, gain, W, start, j, n, vocab, x_stride, W_stride, D, BLOCK, DEPTH, SUM, PRECISION)
        s = tl.where(j[None, :] < vocab, s, float("-inf"))
        best = tl.max(s, 1)
        leader = tl.where(best > largest, tl.min(tl.where(s == best[:, None], j[None, :], vocab), 1), leader)
        best = tl.maximum(largest, best)
        l = tl.exp(largest - best) * l + tl.sum(tl.exp(s - best[:, None]), 1)
        largest = best
        for k in range(m):
            own = tl.load(logits + row * m + k, mask=i < n, other=0.0)
            itself = tl.load(ids + row * m + k, mask=i < n, other=0)
            others = tl.where(j[None, :] == itself[:, None], float("-inf"), s)
            above += tl.where(c[None, :] == k, tl.sum((others > own[:, None]).to(tl.int32), 1)[:, None], 0)
    row += tl.program_id(1).to(tl.int64) * n
    tl.store(lse + row, largest + tl.log(l), mask=i < n)
    tl.store(top + row, leader, mask=i < n)
    tl.store(top_logit + row, largest, mask=i < n)
    tl.store(rank + row[:, None] * m + c[None, :], above, mask=(i < n)[:, None] & (c < m)[None, :])


@triton.jit(do_not_specialize=["n", "vocab", "share"])
def lens_backward(
    x, r, gain, W, top_logit, dh, x_stride, W_stride, n, vocab, share,
    D: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
    COLS: tl.constexpr,
):  # fmt: skip
    """Some columns of Σ_j e^(s_j - top_logit) W_j of a block of rows, over a share of the vocabulary."""
    start = tl.program_id(0) * BLOCK
    column = tl.program_id(1) * COLS
    i = start + tl.arange(0, BLOCK)
    largest = tl.load(top_logit + i, mask=i < n, other=0.0)
    first = tl.program_id(2) * share
    acc = tl.zeros([BLOCK, COLS], SUM)
    for at in range(first, tl.minimum(first + share, vocab), BLOCK):
        j = at + tl.arange(0, BLOCK)
        s = scores(x, r, gain, W, start, j, n, vocab, x_stride, W_stride, D, BLOCK, DEPTH, SUM, PRECISION)
        p = tl.where(j[None, :] < vocab, tl.exp(s - largest[:, None]), 0.0)
        w = load(W + column, at, W_stride, vocab, D - column, BLOCK, COLS)
        acc += product(p.to(w.dtype), w, SUM, PRECISION)
    store(dh + tl.program_id(2).to(tl.int64) * n * D + column, start, acc, D, n, D - column, BLOCK, COLS)


def constants(kernel: Any, x: Tensor, m: int, block: int) -> dict[str, Any]:
    """What is fixed when a kernel is compiled. Depth and warps are what keeps it from spilling at d = 576."""
    whole = max(16, triton.next_power_of_2(x.shape[1]))
    further = {lens_forward: {"CHOSEN": triton.next_power_of_2(max(1, m))}, lens_backward: {"COLS": min(128, whole)}}
    return {
        "D": x.shape[1],
        "BLOCK": block,
        "DEPTH": min(16 if x.dtype == torch.float32 else 32, whole),
        "SUM": tl.float64 if x.dtype == torch.float64 else tl.float32,
        "PRECISION": PRECISION[x.dtype],
        "num_warps": 8,
        "num_stages": 2,
        **further.get(kernel, {}),
    }


def shares(vocab: int, block: int, programs: int) -> tuple[int, int]:
    """(shares of the vocabulary, tokens in one): whole blocks, so that with `programs` for each there are PROGRAMS."""
    blocks = triton.cdiv(vocab, block)
    share = triton.cdiv(blocks, max(1, PROGRAMS // max(1, programs))) * block
    return triton.cdiv(vocab, share), share


class LogitLens(torch.autograd.Function):
    """Forward and backward as PyTorch sees them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, W: Tensor, ids: Tensor, eps: float, block: int) -> tuple:
        (n, m), vocab, sums, programs = ids.shape, len(W), widest(x), triton.cdiv(len(x), block)
        x, W, gain, ids = rows(x), rows(W), gain.contiguous(), ids.int().contiguous()
        r = (x.to(sums).square().mean(1) + eps).rsqrt()  # here, so that not every share finds it again
        count, share = shares(vocab, block, programs)
        logits = torch.empty((n, m), dtype=sums, device=x.device)
        lse, top_logit = (torch.empty((count, n), dtype=sums, device=x.device) for _ in range(2))
        top, rank = (torch.empty((count, *s), dtype=torch.int32, device=x.device) for s in ((n,), (n, m)))
        tensors, sizes = (x, r, gain, W, ids, logits), (x.stride(0), W.stride(0), n, vocab, m)
        with launch(x):
            lens_chosen[programs, m](*tensors, *sizes, **constants(lens_chosen, x, m, block))
            lens_forward[programs, count](
                *tensors, lse, rank, top, top_logit, *sizes, share, **constants(lens_forward, x, m, block)
            )
        lse, *others = combined(lse, rank, top, top_logit)
        ctx.block = block
        ctx.save_for_backward(x, r, gain, W, ids, lse, others[2])
        ctx.mark_non_differentiable(*others)
        return lse, logits, *others

    @staticmethod
    def backward(ctx: Any, dlse: Tensor, dlogits: Tensor, *_: Any) -> tuple:
        if torch.is_grad_enabled():  # so it is under create_graph=True
            raise RuntimeError("the kernel has a first derivative only: use logit_lens_torch for a second")
        x, r, gain, W, ids, lse, top_logit = ctx.saved_tensors
        (n, d), vocab, fixed = x.shape, len(W), constants(lens_backward, x, ids.shape[1], ctx.block)
        grid = (triton.cdiv(n, ctx.block), triton.cdiv(d, fixed["COLS"]))
        count, share = shares(vocab, ctx.block, grid[0] * grid[1])
        sizes = (x.stride(0), W.stride(0), n, vocab, share)
        parts = torch.empty((count, n, d), dtype=lse.dtype, device=x.device)
        with launch(x):
            lens_backward[*grid, count](x, r, gain, W, top_logit, parts, *sizes, **fixed)
        dh = (dlse * (top_logit - lse).exp())[:, None] * parts.sum(0)
        for token, ds in zip(ids.unbind(1), dlogits.unbind(1), strict=True):
            dh += ds[:, None] * W[token]
        u, du = x * r[:, None], dh * gain
        dx, dgain = r[:, None] * (du - u * (du * u).mean(1, keepdim=True)), (dh * u).sum(0)
        return dx.to(x.dtype), dgain.to(gain.dtype), None, None, None, None


def combined(lse: Tensor, rank: Tensor, top: Tensor, top_logit: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """lse, rank, top and its logit over the whole vocabulary, from those of its shares in order."""
    largest, best = top_logit.max(0)
    return lse.logsumexp(0), rank.sum(0), top.long().gather(0, best[None])[0], largest


def logit_lens(
    x: Float[Tensor, "n d"], gain: Float[Tensor, " d"], W: Float[Tensor, "vocab d"], ids: Int[Tensor, "n m"],
    *, eps: float, block: int = 64,
) -> Lens:  # fmt: skip
    """The final norm, the unembedding W and the statistics of what it says about each row's chosen tokens `ids`.

    float16, bfloat16 (on a GPU) or float32 in; statistics and sums in float32; float64 throughout when interpreted.
    lse and logits can be differentiated in x and gain, not in W. At most 16 chosen tokens a row; none is allowed.
    A token whose logit equals a chosen one's up to rounding may count in its rank or not; itself it never does.
    """
    check(x, gain, W, ids, eps)
    if not isinstance(block, int) or block < 16 or block & (block - 1):
        raise ValueError(f"block: expected a power of two, at least 16, got {block!r}")
    refuse(x=x, gain=gain, W=W)
    if W.requires_grad and torch.is_grad_enabled():
        raise ValueError("W: the kernel has no gradient of W: pass W.detach(), or use logit_lens_torch")
    return Lens(*LogitLens.apply(x, gain, W, ids, float(eps), block))


def logit_lens_torch(
    x: Float[Tensor, "n d"], gain: Float[Tensor, " d"], W: Float[Tensor, "vocab d"], ids: Int[Tensor, "n m"],
    *, eps: float, rows: int = 256, block: int = 1024,
) -> Lens:  # fmt: skip
    """`logit_lens` in torch on any device, `rows` rows and `block` tokens at a time; differentiable in W too."""
    check(x, gain, W, ids, eps)
    if not all(isinstance(size, int) and size >= 1 for size in (rows, block)):
        raise ValueError(f"rows, block: expected whole numbers, at least 1, got {rows!r}, {block!r}")
    parts = []
    for x_rows, chosen in zip(x.split(rows), ids.long().split(rows), strict=True):
        h = F.rms_norm(x_rows, gain.shape, gain, eps).to(widest(x))
        named, which = chosen.unique(return_inverse=True)
        logits = F.linear(h, W[named].to(h.dtype)).gather(1, which)
        found: tuple[Tensor, ...] = ()
        for first, w in zip(range(0, len(W), block), W.split(block), strict=True):
            part = checkpoint(_share, h, w, chosen, first, logits, use_reentrant=False, preserve_rng_state=False)
            found = combined(*map(torch.stack, zip(found, part, strict=True))) if first else part
        parts.append(Lens(found[0], logits, *found[1:]))
    return Lens(*(torch.cat(of_all) for of_all in zip(*parts, strict=True)))


def _share(h: Tensor, W: Tensor, ids: Tensor, first: int, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """lse, rank, top and its logit over the tokens of one block of W, of which the first is token `first`."""
    s, at = F.linear(h, W.to(h.dtype)), ids - first
    with torch.no_grad():
        itself = (at >= 0) & (at < len(W)) & (s.gather(1, at.clamp(0, len(W) - 1)) > chosen)  # does not count
        rank = -itself.long()
        for k, own in enumerate(chosen.unbind(1)):
            rank[:, k] += (s > own[:, None]).sum(1)
        top_logit, top = s.max(1)
    return s.logsumexp(1), rank, first + top, top_logit


def check(x: Tensor, gain: Tensor, W: Tensor, ids: Tensor, eps: float) -> None:
    """Refuse in one sentence what has no logit lens."""
    check_float("x", x, x, "(n d)")
    if x.ndim != 2 or x.dtype not in DTYPES or not x.shape[1]:
        raise ValueError(f"x: expected (n d), d >= 1, of float16 … float64, got {tuple(x.shape)} {x.dtype}")
    check_float("gain", gain, x, "(d)")
    n, d = x.shape
    check_shape("gain", gain, (d,), "(d) = {} like x", turn=(0, 0))
    check_float("W", W, x, "(vocab d)")
    if W.ndim != 2 or not len(W) or W.shape[1] != d:
        raise ValueError(f"W: expected (vocab d) with vocab >= 1 and d = {d} like x, got {tuple(W.shape)}")
    if not isinstance(ids, Tensor) or ids.dtype not in (torch.int32, torch.int64) or ids.device != x.device:
        got = f"{ids.dtype} on {ids.device}" if isinstance(ids, Tensor) else type(ids).__name__
        raise ValueError(f"ids: expected int32 or int64 (n m) on {x.device} like x, got {got}")
    if ids.ndim != 2 or len(ids) != n or ids.shape[1] > MOST:
        raise ValueError(f"ids: expected (n m) with n = {n} like x and m <= {MOST}, got {tuple(ids.shape)}")
    if ids.numel() and (ids.min() < 0 or ids.max() >= len(W)):
        raise ValueError(f"ids: expected 0 <= id < {len(W)}, got {int(ids.min())} to {int(ids.max())}")
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 0 <= eps < torch.inf:
        raise ValueError(f"eps: expected a number >= 0, got {eps!r}")


def case(kernel: Any, dtype: torch.dtype) -> Case:
    """A launch of one of the kernels on two tokens of 186 residuals of SmolLM2-135M."""
    n, d, vocab, m, blocks, cols = 186, 576, 49152, 2, 3, 5
    count, share = shares(vocab, 64, blocks * cols if kernel is lens_backward else blocks)
    x, gain, W = (torch.empty(shape, dtype=dtype, device="meta") for shape in ((n, d), (d,), (vocab, d)))
    y = torch.empty(count * n * d, device="meta")  # of which each statistic is the beginning
    i, sizes, two, each = y[: count * n * m].int(), (d, d, n, vocab), n * m, count * n
    args, grid = {
        lens_chosen: ((i[:two], y[:two], *sizes, m), (blocks, m)),
        lens_forward: ((i[:two], y[:two], y[:each], i, i[:each], y[:each], *sizes, m, share), (blocks, count)),
        lens_backward: ((y[:n], y, *sizes, share), (blocks, cols, count)),
    }[kernel]
    name = f"{kernel.__name__} {dtype}".replace("torch.", "")
    return Case(name, kernel, (x, y[:n], gain, W, *args), constants(kernel, x, m, 64), grid)


CASES = tuple(case(k, dtype) for dtype in DTYPES[:2] for k in (lens_chosen, lens_forward, lens_backward))
