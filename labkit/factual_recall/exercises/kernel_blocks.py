"""How the blocks go wrong in the exercise on the kernel: which are visited, and what is not there."""

from typing import Any

import kernels
from labkit.course import Mistake

tl: Any = kernels.need()[1] if kernels.WHERE != "nowhere" else None


def lens_block_counts_the_padding(h, W, lse, vocab, d, D: "tl.constexpr", BLOCK: "tl.constexpr"):
    n, k = tl.program_id(0), tl.arange(0, D)
    x = tl.load(h + n * d + k, mask=k < d, other=0.0)
    largest, total = float("-inf"), 0.0
    for first in range(0, vocab, BLOCK):
        j = first + tl.arange(0, BLOCK)
        there = (j < vocab)[:, None] & (k < d)[None, :]
        w = tl.load(W + j[:, None] * d + k[None, :], mask=there, other=0.0)
        s = tl.sum(w * x[None, :], 1)
        new = tl.maximum(largest, tl.max(s, 0))
        total = total * tl.exp(largest - new) + tl.sum(tl.exp(s - new), 0)
        largest = new
    tl.store(lse + n, largest + tl.log(total))


def lens_block_unmasked(h, W, lse, vocab, d, D: "tl.constexpr", BLOCK: "tl.constexpr"):
    n, k = tl.program_id(0), tl.arange(0, D)
    x = tl.load(h + n * d + k)
    largest, total = float("-inf"), 0.0
    for first in range(0, vocab, BLOCK):
        j = first + tl.arange(0, BLOCK)
        w = tl.load(W + j[:, None] * d + k[None, :])
        s = tl.where(j < vocab, tl.sum(w * x[None, :], 1), float("-inf"))
        new = tl.maximum(largest, tl.max(s, 0))
        total = total * tl.exp(largest - new) + tl.sum(tl.exp(s - new), 0)
        largest = new
    tl.store(lse + n, largest + tl.log(total))


def lens_block_skips_the_last(h, W, lse, vocab, d, D: "tl.constexpr", BLOCK: "tl.constexpr"):
    n, k = tl.program_id(0), tl.arange(0, D)
    x = tl.load(h + n * d + k, mask=k < d, other=0.0)
    largest, total = float("-inf"), 0.0
    for first in range(0, vocab // BLOCK * BLOCK, BLOCK):
        j = first + tl.arange(0, BLOCK)
        there = (j < vocab)[:, None] & (k < d)[None, :]
        w = tl.load(W + j[:, None] * d + k[None, :], mask=there, other=0.0)
        s = tl.where(j < vocab, tl.sum(w * x[None, :], 1), float("-inf"))
        new = tl.maximum(largest, tl.max(s, 0))
        total = total * tl.exp(largest - new) + tl.sum(tl.exp(s - new), 0)
        largest = new
    tl.store(lse + n, largest + tl.log(total))


def lens_block_one_row(h, W, lse, vocab, d, D: "tl.constexpr", BLOCK: "tl.constexpr"):
    n, k = tl.program_id(0), tl.arange(0, D)
    x = tl.load(h + k, mask=k < d, other=0.0)
    largest, total = float("-inf"), 0.0
    for first in range(0, vocab, BLOCK):
        j = first + tl.arange(0, BLOCK)
        there = (j < vocab)[:, None] & (k < d)[None, :]
        w = tl.load(W + j[:, None] * d + k[None, :], mask=there, other=0.0)
        s = tl.where(j < vocab, tl.sum(w * x[None, :], 1), float("-inf"))
        new = tl.maximum(largest, tl.max(s, 0))
        total = total * tl.exp(largest - new) + tl.sum(tl.exp(s - new), 0)
        largest = new
    tl.store(lse + n, largest + tl.log(total))


def lens_block_padded_rows(h, W, lse, vocab, d, D: "tl.constexpr", BLOCK: "tl.constexpr"):
    n, k = tl.program_id(0), tl.arange(0, D)
    x = tl.load(h + n * D + k, mask=k < d, other=0.0)
    largest, total = float("-inf"), 0.0
    for first in range(0, vocab, BLOCK):
        j = first + tl.arange(0, BLOCK)
        there = (j < vocab)[:, None] & (k < d)[None, :]
        w = tl.load(W + j[:, None] * D + k[None, :], mask=there, other=0.0)
        s = tl.where(j < vocab, tl.sum(w * x[None, :], 1), float("-inf"))
        new = tl.maximum(largest, tl.max(s, 0))
        total = total * tl.exp(largest - new) + tl.sum(tl.exp(s - new), 0)
        largest = new
    tl.store(lse + n, largest + tl.log(total))


BLOCKS = (
    Mistake(
        "the padding counted as logits of zero",
        lens_block_counts_the_padding,
        "a row that is not there was loaded as zeros, and exp(0) is 1; which logit weighs nothing?",
    ),
    Mistake(
        "the loads without masks",
        lens_block_unmasked,
        "D and BLOCK are rounded up: what lies behind the last coordinate and the last token?",
    ),
    Mistake(
        "the last block left out",
        lens_block_skips_the_last,
        "vocab need not be a multiple of BLOCK; the last block is a shorter one",
    ),
    Mistake(
        "the first row for every program",
        lens_block_one_row,
        "which row is that of program n, and where does it begin?",
    ),
    Mistake(
        "the rows as wide as D", lens_block_padded_rows, "D is what a program loads; in memory a row has d entries"
    ),
)
