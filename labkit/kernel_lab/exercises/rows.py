"""Two puzzles on the softmax of rows: one that fits into a block, and one of any length."""

from typing import Any

import torch

import kernels
from labkit.course import Exercise, Mistake, call
from labkit.kernel_lab.metered import metered, unwritten

tl: Any = kernels.need()[1] if kernels.WHERE != "nowhere" else None


def softmax(x, out, m, BLOCK: "tl.constexpr"):
    col = tl.arange(0, BLOCK)
    row = tl.program_id(0) * m
    values = tl.load(x + row + col, mask=col < m, other=-float("inf"))
    weights = tl.exp(values - tl.max(values, 0))
    tl.store(out + row + col, weights / tl.sum(weights, 0), mask=col < m)


def softmax_by_its_logarithm(x, out, m, BLOCK: "tl.constexpr"):
    here, inside = tl.program_id(0) * m + tl.arange(0, BLOCK), tl.arange(0, BLOCK) < m
    values = tl.load(x + here, mask=inside, other=0.0)
    top = tl.max(tl.where(inside, values, -float("inf")), 0)
    total = tl.sum(tl.where(inside, tl.exp(values - top), 0.0), 0)
    tl.store(out + here, tl.exp(values - top - tl.log(total)), mask=inside)


def softmax_without_max(x, out, m, BLOCK: "tl.constexpr"):
    col = tl.arange(0, BLOCK)
    row = tl.program_id(0) * m
    values = tl.load(x + row + col, mask=col < m, other=-float("inf"))
    weights = tl.exp(values)
    tl.store(out + row + col, weights / tl.sum(weights, 0), mask=col < m)


def softmax_as_it_is_written(x, out, m, BLOCK: "tl.constexpr"):
    col = tl.arange(0, BLOCK)
    row = tl.program_id(0) * m
    weights = tl.exp(tl.load(x + row + col, mask=col < m))
    tl.store(out + row + col, weights / tl.sum(weights, 0), mask=col < m)


def softmax_of_padding(x, out, m, BLOCK: "tl.constexpr"):
    col = tl.arange(0, BLOCK)
    row = tl.program_id(0) * m
    values = tl.load(x + row + col, mask=col < m, other=0.0)
    weights = tl.exp(values - tl.max(values, 0))
    tl.store(out + row + col, weights / tl.sum(weights, 0), mask=col < m)


def softmax_unmasked(x, out, m, BLOCK: "tl.constexpr"):
    col = tl.arange(0, BLOCK)
    row = tl.program_id(0) * m
    values = tl.load(x + row + col)
    weights = tl.exp(values - tl.max(values, 0))
    tl.store(out + row + col, weights / tl.sum(weights, 0))


def softmax_undivided(x, out, m, BLOCK: "tl.constexpr"):
    col = tl.arange(0, BLOCK)
    row = tl.program_id(0) * m
    values = tl.load(x + row + col, mask=col < m, other=-float("inf"))
    tl.store(out + row + col, tl.exp(values - tl.max(values, 0)), mask=col < m)


def softmax_reads_thrice(x, out, m, BLOCK: "tl.constexpr"):
    col = tl.arange(0, BLOCK)
    row = tl.program_id(0) * m
    top = tl.max(tl.load(x + row + col, mask=col < m, other=-float("inf")), 0)
    total = tl.sum(tl.exp(tl.load(x + row + col, mask=col < m, other=-float("inf")) - top), 0)
    weights = tl.exp(tl.load(x + row + col, mask=col < m, other=-float("inf")) - top)
    tl.store(out + row + col, weights / total, mask=col < m)


def softmax_divides_in_memory(x, out, m, BLOCK: "tl.constexpr"):
    col = tl.arange(0, BLOCK)
    row = tl.program_id(0) * m
    values = tl.load(x + row + col, mask=col < m, other=-float("inf"))
    weights = tl.exp(values - tl.max(values, 0))
    tl.store(out + row + col, weights, mask=col < m)
    tl.store(out + row + col, tl.load(out + row + col, mask=col < m) / tl.sum(weights, 0), mask=col < m)


def launch_softmax(kernel, x, BLOCK):
    (n, m), out = x.shape, unwritten(x, *x.shape)
    kernel[(n,)](x, out, m, BLOCK=BLOCK)
    return {"out": out}


def scores(g, n, m):
    """Large scores, of both signs: exp overflows on the first row and gives nothing but 0 on the last."""
    return 3 * torch.randn(n, m, generator=g) + torch.linspace(200, -200, n)[:, None]


def softmax_probes(seed):
    g = torch.Generator().manual_seed(seed)
    shapes = [(2, 3, 4), (3, 8, 8), (3, 11, 16)]
    return [call(scores(g, n, m), BLOCK=block) for n, m, block in shapes]


SOFTMAX = Exercise(
    id="kernel_lab.softmax",
    reference=softmax,
    through=metered(launch_softmax, lambda x, BLOCK: (x.numel(), x.numel())),
    alternatives=[softmax_by_its_logarithm],
    probes=softmax_probes,
    mistakes=[
        Mistake(
            "the exponential that overflows",
            softmax_without_max,
            "exp(89) is infinite in float32; subtracting the row's maximum first changes nothing but that",
        ),
        Mistake(
            "the formula as it is written",
            softmax_as_it_is_written,
            "two things at once: exp(89) is infinite in float32, so subtract the row's maximum first; and lanes past the row hold 0 and add exp(0) to the sum, so load them as −∞",
        ),
        Mistake(
            "the padding that takes part",
            softmax_of_padding,
            "lanes past the row must add nothing: which `other` has exp 0 and is never the maximum?",
        ),
        Mistake(
            "the row taken to be as long as the block",
            softmax_unmasked,
            "a block has BLOCK lanes and a row only m entries: mask=col < m",
        ),
        Mistake(
            "the softmax that does not sum to one", softmax_undivided, "divide by the sum of the row's exponentials"
        ),
        Mistake(
            "the kernel that reads x three times",
            softmax_reads_thrice,
            "the values of the first load are still in registers: use them for the sum and for the result too",
        ),
        Mistake(
            "the division done in memory",
            softmax_divides_in_memory,
            "divide in registers, and store what is finished",
        ),
    ],
    hints=[
        "A row fits into one block. Once it is loaded, what more has to be read from memory?",
        "out_j = exp(x_j − max x) / Σ_i exp(x_i − max x),  and a lane past the row holds −∞: exp(−∞) = 0",
        'load the row with mask=col < m, other=-float("inf"); subtract tl.max(values, 0); tl.exp; divide by tl.sum(weights, 0); store with the same mask',
    ],
    minutes=12,
    difficulty=2,
    lines=5,
)


def online_softmax(x, out, m, BLOCK: "tl.constexpr"):
    row = tl.program_id(0) * m
    top, total = -float("inf"), 0.0
    for start in range(0, m, BLOCK):
        col = start + tl.arange(0, BLOCK)
        values = tl.load(x + row + col, mask=col < m, other=-float("inf"))
        higher = tl.maximum(top, tl.max(values, 0))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(values - higher), 0)
        top = higher
    for start in range(0, m, BLOCK):
        col = start + tl.arange(0, BLOCK)
        values = tl.load(x + row + col, mask=col < m)
        tl.store(out + row + col, tl.exp(values - top) / total, mask=col < m)


def online_softmax_a_lane_each(x, out, m, BLOCK: "tl.constexpr"):
    row = tl.program_id(0) * m
    lane = tl.arange(0, BLOCK)
    top = tl.load(x + row + lane, mask=lane < m, other=-float("inf"))
    total = tl.where(lane < m, 1.0, 0.0)
    for start in range(BLOCK, m, BLOCK):
        col = start + lane
        values = tl.load(x + row + col, mask=col < m, other=-float("inf"))
        higher = tl.maximum(top, values)
        total = total * tl.exp(top - higher) + tl.exp(values - higher)
        top = higher
    highest = tl.max(top, 0)
    whole = tl.sum(total * tl.exp(top - highest), 0)
    for start in range(0, m, BLOCK):
        col = start + lane
        values = tl.load(x + row + col, mask=col < m)
        tl.store(out + row + col, tl.exp(values - highest) / whole, mask=col < m)


def online_softmax_not_rescaled(x, out, m, BLOCK: "tl.constexpr"):
    row = tl.program_id(0) * m
    top, total = -float("inf"), 0.0
    for start in range(0, m, BLOCK):
        col = start + tl.arange(0, BLOCK)
        values = tl.load(x + row + col, mask=col < m, other=-float("inf"))
        top = tl.maximum(top, tl.max(values, 0))
        total += tl.sum(tl.exp(values - top), 0)
    for start in range(0, m, BLOCK):
        col = start + tl.arange(0, BLOCK)
        values = tl.load(x + row + col, mask=col < m)
        tl.store(out + row + col, tl.exp(values - top) / total, mask=col < m)


def online_softmax_by_the_last_block(x, out, m, BLOCK: "tl.constexpr"):
    row = tl.program_id(0) * m
    top, total = -float("inf"), 0.0
    for start in range(0, m, BLOCK):
        col = start + tl.arange(0, BLOCK)
        values = tl.load(x + row + col, mask=col < m, other=-float("inf"))
        top = tl.max(values, 0)
        total = tl.sum(tl.exp(values - top), 0)
    for start in range(0, m, BLOCK):
        col = start + tl.arange(0, BLOCK)
        values = tl.load(x + row + col, mask=col < m)
        tl.store(out + row + col, tl.exp(values - top) / total, mask=col < m)


def online_softmax_of_each_block(x, out, m, BLOCK: "tl.constexpr"):
    row = tl.program_id(0) * m
    for start in range(0, m, BLOCK):
        col = start + tl.arange(0, BLOCK)
        values = tl.load(x + row + col, mask=col < m, other=-float("inf"))
        weights = tl.exp(values - tl.max(values, 0))
        tl.store(out + row + col, weights / tl.sum(weights, 0), mask=col < m)


def online_softmax_first_block_only(x, out, m, BLOCK: "tl.constexpr"):
    row = tl.program_id(0) * m
    col = tl.arange(0, BLOCK)
    values = tl.load(x + row + col, mask=col < m, other=-float("inf"))
    weights = tl.exp(values - tl.max(values, 0))
    tl.store(out + row + col, weights / tl.sum(weights, 0), mask=col < m)


def online_softmax_in_three_passes(x, out, m, BLOCK: "tl.constexpr"):
    row = tl.program_id(0) * m
    top, total = -float("inf"), 0.0
    for start in range(0, m, BLOCK):
        col = start + tl.arange(0, BLOCK)
        top = tl.maximum(top, tl.max(tl.load(x + row + col, mask=col < m, other=-float("inf")), 0))
    for start in range(0, m, BLOCK):
        col = start + tl.arange(0, BLOCK)
        total += tl.sum(tl.exp(tl.load(x + row + col, mask=col < m, other=-float("inf")) - top), 0)
    for start in range(0, m, BLOCK):
        col = start + tl.arange(0, BLOCK)
        values = tl.load(x + row + col, mask=col < m)
        tl.store(out + row + col, tl.exp(values - top) / total, mask=col < m)


def online_softmax_probes(seed):
    g = torch.Generator().manual_seed(seed)
    shapes = [(2, 7, 4), (1, 8, 8), (2, 11, 4)]
    drawn = [(scores(g, n, m), block) for n, m, block in shapes]
    for x, _ in drawn:
        x[:, 0] -= 10.0  # the maximum is not in the first place
        x[:, -1] += 4.0
    return [call(x, BLOCK=block) for x, block in drawn]


ONLINE_SOFTMAX = Exercise(
    id="kernel_lab.online_softmax",
    reference=online_softmax,
    through=metered(launch_softmax, lambda x, BLOCK: (2 * x.numel(), x.numel())),
    alternatives=[online_softmax_a_lane_each],
    probes=online_softmax_probes,
    mistakes=[
        Mistake(
            "the sum that is not rescaled",
            online_softmax_not_rescaled,
            "when the maximum rises from top to higher, what was summed so far shrinks by exp(top − higher)",
        ),
        Mistake(
            "the last block taken for the whole row",
            online_softmax_by_the_last_block,
            "maximum and sum go on from block to block: tl.maximum(top, …), and the old sum is part of the new one",
        ),
        Mistake(
            "the softmax of each block by itself",
            online_softmax_of_each_block,
            "all entries of a row share one maximum and one sum, so nothing can be stored before the row has ended",
        ),
        Mistake(
            "the first block alone",
            online_softmax_first_block_only,
            "a row is longer than a block: for start in range(0, m, BLOCK)",
        ),
        Mistake(
            "the kernel that takes three passes",
            online_softmax_in_three_passes,
            "maximum and sum can be found in the same pass, if the sum is corrected whenever the maximum rises",
        ),
    ],
    hints=[
        "You know the sum of exp(x − top) over the blocks so far, and the next block holds something larger than top. By which factor is the sum too large now?",
        "higher = max(top, max of the block);  total ← total · exp(top − higher) + Σ exp(x − higher);  then out = exp(x − top) / total",
        "top = −inf, total = 0; for each block: load with other=−inf, higher, rescale and add, top = higher; for each block again: load, store exp(x − top) / total",
    ],
    minutes=20,
    difficulty=3,
    lines=12,
)
