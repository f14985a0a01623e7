"""The exercise on the kernel: what a program of the output kernel does, in Triton."""

from typing import Any

import torch

import kernels
from labkit.course import Exercise, Mistake, launched

from .draw import tokens

tl: Any = kernels.need()[1] if kernels.WHERE != "nowhere" else None


def read_chunk(q, w, errors, states, out, t, D: "tl.constexpr", CHUNK: "tl.constexpr"):
    n = tl.program_id(0)
    i = n * CHUNK + tl.arange(0, CHUNK)[:, None]
    j = n * CHUNK + tl.arange(0, CHUNK)[None, :]
    d = tl.arange(0, D)[None, :]
    Q = tl.load(q + i * D + d, mask=i < t, other=0.0)
    W = tl.load(w + i * D + d, mask=i < t, other=0.0)
    E = tl.load(errors + i * D + d, mask=i < t, other=0.0)
    S = tl.load(states + n * D * D + tl.arange(0, D)[:, None] * D + d)
    P = tl.where(i >= j, tl.dot(Q, tl.trans(W)), 0.0)
    tl.store(out + i * D + d, tl.dot(Q, S) + tl.dot(P, E), mask=i < t)


def read_chunk_from_its_first_row(q, w, errors, states, out, t, D: "tl.constexpr", CHUNK: "tl.constexpr"):
    n = tl.program_id(0)
    rows = tl.arange(0, CHUNK)
    cols = tl.arange(0, D)
    place = rows[:, None] * D + cols[None, :]
    inside = (n * CHUNK + rows < t)[:, None]
    Q = tl.load(q + n * CHUNK * D + place, mask=inside, other=0.0)
    W = tl.load(w + n * CHUNK * D + place, mask=inside, other=0.0)
    E = tl.load(errors + n * CHUNK * D + place, mask=inside, other=0.0)
    S = tl.load(states + n * D * D + cols[:, None] * D + cols[None, :])
    P = tl.dot(Q, W.T) * (rows[:, None] >= rows[None, :])
    tl.store(out + n * CHUNK * D + place, tl.dot(P, E, acc=tl.dot(Q, S)), mask=inside)


def read_chunk_strict(q, w, errors, states, out, t, D: "tl.constexpr", CHUNK: "tl.constexpr"):
    n = tl.program_id(0)
    i = n * CHUNK + tl.arange(0, CHUNK)[:, None]
    j = n * CHUNK + tl.arange(0, CHUNK)[None, :]
    d = tl.arange(0, D)[None, :]
    Q = tl.load(q + i * D + d, mask=i < t, other=0.0)
    W = tl.load(w + i * D + d, mask=i < t, other=0.0)
    E = tl.load(errors + i * D + d, mask=i < t, other=0.0)
    S = tl.load(states + n * D * D + tl.arange(0, D)[:, None] * D + d)
    P = tl.where(i > j, tl.dot(Q, tl.trans(W)), 0.0)
    tl.store(out + i * D + d, tl.dot(Q, S) + tl.dot(P, E), mask=i < t)


def read_chunk_sees_the_future(q, w, errors, states, out, t, D: "tl.constexpr", CHUNK: "tl.constexpr"):
    n = tl.program_id(0)
    i = n * CHUNK + tl.arange(0, CHUNK)[:, None]
    d = tl.arange(0, D)[None, :]
    Q = tl.load(q + i * D + d, mask=i < t, other=0.0)
    W = tl.load(w + i * D + d, mask=i < t, other=0.0)
    E = tl.load(errors + i * D + d, mask=i < t, other=0.0)
    S = tl.load(states + n * D * D + tl.arange(0, D)[:, None] * D + d)
    tl.store(out + i * D + d, tl.dot(Q, S) + tl.dot(tl.dot(Q, tl.trans(W)), E), mask=i < t)


def read_chunk_without_states(q, w, errors, states, out, t, D: "tl.constexpr", CHUNK: "tl.constexpr"):
    n = tl.program_id(0)
    i = n * CHUNK + tl.arange(0, CHUNK)[:, None]
    j = n * CHUNK + tl.arange(0, CHUNK)[None, :]
    d = tl.arange(0, D)[None, :]
    Q = tl.load(q + i * D + d, mask=i < t, other=0.0)
    W = tl.load(w + i * D + d, mask=i < t, other=0.0)
    E = tl.load(errors + i * D + d, mask=i < t, other=0.0)
    P = tl.where(i >= j, tl.dot(Q, tl.trans(W)), 0.0)
    tl.store(out + i * D + d, tl.dot(P, E), mask=i < t)


def read_chunk_first_state(q, w, errors, states, out, t, D: "tl.constexpr", CHUNK: "tl.constexpr"):
    n = tl.program_id(0)
    i = n * CHUNK + tl.arange(0, CHUNK)[:, None]
    j = n * CHUNK + tl.arange(0, CHUNK)[None, :]
    d = tl.arange(0, D)[None, :]
    Q = tl.load(q + i * D + d, mask=i < t, other=0.0)
    W = tl.load(w + i * D + d, mask=i < t, other=0.0)
    E = tl.load(errors + i * D + d, mask=i < t, other=0.0)
    S = tl.load(states + tl.arange(0, D)[:, None] * D + d)
    P = tl.where(i >= j, tl.dot(Q, tl.trans(W)), 0.0)
    tl.store(out + i * D + d, tl.dot(Q, S) + tl.dot(P, E), mask=i < t)


def read_chunk_next_state(q, w, errors, states, out, t, D: "tl.constexpr", CHUNK: "tl.constexpr"):
    n = tl.program_id(0)
    i = n * CHUNK + tl.arange(0, CHUNK)[:, None]
    j = n * CHUNK + tl.arange(0, CHUNK)[None, :]
    d = tl.arange(0, D)[None, :]
    Q = tl.load(q + i * D + d, mask=i < t, other=0.0)
    W = tl.load(w + i * D + d, mask=i < t, other=0.0)
    E = tl.load(errors + i * D + d, mask=i < t, other=0.0)
    S = tl.load(states + (n + 1) * D * D + tl.arange(0, D)[:, None] * D + d)
    P = tl.where(i >= j, tl.dot(Q, tl.trans(W)), 0.0)
    tl.store(out + i * D + d, tl.dot(Q, S) + tl.dot(P, E), mask=i < t)


def read_chunk_state_on_its_side(q, w, errors, states, out, t, D: "tl.constexpr", CHUNK: "tl.constexpr"):
    n = tl.program_id(0)
    i = n * CHUNK + tl.arange(0, CHUNK)[:, None]
    j = n * CHUNK + tl.arange(0, CHUNK)[None, :]
    d = tl.arange(0, D)[None, :]
    Q = tl.load(q + i * D + d, mask=i < t, other=0.0)
    W = tl.load(w + i * D + d, mask=i < t, other=0.0)
    E = tl.load(errors + i * D + d, mask=i < t, other=0.0)
    S = tl.load(states + n * D * D + d * D + tl.arange(0, D)[:, None])
    P = tl.where(i >= j, tl.dot(Q, tl.trans(W)), 0.0)
    tl.store(out + i * D + d, tl.dot(Q, S) + tl.dot(P, E), mask=i < t)


def read_chunk_first_chunk_only(q, w, errors, states, out, t, D: "tl.constexpr", CHUNK: "tl.constexpr"):
    n = tl.program_id(0)
    i = tl.arange(0, CHUNK)[:, None]
    j = tl.arange(0, CHUNK)[None, :]
    d = tl.arange(0, D)[None, :]
    Q = tl.load(q + i * D + d, mask=i < t, other=0.0)
    W = tl.load(w + i * D + d, mask=i < t, other=0.0)
    E = tl.load(errors + i * D + d, mask=i < t, other=0.0)
    S = tl.load(states + n * D * D + tl.arange(0, D)[:, None] * D + d)
    P = tl.where(i >= j, tl.dot(Q, tl.trans(W)), 0.0)
    tl.store(out + i * D + d, tl.dot(Q, S) + tl.dot(P, E), mask=i < t)


def read_chunk_columns_from_zero(q, w, errors, states, out, t, D: "tl.constexpr", CHUNK: "tl.constexpr"):
    n = tl.program_id(0)
    i = n * CHUNK + tl.arange(0, CHUNK)[:, None]
    j = tl.arange(0, CHUNK)[None, :]
    d = tl.arange(0, D)[None, :]
    Q = tl.load(q + i * D + d, mask=i < t, other=0.0)
    W = tl.load(w + i * D + d, mask=i < t, other=0.0)
    E = tl.load(errors + i * D + d, mask=i < t, other=0.0)
    S = tl.load(states + n * D * D + tl.arange(0, D)[:, None] * D + d)
    P = tl.where(i >= j, tl.dot(Q, tl.trans(W)), 0.0)
    tl.store(out + i * D + d, tl.dot(Q, S) + tl.dot(P, E), mask=i < t)


def read_chunk_unmasked(q, w, errors, states, out, t, D: "tl.constexpr", CHUNK: "tl.constexpr"):
    n = tl.program_id(0)
    i = n * CHUNK + tl.arange(0, CHUNK)[:, None]
    j = n * CHUNK + tl.arange(0, CHUNK)[None, :]
    d = tl.arange(0, D)[None, :]
    Q = tl.load(q + i * D + d)
    W = tl.load(w + i * D + d)
    E = tl.load(errors + i * D + d)
    S = tl.load(states + n * D * D + tl.arange(0, D)[:, None] * D + d)
    P = tl.where(i >= j, tl.dot(Q, tl.trans(W)), 0.0)
    tl.store(out + i * D + d, tl.dot(Q, S) + tl.dot(P, E))


def launch_read_chunk(kernel, q, w, errors, states):
    (n, D, _), t = states.shape, len(q)
    out, chunk = torch.full_like(q, torch.nan), 16
    while n * chunk < t:
        chunk *= 2
    kernel[(n,)](q, w, errors, states, out, t, D, chunk)
    return out


def read_chunk_probes(seed):
    g = torch.Generator().manual_seed(seed)
    shapes = [(13, 16, 1), (32, 32, 2), (37, 16, 3), (41, 16, 2)]
    drawn = [(*tokens(g, t, D, D, torch.float32), torch.randn(n, D, D, generator=g) * D**-0.5) for t, D, n in shapes]
    return [(q, beta[:, None] * k, v, states) for q, k, v, beta, states in drawn]


READ_CHUNK = Exercise(
    id="delta_rule.read_chunk",
    reference=read_chunk,
    through=launched(launch_read_chunk),
    alternatives=[read_chunk_from_its_first_row],
    probes=read_chunk_probes,
    mistakes=[
        Mistake(
            "the token that reads before it writes",
            read_chunk_strict,
            "a token reads its own write, so the diagonal stays, i >= j",
        ),
        Mistake(
            "the output that sees the future",
            read_chunk_sees_the_future,
            "row i reads column j only if i >= j; tl.where does it",
        ),
        Mistake(
            "the output that does not see the states",
            read_chunk_without_states,
            "what came before the chunk is read too, as Q S",
        ),
        Mistake(
            "the program that always reads the first state",
            read_chunk_first_state,
            "states[n] begins n · D · D entries behind states[0]",
        ),
        Mistake(
            "the state of another chunk",
            read_chunk_next_state,
            "there are as many states as programs, and program n reads the one from before its chunk, states[n]",
        ),
        Mistake(
            "the state lying on its side",
            read_chunk_state_on_its_side,
            "its rows belong to keys, and entry (a, b) lies at a · D + b",
        ),
        Mistake(
            "the first chunk computed by every program",
            read_chunk_first_chunk_only,
            "what tells a program which rows are its own? n = tl.program_id(0)",
        ),
        Mistake(
            "the mask that is right in the first chunk only",
            read_chunk_columns_from_zero,
            "i counts tokens from the start of the sequence, and so must j",
        ),
        Mistake(
            "the last chunk taken to be full",
            read_chunk_unmasked,
            "t may end within a chunk, so every load and store of rows i wants mask=i < t",
        ),
    ],
    hints=[
        "Program n owns the rows n · CHUNK … n · CHUNK + CHUNK − 1. At which address does row i of a (t, D) matrix begin?",
        "O = Q S + tril(Q Wᵀ) E,  with row i, column d at x + i · D + d and states[n] at states + n · D · D",
        "rows i (a column), columns j and d (rows); load Q, W, E with mask=i < t, and S; tl.dot, tl.trans, tl.where(i >= j, …, 0.0); store with the same mask",
    ],
    minutes=25,
    difficulty=4,
    lines=10,
)
