"""Sums over tokens and products with them: all that the bidirectional form needs; the causal one uses the sums."""

from kernels import need
from kernels.tiles import load, product, row_of_head, store

triton, tl = need()

EPS = tl.constexpr(1e-6)


@triton.jit
def features(x, start, t, D: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, SUM: tl.constexpr):
    """φ of rows start, start + 1, … as a tile in SUM, zero outside the matrix."""
    X = load(x, start, D, t, D, ROWS, COLS).to(SUM)
    inside = (start + tl.arange(0, ROWS) < t)[:, None] & (tl.arange(0, COLS) < D)[None, :]
    return tl.where(inside, tl.sigmoid(X) + EPS, 0.0)


@triton.jit
def slope(phi):
    """The derivative of φ, from φ."""
    sigmoid = phi - EPS
    return sigmoid * (1 - sigmoid)


@triton.jit
def numbers(x, start, t, ROWS: tl.constexpr):
    """Numbers start, start + 1, … of t, zero beyond."""
    i = start + tl.arange(0, ROWS)
    return tl.load(x + i, mask=i < t, other=0.0)


@triton.jit
def put(x, start, numbers, t, ROWS: tl.constexpr):
    """Write numbers to places start, start + 1, … below t."""
    i = start + tl.arange(0, ROWS)
    tl.store(x + i, numbers.to(x.dtype.element_ty), mask=i < t)


@triton.jit(do_not_specialize=["t"])
def flow_sums(
    x, w, sums, t,
    D_K: tl.constexpr, D_V: tl.constexpr, COLS_K: tl.constexpr, COLS_V: tl.constexpr, CHUNK: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Σ w_i φ(x_i) over one block of rows."""
    n = tl.program_id(0)
    row = row_of_head(t)
    X = features(x + row * D_K, n * CHUNK, t, D_K, CHUNK, COLS_K, SUM)
    weight = numbers(w + row, n * CHUNK, t, CHUNK)
    put(sums + (row_of_head(tl.num_programs(0)) + n) * D_K, 0, tl.sum(weight[:, None] * X, 0), D_K, COLS_K)


@triton.jit(do_not_specialize=["t"])
def flow_pour(
    x, total, flow, sums, t,
    D_K: tl.constexpr, D_V: tl.constexpr, COLS_K: tl.constexpr, COLS_V: tl.constexpr, CHUNK: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """flow_i = φ(x_i)·total for one block of rows, and Σ φ(x_i) / flow_i over it."""
    n = tl.program_id(0)
    row = row_of_head(t)
    X = features(x + row * D_K, n * CHUNK, t, D_K, CHUNK, COLS_K, SUM)
    f = tl.sum(X * numbers(total + row_of_head(D_K), 0, D_K, COLS_K)[None, :], 1)
    put(flow + row, n * CHUNK, f, t, CHUNK)
    share = X / tl.where(f > 0, f, 1.0)[:, None]  # below the last row, X and f are 0
    put(sums + (row_of_head(tl.num_programs(0)) + n) * D_K, 0, tl.sum(share, 0), D_K, COLS_K)


@triton.jit(do_not_specialize=["t"])
def flow_dots(
    x, vector, dots, t,
    D_K: tl.constexpr, D_V: tl.constexpr, COLS_K: tl.constexpr, COLS_V: tl.constexpr, CHUNK: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """φ(x_i)·vector for one block of rows."""
    start = tl.program_id(0) * CHUNK
    row = row_of_head(t)
    X = features(x + row * D_K, start, t, D_K, CHUNK, COLS_K, SUM)
    put(dots + row, start, tl.sum(X * numbers(vector + row_of_head(D_K), 0, D_K, COLS_K)[None, :], 1), t, CHUNK)


@triton.jit(do_not_specialize=["t"])
def flow_write(
    x, w, y, memories, t,
    D_K: tl.constexpr, D_V: tl.constexpr, COLS_K: tl.constexpr, COLS_V: tl.constexpr, CHUNK: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Σ φ(x_i)ᵀ w_i y_i over one block of rows, COLS_V columns at a time."""
    n = tl.program_id(0)
    start = n * CHUNK
    row = row_of_head(t)
    memories += (row_of_head(tl.num_programs(0)) + n) * D_K * D_V
    X = features(x + row * D_K, start, t, D_K, CHUNK, COLS_K, SUM)
    X = tl.trans(X * numbers(w + row, start, t, CHUNK)[:, None])
    for col in range(0, D_V, COLS_V):
        Y = load(y + row * D_V + col, start, D_V, t, D_V - col, CHUNK, COLS_V).to(SUM)
        store(memories + col, 0, product(X, Y, SUM, PRECISION), D_V, D_K, D_V - col, COLS_K, COLS_V)


@triton.jit(do_not_specialize=["t"])
def flow_read(
    x, w, memory, out, t,
    D_K: tl.constexpr, D_V: tl.constexpr, COLS_K: tl.constexpr, COLS_V: tl.constexpr, CHUNK: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """w_i φ(x_i) memory for one block of rows, COLS_V columns at a time."""
    start = tl.program_id(0) * CHUNK
    row = row_of_head(t)
    memory += row_of_head(D_K) * D_V
    X = features(x + row * D_K, start, t, D_K, CHUNK, COLS_K, SUM)
    X *= numbers(w + row, start, t, CHUNK)[:, None]
    for col in range(0, D_V, COLS_V):
        M = load(memory + col, 0, D_V, D_K, D_V - col, COLS_K, COLS_V)
        Y = product(X, M, SUM, PRECISION)
        store(out + row * D_V + col, start, Y, D_V, t, D_V - col, CHUNK, COLS_V)


@triton.jit(do_not_specialize=["t"])
def flow_backward_flows(
    x, weights, vectors, dx, t,
    D_K: tl.constexpr, D_V: tl.constexpr, COLS_K: tl.constexpr, COLS_V: tl.constexpr, CHUNK: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """φ'(x_i) (vector_0 + Σ_m weight_m,i vector_m) for one block of rows, m = 1, 2, 3."""
    start = tl.program_id(0) * CHUNK
    row = row_of_head(t)
    weights += 3 * row
    vectors += row_of_head(4 * D_K)
    dX = tl.zeros([CHUNK, COLS_K], SUM) + numbers(vectors, 0, D_K, COLS_K)[None, :]
    for m in tl.static_range(3):
        weight = numbers(weights + m * t, start, t, CHUNK)
        dX += weight[:, None] * numbers(vectors + (m + 1) * D_K, 0, D_K, COLS_K)[None, :]
    dX *= slope(features(x + row * D_K, start, t, D_K, CHUNK, COLS_K, SUM))
    store(dx + row * D_K, start, dX, D_K, t, D_K, CHUNK, COLS_K)


@triton.jit(do_not_specialize=["t"])
def flow_backward_read(
    x, w, y, memory, dx, t,
    D_K: tl.constexpr, D_V: tl.constexpr, COLS_K: tl.constexpr, COLS_V: tl.constexpr, CHUNK: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """φ'(x_i) w_i (memory y_i) for one block of rows: the gradient of φ(x_i) memory · w_i y_i with respect to x_i."""
    start = tl.program_id(0) * CHUNK
    row = row_of_head(t)
    memory += row_of_head(D_K) * D_V
    dX = tl.zeros([CHUNK, COLS_K], SUM)
    for col in range(0, D_V, COLS_V):
        Y = load(y + row * D_V + col, start, D_V, t, D_V - col, CHUNK, COLS_V).to(SUM)
        M = load(memory + col, 0, D_V, D_K, D_V - col, COLS_K, COLS_V)
        dX += product(Y, tl.trans(M), SUM, PRECISION)
    dX *= numbers(w + row, start, t, CHUNK)[:, None]
    dX *= slope(features(x + row * D_K, start, t, D_K, CHUNK, COLS_K, SUM))
    store(dx + row * D_K, start, dX, D_K, t, D_K, CHUNK, COLS_K)
