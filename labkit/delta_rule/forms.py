"""The delta rule: read what the memory holds under a key, and write the difference to what it should hold.

    e = v − Sᵀ k        the error: what the memory has wrong about this token
    S ← S + β k eᵀ      one step of gradient descent on ½‖Sᵀ k − v‖², with step size β
    o = Sᵀ q

Yang et al. 2024 (arXiv 2406.06484), §2.2 and §3. All forms take the same arguments and agree to rounding:

    q, k: (b h t d_k); v: (b h t d_v); beta: (b h t) in [0, 2]; scale: None means d_k ** -0.5;
    state: (b h d_k d_v) or None for zeros.
    Returns (out (b h t d_v) in q's dtype, state in the dtype of the sums: float32, or float64 for float64).

A step multiplies the error along k by 1 − β‖k‖². So the memory is stable while β‖k‖² ≤ 2, which unit keys with β ≤ 2
always are; keys that are longer make it explode, and nothing here normalises them for you. A NaN spoils what comes
after it and nothing before it, in every form.
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from kernels.inputs import check_chunk, check_per_token, check_qkv, check_state, widest

Queries = Float[Tensor, "b h t dk"]
Values = Float[Tensor, "b h t dv"]
PerToken = Float[Tensor, "b h t"]
State = Float[Tensor, "b h dk dv"]

PIECE = 2048  # tokens, of all heads together, that are worked on at once: their matrices stay in a CPU's cache


def recurrent(
    q: Queries, k: Queries, v: Values, beta: PerToken, *, scale: float | None = None, state: State | None = None
) -> tuple[Values, State]:
    """The definition, one token at a time: S ← S + β k (v − Sᵀ k)ᵀ, o = Sᵀ q (§2.2)."""
    check(q, k, v, beta, state)
    dtype, (q, k, v, beta, S) = q.dtype, started(q, k, v, beta, scale, state)
    out = []
    for q_t, k_t, v_t, beta_t in zip(*(x.unbind(2) for x in (q, k, v, beta)), strict=True):
        error = v_t - einsum(S, k_t, "b h dk dv, b h dk -> b h dv")
        S = S + einsum(beta_t, k_t, error, "b h, b h dk, b h dv -> b h dk dv")
        out.append(einsum(S, q_t, "b h dk dv, b h dk -> b h dv"))
    return (torch.stack(out, 2) if out else v).to(dtype), S


def parallel(
    q: Queries, k: Queries, v: Values, beta: PerToken, *, scale: float | None = None, state: State | None = None
) -> tuple[Values, State]:
    """The whole sequence at once, as attention: out = attention · (V − K S) + Q S (§3). Cost t³, for reading.

    A token's error depends on the errors before it, E = V − K S − tril(K Kᵀ diag β, −1) E, which is a triangular
    system; attention = tril(Q Kᵀ diag β) (I + tril(K Kᵀ diag β, −1))⁻¹.
    """
    check(q, k, v, beta, state)
    dtype = q.dtype
    out, S = sealed(whole, *started(q, k, v, beta, scale, state))
    return out.to(dtype), S


def whole(q: Queries, k: Queries, v: Values, beta: PerToken, S: State) -> tuple[Values, State]:
    """`parallel` of tensors that are checked, q scaled."""
    written = beta[..., None] * k
    overlap = einsum(k, written, "b h i d, b h j d -> b h i j").tril(-1)
    eye = torch.eye(q.shape[2], dtype=q.dtype, device=q.device)
    inverse = torch.linalg.solve_triangular(eye + overlap, eye.expand_as(overlap), upper=False)
    pattern = einsum(q, written, "b h i d, b h j d -> b h i j").tril()
    attention = pattern @ inverse
    return attention @ (v - k @ S) + q @ S, S + written.mT @ inverse @ (v - k @ S)


def chunkwise(
    q: Queries,
    k: Queries,
    v: Values,
    beta: PerToken,
    *,
    scale: float | None = None,
    state: State | None = None,
    chunk: int = 64,
) -> tuple[Values, State]:
    """`parallel` within chunks of tokens, the state between them (§3): time and memory linear in t.

    One triangular solve a chunk, and no loop over tokens. The backward pass is written by hand and keeps, for each
    token and head, its error (d_v), a row of the chunk's inverse (chunk) and its share of the states (d_k d_v / chunk).
    """
    check(q, k, v, beta, state)
    check_chunk(chunk)
    dtype, t = q.dtype, q.shape[2]
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    q, k, v, beta, S = started(q, k, v, beta, 1, state)
    chunk = min(chunk, max(t, 1))
    if t % chunk:  # what the last chunk is filled up with has beta = 0 and writes nothing
        q, k, v, beta = (pad(x, (0, 0) * (x.ndim - 3) + (0, -t % chunk)) for x in (q, k, v, beta))
    out, S = sealed(lambda *inputs: Chunks.apply(*inputs, scale, chunk), q, k, v, beta, S)
    return out[:, :, :t].to(dtype), S


def kernel(
    q: Queries,
    k: Queries,
    v: Values,
    beta: PerToken,
    *,
    scale: float | None = None,
    state: State | None = None,
    chunk: int = 64,
) -> tuple[Values, State]:
    """The same as Triton kernels, forward and backward (kernels/delta_rule); chunk is a power of two, 16 to 1024."""
    from kernels.delta_rule import delta_rule

    check(q, k, v, beta, state)
    S = q.new_zeros(*q.shape[:2], q.shape[3], v.shape[3], dtype=widest(q)) if state is None else state.to(widest(q))
    return sealed(lambda *inputs: delta_rule(*inputs, scale=scale, chunk=chunk), q, k, v, beta, S)


class Chunks(torch.autograd.Function):
    """`forward_piece` and `backward_piece` over pieces of the sequence that are small enough for a CPU's cache."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state: Tensor, scale: float, c: int) -> tuple:
        ctx.scale, ctx.c, ctx.piece = scale, c, c * max(1, PIECE // max(1, c * q.shape[:2].numel()))
        ctx.shapes = [x.shape for x in (q, k, v, beta, state)]
        out, S, kept = v.new_empty(v.shape), state.flatten(0, 1), []
        pieces = zip(*(x.flatten(0, 1).split(ctx.piece, 1) for x in (q, k, v, beta, out)), strict=True)
        for q_p, k_p, v_p, beta_p, out_p in pieces:
            O, S, *keep = forward_piece(q_p, k_p, v_p, beta_p, S, scale, c)
            cut(out_p, c).copy_(O)
            kept += keep
        ctx.save_for_backward(q, k, beta, *kept)
        return out, S.view(state.shape).clone()

    @staticmethod
    def backward(ctx: Any, d_out: Tensor, dS: Tensor) -> tuple:
        if torch.is_grad_enabled():  # so it is under create_graph=True
            raise RuntimeError("chunkwise has a first derivative only: use the recurrent form for a second")
        q, k, beta, *kept = ctx.saved_tensors
        dq, dk, dv, dbeta = (q.new_empty(shape) for shape in ctx.shapes[:4])
        tensors = (q, k, beta, d_out, dq, dk, dv, dbeta)
        pieces = zip(*(x.flatten(0, 1).split(ctx.piece, 1) for x in tensors), strict=True)
        dS = dS.flatten(0, 1)
        for n, (q_p, k_p, beta_p, dO_p, *into_p) in reversed(list(enumerate(pieces))):
            *parts, dS = backward_piece(q_p, k_p, beta_p, dO_p, kept[3 * n : 3 * n + 3], dS, ctx.scale, ctx.c)
            for into, part in zip(into_p, parts, strict=True):
                cut(into, ctx.c).copy_(part)
        return dq, dk, dv, dbeta, dS.view(ctx.shapes[4]), None, None


def forward_piece(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, S: Tensor, scale: float, c: int) -> tuple:
    """A few chunks. A token reads with K and writes with W = β K; with M = tril(K Wᵀ, −1) and P = tril(Q Wᵀ),

        E = (I + M)⁻¹ (V − K S)    O = scale (Q S + P E)    S′ = S + Wᵀ E

    S is the state before a chunk and S′ after it, the only thing that goes from one to the next. Capital letters have
    the axes (n m c d): n chunks of m = b h sequences. Returns O, the last S′, and what the backward pass needs.
    """
    Q, K, X = (cut(x, c).clone(memory_format=torch.contiguous_format) for x in (q, k, v))
    W = K * cut(beta[..., None], c).contiguous()
    M = bmm(K, W.mT)  # only what is below its diagonal is read
    eye = torch.eye(c, dtype=q.dtype, device=q.device).expand_as(M)
    inverse = torch.linalg.solve_triangular(M, eye, upper=False, unitriangular=True, left=False)
    E, states = X.new_empty(X.shape), S.new_empty(len(K) + 1, *S.shape)
    states[0] = S
    before, after = states[:-1], states[1:]
    for K_n, W_n, X_n, inverse_n, E_n, S, S_next in zip(K, W, X, inverse, E, before, after, strict=True):
        torch.bmm(inverse_n, X_n.baddbmm_(K_n, S, alpha=-1), out=E_n)
        torch.baddbmm(S, W_n.mT, E_n, out=S_next)
    O = bmm(Q, before).flatten(0, 1)
    O.baddbmm_(bmm(Q, W.mT).tril_().flatten(0, 1), E.flatten(0, 1), beta=scale, alpha=scale)
    return O.view(X.shape), states[-1], inverse, E, before


def backward_piece(
    q: Tensor, k: Tensor, beta: Tensor, dO: Tensor, kept: Sequence[Tensor], dS: Tensor, scale: float, c: int
) -> tuple:
    """The gradients of `forward_piece`, from what it kept, that of its outputs, and that of the state after it, dS.

    dE = scale Pᵀ dO + W dS′    F = (I + M)⁻ᵀ dE = dV    dS = dS′ + scale Qᵀ dO − Kᵀ F
    dP = scale tril(dO Eᵀ)      dM = −tril(F Eᵀ, −1)     dW = E dS′ᵀ + dPᵀ Q + dMᵀ K
    dQ = scale dO Sᵀ + dP W     dK = dM W − F Sᵀ         and W = β K gives dβ = K · dW, dK + β dW
    """
    inverse, E, S = kept
    Q, K, dO, beta = (cut(x, c).contiguous() for x in (q, k, dO, beta[..., None]))
    W, dO = K * beta, dO * scale
    dE, read = bmm(bmm(Q, W.mT).tril_().mT, dO), bmm(Q.mT, dO)
    F, after = dO.new_empty(dO.shape), S.new_empty(S.shape)
    steps = zip(K, W, inverse, dE, read, F, after, strict=True)
    for K_n, W_n, inverse_n, dE_n, read_n, F_n, after_n in reversed(list(steps)):
        after_n.copy_(dS)
        torch.bmm(inverse_n.mT, dE_n.baddbmm_(W_n, dS), out=F_n)
        dS = torch.baddbmm(read_n.add_(dS), K_n.mT, F_n, alpha=-1)
    dP, dM = bmm(dO, E.mT).tril_(), bmm(F, E.mT).tril_(-1).neg_()
    dQ = bmm(dO, S.mT).flatten(0, 1).baddbmm_(dP.flatten(0, 1), W.flatten(0, 1))
    dW = bmm(E, after.mT).flatten(0, 1)
    dW = dW.baddbmm_(dP.mT.flatten(0, 1), Q.flatten(0, 1)).baddbmm_(dM.mT.flatten(0, 1), K.flatten(0, 1)).view(K.shape)
    dK = bmm(dM, W).flatten(0, 1).baddbmm_(F.flatten(0, 1), S.mT.flatten(0, 1), alpha=-1).view(K.shape)
    return dQ.view(K.shape), dK.addcmul_(beta, dW), F, (K * dW).sum(-1), dS


def cut(x: Float[Tensor, "m nc *d"], c: int) -> Float[Tensor, "n m c *d"]:
    """Sequences in chunks of c tokens, chunks first; a view."""
    return x.unflatten(1, (-1, c)).transpose(0, 1)


def bmm(a: Float[Tensor, "n m i j"], b: Float[Tensor, "n m j k"]) -> Float[Tensor, "n m i k"]:
    """a @ b, without the copies that @ makes of tensors of more than three axes."""
    return torch.bmm(a.flatten(0, 1), b.flatten(0, 1)).unflatten(0, a.shape[:2])


def check(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state: Tensor | None) -> None:
    """Refuse bad input in one line; warn, once, of a beta with which the memory can explode."""
    check_qkv(q, k, v)
    check_per_token("beta", beta, q)
    check_state(state, q, v)
    if beta.numel():
        low, high = beta.detach().aminmax()
        if low < 0 or high > 2:
            warn_of_beta()


@functools.cache
def warn_of_beta() -> None:
    warnings.warn(
        "beta is outside [0, 2]: with unit keys, a step then multiplies the error along its key by less than −1 or "
        "more than 1, and the memory can grow without bound; sigmoid(x) or 2 · sigmoid(x) keeps it inside",
        stacklevel=4,
    )


def started(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, scale: float | None, state: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """q · scale (q itself for 1), k, v, beta and the state, in the dtype of the sums."""
    wide, scale = widest(q), q.shape[-1] ** -0.5 if scale is None else scale
    q, k, v, beta = (x.to(wide) for x in (q, k, v, beta))
    S = q.new_zeros(*q.shape[:2], q.shape[3], v.shape[3]) if state is None else state.to(wide)
    return q if scale == 1 else q * scale, k, v, beta, S


def sealed(
    form: Callable[..., tuple[Tensor, Tensor]], q: Tensor, k: Tensor, v: Tensor, beta: Tensor, S: Tensor
) -> tuple[Tensor, Tensor]:
    """form(q, k, v, beta, S) with NaN only where the definition has NaN or inf.

    A matrix product spreads a NaN to every row, even times zero. In the definition it spoils the state's columns from
    its token on (one column if it comes from v), and from q one output. So what is not finite is computed as 0, and NaN
    is put where it leads.
    """
    out, new_S = form(q, k, v, beta, S)
    if (out.detach().sum() + new_S.detach().sum()).isfinite():
        return out, new_S
    q_bad, k_bad, v_bad, beta_bad = (~x.isfinite() for x in (q, k, v, beta))
    start = ~S.isfinite().all(2, keepdim=True)
    columns = torch.cat([start, v_bad | (k_bad.any(-1) | beta_bad)[..., None]], 2).cumsum(2) > 0  # (b h t+1 d_v)
    out, new_S = form(*(x.nan_to_num(0, 0, 0) for x in (q, k, v, beta, S)))
    out = out.masked_fill(columns[:, :, 1:] | q_bad.any(-1, keepdim=True), torch.nan)
    return out, new_S.masked_fill(columns[:, :, -1:], torch.nan)
