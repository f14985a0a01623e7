"""Attention to a few sinks and a window, in Triton: forward and backward (arXiv 2309.17453; sink logits: gpt-oss).

Query i sees key j iff j <= i and (j < n_sink or i - j <= window). Over the keys it sees, with scale c and sink logit z,

    s_ij = c q_i·k_j    lse_i = log(e^z + Σ_j e^s_ij)    p_ij = e^(s_ij - lse_i)    o_i = Σ_j p_ij v_j

and, with do_i the gradient that arrives at o_i,

    delta_i = do_i·o_i    ds_ij = p_ij (do_i·v_j - delta_i)    dz = -Σ_i e^(z - lse_i) delta_i
    dq_i = c Σ_j ds_ij k_j    dk_j = c Σ_i ds_ij q_i    dv_j = Σ_i p_ij do_i

Blocks of keys that no query of a program sees are never read: the work grows as t, not as t².
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kernels import Case, launch, need, refuse
from kernels.inputs import check_qkv, widest
from kernels.tiles import DTYPES, load, of_head, row_of_head, rows, store

triton, tl = need()

VARYING = ["t", "n_sink", "window"]  # one compilation serves all their values


@triton.jit
def sees(i, j, t, n_sink, window):
    """Whether query i sees key j, which it does iff 0 <= i - j <= reach: a sink reaches to the end of the text.

    A query of the text sees no key past its end, because j <= i.
    """
    reach = tl.where(j < n_sink, t, window)
    return (i - j).to(tl.uint32) <= reach.to(tl.uint32)  # both at once: unsigned, a negative i - j is huge


@triton.jit
def key_blocks(start, t, n_sink, window, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr):
    """The blocks of keys that a block of queries sees: `count` in all, of which `sinks` come before a gap of `gap`."""
    band = tl.maximum(start - window, 0) // BLOCK_K
    end = tl.cdiv(tl.minimum(start + BLOCK_Q, t), BLOCK_K)
    sinks = tl.minimum(tl.cdiv(n_sink, BLOCK_K), band)  # a block of sinks inside the band is in the band
    return sinks + end - band, sinks, band - sinks


@triton.jit(do_not_specialize=VARYING)
def sinks_forward(
    q, k, v, sink_logits, out, lse, q_stride, k_stride, v_stride, t, n_sink, window, scale,
    D_K: tl.constexpr, D_V: tl.constexpr, COLS_K: tl.constexpr, COLS_V: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """out and lse of one block of queries, by online softmax over the blocks of keys that it sees."""
    start = tl.program_id(0) * BLOCK_Q
    i = start + tl.arange(0, BLOCK_Q)
    k = of_head(k, k_stride)
    v = of_head(v, v_stride)
    q_i = load(of_head(q, q_stride), start, q_stride[2], t, D_K, BLOCK_Q, COLS_K)
    z = tl.load(sink_logits + tl.program_id(1))

    m = tl.zeros([BLOCK_Q], SUM) + tl.maximum(z, -1e30)  # the largest logit so far; finite, so that m - m is 0
    l = tl.exp(z - m)  # Σ e^(s - m) so far; the sink logit is in it from the start
    acc = tl.zeros([BLOCK_Q, COLS_V], SUM)  # Σ e^(s - m) v so far
    count, sinks, gap = key_blocks(start, t, n_sink, window, BLOCK_Q, BLOCK_K)
    for n in range(0, count):
        at = tl.where(n < sinks, n, n + gap) * BLOCK_K
        j = at + tl.arange(0, BLOCK_K)
        k_j = load(k, at, k_stride[2], t, D_K, BLOCK_K, COLS_K)
        v_j = load(v, at, v_stride[2], t, D_V, BLOCK_K, COLS_V)
        s = scale * tl.dot(q_i, tl.trans(k_j), input_precision="ieee")
        s = tl.where(sees(i[:, None], j[None, :], t, n_sink, window), s, float("-inf"))
        m_new = tl.maximum(m, tl.max(s, 1))
        alpha = tl.exp(m - m_new)
        p = tl.exp(s - m_new[:, None])
        l = alpha * l + tl.sum(p, 1)
        acc = tl.dot(p.to(v_j.dtype), v_j, alpha[:, None] * acc, input_precision="ieee", out_dtype=SUM)
        m = m_new

    row = row_of_head(t)
    store(out + row * D_V, start, acc / l[:, None], D_V, t, D_V, BLOCK_Q, COLS_V)
    tl.store(lse + row + i, m + tl.log(l), mask=i < t)


@triton.jit(do_not_specialize=VARYING)
def sinks_backward_q(
    q, k, v, out, do, lse, delta, dq, q_stride, k_stride, v_stride, do_stride, t, n_sink, window, scale,
    D_K: tl.constexpr, D_V: tl.constexpr, COLS_K: tl.constexpr, COLS_V: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """dq and delta of one block of queries, over the blocks of keys that it sees."""
    start = tl.program_id(0) * BLOCK_Q
    i = start + tl.arange(0, BLOCK_Q)
    row = row_of_head(t)
    k = of_head(k, k_stride)
    v = of_head(v, v_stride)
    q_i = load(of_head(q, q_stride), start, q_stride[2], t, D_K, BLOCK_Q, COLS_K)
    do_i = load(of_head(do, do_stride), start, do_stride[2], t, D_V, BLOCK_Q, COLS_V)
    out_i = load(out + row * D_V, start, D_V, t, D_V, BLOCK_Q, COLS_V)
    lse_i = tl.load(lse + row + i, mask=i < t, other=0.0)
    delta_i = tl.sum(do_i.to(SUM) * out_i.to(SUM), 1)
    tl.store(delta + row + i, delta_i, mask=i < t)

    dq_i = tl.zeros([BLOCK_Q, COLS_K], SUM)
    count, sinks, gap = key_blocks(start, t, n_sink, window, BLOCK_Q, BLOCK_K)
    for n in range(0, count):
        at = tl.where(n < sinks, n, n + gap) * BLOCK_K
        j = at + tl.arange(0, BLOCK_K)
        k_j = load(k, at, k_stride[2], t, D_K, BLOCK_K, COLS_K)
        v_j = load(v, at, v_stride[2], t, D_V, BLOCK_K, COLS_V)
        s = scale * tl.dot(q_i, tl.trans(k_j), input_precision="ieee")
        seen = sees(i[:, None], j[None, :], t, n_sink, window)
        p = tl.where(seen, tl.exp(s - lse_i[:, None]), 0.0)
        dp = tl.dot(do_i, tl.trans(v_j), input_precision="ieee")
        ds = p * (dp - delta_i[:, None])
        dq_i = tl.dot(ds.to(k_j.dtype), k_j, dq_i, input_precision="ieee", out_dtype=SUM)

    store(dq + row * D_K, start, scale * dq_i, D_K, t, D_K, BLOCK_Q, COLS_K)


@triton.jit(do_not_specialize=VARYING)
def sinks_backward_kv(
    q, k, v, do, lse, delta, dk, dv, q_stride, k_stride, v_stride, do_stride, t, n_sink, window, scale,
    D_K: tl.constexpr, D_V: tl.constexpr, COLS_K: tl.constexpr, COLS_V: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """dk and dv of one block of keys, over the blocks of queries that see it: a sink is seen by all that follow."""
    start = tl.program_id(0) * BLOCK_K
    j = start + tl.arange(0, BLOCK_K)
    row = row_of_head(t)
    q = of_head(q, q_stride)
    do = of_head(do, do_stride)
    k_j = load(of_head(k, k_stride), start, k_stride[2], t, D_K, BLOCK_K, COLS_K)
    v_j = load(of_head(v, v_stride), start, v_stride[2], t, D_V, BLOCK_K, COLS_V)

    dk_j = tl.zeros([BLOCK_K, COLS_K], SUM)
    dv_j = tl.zeros([BLOCK_K, COLS_V], SUM)
    end = tl.where(start < n_sink, t, tl.minimum(t, start + BLOCK_K + window))  # the first query that sees none of it
    for n in range(start // BLOCK_Q, tl.cdiv(end, BLOCK_Q)):
        at = n * BLOCK_Q
        i = at + tl.arange(0, BLOCK_Q)
        q_i = load(q, at, q_stride[2], t, D_K, BLOCK_Q, COLS_K)
        do_i = load(do, at, do_stride[2], t, D_V, BLOCK_Q, COLS_V)
        lse_i = tl.load(lse + row + i, mask=i < t, other=0.0)
        delta_i = tl.load(delta + row + i, mask=i < t, other=0.0)
        s = scale * tl.dot(k_j, tl.trans(q_i), input_precision="ieee")  # keys × queries from here on
        seen = sees(i[None, :], j[:, None], t, n_sink, window)
        p = tl.where(seen, tl.exp(s - lse_i[None, :]), 0.0)
        dv_j = tl.dot(p.to(do_i.dtype), do_i, dv_j, input_precision="ieee", out_dtype=SUM)
        dp = tl.dot(v_j, tl.trans(do_i), input_precision="ieee")
        ds = p * (dp - delta_i[None, :])
        dk_j = tl.dot(ds.to(q_i.dtype), q_i, dk_j, input_precision="ieee", out_dtype=SUM)

    store(dk + row * D_K, start, scale * dk_j, D_K, t, D_K, BLOCK_K, COLS_K)
    store(dv + row * D_V, start, dv_j, D_V, t, D_V, BLOCK_K, COLS_V)


def constants(q: Tensor, v: Tensor, block_q: int, block_k: int) -> dict[str, Any]:
    """What is fixed when a kernel is compiled: heads are padded to a power of two, a program is four warps."""
    d_k, d_v = q.shape[-1], v.shape[-1]
    return {
        "D_K": d_k,
        "D_V": d_v,
        "COLS_K": max(16, triton.next_power_of_2(d_k)),
        "COLS_V": max(16, triton.next_power_of_2(d_v)),
        "BLOCK_Q": block_q,
        "BLOCK_K": block_k,
        "SUM": tl.float64 if q.dtype == torch.float64 else tl.float32,
        "num_warps": 4,
        "num_stages": 2,
    }


class SinkAttention(torch.autograd.Function):
    """Forward and backward as PyTorch sees them. `band` is (n_sink, window), `blocks` is (block_q, block_k)."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, z: Tensor, band: tuple, scale: float, blocks: tuple
    ) -> Tensor:
        b, h, t, _ = q.shape
        q, k, v = rows(q), rows(k), rows(v)
        sums = widest(q)
        out = torch.empty(v.shape, dtype=q.dtype, device=q.device)
        lse = torch.empty((b, h, t), dtype=sums, device=q.device)
        numbers = (t, *band, scale)
        if out.numel():
            strides = (x.stride()[:3] for x in (q, k, v))
            with launch(q):
                sinks_forward[triton.cdiv(t, blocks[0]), h, b](
                    q, k, v, z.to(sums).contiguous(), out, lse, *strides, *numbers, **constants(q, v, *blocks)
                )  # fmt: skip
        ctx.save_for_backward(q, k, v, z, out, lse)
        ctx.numbers, ctx.blocks = numbers, blocks
        return out

    @staticmethod
    def backward(ctx: Any, do: Tensor) -> tuple:
        if torch.is_grad_enabled():  # so it is under create_graph=True
            raise RuntimeError("the kernel has a first derivative only: use the banded form for a second")
        q, k, v, z, out, lse = ctx.saved_tensors
        b, h, t, _ = q.shape
        do = rows(do)
        dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
        delta = torch.empty(lse.shape, dtype=lse.dtype, device=lse.device)
        if out.numel():
            grid = (triton.cdiv(t, ctx.blocks[0]), h, b)
            strides = tuple(x.stride()[:3] for x in (q, k, v, do))
            block, step = ctx.blocks  # a program owns a block, of queries or of keys, and steps through the other
            with launch(q):
                sinks_backward_q[grid](
                    q, k, v, out, do, lse, delta, dq, *strides, *ctx.numbers, **constants(q, v, block, step)
                )  # fmt: skip
                sinks_backward_kv[grid](
                    q, k, v, do, lse, delta, dk, dv, *strides, *ctx.numbers, **constants(q, v, step, block)
                )  # fmt: skip
        dz = -((z[:, None].to(lse.dtype) - lse).exp() * delta).sum((0, 2))
        return dq, dk, dv, dz.to(z.dtype), None, None, None


def sink_attention(
    q: Float[Tensor, "b h t d_k"],
    k: Float[Tensor, "b h t d_k"],
    v: Float[Tensor, "b h t d_v"],
    *,
    n_sink: int,
    window: int,
    scale: float | None = None,
    sink_logits: Float[Tensor, "h"] | None = None,
    block_q: int = 64,
    block_k: int = 32,
) -> Float[Tensor, "b h t d_v"]:
    """Each query's attention to the first n_sink keys, the `window` keys before it, and itself (arXiv 2309.17453).

    float16, bfloat16 (on a GPU) or float32 in, the same out, sums in float32; float64 throughout when interpreted.
    sink_logits adds e^z of each head to the denominator, with no value; scale=None means d_k ** -0.5.
    A program owns block_q queries (in the backward also: keys) and steps through the others block_k at a time.
    """
    check(q, k, v, sink_logits, n_sink=n_sink, window=window, block_q=block_q, block_k=block_k)
    t = q.shape[2]
    z = sink_logits if sink_logits is not None else torch.full(q.shape[1:2], -torch.inf, device=q.device)
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    return SinkAttention.apply(q, k, v, z, (min(n_sink, t), min(window, t)), scale, (block_q, block_k))


def check(q: Tensor, k: Tensor, v: Tensor, sink_logits: Tensor | None, **numbers: int) -> None:
    """Refuse in one sentence what the kernels cannot compute."""
    check_qkv(q, k, v)
    if q.dtype not in DTYPES or 0 in (q.shape[3], v.shape[3]):
        raise ValueError(
            f"q: expected float16, bfloat16, float32 or float64 and d >= 1, got {tuple(q.shape)} {q.dtype}"
        )
    if sink_logits is not None and (sink_logits.shape != q.shape[1:2] or not sink_logits.is_floating_point()):
        got = f"{tuple(sink_logits.shape)} of {sink_logits.dtype}"
        raise ValueError(f"sink_logits: expected one float for each head, (h) = ({q.shape[1]},), got {got}")
    for name, n in numbers.items():
        least, wanted = (16, "a power of two, at least 16") if "block" in name else (0, "a whole number, at least 0")
        if not isinstance(n, int) or n < least or (least and n & (n - 1)):
            raise ValueError(f"{name}: expected {wanted}, got {n!r}")
    refuse(q=q, k=k, v=v)


def case(kernel: Any, dtype: torch.dtype, d: int) -> Case:
    """A launch of one of the kernels on a long text with heads of size d."""
    b, h, t = 1, 8, 4096
    x = torch.empty((b, h, t, d), dtype=dtype, device="meta")
    y = torch.empty((b, h, t), dtype=torch.float32, device="meta")
    tensors = {
        sinks_forward: (x, x, x, y[0, 0, :h], x, y),
        sinks_backward_q: (x, x, x, x, x, y, y, x),
        sinks_backward_kv: (x, x, x, x, y, y, x, x),
    }[kernel]
    strides = (x.stride()[:3],) * (3 if kernel is sinks_forward else 4)
    blocks = (32, 64) if kernel is sinks_backward_kv else (64, 32)
    name = f"{kernel.__name__} {dtype} d={d}".replace("torch.", "")
    args = (*tensors, *strides, t, 4, 1024, d**-0.5)
    return Case(name, kernel, args, constants(x, x, *blocks), (triton.cdiv(t, 64), h, b))


CASES = tuple(
    case(kernel, dtype, d)
    for dtype in (torch.float16, torch.bfloat16)
    for d in (64, 128)
    for kernel in (sinks_forward, sinks_backward_q, sinks_backward_kv)
)
