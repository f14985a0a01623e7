"""Forward: the inverse of every chunk, the states from chunk to chunk, the outputs of every chunk."""

from kernels import need
from kernels.tiles import load, product, row_of_head, store

triton, tl = need()


@triton.jit
def lower(x, diagonal, SIZE: tl.constexpr):
    """tril(x, diagonal)"""
    i = tl.arange(0, SIZE)
    return tl.where(i[:, None] + diagonal >= i[None, :], x, 0.0)


@triton.jit
def unit_lower_inverse(M, SIZE: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr):
    """(I + tril(M, −1))⁻¹ by doubling; SIZE is a power of two up to 1024.

    Once the blocks of a size on the diagonal are inverted, two of them and the block B between them give the inverse of
    twice the size, [[A, 0], [B, C]]⁻¹ = [[A⁻¹, 0], [−C⁻¹ B A⁻¹, C⁻¹]]: two products do it for all blocks at once.
    """
    i = tl.arange(0, SIZE)[:, None]
    j = tl.arange(0, SIZE)[None, :]
    inverse = tl.where(i == j, 1.0, tl.where((i == j + 1) & (i % 2 == 1), -M, 0.0)).to(SUM)  # blocks of two
    for level in tl.static_range(1, 10):
        if 2**level < SIZE:
            between = (i >> (level + 1) == j >> (level + 1)) & (i >> level > j >> level)
            B = tl.where(between, M, 0.0).to(SUM)
            inverse -= product(product(inverse, B, SUM, PRECISION), inverse, SUM, PRECISION)
    return inverse


@triton.jit
def keys(k, beta, start, t, D_K: tl.constexpr, COLS_K: tl.constexpr, CHUNK: tl.constexpr):
    """K, β and W = β K of the chunk that begins at `start`."""
    i = start + tl.arange(0, CHUNK)
    K = load(k, start, D_K, t, D_K, CHUNK, COLS_K)
    b = tl.load(beta + i, mask=i < t, other=0.0)
    return K, b, (b[:, None] * K).to(K.dtype)


@triton.jit(do_not_specialize=["t"])
def delta_inverse(
    k, beta, inverse, t,
    D_K: tl.constexpr, D_V: tl.constexpr, COLS_K: tl.constexpr, COLS_V: tl.constexpr, CHUNK: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(I + M)⁻¹ of one chunk, which depends on no other."""
    n = tl.program_id(0)
    row = row_of_head(t)
    K, _, W = keys(k + row * D_K, beta + row, n * CHUNK, t, D_K, COLS_K, CHUNK)
    M = product(K, tl.trans(W), SUM, PRECISION)
    inverse += (row_of_head(tl.num_programs(0)) + n) * CHUNK * CHUNK
    X = unit_lower_inverse(M, CHUNK, SUM, PRECISION)
    store(inverse, 0, X, CHUNK, CHUNK, CHUNK, CHUNK, CHUNK)


@triton.jit(do_not_specialize=["t"])
def delta_states(
    k, v, beta, inverse, initial, states, errors, final, t,
    D_K: tl.constexpr, D_V: tl.constexpr, COLS_K: tl.constexpr, COLS_V: tl.constexpr, CHUNK: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """COLS_V columns of E and of the states, from chunk to chunk."""
    col = tl.program_id(0) * COLS_V
    row = row_of_head(t)
    head = row_of_head(D_K) * D_V + col  # where this program's columns of a (b h d_k d_v) tensor begin
    chunks = tl.cdiv(t, CHUNK)
    k += row * D_K
    beta += row
    v += row * D_V + col
    inverse += row_of_head(chunks) * CHUNK * CHUNK
    states += row_of_head(chunks) * D_K * D_V + col
    errors += row * D_V + col
    S = load(initial + head, 0, D_V, D_K, D_V - col, COLS_K, COLS_V)
    for n in range(0, chunks):
        start = n * CHUNK
        store(states, n * D_K, S, D_V, (n + 1) * D_K, D_V - col, COLS_K, COLS_V)
        K, _, W = keys(k, beta, start, t, D_K, COLS_K, CHUNK)
        V = load(v, start, D_V, t, D_V - col, CHUNK, COLS_V)
        T = load(inverse, start, CHUNK, start + CHUNK, CHUNK, CHUNK, CHUNK)
        X = V.to(SUM) - product(K, S.to(K.dtype), SUM, PRECISION)
        E = product(T, X.to(K.dtype), SUM, PRECISION)
        store(errors, start, E, D_V, t, D_V - col, CHUNK, COLS_V)
        S += product(tl.trans(W), E.to(K.dtype), SUM, PRECISION)
    store(final + head, 0, S, D_V, D_K, D_V - col, COLS_K, COLS_V)


@triton.jit(do_not_specialize=["t"])
def delta_outputs(
    q, k, beta, states, errors, out, t, scale,
    D_K: tl.constexpr, D_V: tl.constexpr, COLS_K: tl.constexpr, COLS_V: tl.constexpr, CHUNK: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """O of one chunk, COLS_V columns at a time."""
    n = tl.program_id(0)
    start = n * CHUNK
    row = row_of_head(t)
    states += (row_of_head(tl.num_programs(0)) + n) * D_K * D_V
    Q = load(q + row * D_K, start, D_K, t, D_K, CHUNK, COLS_K)
    _, _, W = keys(k + row * D_K, beta + row, start, t, D_K, COLS_K, CHUNK)
    P = lower(product(Q, tl.trans(W), SUM, PRECISION), 0, CHUNK).to(Q.dtype)
    for col in range(0, D_V, COLS_V):
        S = load(states + col, 0, D_V, D_K, D_V - col, COLS_K, COLS_V)
        E = load(errors + row * D_V + col, start, D_V, t, D_V - col, CHUNK, COLS_V)
        O = product(Q, S, SUM, PRECISION) + product(P, E, SUM, PRECISION)
        store(out + row * D_V + col, start, scale * O, D_V, t, D_V - col, CHUNK, COLS_V)
