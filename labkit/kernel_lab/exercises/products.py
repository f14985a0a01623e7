"""The puzzle on matrix products: tiles of two matrices, walked along the axis that is summed over."""

from typing import Any

import torch

import kernels
from labkit.course import Exercise, Mistake, call
from labkit.kernel_lab.metered import metered, unwritten

tl: Any = kernels.need()[1] if kernels.WHERE != "nowhere" else None


def matmul(a, b, out, n, m, k, ROWS: "tl.constexpr", COLS: "tl.constexpr", DEPTH: "tl.constexpr"):
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    j = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]
    total = tl.zeros((ROWS, COLS), tl.float32)
    for start in range(0, k, DEPTH):
        row, col = start + tl.arange(0, DEPTH)[:, None], start + tl.arange(0, DEPTH)[None, :]
        left = tl.load(a + i * k + col, mask=(i < n) & (col < k), other=0.0)
        right = tl.load(b + row * m + j, mask=(row < k) & (j < m), other=0.0)
        total = tl.dot(left, right, total, input_precision="ieee")
    tl.store(out + i * m + j, total, mask=(i < n) & (j < m))


def matmul_by_moving_pointers(a, b, out, n, m, k, ROWS: "tl.constexpr", COLS: "tl.constexpr", DEPTH: "tl.constexpr"):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cols = tl.program_id(1) * COLS + tl.arange(0, COLS)
    depth = tl.arange(0, DEPTH)
    at_a, at_b = a + rows[:, None] * k + depth[None, :], b + depth[:, None] * m + cols[None, :]
    total = tl.zeros((ROWS, COLS), tl.float32)
    for left in range(k, 0, -DEPTH):
        tile_a = tl.load(at_a, mask=(rows < n)[:, None] & (depth < left)[None, :], other=0.0)
        tile_b = tl.load(at_b, mask=(depth < left)[:, None] & (cols < m)[None, :], other=0.0)
        total += tl.dot(tile_a, tile_b, input_precision="ieee")
        at_a += DEPTH
        at_b += DEPTH * m
    tl.store(out + rows[:, None] * m + cols[None, :], total, mask=(rows < n)[:, None] & (cols < m)[None, :])


def matmul_last_tile(a, b, out, n, m, k, ROWS: "tl.constexpr", COLS: "tl.constexpr", DEPTH: "tl.constexpr"):
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    j = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]
    total = tl.zeros((ROWS, COLS), tl.float32)
    for start in range(0, k, DEPTH):
        row, col = start + tl.arange(0, DEPTH)[:, None], start + tl.arange(0, DEPTH)[None, :]
        left = tl.load(a + i * k + col, mask=(i < n) & (col < k), other=0.0)
        right = tl.load(b + row * m + j, mask=(row < k) & (j < m), other=0.0)
        total = tl.dot(left, right, input_precision="ieee")
    tl.store(out + i * m + j, total, mask=(i < n) & (j < m))


def matmul_first_tile(a, b, out, n, m, k, ROWS: "tl.constexpr", COLS: "tl.constexpr", DEPTH: "tl.constexpr"):
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    j = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]
    total = tl.zeros((ROWS, COLS), tl.float32)
    row, col = tl.arange(0, DEPTH)[:, None], tl.arange(0, DEPTH)[None, :]
    left = tl.load(a + i * k + col, mask=(i < n) & (col < k), other=0.0)
    right = tl.load(b + row * m + j, mask=(row < k) & (j < m), other=0.0)
    total = tl.dot(left, right, total, input_precision="ieee")
    tl.store(out + i * m + j, total, mask=(i < n) & (j < m))


def matmul_depth_unmasked(a, b, out, n, m, k, ROWS: "tl.constexpr", COLS: "tl.constexpr", DEPTH: "tl.constexpr"):
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    j = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]
    total = tl.zeros((ROWS, COLS), tl.float32)
    for start in range(0, k, DEPTH):
        row, col = start + tl.arange(0, DEPTH)[:, None], start + tl.arange(0, DEPTH)[None, :]
        left = tl.load(a + i * k + col, mask=i < n, other=0.0)
        right = tl.load(b + row * m + j, mask=j < m, other=0.0)
        total = tl.dot(left, right, total, input_precision="ieee")
    tl.store(out + i * m + j, total, mask=(i < n) & (j < m))


def matmul_rows_of_b_too_long(a, b, out, n, m, k, ROWS: "tl.constexpr", COLS: "tl.constexpr", DEPTH: "tl.constexpr"):
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    j = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]
    total = tl.zeros((ROWS, COLS), tl.float32)
    for start in range(0, k, DEPTH):
        row, col = start + tl.arange(0, DEPTH)[:, None], start + tl.arange(0, DEPTH)[None, :]
        left = tl.load(a + i * k + col, mask=(i < n) & (col < k), other=0.0)
        right = tl.load(b + row * k + j, mask=(row * k + j < k * m) & (j < m), other=0.0)
        total = tl.dot(left, right, total, input_precision="ieee")
    tl.store(out + i * m + j, total, mask=(i < n) & (j < m))


def matmul_sums_in_half(a, b, out, n, m, k, ROWS: "tl.constexpr", COLS: "tl.constexpr", DEPTH: "tl.constexpr"):
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    j = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]
    total = tl.zeros((ROWS, COLS), out.dtype.element_ty)
    for start in range(0, k, DEPTH):
        row, col = start + tl.arange(0, DEPTH)[:, None], start + tl.arange(0, DEPTH)[None, :]
        left = tl.load(a + i * k + col, mask=(i < n) & (col < k), other=0.0)
        right = tl.load(b + row * m + j, mask=(row < k) & (j < m), other=0.0)
        total += tl.dot(left, right, input_precision="ieee").to(out.dtype.element_ty)
    tl.store(out + i * m + j, total, mask=(i < n) & (j < m))


def matmul_in_memory(a, b, out, n, m, k, ROWS: "tl.constexpr", COLS: "tl.constexpr", DEPTH: "tl.constexpr"):
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    j = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]
    here, inside = out + i * m + j, (i < n) & (j < m)
    tl.store(here, tl.zeros((ROWS, COLS), tl.float32), mask=inside)
    for start in range(0, k, DEPTH):
        row, col = start + tl.arange(0, DEPTH)[:, None], start + tl.arange(0, DEPTH)[None, :]
        left = tl.load(a + i * k + col, mask=(i < n) & (col < k), other=0.0)
        right = tl.load(b + row * m + j, mask=(row < k) & (j < m), other=0.0)
        tl.store(here, tl.load(here, mask=inside) + tl.dot(left, right, input_precision="ieee"), mask=inside)


def launch_matmul(kernel, a, b, ROWS, COLS, DEPTH):
    (n, k), m = a.shape, b.shape[1]
    out = unwritten(a, n, m)
    kernel[(-(-n // ROWS), -(-m // COLS))](a, b, out, n, m, k, ROWS=ROWS, COLS=COLS, DEPTH=DEPTH)
    return {"out": out}


def least_of_matmul(a, b, ROWS, COLS, DEPTH):
    """Each program reads its rows of a and its columns of b once."""
    (n, k), m = a.shape, b.shape[1]
    return n * k * -(-m // COLS) + k * m * -(-n // ROWS), n * m


def matmul_probes(seed):
    g = torch.Generator().manual_seed(seed)
    shapes = [(3, 16, 5, (16, 16, 16)), (17, 21, 9, (16, 16, 32)), (13, 35, 37, (16, 32, 16))]
    drawn = [(torch.randn(n, k, generator=g), torch.randn(k, m, generator=g), tile) for n, k, m, tile in shapes]
    a, b = torch.randn(5, 48, generator=g), torch.randn(48, 18, generator=g)
    a[:, 0], a[:, 47], b[0], b[47] = 64.0, -64.0, 64.0, 64.0  # 4096 comes, and goes
    drawn.insert(1, (a.half(), b.half(), (16, 16, 16)))
    return [call(a, b, **dict(zip(("ROWS", "COLS", "DEPTH"), tile, strict=True))) for a, b, tile in drawn]


MATMUL = Exercise(
    id="kernel_lab.matmul",
    reference=matmul,
    through=metered(launch_matmul, least_of_matmul),
    alternatives=[matmul_by_moving_pointers],
    probes=matmul_probes,
    mistakes=[
        Mistake(
            "the last step of the sum only",
            matmul_last_tile,
            "every step adds to the total: tl.dot(left, right, total)",
        ),
        Mistake(
            "the first step of the sum only",
            matmul_first_tile,
            "k is longer than DEPTH: for start in range(0, k, DEPTH)",
        ),
        Mistake(
            "the sum that runs past the end of k",
            matmul_depth_unmasked,
            "k need not be a multiple of DEPTH: past it, a has another row's numbers, so mask both tiles to 0",
        ),
        Mistake(
            "the rows of b taken to be k long",
            matmul_rows_of_b_too_long,
            "b is (k, m), so its row l begins at b + l · m",
        ),
        Mistake(
            "the sum kept in half precision",
            matmul_sums_in_half,
            "float16 has 11 bits, and 4096 + 1 is 4096: let the total be float32 whatever a and b are",
        ),
        Mistake(
            "the sum that is kept in memory",
            matmul_in_memory,
            "let the total live in registers while the loop runs, and store it once at the end",
        ),
    ],
    hints=[
        "A program owns a tile of out. Which rows of a and which columns of b does it need, and how much of them at a time?",
        "out_ij = Σ_l a_il b_lj,  a_il at a + i · k + l, b_lj at b + l · m + j, l = start … start + DEPTH − 1 in each step",
        'i from program_id(0) as a column, j from program_id(1) as a row; total = tl.zeros((ROWS, COLS), tl.float32); for start in range(0, k, DEPTH): load both tiles, masked on both sides, other=0.0; total = tl.dot(left, right, total, input_precision="ieee"); store total masked',
    ],
    minutes=25,
    difficulty=4,
    lines=9,
)
