"""The puzzle on sums down the columns: who owns a result, when all rows go into it."""

from typing import Any

import torch

import kernels
from labkit.course import Exercise, Mistake, call
from labkit.kernel_lab.metered import metered, unwritten

tl: Any = kernels.need()[1] if kernels.WHERE != "nowhere" else None


def column_sums(x, out, n, m, ROWS: "tl.constexpr", COLS: "tl.constexpr"):
    col = tl.program_id(0) * COLS + tl.arange(0, COLS)
    total = tl.zeros((COLS,), tl.float32)
    for start in range(0, n, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < n)[:, None] & (col < m)[None, :]
        total += tl.sum(tl.load(x + row[:, None] * m + col[None, :], mask=inside, other=0.0), 0)
    tl.store(out + col, total, mask=col < m)


def column_sums_of_a_tile(x, out, n, m, ROWS: "tl.constexpr", COLS: "tl.constexpr"):
    col = tl.program_id(0) * COLS + tl.arange(0, COLS)[None, :]
    tile = tl.zeros((ROWS, COLS), tl.float32)
    for start in range(0, n, ROWS):
        row = start + tl.arange(0, ROWS)[:, None]
        tile += tl.load(x + row * m + col, mask=(row < n) & (col < m), other=0.0)
    tl.store(out + col, tl.sum(tile, 0, keep_dims=True), mask=col < m)


def column_sums_shared_rows(x, out, n, m, ROWS: "tl.constexpr", COLS: "tl.constexpr"):
    for first in range(0, m, COLS):
        col = first + tl.arange(0, COLS)
        total = tl.zeros((COLS,), tl.float32)
        for start in range(tl.program_id(0) * ROWS, n, ROWS * tl.num_programs(0)):
            row = start + tl.arange(0, ROWS)
            inside = (row < n)[:, None] & (col < m)[None, :]
            total += tl.sum(tl.load(x + row[:, None] * m + col[None, :], mask=inside, other=0.0), 0)
        tl.store(out + col, total, mask=col < m)


def column_sums_last_tile(x, out, n, m, ROWS: "tl.constexpr", COLS: "tl.constexpr"):
    col = tl.program_id(0) * COLS + tl.arange(0, COLS)
    total = tl.zeros((COLS,), tl.float32)
    for start in range(0, n, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < n)[:, None] & (col < m)[None, :]
        total = tl.sum(tl.load(x + row[:, None] * m + col[None, :], mask=inside, other=0.0), 0)
    tl.store(out + col, total, mask=col < m)


def column_sums_first_tile(x, out, n, m, ROWS: "tl.constexpr", COLS: "tl.constexpr"):
    col = tl.program_id(0) * COLS + tl.arange(0, COLS)
    row = tl.arange(0, ROWS)
    inside = (row < n)[:, None] & (col < m)[None, :]
    total = tl.sum(tl.load(x + row[:, None] * m + col[None, :], mask=inside, other=0.0), 0)
    tl.store(out + col, total, mask=col < m)


def column_sums_rows_past_the_end(x, out, n, m, ROWS: "tl.constexpr", COLS: "tl.constexpr"):
    col = tl.program_id(0) * COLS + tl.arange(0, COLS)
    total = tl.zeros((COLS,), tl.float32)
    for start in range(0, n, ROWS):
        row = start + tl.arange(0, ROWS)
        total += tl.sum(tl.load(x + row[:, None] * m + col[None, :], mask=(col < m)[None, :], other=0.0), 0)
    tl.store(out + col, total, mask=col < m)


def column_sums_of_rows(x, out, n, m, ROWS: "tl.constexpr", COLS: "tl.constexpr"):
    col = tl.program_id(0) * COLS + tl.arange(0, COLS)
    total = tl.zeros((COLS,), tl.float32)
    for start in range(0, n, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < n)[:, None] & (col < m)[None, :]
        total += tl.sum(tl.load(x + row[:, None] * m + col[None, :], mask=inside, other=0.0), 1)
    tl.store(out + col, total, mask=col < m)


def column_sums_in_memory(x, out, n, m, ROWS: "tl.constexpr", COLS: "tl.constexpr"):
    col = tl.program_id(0) * COLS + tl.arange(0, COLS)
    tl.store(out + col, tl.zeros((COLS,), tl.float32), mask=col < m)
    for start in range(0, n, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < n)[:, None] & (col < m)[None, :]
        tile = tl.load(x + row[:, None] * m + col[None, :], mask=inside, other=0.0)
        tl.store(out + col, tl.load(out + col, mask=col < m) + tl.sum(tile, 0), mask=col < m)


def launch_column_sums(kernel, x, ROWS, COLS):
    (n, m), out = x.shape, unwritten(x, x.shape[1])
    kernel[(-(-m // COLS),)](x, out, n, m, ROWS=ROWS, COLS=COLS)
    return {"out": out}


def column_sums_probes(seed):
    g = torch.Generator().manual_seed(seed)
    shapes = [(3, 2, 2, 2), (4, 5, 4, 4), (8, 3, 4, 2), (7, 6, 4, 4)]
    return [call(torch.randn(n, m, generator=g), ROWS=rows, COLS=cols) for n, m, rows, cols in shapes]


COLUMN_SUMS = Exercise(
    id="kernel_lab.column_sums",
    reference=column_sums,
    through=metered(launch_column_sums, lambda x, ROWS, COLS: (x.numel(), x.shape[1])),
    alternatives=[column_sums_of_a_tile],
    probes=column_sums_probes,
    mistakes=[
        Mistake(
            "the race of programs that share out the rows",
            column_sums_shared_rows,
            "programs that store to the same place overwrite each other; who can sum a column alone?",
        ),
        Mistake("the sum of the last rows only", column_sums_last_tile, "each tile of rows adds to the total: +="),
        Mistake(
            "the sum of the first rows only",
            column_sums_first_tile,
            "there are more rows than ROWS: for start in range(0, n, ROWS)",
        ),
        Mistake(
            "the rows past the end",
            column_sums_rows_past_the_end,
            "n need not be a multiple of ROWS, so the mask has to ask for row < n too",
        ),
        Mistake(
            "the sum along the rows",
            column_sums_of_rows,
            "tl.sum(tile, 0) sums over axis 0, the rows, and leaves one number for each column",
        ),
        Mistake(
            "the sum that is kept in memory",
            column_sums_in_memory,
            "let `total` live in registers while the loop runs, and store it once at the end",
        ),
    ],
    hints=[
        "Every row adds to every column's sum. If two programs held different rows, which of them would write the sum?",
        "out_j = Σ_i x_ij  for the columns j of program p: p · COLS … p · COLS + COLS − 1, over all rows, ROWS at a time",
        "col = pid · COLS + arange; total = tl.zeros((COLS,), tl.float32); for start in range(0, n, ROWS): load the tile with both masks and other=0.0, total += tl.sum(tile, 0); store total with mask=col < m",
    ],
    minutes=15,
    difficulty=3,
    lines=7,
)
