"""Backward: what needs no state, the states' gradients from the last chunk to the first, and those of q, k and β."""

from kernels import need
from kernels.delta_rule.forward import keys, lower
from kernels.tiles import load, product, row_of_head, store

triton, tl = need()


@triton.jit(do_not_specialize=["t"])
def delta_backward_outputs(
    q, k, beta, do, dv, t, scale,
    D_K: tl.constexpr, D_V: tl.constexpr, COLS_K: tl.constexpr, COLS_V: tl.constexpr, CHUNK: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """c Pᵀ dO of one chunk, the part of dE that needs no state, into dv."""
    n = tl.program_id(0)
    start = n * CHUNK
    row = row_of_head(t)
    Q = load(q + row * D_K, start, D_K, t, D_K, CHUNK, COLS_K)
    _, _, W = keys(k + row * D_K, beta + row, start, t, D_K, COLS_K, CHUNK)
    P = lower(product(Q, tl.trans(W), SUM, PRECISION), 0, CHUNK).to(Q.dtype)
    for col in range(0, D_V, COLS_V):
        dO = load(do + row * D_V + col, start, D_V, t, D_V - col, CHUNK, COLS_V)
        dE = scale * product(tl.trans(P), dO, SUM, PRECISION)
        store(dv + row * D_V + col, start, dE, D_V, t, D_V - col, CHUNK, COLS_V)


@triton.jit(do_not_specialize=["t"])
def delta_backward_states(
    q, k, beta, inverse, do, d_final, d_states, dv, d_initial, t, scale,
    D_K: tl.constexpr, D_V: tl.constexpr, COLS_K: tl.constexpr, COLS_V: tl.constexpr, CHUNK: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """COLS_V columns of F = dV (dv holds c Pᵀ dO) and of the states' gradients, from the last chunk to the first."""
    col = tl.program_id(0) * COLS_V
    row = row_of_head(t)
    head = row_of_head(D_K) * D_V + col
    chunks = tl.cdiv(t, CHUNK)
    q += row * D_K
    k += row * D_K
    beta += row
    do += row * D_V + col
    dv += row * D_V + col
    inverse += row_of_head(chunks) * CHUNK * CHUNK
    d_states += row_of_head(chunks) * D_K * D_V + col
    dS = load(d_final + head, 0, D_V, D_K, D_V - col, COLS_K, COLS_V)
    for back in range(0, chunks):
        n = chunks - 1 - back
        start = n * CHUNK
        store(d_states, n * D_K, dS, D_V, (n + 1) * D_K, D_V - col, COLS_K, COLS_V)
        K, _, W = keys(k, beta, start, t, D_K, COLS_K, CHUNK)
        T = load(inverse, start, CHUNK, start + CHUNK, CHUNK, CHUNK, CHUNK)
        dE = load(dv, start, D_V, t, D_V - col, CHUNK, COLS_V).to(SUM)
        dE += product(W, dS.to(W.dtype), SUM, PRECISION)
        F = product(tl.trans(T), dE.to(T.dtype), SUM, PRECISION).to(K.dtype)
        store(dv, start, F, D_V, t, D_V - col, CHUNK, COLS_V)
        Q = load(q, start, D_K, t, D_K, CHUNK, COLS_K)
        dO = load(do, start, D_V, t, D_V - col, CHUNK, COLS_V)
        dS += scale * product(tl.trans(Q), dO, SUM, PRECISION) - product(tl.trans(K), F, SUM, PRECISION)
    store(d_initial + head, 0, dS, D_V, D_K, D_V - col, COLS_K, COLS_V)


@triton.jit(do_not_specialize=["t"])
def delta_backward_queries(
    k, beta, states, errors, do, dq, t, scale,
    D_K: tl.constexpr, D_V: tl.constexpr, COLS_K: tl.constexpr, COLS_V: tl.constexpr, CHUNK: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dQ of one chunk, summed over blocks of COLS_V columns."""
    n = tl.program_id(0)
    start = n * CHUNK
    row = row_of_head(t)
    states += (row_of_head(tl.num_programs(0)) + n) * D_K * D_V
    dQ = tl.zeros([CHUNK, COLS_K], SUM)
    dP = tl.zeros([CHUNK, CHUNK], SUM)
    for col in range(0, D_V, COLS_V):
        dO = load(do + row * D_V + col, start, D_V, t, D_V - col, CHUNK, COLS_V)
        E = load(errors + row * D_V + col, start, D_V, t, D_V - col, CHUNK, COLS_V)
        S = load(states + col, 0, D_V, D_K, D_V - col, COLS_K, COLS_V)
        dP += product(dO, tl.trans(E), SUM, PRECISION)
        dQ += product(dO, tl.trans(S), SUM, PRECISION)
    _, _, W = keys(k + row * D_K, beta + row, start, t, D_K, COLS_K, CHUNK)
    dQ += product(lower(dP, 0, CHUNK).to(W.dtype), W, SUM, PRECISION)
    store(dq + row * D_K, start, scale * dQ, D_K, t, D_K, CHUNK, COLS_K)


@triton.jit(do_not_specialize=["t"])
def delta_backward_keys(
    q, k, beta, states, errors, do, d_states, dv, dk, dbeta, t, scale,
    D_K: tl.constexpr, D_V: tl.constexpr, COLS_K: tl.constexpr, COLS_V: tl.constexpr, CHUNK: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dK and dβ of one chunk, summed over blocks of COLS_V columns."""
    n = tl.program_id(0)
    start = n * CHUNK
    row = row_of_head(t)
    here = (row_of_head(tl.num_programs(0)) + n) * D_K * D_V
    dP = tl.zeros([CHUNK, CHUNK], SUM)
    dM = tl.zeros([CHUNK, CHUNK], SUM)
    dK = tl.zeros([CHUNK, COLS_K], SUM)
    dW = tl.zeros([CHUNK, COLS_K], SUM)
    for col in range(0, D_V, COLS_V):
        E = load(errors + row * D_V + col, start, D_V, t, D_V - col, CHUNK, COLS_V)
        dO = load(do + row * D_V + col, start, D_V, t, D_V - col, CHUNK, COLS_V)
        dP += product(dO, tl.trans(E), SUM, PRECISION)
        F = load(dv + row * D_V + col, start, D_V, t, D_V - col, CHUNK, COLS_V)
        dM -= product(F, tl.trans(E), SUM, PRECISION)
        S = load(states + here + col, 0, D_V, D_K, D_V - col, COLS_K, COLS_V)
        dK -= product(F, tl.trans(S), SUM, PRECISION)
        dS = load(d_states + here + col, 0, D_V, D_K, D_V - col, COLS_K, COLS_V)
        dW += product(E, tl.trans(dS), SUM, PRECISION)
    Q = load(q + row * D_K, start, D_K, t, D_K, CHUNK, COLS_K)
    dP = lower(scale * dP, 0, CHUNK).to(Q.dtype)
    dW += product(tl.trans(dP), Q, SUM, PRECISION)
    K, b, W = keys(k + row * D_K, beta + row, start, t, D_K, COLS_K, CHUNK)
    dM = lower(dM, -1, CHUNK).to(K.dtype)
    dK += product(dM, W, SUM, PRECISION)
    dW += product(tl.trans(dM), K, SUM, PRECISION)
    dK += b[:, None] * dW
    i = start + tl.arange(0, CHUNK)
    tl.store(dbeta + row + i, tl.sum(K.to(SUM) * dW, 1), mask=i < t)
    store(dk + row * D_K, start, dK, D_K, t, D_K, CHUNK, COLS_K)
