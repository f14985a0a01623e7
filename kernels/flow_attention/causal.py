"""Flow attention for text, a program a chunk. What lies before a chunk, or after it, has been summed up already."""

from kernels import need
from kernels.flow_attention.whole import features, numbers, put, slope
from kernels.tiles import load, product, row_of_head, store

triton, tl = need()


@triton.jit
def capacities(
    q, k, start, t, D_K: tl.constexpr, COLS_K: tl.constexpr, CHUNK: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """φ(q), φ(k) of one chunk, and their products: to each sink from the sources up to it, and from each source to the
    sinks up to it."""
    Q = features(q + row_of_head(t) * D_K, start, t, D_K, CHUNK, COLS_K, SUM)
    K = features(k + row_of_head(t) * D_K, start, t, D_K, CHUNK, COLS_K, SUM)
    A = product(Q, tl.trans(K), SUM, PRECISION)
    i = tl.arange(0, CHUNK)
    return Q, K, tl.where(i[:, None] >= i[None, :], A, 0.0), tl.where(i[:, None] <= i[None, :], A, 0.0)


@triton.jit
def places(start, first, CHUNK: tl.constexpr, SUM: tl.constexpr):
    """n = 1, 2, … of the tokens of a chunk, in a text of which `first` tokens came before."""
    return (first + start + 1 + tl.arange(0, CHUNK)).to(SUM)


@triton.jit
def per_flow(flows, start, first, t, CHUNK: tl.constexpr, SUM: tl.constexpr):
    """n / flow, zero beyond the text."""
    flow = numbers(flows, start, t, CHUNK)
    return tl.where(flow > 0, places(start, first, CHUNK, SUM) / flow, 0.0)


@triton.jit(do_not_specialize=["t", "first"])
def causal_flows(
    q, k, before, flows, sums, t, first,
    D_K: tl.constexpr, D_V: tl.constexpr, COLS_K: tl.constexpr, COLS_V: tl.constexpr, CHUNK: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """I and O of one chunk, and its Σ φ(q_i) i / I_i and Σ φ(k_j) j / O_j.

    before: (b h n+1 2 d_k), Σ φ(q) and Σ φ(k) before each chunk; flows: (b h 2 t); sums: (b h n 2 d_k).
    """
    n = tl.program_id(0)
    start = n * CHUNK
    chunks = tl.num_programs(0)
    before += (row_of_head(chunks + 1) + n) * 2 * D_K
    sums += (row_of_head(chunks) + n) * 2 * D_K
    flows += row_of_head(t) * 2
    Q, K, to_sinks, from_sources = capacities(q, k, start, t, D_K, COLS_K, CHUNK, SUM, PRECISION)
    incoming = tl.sum(to_sinks, 1) + tl.sum(Q * numbers(before + D_K, 0, D_K, COLS_K)[None, :], 1)
    outgoing = tl.sum(from_sources, 0) + tl.sum(K * numbers(before, 0, D_K, COLS_K)[None, :], 1)
    put(flows, start, incoming, t, CHUNK)
    put(flows + t, start, outgoing, t, CHUNK)
    place = places(start, first, CHUNK, SUM)
    u = place / tl.where(incoming > 0, incoming, 1.0)
    w = place / tl.where(outgoing > 0, outgoing, 1.0)
    put(sums, 0, tl.sum(u[:, None] * Q, 0), D_K, COLS_K)
    put(sums + D_K, 0, tl.sum(w[:, None] * K, 0), D_K, COLS_K)


@triton.jit(do_not_specialize=["t", "first"])
def causal_conserved(
    q, k, before, flows, conserved, t, first,
    D_K: tl.constexpr, D_V: tl.constexpr, COLS_K: tl.constexpr, COLS_V: tl.constexpr, CHUNK: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Î and Ô of one chunk. before: (b h n+1 2 d_k), Σ φ(q_i) i / I_i and Σ φ(k_j) j / O_j before each chunk."""
    n = tl.program_id(0)
    start = n * CHUNK
    before += (row_of_head(tl.num_programs(0) + 1) + n) * 2 * D_K
    flows += row_of_head(t) * 2
    conserved += row_of_head(t) * 2
    Q, K, to_sinks, from_sources = capacities(q, k, start, t, D_K, COLS_K, CHUNK, SUM, PRECISION)
    u = per_flow(flows, start, first, t, CHUNK, SUM)
    w = per_flow(flows + t, start, first, t, CHUNK, SUM)
    incoming = tl.sum(to_sinks * w[None, :], 1) + tl.sum(Q * numbers(before + D_K, 0, D_K, COLS_K)[None, :], 1)
    outgoing = tl.sum(from_sources * u[:, None], 0) + tl.sum(K * numbers(before, 0, D_K, COLS_K)[None, :], 1)
    place = places(start, first, CHUNK, SUM)
    put(conserved, start, incoming / place, t, CHUNK)
    put(conserved + t, start, outgoing / place, t, CHUNK)


@triton.jit(do_not_specialize=["t", "first"])
def causal_backward_sums(
    q, k, after, flows, direct, weights, d_flows, sums, t, first,
    D_K: tl.constexpr, D_V: tl.constexpr, COLS_K: tl.constexpr, COLS_V: tl.constexpr, CHUNK: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dI and dO of one chunk, and its Σ dI_i φ(q_i) and Σ dO_j φ(k_j).

    weights: (b h 2 t), dÎ / n and dÔ / n; after: (b h n+1 2 d_k), Σ φ(q) dÎ / n and Σ φ(k) dÔ / n from each chunk on;
    direct: (b h 2 t), what arrives at I and O themselves.
    """
    n = tl.program_id(0)
    start = n * CHUNK
    chunks = tl.num_programs(0)
    after += (row_of_head(chunks + 1) + n + 1) * 2 * D_K
    sums += (row_of_head(chunks) + n) * 2 * D_K
    token = row_of_head(t) * 2
    flows += token
    direct += token
    weights += token
    d_flows += token
    Q, K, to_sinks, from_sources = capacities(q, k, start, t, D_K, COLS_K, CHUNK, SUM, PRECISION)
    s = numbers(weights, start, t, CHUNK)
    r = numbers(weights + t, start, t, CHUNK)
    du = tl.sum(from_sources * r[None, :], 1) + tl.sum(Q * numbers(after + D_K, 0, D_K, COLS_K)[None, :], 1)
    dw = tl.sum(to_sinks * s[:, None], 0) + tl.sum(K * numbers(after, 0, D_K, COLS_K)[None, :], 1)
    u = per_flow(flows, start, first, t, CHUNK, SUM)
    w = per_flow(flows + t, start, first, t, CHUNK, SUM)
    place = places(start, first, CHUNK, SUM)
    d_incoming = numbers(direct, start, t, CHUNK) - du * u * u / place
    d_outgoing = numbers(direct + t, start, t, CHUNK) - dw * w * w / place
    put(d_flows, start, d_incoming, t, CHUNK)
    put(d_flows + t, start, d_outgoing, t, CHUNK)
    put(sums, 0, tl.sum(d_incoming[:, None] * Q, 0), D_K, COLS_K)
    put(sums + D_K, 0, tl.sum(d_outgoing[:, None] * K, 0), D_K, COLS_K)


@triton.jit(do_not_specialize=["t", "first"])
def causal_backward_flows(
    q, k, before, after, flows, weights, d_flows, dq, dk, t, first,
    D_K: tl.constexpr, D_V: tl.constexpr, COLS_K: tl.constexpr, COLS_V: tl.constexpr, CHUNK: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What q and k of one chunk get through the flows. dA is the gradient of its capacities.

    before: (b h n+1 4 d_k), Σ φ(q), Σ φ(k), Σ φ(q) i / I_i, Σ φ(k) j / O_j before each chunk;
    after: (b h n+1 4 d_k), Σ φ(q) dÎ / n, Σ φ(k) dÔ / n, Σ φ(q) dI, Σ φ(k) dO from each chunk on.
    """
    n = tl.program_id(0)
    start = n * CHUNK
    chunks = tl.num_programs(0)
    before += (row_of_head(chunks + 1) + n) * 4 * D_K
    after += (row_of_head(chunks + 1) + n + 1) * 4 * D_K
    row = row_of_head(t)
    u = per_flow(flows + 2 * row, start, first, t, CHUNK, SUM)
    w = per_flow(flows + 2 * row + t, start, first, t, CHUNK, SUM)
    s = numbers(weights + 2 * row, start, t, CHUNK)
    r = numbers(weights + 2 * row + t, start, t, CHUNK)
    d_incoming = numbers(d_flows + 2 * row, start, t, CHUNK)
    d_outgoing = numbers(d_flows + 2 * row + t, start, t, CHUNK)
    i = tl.arange(0, CHUNK)
    dA = tl.where(i[:, None] >= i[None, :], d_incoming[:, None] + s[:, None] * w[None, :], 0.0)
    dA += tl.where(i[:, None] <= i[None, :], d_outgoing[None, :] + u[:, None] * r[None, :], 0.0)
    Q = features(q + row * D_K, start, t, D_K, CHUNK, COLS_K, SUM)
    K = features(k + row * D_K, start, t, D_K, CHUNK, COLS_K, SUM)
    dQ = product(dA, K, SUM, PRECISION) + numbers(after + 3 * D_K, 0, D_K, COLS_K)[None, :]
    dQ += d_incoming[:, None] * numbers(before + D_K, 0, D_K, COLS_K)[None, :]
    dQ += s[:, None] * numbers(before + 3 * D_K, 0, D_K, COLS_K)[None, :]
    dQ += u[:, None] * numbers(after + D_K, 0, D_K, COLS_K)[None, :]
    store(dq + row * D_K, start, dQ * slope(Q), D_K, t, D_K, CHUNK, COLS_K)
    dK = product(tl.trans(dA), Q, SUM, PRECISION) + numbers(after + 2 * D_K, 0, D_K, COLS_K)[None, :]
    dK += d_outgoing[:, None] * numbers(before, 0, D_K, COLS_K)[None, :]
    dK += r[:, None] * numbers(before + 2 * D_K, 0, D_K, COLS_K)[None, :]
    dK += w[:, None] * numbers(after, 0, D_K, COLS_K)[None, :]
    store(dk + row * D_K, start, dK * slope(K), D_K, t, D_K, CHUNK, COLS_K)


@triton.jit(do_not_specialize=["t"])
def causal_read(
    q, k, v, share, c, before, out, t,
    D_K: tl.constexpr, D_V: tl.constexpr, COLS_K: tl.constexpr, COLS_V: tl.constexpr, CHUNK: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """share_i φ(q_i) · Σ_j φ(k_j)ᵀ c_j v_j, j ≤ i, for one chunk, COLS_V columns at a time.

    before: (b h n+1 d_k d_v), Σ φ(k)ᵀ c v before each chunk.
    """
    n = tl.program_id(0)
    start = n * CHUNK
    row = row_of_head(t)
    before += (row_of_head(tl.num_programs(0) + 1) + n) * D_K * D_V
    Q, _, P, _ = capacities(q, k, start, t, D_K, COLS_K, CHUNK, SUM, PRECISION)
    P *= numbers(c + row, start, t, CHUNK)[None, :]
    portion = numbers(share + row, start, t, CHUNK)[:, None]
    for col in range(0, D_V, COLS_V):
        M = load(before + col, 0, D_V, D_K, D_V - col, COLS_K, COLS_V)
        V = load(v + row * D_V + col, start, D_V, t, D_V - col, CHUNK, COLS_V).to(SUM)
        O = product(Q, M, SUM, PRECISION) + product(P, V, SUM, PRECISION)
        store(out + row * D_V + col, start, portion * O, D_V, t, D_V - col, CHUNK, COLS_V)


@triton.jit(do_not_specialize=["t"])
def causal_backward_values(
    q, k, v, share, c, after, d_out, dv, dc, t,
    D_K: tl.constexpr, D_V: tl.constexpr, COLS_K: tl.constexpr, COLS_V: tl.constexpr, CHUNK: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dV and dc of one chunk; after: (b h n+1 d_k d_v), Σ φ(q_i)ᵀ share_i dO_i from each chunk on."""
    n = tl.program_id(0)
    start = n * CHUNK
    row = row_of_head(t)
    after += (row_of_head(tl.num_programs(0) + 1) + n + 1) * D_K * D_V
    _, K, P, _ = capacities(q, k, start, t, D_K, COLS_K, CHUNK, SUM, PRECISION)
    P = tl.trans(P * numbers(share + row, start, t, CHUNK)[:, None])
    weight = numbers(c + row, start, t, CHUNK)
    d_weight = tl.zeros([CHUNK], SUM)
    for col in range(0, D_V, COLS_V):
        T = load(after + col, 0, D_V, D_K, D_V - col, COLS_K, COLS_V)
        dO = load(d_out + row * D_V + col, start, D_V, t, D_V - col, CHUNK, COLS_V).to(SUM)
        Z = product(K, T, SUM, PRECISION) + product(P, dO, SUM, PRECISION)
        V = load(v + row * D_V + col, start, D_V, t, D_V - col, CHUNK, COLS_V).to(SUM)
        d_weight += tl.sum(V * Z, 1)
        store(dv + row * D_V + col, start, weight[:, None] * Z, D_V, t, D_V - col, CHUNK, COLS_V)
    put(dc + row, start, d_weight, t, CHUNK)


@triton.jit(do_not_specialize=["t"])
def causal_backward_read(
    q, k, v, share, c, before, after, d_out, dq, dk, t,
    D_K: tl.constexpr, D_V: tl.constexpr, COLS_K: tl.constexpr, COLS_V: tl.constexpr, CHUNK: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What q and k of one chunk get through the read, summed over blocks of COLS_V columns."""
    n = tl.program_id(0)
    start = n * CHUNK
    row = row_of_head(t)
    head = row_of_head(tl.num_programs(0) + 1)
    before += (head + n) * D_K * D_V
    after += (head + n + 1) * D_K * D_V
    dQ = tl.zeros([CHUNK, COLS_K], SUM)
    dK = tl.zeros([CHUNK, COLS_K], SUM)
    dP = tl.zeros([CHUNK, CHUNK], SUM)
    for col in range(0, D_V, COLS_V):
        dO = load(d_out + row * D_V + col, start, D_V, t, D_V - col, CHUNK, COLS_V).to(SUM)
        M = load(before + col, 0, D_V, D_K, D_V - col, COLS_K, COLS_V)
        dQ += product(dO, tl.trans(M), SUM, PRECISION)
        V = load(v + row * D_V + col, start, D_V, t, D_V - col, CHUNK, COLS_V).to(SUM)
        dP += product(dO, tl.trans(V), SUM, PRECISION)
        T = load(after + col, 0, D_V, D_K, D_V - col, COLS_K, COLS_V)
        dK += product(V, tl.trans(T), SUM, PRECISION)
    portion = numbers(share + row, start, t, CHUNK)[:, None]
    weight = numbers(c + row, start, t, CHUNK)
    i = tl.arange(0, CHUNK)
    dP = tl.where(i[:, None] >= i[None, :], dP * portion * weight[None, :], 0.0)
    Q = features(q + row * D_K, start, t, D_K, CHUNK, COLS_K, SUM)
    K = features(k + row * D_K, start, t, D_K, CHUNK, COLS_K, SUM)
    dQ = (portion * dQ + product(dP, K, SUM, PRECISION)) * slope(Q)
    store(dq + row * D_K, start, dQ, D_K, t, D_K, CHUNK, COLS_K)
    dK = (weight[:, None] * dK + product(tl.trans(dP), Q, SUM, PRECISION)) * slope(K)
    store(dk + row * D_K, start, dK, D_K, t, D_K, CHUNK, COLS_K)
