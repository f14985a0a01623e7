"""Linear attention without a denominator: S ← S + k vᵀ, o = Sᵀ q, or o_i = Σ_{j ≤ i} (q_i·k_j) v_j.

Katharopoulos et al. 2020 (arXiv 2006.16236), eq. 10-12 and 16-20; a feature map is for the caller to apply to q and k.
All forms take the same arguments and agree to rounding:

    q, k: (b h t d_k); v: (b h t d_v); scale: None means d_k ** -0.5; state: (b h d_k d_v) or None for zeros.
    Returns (out (b h t d_v) in q's dtype, state in the dtype of the sums: float32, or float64 for float64).
"""

import torch
import torch.nn.functional as F
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from kernels.inputs import check_chunk, check_qkv, check_state, widest

Queries = Float[Tensor, "b h t dk"]
Values = Float[Tensor, "b h t dv"]
State = Float[Tensor, "b h dk dv"]


def recurrent(
    q: Queries, k: Queries, v: Values, *, scale: float | None = None, state: State | None = None
) -> tuple[Values, State]:
    """The definition, one token at a time: S ← S + k vᵀ, o = Sᵀ q."""
    check(q, k, v, state)
    dtype, (q, k, v, S) = q.dtype, started(q, k, v, scale, state)
    out = []
    for q_t, k_t, v_t in zip(*(x.unbind(2) for x in (q, k, v)), strict=True):
        S = S + einsum(k_t, v_t, "b h dk, b h dv -> b h dk dv")
        out.append(einsum(S, q_t, "b h dk dv, b h dk -> b h dv"))
    return (torch.stack(out, 2) if out else v).to(dtype), S


def parallel(
    q: Queries, k: Queries, v: Values, *, scale: float | None = None, state: State | None = None
) -> tuple[Values, State]:
    """The whole sequence at once, as attention without a softmax: out = tril(Q Kᵀ) V + Q S. Cost t²."""
    check(q, k, v, state)
    dtype, (q, k, v, S) = q.dtype, started(q, k, v, scale, state)
    pattern = einsum(q, k, "b h i d, b h j d -> b h i j").tril()
    out = einsum(pattern, v, "b h i j, b h j d -> b h i d") + q @ S
    return out.to(dtype), S + k.mT @ v


def chunkwise(
    q: Queries, k: Queries, v: Values, *, scale: float | None = None, state: State | None = None, chunk: int = 64
) -> tuple[Values, State]:
    """`parallel` within chunks, the state between them: a chunk's start is a sum of what the earlier ones wrote."""
    check(q, k, v, state)
    check_chunk(chunk)
    dtype, t = q.dtype, q.shape[2]
    q, k, v, S = started(q, k, v, scale, state)
    rest = -t % chunk
    Q, K, V = (F.pad(x, (0, 0, 0, rest)).unflatten(2, (-1, chunk)) for x in (q, k, v))  # (b h n c d)
    written = torch.cat([S[:, :, None], K.mT @ V], 2).cumsum(2)  # (b h n+1 dk dv): the state before each chunk
    pattern = (Q @ K.mT).tril()
    out = pattern @ V + Q @ written[:, :, :-1]
    return out.flatten(2, 3)[:, :, :t].to(dtype), written[:, :, -1]


def check(q: Tensor, k: Tensor, v: Tensor, state: Tensor | None) -> None:
    """Refuse bad input in one line."""
    check_qkv(q, k, v)
    check_state(state, q, v)


def started(
    q: Tensor, k: Tensor, v: Tensor, scale: float | None, state: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q · scale, k, v and the state, in the dtype of the sums."""
    wide = widest(q)
    q = q.to(wide) * (q.shape[-1] ** -0.5 if scale is None else scale)
    S = q.new_zeros(*q.shape[:2], q.shape[3], v.shape[3]) if state is None else state.to(wide)
    return q, k.to(wide), v.to(wide), S
