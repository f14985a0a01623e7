"""Flow attention for text: a sink draws on the sources up to its own place, and the past is a state of fixed size.

Sums become sums over the tokens so far, and what was a sum over all becomes a mean over the n tokens so far:

    I_n = φ(q_n)·Σ_j φ(k_j)                O_n = φ(k_n)·Σ_i φ(q_i)               i, j ≤ n
    Î_n = φ(q_n)·Σ_j φ(k_j) (j / O_j) / n  Ô_n = φ(k_n)·Σ_i φ(q_i) (i / I_i) / n
    c_n = n exp(Ô_n) / Σ_j exp(Ô_j)        a_n = σ(Î_n)                          Ô cut off above `clamp`
    out_n = a_n (φ(q_n) / I_n) Σ_j φ(k_j)ᵀ c_j v_j

Wu et al. 2022, Flowformer (arXiv 2202.06258), the causal version of its published code. A source's outgoing flow has to
be known when it is written, so it is counted to the sinks *before* it, which never draw on it: conservation, exact in
`labkit.flow_attention`, is an analogy here. All forms take the same arguments and agree to rounding:

    q, k: (b h t d_k); v: (b h t d_v); state: a `State`, or None for the beginning of a text.
    Returns (out (b h t d_v) in q's dtype, the state after the last token).

A NaN spoils what comes after it and nothing before it, in every form.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from kernels.inputs import check_chunk, check_clamp, check_part, check_qkv, widest

from .forms import Flows, phi

Queries = Float[Tensor, "b h t dk"]
Values = Float[Tensor, "b h t dv"]

Compete = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]  # (Ô, n, log Σ exp Ô before) -> (c, log Σ after)
Allocate = Callable[[Tensor], Tensor]  # Î -> a

PIECE = 2048  # tokens, of all heads together, that are worked on at once: their matrices stay in a CPU's cache


class State(NamedTuple):
    """All that later tokens need to know of earlier ones, in the dtype of the sums: float32, or float64 for float64."""

    tokens: int  # n
    queries: Float[Tensor, "b h dk"]  # Σ φ(q_i)
    keys: Float[Tensor, "b h dk"]  # Σ φ(k_j)
    conserved_queries: Float[Tensor, "b h dk"]  # Σ φ(q_i) i / I_i
    conserved_keys: Float[Tensor, "b h dk"]  # Σ φ(k_j) j / O_j
    competition: Float[Tensor, "b h"]  # log Σ exp(Ô_j)
    memory: Float[Tensor, "b h dk dv"]  # Σ φ(k_j)ᵀ c_j v_j


def recurrent(
    q: Queries, k: Queries, v: Values, *, state: State | None = None, clamp: float = 1.0
) -> tuple[Values, State]:
    """The definition, one token at a time."""
    check_clamp(clamp)
    n, queries, keys, conserved_queries, conserved_keys, total, memory = started(q, k, v, state)
    out = []
    for Q, K, v_n in zip(*(x.unbind(2) for x in (phi(q), phi(k), v.to(memory.dtype))), strict=True):
        n, queries, keys = n + 1, queries + Q, keys + K
        incoming, outgoing = (Q * keys).sum(-1), (K * queries).sum(-1)
        conserved_queries = conserved_queries + Q * (n / incoming)[..., None]
        conserved_keys = conserved_keys + K * (n / outgoing)[..., None]
        conserved_incoming = (Q * conserved_keys).sum(-1) / n
        conserved_outgoing = ((K * conserved_queries).sum(-1) / n).clamp(max=clamp)
        total = torch.logaddexp(total, conserved_outgoing)
        competition = n * torch.exp(conserved_outgoing - total)
        memory = memory + einsum(K, competition, v_n, "b h dk, b h, b h dv -> b h dk dv")
        share = torch.sigmoid(conserved_incoming) / incoming
        out.append(einsum(share, Q, memory, "b h, b h dk, b h dk dv -> b h dv"))
    end = State(n, queries, keys, conserved_queries, conserved_keys, total, memory)
    return (torch.stack(out, 2) if out else v).to(q.dtype), end


def flows(q: Queries, k: Queries) -> Flows:
    """The four causal flows of a text from its beginning (O and Ô to the sinks up to the source's place)."""
    check_qkv(q, k, k)
    Q, K = phi(q), phi(k)
    n = torch.arange(1, q.shape[2] + 1, dtype=Q.dtype, device=Q.device)
    incoming, outgoing = (Q * K.cumsum(2)).sum(-1), (K * Q.cumsum(2)).sum(-1)
    conserved_incoming = (Q * (K * (n / outgoing)[..., None]).cumsum(2)).sum(-1) / n
    conserved_outgoing = (K * (Q * (n / incoming)[..., None]).cumsum(2)).sum(-1) / n
    return Flows(incoming, outgoing, conserved_incoming, conserved_outgoing)


def chunkwise(
    q: Queries, k: Queries, v: Values, *, state: State | None = None, clamp: float = 1.0, chunk: int = 64
) -> tuple[Values, State]:
    """Chunks of tokens at once, sums of what came before between them: time linear in t, memory O(t d + d²).

    For a backward pass, a row of the capacities and a share of the memories stay too, chunk + d_k d_v / chunk a token.

    A chunk needs one matrix of capacities. Left of its diagonal, a row is what a sink may draw on; above its diagonal,
    a column is what a source's outgoing flow is counted by.
    """
    check_clamp(clamp)
    return network(q, k, v, state, functools.partial(compete, clamp=clamp), torch.sigmoid, chunk)


def kernel(
    q: Queries, k: Queries, v: Values, *, state: State | None = None, clamp: float = 1.0, chunk: int = 64
) -> tuple[Values, State]:
    """The same as Triton kernels, forward and backward (kernels/flow_attention); chunk is a power of two, 16 to 128."""
    from kernels.flow_attention import causal_flow_attention

    check_clamp(clamp)
    state = started(q, k, v, state)

    def run(q: Tensor, k: Tensor, v: Tensor, state: State) -> tuple[Tensor, State]:
        out, end = causal_flow_attention(q, k, v, state.tokens, state[1:], clamp=clamp, chunk=chunk)
        return out, State(state.tokens + q.shape[2], *end)

    return sealed(run, q, k, v, state)


def weights(q: Queries, k: Queries, *, clamp: float = 1.0) -> Float[Tensor, "b h t t"]:
    """What each token takes from those up to it, a_n (A_nj / I_n) c_j, as a matrix: for pictures, at a cost of t²."""
    check_clamp(clamp)
    flow, capacity = flows(q, k), einsum(phi(q), phi(k), "b h i d, b h j d -> b h i j").tril()
    n = torch.arange(1, q.shape[2] + 1, dtype=capacity.dtype, device=q.device)
    c, _ = compete(flow.conserved_outgoing, n, capacity.new_full(q.shape[:2], -math.inf), clamp)
    share = torch.sigmoid(flow.conserved_incoming) / flow.incoming
    return share[..., None] * capacity * c[..., None, :]


# ------------------------------------------------------------------ what is left when a part is taken out
def without_competition(
    q: Queries, k: Queries, v: Values, *, state: State | None = None, chunk: int = 64
) -> tuple[Values, State]:
    """`chunkwise` with all sources alike: c = 1."""
    return network(q, k, v, state, all_alike, torch.sigmoid, chunk)


def without_allocation(
    q: Queries, k: Queries, v: Values, *, state: State | None = None, clamp: float = 1.0, chunk: int = 64
) -> tuple[Values, State]:
    """`chunkwise` with all sinks alike: a = 1."""
    check_clamp(clamp)
    return network(q, k, v, state, functools.partial(compete, clamp=clamp), torch.ones_like, chunk)


def without_both(
    q: Queries, k: Queries, v: Values, *, state: State | None = None, chunk: int = 64
) -> tuple[Values, State]:
    """Plain causal linear attention with the features φ: a mean of v so far with weights φ(q_n)·φ(k_j) / I_n."""
    return network(q, k, v, state, all_alike, torch.ones_like, chunk)


# ------------------------------------------------------------------ parts
def network(
    q: Queries, k: Queries, v: Values, state: State | None, compete: Compete, allocate: Allocate, chunk: int
) -> tuple[Values, State]:
    """`piece` after `piece`; the tokens after the last whole chunk are a short chunk of their own."""
    state = started(q, k, v, state)
    check_chunk(chunk)
    t, dtype = q.shape[2], state.memory.dtype
    step = chunk * max(1, PIECE // max(1, chunk * q.shape[:2].numel()))
    cuts = [step] * (t // step) + [n for n in (t % step // chunk * chunk, t % chunk) if n]

    def run(q: Tensor, k: Tensor, v: Tensor, state: State) -> tuple[Tensor, State]:
        out = [v[:, :, :0].to(dtype)]
        for q_p, k_p, v_p in zip(*(x.split(cuts, 2) for x in (q, k, v)), strict=True):
            c = min(chunk, q_p.shape[2])
            O, state = piece(phi(q_p), phi(k_p), v_p.to(dtype), state, compete, allocate, c)
            out.append(O)
        return torch.cat(out, 2), state

    out, end = sealed(run, q, k, v, state)
    return out.to(q.dtype), end


def piece(
    Q: Queries, K: Queries, V: Values, state: State, compete: Compete, allocate: Allocate, c: int
) -> tuple[Values, State]:
    """A few whole chunks of c tokens, of features φ(q), φ(k). Capital letters have the axes (b h n c d): n chunks."""
    Q, K, V = (x.unflatten(2, (-1, c)) for x in (Q, K, V))
    place = state.tokens + torch.arange(1, Q.shape[2] * c + 1, dtype=Q.dtype, device=Q.device).view(-1, c)
    capacity = Q @ K.mT
    to_sinks, from_sources = capacity.tril(), capacity.triu().mT
    queries, keys = before(state.queries, Q.sum(3)), before(state.keys, K.sum(3))
    incoming = to_sinks.sum(4) + dot(Q, keys[:, :, :-1])
    outgoing = from_sources.sum(4) + dot(K, queries[:, :, :-1])

    u, w = (place / incoming)[..., None], (place / outgoing)[..., None]
    conserved_queries = before(state.conserved_queries, (u * Q).sum(3))
    conserved_keys = before(state.conserved_keys, (w * K).sum(3))
    conserved_incoming = ((to_sinks @ w)[..., 0] + dot(Q, conserved_keys[:, :, :-1])) / place
    conserved_outgoing = ((from_sources @ u)[..., 0] + dot(K, conserved_queries[:, :, :-1])) / place

    c_n, total = compete(conserved_outgoing.flatten(2), place.flatten(), state.competition)
    V = V * c_n.view(incoming.shape)[..., None]
    memory = before(state.memory, K.mT @ V)
    share = allocate(conserved_incoming) / incoming
    out = (to_sinks @ V + Q @ memory[:, :, :-1]) * share[..., None]
    sums = [x[:, :, -1] for x in (queries, keys, conserved_queries, conserved_keys)] + [total, memory[:, :, -1]]
    return out.flatten(2, 3), State(state.tokens + place.numel(), *sums)


def compete(
    conserved_outgoing: Float[Tensor, "b h t"], place: Float[Tensor, " t"], total: Float[Tensor, "b h"], clamp: float
) -> tuple[Float[Tensor, "b h t"], Float[Tensor, "b h"]]:
    """c = n exp(Ô) / (running sum of exp(Ô)), and the log of the last sum; in log space, so that nothing overflows."""
    strength = conserved_outgoing.clamp(max=clamp)
    totals = torch.cat([total[..., None], strength], -1).logcumsumexp(-1)
    return place * torch.exp(strength - totals[..., 1:]), totals[..., -1]


def all_alike(
    conserved_outgoing: Float[Tensor, "b h t"], place: Float[Tensor, " t"], total: Float[Tensor, "b h"]
) -> tuple[Float[Tensor, "b h t"], Float[Tensor, "b h"]]:
    """c = 1, in the place of `compete`."""
    return torch.ones_like(conserved_outgoing), total


def before(start: Float[Tensor, "b h *d"], sums: Float[Tensor, "b h n *d"]) -> Float[Tensor, "b h n+1 *d"]:
    """The sum before each chunk, and last the one after all of them."""
    return torch.cat([start.unsqueeze(2), sums], 2).cumsum(2)


def dot(x: Float[Tensor, "*n c d"], vector: Float[Tensor, "*n d"]) -> Float[Tensor, "*n c"]:
    """Each row's product with its chunk's vector."""
    return (x @ vector[..., None])[..., 0]


def started(q: Tensor, k: Tensor, v: Tensor, state: State | None) -> State:
    """The state to begin with, in the dtype of the sums; bad input is refused in one line."""
    check_qkv(q, k, v)
    (b, h, _, dk), dv, wide = q.shape, v.shape[3], widest(q)
    shapes = [(b, h, dk)] * 4 + [(b, h), (b, h, dk, dv)]
    if state is None:
        start = State(0, *(torch.zeros(shape, dtype=wide, device=q.device) for shape in shapes))
        return start._replace(competition=start.competition - math.inf)
    if not isinstance(state, State):
        raise ValueError(f"state: expected a State that a causal form returned, or None, got {type(state).__name__}")
    for name, part, shape in zip(State._fields[1:], state[1:], shapes, strict=True):
        check_part(f"state.{name}", part, shape, q)
    return State(state.tokens, *(x.to(wide) for x in state[1:]))


def sealed(
    form: Callable[..., tuple[Tensor, State]], q: Queries, k: Queries, v: Values, state: State
) -> tuple[Values, State]:
    """form(q, k, v, state) with NaN only from the first token on that is not finite (from v, in its column).

    A matrix product spreads a NaN to all rows of its chunk, even times zero. So the same runs with 0 in the place of
    what is not finite, and NaN is put where it leads.
    """
    out, end = form(q, k, v, state)
    if out.detach().sum().isfinite():
        return out, end
    lost = torch.stack([x.isnan().any(-1) for x in state[1:5]]).any(0) | state.competition.isnan()  # (b h)
    tokens = torch.cat([lost[..., None], (q.isnan() | k.isnan()).any(-1)], 2).cumsum(2) > 0  # (b h t+1)
    columns = torch.cat([~state.memory.isfinite().all(2, keepdim=True), ~v.isfinite()], 2).cumsum(2) > 0
    spoiled = columns | tokens[..., None]  # (b h t+1 d_v)
    clean = State(state.tokens, *(x.nan_to_num(0, posinf=0, neginf=-math.inf) for x in state[1:]))
    out, end = form(*(x.masked_fill(x.isnan(), 0) for x in (q, k)), v.nan_to_num(0, 0, 0), clean)
    lost = tokens[:, :, -1]
    sums = [x.masked_fill(lost if x.ndim == 2 else lost[..., None], torch.nan) for x in end[1:6]]
    sums.append(end.memory.masked_fill(spoiled[:, :, -1:], torch.nan))
    return out.masked_fill(spoiled[:, :, 1:], torch.nan), State(end.tokens, *sums)
