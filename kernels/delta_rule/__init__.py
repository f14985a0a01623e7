"""The delta rule in Triton, forward and backward: chunks of tokens in parallel, the state between them in turn
(arXiv 2406.06484, §3; the UT transform is that of Joffrain et al. 2006).

A token reads with k and writes with w = β k. Of one chunk, with a row a token, S the state before it and S′ after it,

    M = tril(K Wᵀ, −1)    P = tril(Q Wᵀ)    E = (I + M)⁻¹ (V − K S)    O = c (Q S + P E)    S′ = S + Wᵀ E

and, with dO and dS′ the gradients that arrive at O and S′,

    dE = c Pᵀ dO + W dS′    F = (I + M)⁻ᵀ dE = dV    dS = dS′ + c Qᵀ dO − Kᵀ F
    dP = c tril(dO Eᵀ)      dM = −tril(F Eᵀ, −1)     dW = E dS′ᵀ + dPᵀ Q + dMᵀ K
    dQ = c dO Sᵀ + dP W     dK = dM W − F Sᵀ         dβ = k · dw, and dK gains β dW

Seven kernels. In `delta_states` and `delta_backward_states` a program owns some columns of the state, keeps them in
registers and walks from chunk to chunk; in the others it owns a chunk, and all chunks run at once.
"""

import functools
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kernels import Case, launch, need, refuse
from kernels.delta_rule.backward import (
    delta_backward_keys,
    delta_backward_outputs,
    delta_backward_queries,
    delta_backward_states,
)
from kernels.delta_rule.forward import delta_inverse, delta_outputs, delta_states
from kernels.inputs import check_chunk, check_per_token, check_qkv, check_state, widest
from kernels.tiles import DTYPES, PRECISION

triton, tl = need()

FORWARD = (delta_inverse, delta_states, delta_outputs)
BACKWARD = (delta_backward_outputs, delta_backward_states, delta_backward_queries, delta_backward_keys)
IN_TURN = (delta_states, delta_backward_states)  # a program a block of columns; of the others, a program a chunk


def constants(kernel: Any, q: Tensor, v: Tensor, chunk: int) -> dict[str, Any]:
    """What is fixed when a kernel is compiled. Blocks and warps are what keeps it from spilling at d = 64 and 128."""
    block = 32 if kernel in IN_TURN else 64
    return {
        "D_K": q.shape[-1],
        "D_V": v.shape[-1],
        "COLS_K": max(16, triton.next_power_of_2(q.shape[-1])),
        "COLS_V": min(block, max(16, triton.next_power_of_2(v.shape[-1]))),
        "CHUNK": chunk,
        "SUM": tl.float64 if q.dtype == torch.float64 else tl.float32,
        "PRECISION": PRECISION[q.dtype],
        "num_warps": 8 if kernel is delta_backward_keys else 4,
        "num_stages": 1,
    }


def grid(kernel: Any, q: Tensor, v: Tensor, fixed: dict[str, Any]) -> tuple[int, int, int]:
    """(blocks of columns or chunks, h, b): a program each."""
    b, h, t, d_v = v.shape
    return triton.cdiv(d_v, fixed["COLS_V"]) if kernel in IN_TURN else triton.cdiv(t, fixed["CHUNK"]), h, b


def run(kernel: Any, q: Tensor, v: Tensor, chunk: int, *arguments: Any) -> None:
    """Launch a kernel for these (b h t d) tensors, unless there is nothing to do."""
    fixed = constants(kernel, q, v, chunk)
    programs = grid(kernel, q, v, fixed)
    if all(programs):
        with launch(q):
            kernel[programs](*arguments, **fixed)


class DeltaRule(torch.autograd.Function):
    """Forward and backward as PyTorch sees them: (out in q's dtype, the state in the dtype of the sums)."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state: Tensor, scale: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        (b, h, t, d_k), d_v = q.shape, v.shape[-1]
        q, k, v, beta, state = (x.contiguous() for x in (q, k, v, beta, state))
        n, new = triton.cdiv(t, chunk), functools.partial(torch.empty, dtype=q.dtype, device=q.device)
        inverse, states = new((b, h, n, chunk, chunk)), new((b, h, n, d_k, d_v))
        errors, out, final = new(v.shape), new(v.shape), torch.empty(state.shape, dtype=state.dtype, device=q.device)
        run(delta_inverse, q, v, chunk, k, beta, inverse, t)
        run(delta_states, q, v, chunk, k, v, beta, inverse, state, states, errors, final, t)
        run(delta_outputs, q, v, chunk, q, k, beta, states, errors, out, t, scale)
        ctx.save_for_backward(q, k, beta, inverse, states, errors)
        ctx.scale, ctx.chunk = scale, chunk
        return out, final

    @staticmethod
    def backward(ctx: Any, do: Tensor, d_final: Tensor) -> tuple:
        if torch.is_grad_enabled():  # so it is under create_graph=True
            raise RuntimeError("the kernel has a first derivative only: use the recurrent form for a second")
        q, k, beta, inverse, states, errors = ctx.saved_tensors
        t, do, d_final = q.shape[2], do.contiguous(), d_final.contiguous()
        dq, dk, dv, dbeta, d_states = (
            torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, errors, beta, states)
        )
        d_initial = torch.empty(d_final.shape, dtype=d_final.dtype, device=q.device)
        run(delta_backward_outputs, q, dv, ctx.chunk, q, k, beta, do, dv, t, ctx.scale)
        run(
            delta_backward_states,
            q,
            dv,
            ctx.chunk,
            q,
            k,
            beta,
            inverse,
            do,
            d_final,
            d_states,
            dv,
            d_initial,
            t,
            ctx.scale,
        )
        run(delta_backward_queries, q, dv, ctx.chunk, k, beta, states, errors, do, dq, t, ctx.scale)
        run(
            delta_backward_keys, q, dv, ctx.chunk, q, k, beta, states, errors, do, d_states, dv, dk, dbeta, t, ctx.scale
        )
        return dq, dk, dv, dbeta, d_initial, None, None


def delta_rule(
    q: Float[Tensor, "b h t d_k"],
    k: Float[Tensor, "b h t d_k"],
    v: Float[Tensor, "b h t d_v"],
    beta: Float[Tensor, "b h t"],
    state: Float[Tensor, "b h d_k d_v"] | None = None,
    *,
    scale: float | None = None,
    chunk: int = 64,
) -> tuple[Float[Tensor, "b h t d_v"], Float[Tensor, "b h d_k d_v"]]:
    """S ← S + β k (v − Sᵀ k)ᵀ, o = scale · Sᵀ q for each token in turn (arXiv 2406.06484, §2.2): (out, the last S).

    float16, bfloat16 (on a GPU) or float32 in, the same out, sums and state in float32; float64 when interpreted.
    state=None starts from zeros, scale=None means d_k ** -0.5; chunk, tokens a program, is a power of two, 16 to 1024.
    A NaN in a token spoils its whole chunk: `labkit.delta_rule.kernel` keeps it from the tokens before it.
    In float32 a product takes three passes and some kernels spill registers at chunk = 64 (sm_80 most); half precision
    spills none at d = 64 and 128. Compiled and read for four GPUs, never yet run on one by us.
    """
    check_qkv(q, k, v)
    check_per_token("beta", beta, q)
    check_state(state, q, v)
    check_chunk(chunk)
    if not 16 <= chunk <= 1024 or chunk & (chunk - 1):
        raise ValueError(f"chunk: expected a power of two from 16 to 1024, got {chunk}")
    if q.dtype not in DTYPES or 0 in (q.shape[3], v.shape[3]):
        raise ValueError(
            f"q: expected float16, bfloat16, float32 or float64 and d >= 1, got {tuple(q.shape)} {q.dtype}"
        )
    refuse(q=q, k=k, v=v)
    wide = widest(q)
    if state is None:
        state = torch.zeros((*q.shape[:2], q.shape[3], v.shape[3]), dtype=wide, device=q.device)
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    return DeltaRule.apply(q, k, v, beta, state.to(wide), scale, chunk)


def case(kernel: Any, dtype: torch.dtype, d: int, chunk: int = 64, **options: int) -> Case:
    """A launch of one of the kernels on a long text with heads of size d; options replace what `constants` chose."""
    b, h, t = 1, 8, 4096

    def empty(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    x, beta, inverse = empty(b, h, t, d), empty(b, h, t), empty(b, h, t // chunk, chunk, chunk)
    states, state = empty(b, h, t // chunk, d, d), empty(b, h, d, d, dtype=torch.float32)
    arguments = {
        delta_inverse: (x, beta, inverse, t),
        delta_states: (x, x, beta, inverse, state, states, x, state, t),
        delta_outputs: (x, x, beta, states, x, x, t, d**-0.5),
        delta_backward_outputs: (x, x, beta, x, x, t, d**-0.5),
        delta_backward_states: (x, x, beta, inverse, x, state, states, x, state, t, d**-0.5),
        delta_backward_queries: (x, beta, states, x, x, x, t, d**-0.5),
        delta_backward_keys: (x, x, beta, states, x, x, states, x, x, beta, t, d**-0.5),
    }[kernel]
    name = f"{kernel.__name__} {dtype} d={d}".replace("torch.", "")
    fixed = constants(kernel, x, x, chunk) | options
    return Case(name, kernel, arguments, fixed, grid(kernel, x, x, fixed))


CASES = tuple(
    case(kernel, dtype, d)
    for dtype in (torch.float16, torch.bfloat16)
    for d in (64, 128)
    for kernel in FORWARD + BACKWARD
)
