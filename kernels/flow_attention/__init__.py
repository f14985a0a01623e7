"""Flow attention in Triton, forward and backward, for all tokens at once and for text (arXiv 2202.06258).

A capacity A_ij = φ(q_i)·φ(k_j) is a product, so its sums are products with sums. Bidirectional: with Σ over all tokens,

    I = φ(q)·Σφ(k)    Î = φ(q)·Σφ(k)/O    O = φ(k)·Σφ(q)    Ô = φ(k)·Σφ(q)/I    out = share φ(q) Σφ(k)ᵀ c v

and causal: with Σ over the tokens so far, of which a chunk needs what was before it, and its own A: down to the
diagonal for the sinks (I, Î, out), up to the diagonal for the sources (O, Ô). Backward, with s = dÎ/n,
r = dÔ/n, u = n/I and w = n/O,

    dI += −u² (φ(q)·Σ r φ(k)) / n           dO += −w² (φ(k)·Σ s φ(q)) / n
    dA_ij = dI_i + s_i w_j + share_i c_j dout_i·v_j  (i ≥ j)  +  dO_j + u_i r_j  (i ≤ j)

A program owns a chunk of rows and all chunks run at once: sums of a chunk are one kernel, their running sums torch's
`cumsum`, what is done with them the next kernel. What needs only a number a token (σ, the softmax and its running
normaliser) is torch's too, and autograd's. Products are of float32 features: a sum over a long text leaves half
precision behind.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kernels import Case, refuse
from kernels.flow_attention.causal import (
    causal_backward_flows,
    causal_backward_read,
    causal_backward_sums,
    causal_backward_values,
    causal_conserved,
    causal_flows,
    causal_read,
)
from kernels.flow_attention.functions import CAUSAL, WHOLE, CausalFlows, CausalRead, Flows, Read, constants, inverse
from kernels.flow_attention.whole import (
    flow_backward_flows,
    flow_backward_read,
    flow_dots,
    flow_pour,
    flow_read,
    flow_sums,
    flow_write,
)
from kernels.inputs import check_chunk, check_clamp, check_part, check_q_kv, check_qkv, widest
from kernels.tiles import DTYPES


def flow_attention(
    q: Float[Tensor, "b h L d_k"], k: Float[Tensor, "b h S d_k"], v: Float[Tensor, "b h S d_v"], *, clamp: float = 1.0
) -> Float[Tensor, "b h L d_v"]:
    """out_i = σ(Î_i L/S) Σ_j (φ(q_i)·φ(k_j) / I_i) c_j v_j with c = S softmax(min(Ô, clamp)) (arXiv 2202.06258).

    float16, bfloat16 (on a GPU) or float32 in, the same out, sums in float32; float64 when interpreted. Compiled and
    read for four GPUs, never yet run on one by us.
    """
    check_q_kv(q, k, v)
    ready(q, k, v, clamp)
    q, k, v = (x.contiguous() for x in (q, k, v))
    L, S = q.shape[2], k.shape[2]
    incoming, _, conserved_incoming, conserved_outgoing = Flows.apply(q, k)
    share = torch.sigmoid(conserved_incoming * (L / max(S, 1))) * inverse(incoming)
    return Read.apply(q, k, v, share, S * conserved_outgoing.clamp(max=clamp).softmax(-1))


def causal_flow_attention(
    q: Float[Tensor, "b h t d_k"],
    k: Float[Tensor, "b h t d_k"],
    v: Float[Tensor, "b h t d_v"],
    first: int = 0,
    state: Sequence[Tensor] | None = None,
    *,
    clamp: float = 1.0,
    chunk: int = 64,
) -> tuple[Float[Tensor, "b h t d_v"], tuple[Tensor, ...]]:
    """The same for text that goes on after `first` tokens and their state: (out, the state after it).

    state: Σ φ(q), Σ φ(k), Σ φ(q) i / I_i, Σ φ(k) j / O_j, each (b h d_k); log Σ exp(Ô) (b h); Σ φ(k)ᵀ c v
    (b h d_k d_v); None at the beginning of a text. `labkit.flow_attention.causal` has the formulas.
    No memory for every token: chunk sums and memories take d_k d_v / chunk numbers a token.
    Types as in `flow_attention`; chunk, tokens a program, is a power of two, 16 to 128. A NaN in a token spoils its
    whole chunk: `labkit.flow_attention.causal.kernel` keeps it from the tokens before it.
    """
    check_qkv(q, k, v)
    check_chunk(chunk)
    if not 16 <= chunk <= 128 or chunk & (chunk - 1):
        raise ValueError(f"chunk: expected a power of two from 16 to 128, got {chunk}")
    ready(q, k, v, clamp)
    q, k, v = (x.contiguous() for x in (q, k, v))
    (b, h, t, d_k), d_v, wide = q.shape, v.shape[3], widest(q)
    shapes = [(b, h, d_k)] * 4 + [(b, h), (b, h, d_k, d_v)]
    if state is None:
        state = [torch.zeros(shape, dtype=wide, device=q.device) for shape in shapes]
        state[4] -= math.inf
    for n, (part, shape) in enumerate(zip(state, shapes, strict=True)):
        check_part(f"state[{n}]", part, shape, q)
    *start, total, memory = (x.to(wide) for x in state)
    incoming, _, conserved_incoming, conserved_outgoing, end = CausalFlows.apply(
        q, k, torch.stack(start, 2), first, chunk
    )
    strength = conserved_outgoing.clamp(max=clamp)
    totals = torch.cat([total[..., None], strength], -1).logcumsumexp(-1)
    place = torch.arange(first + 1, first + t + 1, dtype=wide, device=q.device)
    c, share = place * torch.exp(strength - totals[..., 1:]), torch.sigmoid(conserved_incoming) / incoming
    out, memory = CausalRead.apply(q, k, v, share, c, memory, chunk)
    return out, (*end.unbind(2), totals[..., -1], memory)


def ready(q: Tensor, k: Tensor, v: Tensor, clamp: float) -> None:
    """Refuse what the kernels cannot do. Raises ValueError and TypeError."""
    check_clamp(clamp)
    if q.dtype not in DTYPES or 0 in (q.shape[3], v.shape[3]):
        raise ValueError(
            f"q: expected float16, bfloat16, float32 or float64 and d >= 1, got {tuple(q.shape)} {q.dtype}"
        )
    refuse(q=q, k=k, v=v)


def case(kernel: Any, dtype: torch.dtype, d: int, chunk: int = 64, **options: int) -> Case:
    """A launch of one of the kernels on a long text with heads of size d; options replace what `constants` chose."""
    b, h, t = 1, 8, 4096
    n = t // chunk

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    x, w, pair = empty(b, h, t, d, dtype=dtype), empty(b, h, t), empty(b, h, 2, t)
    vector, matrix = empty(b, h, d), empty(b, h, d, d)
    sums, both, two, four = empty(b, h, n, d), empty(b, h, n, 2, d), empty(b, h, n + 1, 2, d), empty(b, h, n + 1, 4, d)
    written, memories = empty(b, h, n, d, d), empty(b, h, n + 1, d, d)
    arguments = {
        flow_sums: (x, w, sums, t),
        flow_pour: (x, vector, w, sums, t),
        flow_dots: (x, vector, w, t),
        flow_write: (x, w, x, written, t),
        flow_read: (x, w, matrix, x, t),
        flow_backward_flows: (x, empty(b, h, 3, t), empty(b, h, 4, d), x, t),
        flow_backward_read: (x, w, x, matrix, x, t),
        causal_flows: (x, x, two, pair, both, t, 0),
        causal_conserved: (x, x, two, pair, pair, t, 0),
        causal_read: (x, x, x, w, w, memories, x, t),
        causal_backward_sums: (x, x, two, pair, pair, pair, pair, both, t, 0),
        causal_backward_flows: (x, x, four, four, pair, pair, pair, x, x, t, 0),
        causal_backward_values: (x, x, x, w, w, memories, x, x, w, t),
        causal_backward_read: (x, x, x, w, w, memories, memories, x, x, x, t),
    }[kernel]
    name = f"{kernel.__name__} {dtype} d={d}".replace("torch.", "")
    return Case(name, kernel, arguments, constants(kernel, x, d, chunk) | options, (n, h, b))


CASES = tuple(
    case(kernel, dtype, d) for dtype in (torch.float16, torch.bfloat16) for d in (64, 128) for kernel in WHOLE + CAUSAL
)
