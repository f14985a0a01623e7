"""Launches, and forward and backward as PyTorch sees them."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kernels import launch, need
from kernels.flow_attention.causal import (
    causal_backward_flows,
    causal_backward_read,
    causal_backward_sums,
    causal_backward_values,
    causal_conserved,
    causal_flows,
    causal_read,
)
from kernels.flow_attention.whole import (
    flow_backward_flows,
    flow_backward_read,
    flow_dots,
    flow_pour,
    flow_read,
    flow_sums,
    flow_write,
)
from kernels.inputs import widest
from kernels.tiles import PRECISION

triton, tl = need()

WHOLE = (flow_sums, flow_pour, flow_dots, flow_write, flow_read, flow_backward_flows, flow_backward_read)
CAUSAL = (
    causal_flows,
    causal_conserved,
    causal_read,
    causal_backward_sums,
    causal_backward_flows,
    causal_backward_values,
    causal_backward_read,
)
ROWS = 64  # of the bidirectional form, a program


def constants(kernel: Any, x: Tensor, d_v: int, chunk: int) -> dict[str, Any]:
    """What is fixed when a kernel is compiled. Blocks and warps are what keeps it from spilling at d = 64 and 128."""
    return {
        "D_K": x.shape[-1],
        "D_V": d_v,
        "COLS_K": max(16, triton.next_power_of_2(x.shape[-1])),
        "COLS_V": min(32, max(16, triton.next_power_of_2(d_v))),
        "CHUNK": chunk,
        "SUM": tl.float64 if x.dtype == torch.float64 else tl.float32,
        "PRECISION": PRECISION[x.dtype],
        "num_warps": 8 if kernel in CAUSAL else 4,
        "num_stages": 1,
    }


def run(kernel: Any, x: Tensor, d_v: int, chunk: int, *arguments: Any) -> None:
    """Launch a kernel with a program a chunk of x (b h t d), unless there is nothing to do."""
    b, h, t, _ = x.shape
    if x.numel():
        with launch(x):
            kernel[triton.cdiv(t, chunk), h, b](*arguments, **constants(kernel, x, d_v, chunk))


def new(x: Tensor, *shape: int) -> Tensor:
    """Memory for numbers in the dtype of x's sums."""
    return torch.empty(shape, dtype=widest(x), device=x.device)


def sums(x: Tensor, w: Tensor, chunk: int) -> Float[Tensor, "b h n d"]:
    """Σ w φ(x) over each chunk."""
    (b, h, t, d) = x.shape
    found = new(x, b, h, triton.cdiv(t, chunk), d)
    run(flow_sums, x, d, chunk, x, w, found, t)
    return found


def memories(x: Tensor, w: Tensor, y: Tensor, chunk: int) -> Float[Tensor, "b h n d_k d_v"]:
    """Σ φ(x)ᵀ w y over each chunk."""
    (b, h, t, d_k), d_v = x.shape, y.shape[3]
    found = new(x, b, h, triton.cdiv(t, chunk), d_k, d_v)
    run(flow_write, x, d_v, chunk, x, w, y, found, t)
    return found


def dots(x: Tensor, vector: Tensor) -> Float[Tensor, "b h t"]:
    """φ(x)·vector for each token."""
    found = new(x, *x.shape[:3])
    run(flow_dots, x, x.shape[3], ROWS, x, vector.contiguous(), found, x.shape[2])
    return found


def read(x: Tensor, w: Tensor, memory: Tensor, dtype: torch.dtype) -> Float[Tensor, "b h t d_v"]:
    """w φ(x) memory for each token."""
    d_v = memory.shape[3]
    out = torch.empty((*x.shape[:3], d_v), dtype=dtype, device=x.device)
    run(flow_read, x, d_v, ROWS, x, w, memory.contiguous(), out, x.shape[2])
    return out


def inverse(flow: Tensor) -> Tensor:
    """1 / flow; 1 for a flow of 0, which only a network without another side has."""
    return 1 / (flow + (flow == 0))


def before(start: Tensor, sums: Tensor) -> Tensor:
    """(b h n+1 …): start and all sums before each chunk, and last all of them."""
    return torch.cat([start.unsqueeze(2), sums], 2).cumsum(2)


def onward(sums: Tensor, end: Tensor) -> Tensor:
    """(b h n+1 …): all sums from each chunk on and end, and last end alone."""
    return torch.cat([sums, end.unsqueeze(2)], 2).flip(2).cumsum(2).flip(2)


class Flows(torch.autograd.Function):
    """I, O, Î, Ô of all tokens at once."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor) -> tuple[Tensor, ...]:
        found = []
        totals = [sums(x, new(x, *x.shape[:3]).fill_(1), ROWS).sum(2) for x in (q, k)]
        for x, total in ((q, totals[1]), (k, totals[0])):
            b, h, t, d = x.shape
            flow, shares = new(x, b, h, t), new(x, b, h, triton.cdiv(t, ROWS), d)
            run(flow_pour, x, d, ROWS, x, total, flow, shares, t)
            found.append((flow, shares.sum(2)))
        (incoming, queries), (outgoing, keys) = found
        ctx.save_for_backward(q, k, *totals, queries, keys, incoming, outgoing)
        return incoming, outgoing, dots(q, keys), dots(k, queries)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        once_only()
        q, k, all_queries, all_keys, queries, keys, incoming, outgoing = ctx.saved_tensors
        d_incoming, d_outgoing, s, r = (g.contiguous() for g in gradients)
        s_queries, r_keys = sums(q, s, ROWS).sum(2), sums(k, r, ROWS).sum(2)
        d_incoming = d_incoming - dots(q, r_keys) * inverse(incoming).square()
        d_outgoing = d_outgoing - dots(k, s_queries) * inverse(outgoing).square()
        d_all_keys, d_all_queries = sums(q, d_incoming, ROWS).sum(2), sums(k, d_outgoing, ROWS).sum(2)
        found = []
        for x, vectors, weights in (
            (q, (d_all_queries, all_keys, keys, r_keys), (d_incoming, s, inverse(incoming))),
            (k, (d_all_keys, all_queries, queries, s_queries), (d_outgoing, r, inverse(outgoing))),
        ):
            dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
            arguments = x, torch.stack(weights, 2), torch.stack(vectors, 2), dx, x.shape[2]
            run(flow_backward_flows, x, x.shape[3], ROWS, *arguments)
            found.append(dx)
        return found[0], found[1]


class Read(torch.autograd.Function):
    """share φ(q) Σ φ(k)ᵀ c v of all tokens at once."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, share: Tensor, c: Tensor) -> Tensor:
        memory = memories(k, c, v, ROWS).sum(2)
        out = read(q, share, memory, q.dtype)
        ctx.save_for_backward(q, k, v, share, c, memory, out)
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, ...]:
        once_only()
        q, k, v, share, c, memory, out = ctx.saved_tensors
        d_out = d_out.contiguous()
        d_memory = memories(q, share, d_out, ROWS).sum(2)
        d_written = read(k, torch.ones_like(c), d_memory, c.dtype)
        found = []
        for x, w, y, matrix in ((q, share, d_out, memory), (k, c, v, d_memory)):
            dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
            run(flow_backward_read, x, v.shape[3], ROWS, x, w, y, matrix, dx, x.shape[2])
            found.append(dx)
        d_share = (d_out.to(c.dtype) * out).sum(-1) / share
        return *found, (c[..., None] * d_written).to(v.dtype), d_share, (v * d_written).sum(-1)


class CausalFlows(torch.autograd.Function):
    """I, O, Î, Ô of a text, and Σ φ(q), Σ φ(k), Σ φ(q) i / I_i, Σ φ(k) j / O_j after it, from those before it."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, start: Tensor, first: int, chunk: int) -> tuple[Tensor, ...]:
        b, h, t, d = q.shape
        one = new(q, b, h, t).fill_(1)
        flows, conserved, normalised = new(q, b, h, 2, t), new(q, b, h, 2, t), new(q, b, h, triton.cdiv(t, chunk), 2, d)
        all_before = before(start[:, :, :2], torch.stack([sums(q, one, chunk), sums(k, one, chunk)], 3))
        run(causal_flows, q, d, chunk, q, k, all_before, flows, normalised, t, first)
        normalised = before(start[:, :, 2:], normalised)
        run(causal_conserved, q, d, chunk, q, k, normalised, flows, conserved, t, first)
        both = torch.cat([all_before, normalised], 3)
        ctx.save_for_backward(q, k, flows, both)
        ctx.first, ctx.chunk = first, chunk
        return *flows.unbind(2), *conserved.unbind(2), both[:, :, -1].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        once_only()
        q, k, flows, both = ctx.saved_tensors
        (b, h, t, d), first, chunk = q.shape, ctx.first, ctx.chunk
        d_incoming, d_outgoing, s, r, d_end = gradients
        place = torch.arange(first + 1, first + t + 1, dtype=s.dtype, device=s.device)
        s, r = s / place, r / place
        weights, direct = torch.stack([s, r], 2), torch.stack([d_incoming, d_outgoing], 2)
        of_weights = torch.stack([sums(q, s, chunk), sums(k, r, chunk)], 3)
        d_flows, of_flows = new(q, b, h, 2, t), torch.empty_like(of_weights)
        after = onward(of_weights, d_end[:, :, 2:].flip(2))
        run(causal_backward_sums, q, d, chunk, q, k, after, flows, direct, weights, d_flows, of_flows, t, first)
        after = torch.cat([after, onward(of_flows, d_end[:, :, :2].flip(2))], 3)
        dq, dk = (torch.empty(q.shape, dtype=q.dtype, device=q.device) for _ in range(2))
        run(causal_backward_flows, q, d, chunk, q, k, both, after, flows, weights, d_flows, dq, dk, t, first)
        return dq, dk, after[:, :, 0].flip(2), None, None


class CausalRead(torch.autograd.Function):
    """share φ(q) Σ φ(k)ᵀ c v over the tokens so far, and the memory Σ φ(k)ᵀ c v after a text, from that before it."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, share: Tensor, c: Tensor, memory: Tensor, chunk: int
    ) -> tuple[Tensor, Tensor]:
        written = before(memory, memories(k, c, v, chunk))
        out = torch.empty(v.shape, dtype=v.dtype, device=v.device)
        run(causal_read, q, v.shape[3], chunk, q, k, v, share, c, written, out, q.shape[2])
        ctx.save_for_backward(q, k, v, share, c, written, out)
        ctx.chunk = chunk
        return out, written[:, :, -1].clone()

    @staticmethod
    def backward(ctx: Any, d_out: Tensor, d_memory: Tensor) -> tuple[Tensor | None, ...]:
        once_only()
        q, k, v, share, c, written, out = ctx.saved_tensors
        d_out, t, d_v, chunk = d_out.contiguous(), q.shape[2], v.shape[3], ctx.chunk
        after = onward(memories(q, share, d_out, chunk), d_memory)
        dq, dk, dv, dc = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v, c))
        run(causal_backward_values, q, d_v, chunk, q, k, v, share, c, after, d_out, dv, dc, t)
        run(causal_backward_read, q, d_v, chunk, q, k, v, share, c, written, after, d_out, dq, dk, t)
        d_share = (d_out.to(c.dtype) * out).sum(-1) / share
        return dq, dk, dv, d_share, dc, after[:, :, 0], None


def once_only() -> None:
    if torch.is_grad_enabled():  # so it is under create_graph=True
        raise RuntimeError("the kernel has a first derivative only: use another form for a second")
