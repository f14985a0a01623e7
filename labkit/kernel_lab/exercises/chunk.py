"""The last puzzle: a chunk of linear attention, everything that enters it read once."""

from typing import Any

import torch

import kernels
from labkit.course import Exercise, Mistake, call
from labkit.kernel_lab.metered import metered, unwritten

tl: Any = kernels.need()[1] if kernels.WHERE != "nowhere" else None


def linear_attention(
    q, k, v, state, out, new_state, t, D_K: "tl.constexpr", D_V: "tl.constexpr", CHUNK: "tl.constexpr"
):
    h = tl.program_id(0)
    i, j = tl.arange(0, CHUNK)[:, None], tl.arange(0, CHUNK)[None, :]
    a, b = tl.arange(0, D_K), tl.arange(0, D_V)[None, :]
    of_keys, of_values = (h * t + i) * D_K + a[None, :], (h * t + i) * D_V + b
    of_state = (h * D_K + a[:, None]) * D_V + b
    Q = tl.load(q + of_keys, mask=i < t, other=0.0)
    K = tl.load(k + of_keys, mask=i < t, other=0.0)
    V = tl.load(v + of_values, mask=i < t, other=0.0)
    S = tl.load(state + of_state)
    P = tl.where(i >= j, tl.dot(Q, tl.trans(K)), 0.0)
    tl.store(out + of_values, tl.dot(Q, S) + tl.dot(P, V), mask=i < t)
    tl.store(new_state + of_state, S + tl.dot(tl.trans(K), V))


def linear_attention_from_its_first_row(
    q, k, v, state, out, new_state, t, D_K: "tl.constexpr", D_V: "tl.constexpr", CHUNK: "tl.constexpr"
):
    h = tl.program_id(0)
    row, a, b = tl.arange(0, CHUNK), tl.arange(0, D_K), tl.arange(0, D_V)
    inside = (row < t)[:, None]
    keys, values = row[:, None] * D_K + a[None, :], row[:, None] * D_V + b[None, :]
    state += h * D_K * D_V
    new_state += h * D_K * D_V
    S = tl.load(state + a[:, None] * D_V + b[None, :])
    V = tl.load(v + h * t * D_V + values, mask=inside, other=0.0)
    K = tl.load(k + h * t * D_K + keys, mask=inside, other=0.0)
    tl.store(new_state + a[:, None] * D_V + b[None, :], tl.dot(K.T, V, acc=S))
    Q = tl.load(q + h * t * D_K + keys, mask=inside, other=0.0)
    P = tl.dot(Q, K.T) * (row[:, None] >= row[None, :])
    tl.store(out + h * t * D_V + values, tl.dot(P, V, acc=tl.dot(Q, S)), mask=inside)


def linear_attention_strict(
    q, k, v, state, out, new_state, t, D_K: "tl.constexpr", D_V: "tl.constexpr", CHUNK: "tl.constexpr"
):
    h = tl.program_id(0)
    i, j = tl.arange(0, CHUNK)[:, None], tl.arange(0, CHUNK)[None, :]
    a, b = tl.arange(0, D_K), tl.arange(0, D_V)[None, :]
    of_keys, of_values = (h * t + i) * D_K + a[None, :], (h * t + i) * D_V + b
    of_state = (h * D_K + a[:, None]) * D_V + b
    Q = tl.load(q + of_keys, mask=i < t, other=0.0)
    K = tl.load(k + of_keys, mask=i < t, other=0.0)
    V = tl.load(v + of_values, mask=i < t, other=0.0)
    S = tl.load(state + of_state)
    P = tl.where(i > j, tl.dot(Q, tl.trans(K)), 0.0)
    tl.store(out + of_values, tl.dot(Q, S) + tl.dot(P, V), mask=i < t)
    tl.store(new_state + of_state, S + tl.dot(tl.trans(K), V))


def linear_attention_sees_the_future(
    q, k, v, state, out, new_state, t, D_K: "tl.constexpr", D_V: "tl.constexpr", CHUNK: "tl.constexpr"
):
    h = tl.program_id(0)
    i = tl.arange(0, CHUNK)[:, None]
    a, b = tl.arange(0, D_K), tl.arange(0, D_V)[None, :]
    of_keys, of_values = (h * t + i) * D_K + a[None, :], (h * t + i) * D_V + b
    of_state = (h * D_K + a[:, None]) * D_V + b
    Q = tl.load(q + of_keys, mask=i < t, other=0.0)
    K = tl.load(k + of_keys, mask=i < t, other=0.0)
    V = tl.load(v + of_values, mask=i < t, other=0.0)
    S = tl.load(state + of_state)
    P = tl.dot(Q, tl.trans(K))
    tl.store(out + of_values, tl.dot(Q, S) + tl.dot(P, V), mask=i < t)
    tl.store(new_state + of_state, S + tl.dot(tl.trans(K), V))


def linear_attention_without_state(
    q, k, v, state, out, new_state, t, D_K: "tl.constexpr", D_V: "tl.constexpr", CHUNK: "tl.constexpr"
):
    h = tl.program_id(0)
    i, j = tl.arange(0, CHUNK)[:, None], tl.arange(0, CHUNK)[None, :]
    a, b = tl.arange(0, D_K), tl.arange(0, D_V)[None, :]
    of_keys, of_values = (h * t + i) * D_K + a[None, :], (h * t + i) * D_V + b
    of_state = (h * D_K + a[:, None]) * D_V + b
    Q = tl.load(q + of_keys, mask=i < t, other=0.0)
    K = tl.load(k + of_keys, mask=i < t, other=0.0)
    V = tl.load(v + of_values, mask=i < t, other=0.0)
    S = tl.load(state + of_state)
    P = tl.where(i >= j, tl.dot(Q, tl.trans(K)), 0.0)
    tl.store(out + of_values, tl.dot(P, V), mask=i < t)
    tl.store(new_state + of_state, S + tl.dot(tl.trans(K), V))


def linear_attention_forgets(
    q, k, v, state, out, new_state, t, D_K: "tl.constexpr", D_V: "tl.constexpr", CHUNK: "tl.constexpr"
):
    h = tl.program_id(0)
    i, j = tl.arange(0, CHUNK)[:, None], tl.arange(0, CHUNK)[None, :]
    a, b = tl.arange(0, D_K), tl.arange(0, D_V)[None, :]
    of_keys, of_values = (h * t + i) * D_K + a[None, :], (h * t + i) * D_V + b
    of_state = (h * D_K + a[:, None]) * D_V + b
    Q = tl.load(q + of_keys, mask=i < t, other=0.0)
    K = tl.load(k + of_keys, mask=i < t, other=0.0)
    V = tl.load(v + of_values, mask=i < t, other=0.0)
    S = tl.load(state + of_state)
    P = tl.where(i >= j, tl.dot(Q, tl.trans(K)), 0.0)
    tl.store(out + of_values, tl.dot(Q, S) + tl.dot(P, V), mask=i < t)
    tl.store(new_state + of_state, tl.dot(tl.trans(K), V))


def linear_attention_reads_the_new_state(
    q, k, v, state, out, new_state, t, D_K: "tl.constexpr", D_V: "tl.constexpr", CHUNK: "tl.constexpr"
):
    h = tl.program_id(0)
    i, j = tl.arange(0, CHUNK)[:, None], tl.arange(0, CHUNK)[None, :]
    a, b = tl.arange(0, D_K), tl.arange(0, D_V)[None, :]
    of_keys, of_values = (h * t + i) * D_K + a[None, :], (h * t + i) * D_V + b
    of_state = (h * D_K + a[:, None]) * D_V + b
    Q = tl.load(q + of_keys, mask=i < t, other=0.0)
    K = tl.load(k + of_keys, mask=i < t, other=0.0)
    V = tl.load(v + of_values, mask=i < t, other=0.0)
    S = tl.load(state + of_state)
    S += tl.dot(tl.trans(K), V)
    P = tl.where(i >= j, tl.dot(Q, tl.trans(K)), 0.0)
    tl.store(out + of_values, tl.dot(Q, S) + tl.dot(P, V), mask=i < t)
    tl.store(new_state + of_state, S)


def linear_attention_unmasked(
    q, k, v, state, out, new_state, t, D_K: "tl.constexpr", D_V: "tl.constexpr", CHUNK: "tl.constexpr"
):
    h = tl.program_id(0)
    i, j = tl.arange(0, CHUNK)[:, None], tl.arange(0, CHUNK)[None, :]
    a, b = tl.arange(0, D_K), tl.arange(0, D_V)[None, :]
    of_keys, of_values = (h * t + i) * D_K + a[None, :], (h * t + i) * D_V + b
    of_state = (h * D_K + a[:, None]) * D_V + b
    Q = tl.load(q + of_keys)
    K = tl.load(k + of_keys)
    V = tl.load(v + of_values)
    S = tl.load(state + of_state)
    P = tl.where(i >= j, tl.dot(Q, tl.trans(K)), 0.0)
    tl.store(out + of_values, tl.dot(Q, S) + tl.dot(P, V))
    tl.store(new_state + of_state, S + tl.dot(tl.trans(K), V))


def linear_attention_loads_twice(
    q, k, v, state, out, new_state, t, D_K: "tl.constexpr", D_V: "tl.constexpr", CHUNK: "tl.constexpr"
):
    h = tl.program_id(0)
    i, j = tl.arange(0, CHUNK)[:, None], tl.arange(0, CHUNK)[None, :]
    a, b = tl.arange(0, D_K), tl.arange(0, D_V)[None, :]
    of_keys, of_values = (h * t + i) * D_K + a[None, :], (h * t + i) * D_V + b
    of_state = (h * D_K + a[:, None]) * D_V + b
    Q = tl.load(q + of_keys, mask=i < t, other=0.0)
    K = tl.load(k + of_keys, mask=i < t, other=0.0)
    V = tl.load(v + of_values, mask=i < t, other=0.0)
    S = tl.load(state + of_state)
    P = tl.where(i >= j, tl.dot(Q, tl.trans(K)), 0.0)
    tl.store(out + of_values, tl.dot(Q, S) + tl.dot(P, V), mask=i < t)
    K = tl.load(k + of_keys, mask=i < t, other=0.0)
    V = tl.load(v + of_values, mask=i < t, other=0.0)
    S = tl.load(state + of_state)
    tl.store(new_state + of_state, S + tl.dot(tl.trans(K), V))


def launch_linear_attention(kernel, q, k, v, state, CHUNK):
    (h, t, d_k), d_v = q.shape, v.shape[2]
    out, new_state = unwritten(v, *v.shape), unwritten(state, *state.shape)
    kernel[(h,)](q, k, v, state, out, new_state, t, D_K=d_k, D_V=d_v, CHUNK=CHUNK)
    return {"out": out, "new_state": new_state}


def least_of_linear_attention(q, k, v, state, CHUNK):
    """Every input once, every result once."""
    return q.numel() + k.numel() + v.numel() + state.numel(), v.numel() + state.numel()


def linear_attention_probes(seed):
    g = torch.Generator().manual_seed(seed)

    def drawn(*shape):
        return torch.randn(shape, generator=g) * shape[-1] ** -0.5

    shapes = [(1, 5, 16, 32, 16), (2, 16, 32, 16, 16), (2, 19, 16, 16, 32)]
    return [
        call(drawn(h, t, d_k), drawn(h, t, d_k), drawn(h, t, d_v), drawn(h, d_k, d_v), CHUNK=chunk)
        for h, t, d_k, d_v, chunk in shapes
    ]


LINEAR_ATTENTION = Exercise(
    id="kernel_lab.linear_attention",
    reference=linear_attention,
    through=metered(launch_linear_attention, least_of_linear_attention),
    alternatives=[linear_attention_from_its_first_row],
    probes=linear_attention_probes,
    mistakes=[
        Mistake(
            "the token that does not see itself",
            linear_attention_strict,
            "a token reads its own key and value, so the diagonal stays, i >= j",
        ),
        Mistake(
            "the output that sees the future",
            linear_attention_sees_the_future,
            "row i reads column j only if i >= j; tl.where does it",
        ),
        Mistake(
            "the output that does not see the state",
            linear_attention_without_state,
            "what came before the chunk is read too, as Q S",
        ),
        Mistake(
            "the state that forgets what came before",
            linear_attention_forgets,
            "the new state is the old one plus Kᵀ V",
        ),
        Mistake(
            "the output that reads the chunk twice over",
            linear_attention_reads_the_new_state,
            "the chunk's own tokens come through P V; Q reads the state from before the chunk",
        ),
        Mistake(
            "the chunk taken to be full",
            linear_attention_unmasked,
            "the chunk has t tokens, which may be fewer than CHUNK: mask=i < t",
        ),
        Mistake(
            "the kernel that loads its inputs twice",
            linear_attention_loads_twice,
            "out and the new state need the same K, V and S, and these are in registers already",
        ),
    ],
    hints=[
        "What does a token read from the tokens before the chunk, and what from those inside it? Which tiles do out and the new state share?",
        "O = Q S + tril(Q Kᵀ) V,  S′ = S + Kᵀ V,  with head h of q at q + h · t · D_K and of the state at state + h · D_K · D_V",
        "load Q, K, V with mask=i < t, other=0.0, and S; P = tl.where(i >= j, tl.dot(Q, tl.trans(K)), 0.0); store Q S + P V masked, and S + tl.trans(K) V",
    ],
    minutes=25,
    difficulty=5,
    lines=12,
)
