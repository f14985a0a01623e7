"""The first two puzzles: a program a row, and a program a tile."""

from typing import Any

import torch

import kernels
from labkit.course import Exercise, Mistake, call
from labkit.kernel_lab.metered import metered, unwritten

tl: Any = kernels.need()[1] if kernels.WHERE != "nowhere" else None


def scale_rows(x, scale, out, m, BLOCK: "tl.constexpr"):
    row = tl.program_id(0)
    col = tl.arange(0, BLOCK)
    values = tl.load(x + row * m + col, mask=col < m)
    tl.store(out + row * m + col, tl.load(scale + row) * values, mask=col < m)


def scale_rows_by_pointers(x, scale, out, m, BLOCK: "tl.constexpr"):
    first = tl.program_id(0) * m
    here = first + tl.arange(0, BLOCK)
    inside = here < first + m
    factor = tl.load(scale + tl.program_id(0))
    tl.store(out + here, factor * tl.load(x + here, mask=inside, other=0.0), mask=inside)


def scale_rows_unmasked(x, scale, out, m, BLOCK: "tl.constexpr"):
    row = tl.program_id(0)
    col = tl.arange(0, BLOCK)
    tl.store(out + row * m + col, tl.load(scale + row) * tl.load(x + row * m + col))


def scale_rows_first_row_only(x, scale, out, m, BLOCK: "tl.constexpr"):
    col = tl.arange(0, BLOCK)
    values = tl.load(x + col, mask=col < m)
    tl.store(out + col, tl.load(scale) * values, mask=col < m)


def scale_rows_a_block_apart(x, scale, out, m, BLOCK: "tl.constexpr"):
    row = tl.program_id(0)
    col = tl.arange(0, BLOCK)
    values = tl.load(x + row * BLOCK + col, mask=col < m)
    tl.store(out + row * BLOCK + col, tl.load(scale + row) * values, mask=col < m)


def scale_rows_by_the_first(x, scale, out, m, BLOCK: "tl.constexpr"):
    row = tl.program_id(0)
    col = tl.arange(0, BLOCK)
    values = tl.load(x + row * m + col, mask=col < m)
    tl.store(out + row * m + col, tl.load(scale) * values, mask=col < m)


def scale_rows_through_memory(x, scale, out, m, BLOCK: "tl.constexpr"):
    row = tl.program_id(0)
    col = tl.arange(0, BLOCK)
    here = out + row * m + col
    tl.store(here, tl.load(x + row * m + col, mask=col < m), mask=col < m)
    tl.store(here, tl.load(here, mask=col < m) * tl.load(scale + row), mask=col < m)


def launch_scale_rows(kernel, x, scale, BLOCK):
    (n, m), out = x.shape, unwritten(x, *x.shape)
    kernel[(n,)](x, scale, out, m, BLOCK=BLOCK)
    return {"out": out}


def scale_rows_probes(seed):
    g = torch.Generator().manual_seed(seed)
    shapes = [(1, 5, 8), (2, 3, 4), (3, 8, 8), (4, 11, 16)]
    return [call(torch.randn(n, m, generator=g), torch.randn(n, generator=g), BLOCK=block) for n, m, block in shapes]


SCALE_ROWS = Exercise(
    id="kernel_lab.scale_rows",
    reference=scale_rows,
    through=metered(launch_scale_rows, lambda x, scale, BLOCK: (x.numel() + scale.numel(), x.numel())),
    alternatives=[scale_rows_by_pointers],
    probes=scale_rows_probes,
    mistakes=[
        Mistake(
            "the row taken to be as long as the block",
            scale_rows_unmasked,
            "a block has BLOCK lanes and a row only m entries; which lanes must neither load nor store?",
        ),
        Mistake(
            "the first row scaled by every program",
            scale_rows_first_row_only,
            "all programs run the same code; what tells one which row is its own? tl.program_id(0)",
        ),
        Mistake(
            "the rows that begin a block apart",
            scale_rows_a_block_apart,
            "row i begins m, not BLOCK, entries behind row i − 1: the block is wider than the row",
        ),
        Mistake(
            "every row scaled by the first factor",
            scale_rows_by_the_first,
            "`scale` is a pointer to its first entry; where is the entry of your row?",
        ),
        Mistake(
            "the kernel that goes through memory twice",
            scale_rows_through_memory,
            "what was loaded is in registers: multiply it there, and store once",
        ),
    ],
    hints=[
        "Program i owns row i. At which address does that row begin, and how many of the BLOCK lanes are inside it?",
        "out[i, j] = scale[i] · x[i, j],  with entry (i, j) of an (n, m) matrix at x + i · m + j, for j < m only",
        "row = tl.program_id(0); col = tl.arange(0, BLOCK); load x + row · m + col with mask=col < m; load scale + row; multiply; store with the same mask",
    ],
    minutes=8,
    difficulty=1,
    lines=4,
)


def transpose(x, out, n, m, BLOCK: "tl.constexpr"):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]
    j = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (i < n) & (j < m)
    tl.store(out + j * n + i, tl.load(x + i * m + j, mask=inside), mask=inside)


def transpose_in_registers(x, out, n, m, BLOCK: "tl.constexpr"):
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    tile = tl.load(x + rows[:, None] * m + cols[None, :], mask=(rows < n)[:, None] & (cols < m)[None, :], other=0.0)
    tl.store(out + cols[:, None] * n + rows[None, :], tl.trans(tile), mask=(cols < m)[:, None] & (rows < n)[None, :])


def transpose_copies(x, out, n, m, BLOCK: "tl.constexpr"):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]
    j = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (i < n) & (j < m)
    tl.store(out + i * m + j, tl.load(x + i * m + j, mask=inside), mask=inside)


def transpose_strides_of_x(x, out, n, m, BLOCK: "tl.constexpr"):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]
    j = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (i < n) & (j < m) & (j * m + i < n * m)
    tl.store(out + j * m + i, tl.load(x + i * m + j, mask=inside), mask=inside)


def transpose_masks_rows_only(x, out, n, m, BLOCK: "tl.constexpr"):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]
    j = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    tl.store(out + j * n + i, tl.load(x + i * m + j, mask=i < n), mask=i < n)


def transpose_unmasked(x, out, n, m, BLOCK: "tl.constexpr"):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]
    j = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    tl.store(out + j * n + i, tl.load(x + i * m + j))


def transpose_tiles_alone(x, out, n, m, BLOCK: "tl.constexpr"):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]
    j = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    tile = tl.load(x + i * m + j, mask=(i < n) & (j < m))
    row = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[:, None]
    col = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None, :]
    tl.store(out + row * n + col, tile, mask=(row < m) & (col < n))


def transpose_whole_rows_of_tiles(x, out, n, m, BLOCK: "tl.constexpr"):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]
    for start in range(0, m, BLOCK):
        j = start + tl.arange(0, BLOCK)[None, :]
        inside = (i < n) & (j < m)
        tl.store(out + j * n + i, tl.load(x + i * m + j, mask=inside), mask=inside)


def launch_transpose(kernel, x, BLOCK):
    (n, m), out = x.shape, unwritten(x, *x.T.shape)
    kernel[(-(-n // BLOCK), -(-m // BLOCK))](x, out, n, m, BLOCK=BLOCK)
    return {"out": out}


def transpose_probes(seed):
    g = torch.Generator().manual_seed(seed)
    shapes = [(3, 4, 4), (4, 7, 4), (7, 5, 4), (5, 3, 2)]
    return [call(torch.randn(n, m, generator=g), BLOCK=block) for n, m, block in shapes]


TRANSPOSE = Exercise(
    id="kernel_lab.transpose",
    reference=transpose,
    through=metered(launch_transpose, lambda x, BLOCK: (x.numel(), x.numel())),
    alternatives=[transpose_in_registers],
    probes=transpose_probes,
    mistakes=[
        Mistake(
            "the matrix copied as it lies",
            transpose_copies,
            "entry (i, j) of x becomes entry (j, i) of out; how long is a row of out?",
        ),
        Mistake(
            "the rows of out taken to be as long as those of x",
            transpose_strides_of_x,
            "out is (m, n), so its row j begins at out + j · n",
        ),
        Mistake(
            "the columns past the end",
            transpose_masks_rows_only,
            "a tile can leave the matrix on two sides, so the mask is (i < n) & (j < m)",
        ),
        Mistake(
            "the last tiles taken to be full",
            transpose_unmasked,
            "n and m need not be multiples of BLOCK; which entries of the tile are there?",
        ),
        Mistake(
            "the tiles that change places while their entries do not",
            transpose_tiles_alone,
            "inside a tile row and column change places as well: store at j · n + i, or tl.trans",
        ),
        Mistake(
            "the whole row of tiles done by every program of it",
            transpose_whole_rows_of_tiles,
            "the grid has two axes, and tl.program_id(1) has already chosen your one tile of the row",
        ),
    ],
    hints=[
        "Which rows and which columns of x belong to program (a, b), and where do they go in out, whose rows are n long?",
        "out[j, i] = x[i, j]:  load at x + i · m + j, store at out + j · n + i, both where i < n and j < m",
        "i = program_id(0) · BLOCK + arange as a column [:, None], j = program_id(1) · BLOCK + arange as a row [None, :]; inside = (i < n) & (j < m); one load, one store",
    ],
    minutes=10,
    difficulty=2,
    lines=4,
)
