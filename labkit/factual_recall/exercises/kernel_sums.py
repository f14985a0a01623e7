"""How the sum over the vocabulary goes wrong in the exercise on the kernel: its maximum, rescaling and logarithm."""

from typing import Any

import kernels
from labkit.course import Mistake

tl: Any = kernels.need()[1] if kernels.WHERE != "nowhere" else None


def lens_block_without_maximum(h, W, lse, vocab, d, D: "tl.constexpr", BLOCK: "tl.constexpr"):
    n, k = tl.program_id(0), tl.arange(0, D)
    x = tl.load(h + n * d + k, mask=k < d, other=0.0)
    total = 0.0
    for first in range(0, vocab, BLOCK):
        j = first + tl.arange(0, BLOCK)
        there = (j < vocab)[:, None] & (k < d)[None, :]
        w = tl.load(W + j[:, None] * d + k[None, :], mask=there, other=0.0)
        s = tl.where(j < vocab, tl.sum(w * x[None, :], 1), float("-inf"))
        total += tl.sum(tl.exp(s), 0)
    tl.store(lse + n, tl.log(total))


def lens_block_without_rescaling(h, W, lse, vocab, d, D: "tl.constexpr", BLOCK: "tl.constexpr"):
    n, k = tl.program_id(0), tl.arange(0, D)
    x = tl.load(h + n * d + k, mask=k < d, other=0.0)
    largest, total = float("-inf"), 0.0
    for first in range(0, vocab, BLOCK):
        j = first + tl.arange(0, BLOCK)
        there = (j < vocab)[:, None] & (k < d)[None, :]
        w = tl.load(W + j[:, None] * d + k[None, :], mask=there, other=0.0)
        s = tl.where(j < vocab, tl.sum(w * x[None, :], 1), float("-inf"))
        new = tl.maximum(largest, tl.max(s, 0))
        total += tl.sum(tl.exp(s - new), 0)
        largest = new
    tl.store(lse + n, largest + tl.log(total))


def lens_block_maximum_of_the_block(h, W, lse, vocab, d, D: "tl.constexpr", BLOCK: "tl.constexpr"):
    n, k = tl.program_id(0), tl.arange(0, D)
    x = tl.load(h + n * d + k, mask=k < d, other=0.0)
    largest, total = float("-inf"), 0.0
    for first in range(0, vocab, BLOCK):
        j = first + tl.arange(0, BLOCK)
        there = (j < vocab)[:, None] & (k < d)[None, :]
        w = tl.load(W + j[:, None] * d + k[None, :], mask=there, other=0.0)
        s = tl.where(j < vocab, tl.sum(w * x[None, :], 1), float("-inf"))
        new = tl.max(s, 0)
        total += tl.sum(tl.exp(s - new), 0)
        largest = new
    tl.store(lse + n, largest + tl.log(total))


def lens_block_from_the_old_maximum(h, W, lse, vocab, d, D: "tl.constexpr", BLOCK: "tl.constexpr"):
    n, k = tl.program_id(0), tl.arange(0, D)
    x = tl.load(h + n * d + k, mask=k < d, other=0.0)
    largest, total = float("-inf"), 0.0
    for first in range(0, vocab, BLOCK):
        j = first + tl.arange(0, BLOCK)
        there = (j < vocab)[:, None] & (k < d)[None, :]
        w = tl.load(W + j[:, None] * d + k[None, :], mask=there, other=0.0)
        s = tl.where(j < vocab, tl.sum(w * x[None, :], 1), float("-inf"))
        new = tl.maximum(largest, tl.max(s, 0))
        total = (total + tl.sum(tl.exp(s - largest), 0)) * tl.exp(largest - new)
        largest = new
    tl.store(lse + n, largest + tl.log(total))


def lens_block_largest_left_out(h, W, lse, vocab, d, D: "tl.constexpr", BLOCK: "tl.constexpr"):
    n, k = tl.program_id(0), tl.arange(0, D)
    x = tl.load(h + n * d + k, mask=k < d, other=0.0)
    largest, total = float("-inf"), 0.0
    for first in range(0, vocab, BLOCK):
        j = first + tl.arange(0, BLOCK)
        there = (j < vocab)[:, None] & (k < d)[None, :]
        w = tl.load(W + j[:, None] * d + k[None, :], mask=there, other=0.0)
        s = tl.where(j < vocab, tl.sum(w * x[None, :], 1), float("-inf"))
        new = tl.maximum(largest, tl.max(s, 0))
        total = total * tl.exp(largest - new) + tl.sum(tl.exp(s - new), 0)
        largest = new
    tl.store(lse + n, tl.log(total))


def lens_block_from_zero(h, W, lse, vocab, d, D: "tl.constexpr", BLOCK: "tl.constexpr"):
    n, k = tl.program_id(0), tl.arange(0, D)
    x = tl.load(h + n * d + k, mask=k < d, other=0.0)
    largest, total = 0.0, 0.0
    for first in range(0, vocab, BLOCK):
        j = first + tl.arange(0, BLOCK)
        there = (j < vocab)[:, None] & (k < d)[None, :]
        w = tl.load(W + j[:, None] * d + k[None, :], mask=there, other=0.0)
        s = tl.where(j < vocab, tl.sum(w * x[None, :], 1), float("-inf"))
        new = tl.maximum(largest, tl.max(s, 0))
        total = total * tl.exp(largest - new) + tl.sum(tl.exp(s - new), 0)
        largest = new
    tl.store(lse + n, largest + tl.log(total))


SUMS = (
    Mistake(
        "the sum without a maximum",
        lens_block_without_maximum,
        "exp(1000) is more than a float can hold, and exp(−1000) is 0; what can be taken out of all exponents?",
    ),
    Mistake(
        "the sum that is never rescaled",
        lens_block_without_rescaling,
        "the terms of the blocks before were measured from a smaller maximum; what are they, measured from the new one, and do you still have the old one when you rescale?",
    ),
    Mistake(
        "the maximum of each block alone",
        lens_block_maximum_of_the_block,
        "all terms of one sum are measured from one maximum, the largest so far",
    ),
    Mistake(
        "the start at −∞ that ends as no number",
        lens_block_from_the_old_maximum,
        "at the first block the old maximum is −∞: a term measured from it is ∞, and 0 · ∞ is no number; from which maximum are new terms measured, and by what is the sum rescaled?",
    ),
    Mistake(
        "the logarithm without the maximum",
        lens_block_largest_left_out,
        "every term was made smaller by exp(largest); how does that come back?",
    ),
    Mistake(
        "the maximum that starts at zero",
        lens_block_from_zero,
        "if all logits lie far below zero, exp(s − 0) is 0 for all of them; from where must a maximum start?",
    ),
)
