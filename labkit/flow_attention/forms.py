"""Flow attention: a network in which v flows from S sources (keys) to L sinks (queries), and what flows is conserved.

    A_ij = φ(q_i)·φ(k_j)               the capacity from source j to sink i
    I_i = Σ_j A_ij    O_j = Σ_i A_ij   incoming flow of a sink, outgoing flow of a source
    Î_i = Σ_j A_ij / O_j               incoming flow when every source gives out 1: what a sink is worth
    Ô_j = Σ_i A_ij / I_i               outgoing flow when every sink takes in 1: what a source is worth
    c = S softmax(Ô)    a = σ(Î L/S)   sources compete, sinks are allocated
    out_i = a_i Σ_j (A_ij / I_i) c_j v_j

Wu et al. 2022, Flowformer (arXiv 2202.06258), with the constants of its published code: S and L/S make the means of c
and of the argument of σ equal to 1, and Ô is cut off above `clamp` (1 there) before the softmax. All forms take the
same arguments and agree to rounding:

    q: (b h L d_k); k: (b h S d_k); v: (b h S d_v); L and S may differ. Returns out (b h L d_v) in q's dtype.

`labkit.flow_attention.causal` is for text, where a sink may only draw on the sources up to its own place.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from kernels.inputs import check_clamp, check_q_kv, check_qk, widest

Queries = Float[Tensor, "b h L dk"]
Keys = Float[Tensor, "b h S dk"]
Values = Float[Tensor, "b h S dv"]
Out = Float[Tensor, "b h L dv"]

PIECE = 4096  # tokens, of all heads together, that are worked on at once: they stay in a CPU's cache
EPS = 1e-6  # no feature is smaller, so that no flow is ever 0


class Flows(NamedTuple):
    """What flows through each node: the sums of capacities, and the same after the other side was normalised."""

    incoming: Float[Tensor, "*b L"]
    outgoing: Float[Tensor, "*b S"]
    conserved_incoming: Float[Tensor, "*b L"]
    conserved_outgoing: Float[Tensor, "*b S"]


def phi(x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
    """φ(x) = σ(x) + 10⁻⁶, in the dtype of the sums: capacities must be positive."""
    return Phi.apply(x.to(widest(x)))


class Phi(torch.autograd.Function):
    """φ, of which only the result is kept: φ' = σ (1 − σ)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = torch.sigmoid(x).add_(EPS)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> Tensor:
        sigmoid = ctx.saved_tensors[0] - EPS
        return d_out * sigmoid * (1 - sigmoid)


def weights(q: Queries, k: Keys, *, clamp: float = 1.0) -> Float[Tensor, "b h L S"]:
    """What each sink takes from each source, a_i (A_ij / I_i) c_j, as a matrix: for pictures, at a cost of L S."""
    check_qk(q, k)
    check_clamp(clamp)
    L, S = q.shape[2], k.shape[2]
    capacity = einsum(phi(q), phi(k), "b h i d, b h j d -> b h i j")
    incoming, outgoing = capacity.sum(3, keepdim=True), capacity.sum(2, keepdim=True)
    conserved_incoming = (capacity / outgoing).sum(3, keepdim=True)
    conserved_outgoing = (capacity / incoming).sum(2, keepdim=True)
    competition = S * conserved_outgoing.clamp(max=clamp).softmax(3)
    allocation = torch.sigmoid(conserved_incoming * L / max(S, 1))
    return allocation * capacity / incoming * competition


def pairwise(q: Queries, k: Keys, v: Values, *, clamp: float = 1.0) -> Out:
    """The definition: every capacity is a number in a matrix, and out = weights · v. Cost L S."""
    check_q_kv(q, k, v)
    return (weights(q, k, clamp=clamp) @ v.to(widest(q))).to(q.dtype)


def flows(q: Queries, k: Keys) -> Flows:
    """All four flows without a matrix: a capacity is a product, so its sums are products with a sum.

    Conservation: the conserved incoming flows of a head sum to S, and the conserved outgoing ones to L, exactly.
    """
    check_qk(q, k)
    return flows_of(phi(q), phi(k))


def flows_of(Q: Float[Tensor, "*b L dk"], K: Float[Tensor, "*b S dk"]) -> Flows:
    """`flows` of features φ(q), φ(k)."""
    incoming, outgoing = dot(Q, K.sum(-2)), dot(K, Q.sum(-2))
    conserved_incoming = dot(Q, weighted_sum(K, inverse(outgoing)))
    conserved_outgoing = dot(K, weighted_sum(Q, inverse(incoming)))
    return Flows(incoming, outgoing, conserved_incoming, conserved_outgoing)


def linear(q: Queries, k: Keys, v: Values, *, clamp: float = 1.0) -> Out:
    """The same by associativity, φ(q_i) Σ_j φ(k_j)ᵀ c_j v_j: no matrix of L × S, time and memory linear in both."""
    check_clamp(clamp)
    return network(q, k, v, functools.partial(competition, clamp=clamp), allocation)


def kernel(q: Queries, k: Keys, v: Values, *, clamp: float = 1.0) -> Out:
    """The same as Triton kernels, forward and backward (kernels/flow_attention)."""
    from kernels.flow_attention import flow_attention

    check_q_kv(q, k, v)
    check_clamp(clamp)
    return flow_attention(q, k, v, clamp=clamp)


# ------------------------------------------------------------------ what is left when a part is taken out
def without_competition(q: Queries, k: Keys, v: Values) -> Out:
    """`linear` with all sources alike: c = 1."""
    return network(q, k, v, lambda flow: torch.ones_like(flow.outgoing), allocation)


def without_allocation(q: Queries, k: Keys, v: Values, *, clamp: float = 1.0) -> Out:
    """`linear` with all sinks alike: a = 1."""
    check_clamp(clamp)
    return network(q, k, v, functools.partial(competition, clamp=clamp), lambda flow: torch.ones_like(flow.incoming))


def without_both(q: Queries, k: Keys, v: Values) -> Out:
    """Plain linear attention with the features φ: a mean of v with weights φ(q_i)·φ(k_j) / I_i."""
    return network(q, k, v, lambda flow: torch.ones_like(flow.outgoing), lambda flow: torch.ones_like(flow.incoming))


# ------------------------------------------------------------------ parts
def competition(flow: Flows, clamp: float = math.inf) -> Float[Tensor, "*b S"]:
    """c = S softmax(min(Ô, clamp)): how much of a source is let into the network; the mean over sources is 1."""
    return flow.outgoing.shape[-1] * flow.conserved_outgoing.clamp(max=clamp).softmax(-1)


def allocation(flow: Flows) -> Float[Tensor, "*b L"]:
    """a = σ(Î L/S): how much of what arrives a sink may keep."""
    L, S = flow.incoming.shape[-1], flow.outgoing.shape[-1]
    return torch.sigmoid(flow.conserved_incoming * (L / max(S, 1)))


def network(
    q: Queries, k: Keys, v: Values, compete: Callable[[Flows], Tensor], allocate: Callable[[Flows], Tensor]
) -> Out:
    """a_i (φ(q_i) / I_i) Σ_j φ(k_j)ᵀ c_j v_j with c = compete(flows), a = allocate(flows); a few heads at a time."""
    check_q_kv(q, k, v)
    few = max(1, PIECE // max(q.shape[2], k.shape[2], 1))
    out = []
    for q_n, k_n, v_n in zip(*(x.flatten(0, 1).split(few) for x in (q, k, v)), strict=True):
        Q, K = phi(q_n), phi(k_n)
        flow = flows_of(Q, K)
        memory = K.mT @ (compete(flow)[..., None] * v_n.to(K.dtype))
        out.append((Q @ memory) * (allocate(flow) * inverse(flow.incoming))[..., None])
    return torch.cat(out).unflatten(0, q.shape[:2]).to(q.dtype)


def inverse(flow: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """1 / flow; 1 for a flow of 0, which only a network without another side has."""
    return 1 / (flow + (flow == 0))


def dot(x: Float[Tensor, "*b n d"], vector: Float[Tensor, "*b d"]) -> Float[Tensor, "*b n"]:
    """Each row's product with the head's vector."""
    return (x @ vector[..., None])[..., 0]


def weighted_sum(x: Float[Tensor, "*b n d"], w: Float[Tensor, "*b n"]) -> Float[Tensor, "*b d"]:
    """Σ_n w_n x_n"""
    return (w[..., None, :] @ x)[..., 0, :]
