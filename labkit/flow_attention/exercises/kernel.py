"""The exercise on the kernel: what a program of the first pass over one side of the network does, in Triton."""

from typing import Any

import torch

import kernels
from labkit.course import Exercise, Mistake, call, launched

from .draw import features

tl: Any = kernels.need()[1] if kernels.WHERE != "nowhere" else None


def pour(x, total, flow, partial, t, D: "tl.constexpr", ROWS: "tl.constexpr"):
    n = tl.program_id(0)
    i, d = n * ROWS + tl.arange(0, ROWS), tl.arange(0, D)
    X = tl.load(x + i[:, None] * D + d[None, :], mask=(i < t)[:, None], other=0.0)
    F = tl.sum(X * tl.load(total + d)[None, :], 1)
    tl.store(flow + i, F, mask=i < t)
    F = tl.where(i < t, F, 1.0)
    tl.store(partial + n * D + d, tl.sum(X / F[:, None], 0))


def pour_from_its_first_row(x, total, flow, partial, t, D: "tl.constexpr", ROWS: "tl.constexpr"):
    first = tl.program_id(0) * ROWS
    rows, d = tl.arange(0, ROWS)[:, None], tl.arange(0, D)[None, :]
    inside = first + rows < t
    X = tl.load(x + first * D + rows * D + d, mask=inside, other=1.0)
    F = tl.sum(X * tl.load(total + d), 1, keep_dims=True)
    tl.store(flow + first + rows, F, mask=inside)
    share = tl.where(inside, X / F, 0.0)
    tl.store(partial + tl.program_id(0) * D + tl.arange(0, D), tl.sum(share, 0))


def pour_into_nothing(x, total, flow, partial, t, D: "tl.constexpr", ROWS: "tl.constexpr"):
    n = tl.program_id(0)
    i, d = n * ROWS + tl.arange(0, ROWS), tl.arange(0, D)
    X = tl.load(x + i[:, None] * D + d[None, :], mask=(i < t)[:, None], other=0.0)
    F = tl.sum(X * tl.load(total + d)[None, :], 1)
    tl.store(flow + i, F, mask=i < t)
    tl.store(partial + n * D + d, tl.sum(X / F[:, None], 0))


def pour_of_padding(x, total, flow, partial, t, D: "tl.constexpr", ROWS: "tl.constexpr"):
    n = tl.program_id(0)
    i, d = n * ROWS + tl.arange(0, ROWS), tl.arange(0, D)
    X = tl.load(x + i[:, None] * D + d[None, :], mask=(i < t)[:, None], other=1.0)
    F = tl.sum(X * tl.load(total + d)[None, :], 1)
    tl.store(flow + i, F, mask=i < t)
    tl.store(partial + n * D + d, tl.sum(X / F[:, None], 0))


def pour_unmasked(x, total, flow, partial, t, D: "tl.constexpr", ROWS: "tl.constexpr"):
    n = tl.program_id(0)
    i, d = n * ROWS + tl.arange(0, ROWS), tl.arange(0, D)
    X = tl.load(x + i[:, None] * D + d[None, :])
    F = tl.sum(X * tl.load(total + d)[None, :], 1)
    tl.store(flow + i, F)
    tl.store(partial + n * D + d, tl.sum(X / F[:, None], 0))


def pour_all_into_the_first_row(x, total, flow, partial, t, D: "tl.constexpr", ROWS: "tl.constexpr"):
    n = tl.program_id(0)
    i, d = n * ROWS + tl.arange(0, ROWS), tl.arange(0, D)
    X = tl.load(x + i[:, None] * D + d[None, :], mask=(i < t)[:, None], other=0.0)
    F = tl.sum(X * tl.load(total + d)[None, :], 1)
    tl.store(flow + i, F, mask=i < t)
    F = tl.where(i < t, F, 1.0)
    tl.store(partial + d, tl.sum(X / F[:, None], 0))


def pour_undivided(x, total, flow, partial, t, D: "tl.constexpr", ROWS: "tl.constexpr"):
    n = tl.program_id(0)
    i, d = n * ROWS + tl.arange(0, ROWS), tl.arange(0, D)
    X = tl.load(x + i[:, None] * D + d[None, :], mask=(i < t)[:, None], other=0.0)
    tl.store(flow + i, tl.sum(X * tl.load(total + d)[None, :], 1), mask=i < t)
    tl.store(partial + n * D + d, tl.sum(X, 0))


def pour_the_first_rows(x, total, flow, partial, t, D: "tl.constexpr", ROWS: "tl.constexpr"):
    n = tl.program_id(0)
    i, d = tl.arange(0, ROWS), tl.arange(0, D)
    X = tl.load(x + i[:, None] * D + d[None, :], mask=(i < t)[:, None], other=0.0)
    F = tl.sum(X * tl.load(total + d)[None, :], 1)
    tl.store(flow + i, F, mask=i < t)
    F = tl.where(i < t, F, 1.0)
    tl.store(partial + n * D + d, tl.sum(X / F[:, None], 0))


def pour_rows_that_overlap(x, total, flow, partial, t, D: "tl.constexpr", ROWS: "tl.constexpr"):
    n = tl.program_id(0)
    i, d = n * ROWS + tl.arange(0, ROWS), tl.arange(0, D)
    X = tl.load(x + i[:, None] + d[None, :], mask=(i < t)[:, None], other=0.0)
    F = tl.sum(X * tl.load(total + d)[None, :], 1)
    tl.store(flow + i, F, mask=i < t)
    F = tl.where(i < t, F, 1.0)
    tl.store(partial + n * D + d, tl.sum(X / F[:, None], 0))


def pour_without_total(x, total, flow, partial, t, D: "tl.constexpr", ROWS: "tl.constexpr"):
    n = tl.program_id(0)
    i, d = n * ROWS + tl.arange(0, ROWS), tl.arange(0, D)
    X = tl.load(x + i[:, None] * D + d[None, :], mask=(i < t)[:, None], other=0.0)
    F = tl.sum(X, 1)
    tl.store(flow + i, F, mask=i < t)
    F = tl.where(i < t, F, 1.0)
    tl.store(partial + n * D + d, tl.sum(X / F[:, None], 0))


def launch_pour(kernel, x, total, ROWS):
    t, D = x.shape
    programs = -(-t // ROWS)
    # Behind each tensor is memory that belongs to none, so that what leaves it is always seen.
    inside, flow, partial = (
        x.new_full((n + ROWS, *width), torch.nan)[:n] for n, width in ((t, (D,)), (t, ()), (programs, (D,)))
    )
    inside.copy_(x)
    kernel[(programs,)](inside, total, flow, partial, t, D, ROWS)
    x.copy_(inside)  # a kernel that writes into its features is seen too
    return flow.clone(), partial.clone()


def pour_probes(seed):
    g = torch.Generator().manual_seed(seed)
    shapes = [(13, 16, 16), (32, 32, 16), (41, 16, 32), (37, 16, 16)]
    return [
        call(features(g, t, D, torch.float32), features(g, t, D, torch.float32).sum(0), ROWS=rows)
        for t, D, rows in shapes
    ]


POUR = Exercise(
    id="flow_attention.pour",
    reference=pour,
    through=launched(launch_pour),
    alternatives=[pour_from_its_first_row],
    probes=pour_probes,
    mistakes=[
        Mistake(
            "the row past the end divided by nothing",
            pour_into_nothing,
            "a row that is not there was loaded as zeros and has the flow 0, and one 0/0 spoils the whole sum",
        ),
        Mistake(
            "the padding that is poured too",
            pour_of_padding,
            "what `other` puts into rows past t must add nothing to the sum",
        ),
        Mistake(
            "the last rows taken to be there",
            pour_unmasked,
            "t may end within a program's rows; every load and store of rows i wants mask=i < t",
        ),
        Mistake(
            "the sums written over one another",
            pour_all_into_the_first_row,
            "each program has a row of `partial` of its own; where does row n begin?",
        ),
        Mistake("the sum that is not divided", pour_undivided, "a row goes into the sum divided by its flow"),
        Mistake(
            "the first rows poured by every program",
            pour_the_first_rows,
            "what tells a program which rows are its own? n = tl.program_id(0)",
        ),
        Mistake(
            "the rows that overlap", pour_rows_that_overlap, "at which address does row i of a (t, D) matrix begin?"
        ),
        Mistake(
            "the flow that forgets the other side",
            pour_without_total,
            "a flow is the product with the sum of the other side's features, `total`",
        ),
    ],
    hints=[
        "Which rows does program n own, and what would it add to the sum for a row that is past t?",
        "flow_i = x_i · total  and  partial_n = Σ x_i / flow_i over the rows i of program n with i < t",
        "rows i = n · ROWS + arange, columns d; load x with mask=i < t, other=0, and total; tl.sum over d; store the flow with the mask; put 1 in place of the flows past t; divide, tl.sum over rows, store at partial + n · D + d",
    ],
    minutes=20,
    difficulty=4,
    lines=7,
)
