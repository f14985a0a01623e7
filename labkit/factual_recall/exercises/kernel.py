"""The exercise on the kernel: the lens's log-sum-exp over a vocabulary whose logits are never stored, in Triton."""

from typing import Any

import torch

import kernels
from labkit.course import Exercise, call, launched

from .kernel_blocks import BLOCKS
from .kernel_sums import SUMS

tl: Any = kernels.need()[1] if kernels.WHERE != "nowhere" else None


def lens_block(h, W, lse, vocab, d, D: "tl.constexpr", BLOCK: "tl.constexpr"):
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
    tl.store(lse + n, largest + tl.log(total))


def lens_block_first_block_apart(h, W, lse, vocab, d, D: "tl.constexpr", BLOCK: "tl.constexpr"):
    n, k = tl.program_id(0), tl.arange(0, D)[None, :]
    x = tl.load(h + n * d + k, mask=k < d, other=0.0)
    j = tl.arange(0, BLOCK)
    w = tl.load(W + j[:, None] * d + k, mask=(j[:, None] < vocab) & (k < d), other=0.0)
    s = tl.where(j < vocab, tl.sum(w * x, 1), float("-inf"))
    largest = tl.max(s, 0)
    total = tl.sum(tl.exp(s - largest), 0)
    for first in range(BLOCK, vocab, BLOCK):
        w = tl.load(W + (first + j)[:, None] * d + k, mask=((first + j)[:, None] < vocab) & (k < d), other=0.0)
        s = tl.where(first + j < vocab, tl.sum(w * x, 1), float("-inf"))
        best = tl.max(s, 0)
        more = tl.sum(tl.exp(s - best), 0)
        new = tl.maximum(largest, best)
        total = tl.exp(largest - new) * total + tl.exp(best - new) * more
        largest = new
    tl.store(lse + n, tl.log(total) + largest)


def lens_block_two_passes(h, W, lse, vocab, d, D: "tl.constexpr", BLOCK: "tl.constexpr"):
    n, k = tl.program_id(0), tl.arange(0, D)[None, :]
    x = tl.load(h + n * d + k, mask=k < d, other=0.0)
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    for first in range(0, vocab, BLOCK):
        j = first + tl.arange(0, BLOCK)
        w = tl.load(W + j[:, None] * d + k, mask=(j[:, None] < vocab) & (k < d), other=0.0)
        best = tl.maximum(best, tl.where(j < vocab, tl.sum(w * x, 1), float("-inf")))
    largest, total = tl.max(best, 0), tl.zeros([BLOCK], tl.float32)
    for first in range(0, vocab, BLOCK):
        j = first + tl.arange(0, BLOCK)
        w = tl.load(W + j[:, None] * d + k, mask=(j[:, None] < vocab) & (k < d), other=0.0)
        total += tl.where(j < vocab, tl.exp(tl.sum(w * x, 1) - largest), 0.0)
    tl.store(lse + n, largest + tl.log(tl.sum(total, 0)))


def launch_lens(kernel, h, W, D, BLOCK):
    (n, d), vocab = h.shape, len(W)
    # Behind each tensor is memory that belongs to none, so that what leaves it is always seen.
    inside_h, inside_W, lse = (behind(x, (BLOCK + n) * D) for x in (h, W, h.new_full((n,), torch.nan)))
    kernel[(n,)](inside_h, inside_W, lse, vocab, d, D, BLOCK)
    h.copy_(inside_h)  # a kernel that writes into what it was given is seen too
    W.copy_(inside_W)
    return lse.clone()


def behind(x, more):
    """A copy of x with `more` entries behind it that are not numbers."""
    room = x.new_full((x.numel() + more,), torch.nan)
    return room[: x.numel()].view(x.shape).copy_(x)


def lens_block_probes(seed):
    g = torch.Generator().manual_seed(seed)
    drawn = []
    for n, d, vocab, D, BLOCK, low, high in [
        (1, 5, 1, 8, 4, -1, 1), (2, 8, 5, 8, 4, -1, 1), (2, 5, 8, 8, 4, -2, 2),
        (2, 6, 11, 8, 4, -1000, 1000), (2, 7, 6, 8, 4, -1003, -1000),
    ]:  # fmt: skip
        h, W = 0.5 * torch.randn(n, d, generator=g), torch.randn(vocab, d, generator=g)
        logits = low + (high - low) * torch.rand(vocab, generator=g)
        logits = logits.roll(BLOCK - int(logits.argmax()))  # the largest is in the second block
        h[:, 0], W[:, 0] = 1, logits  # and the other coordinates add a little
        drawn.append(call(h, W, D=D, BLOCK=BLOCK))
    return drawn


LENS_BLOCK = Exercise(
    id="factual_recall.lens_block",
    reference=lens_block,
    through=launched(launch_lens),
    alternatives=[lens_block_first_block_apart, lens_block_two_passes],
    probes=lens_block_probes,
    mistakes=[*SUMS, *BLOCKS],
    hints=[
        "Once a larger logit turns up, all terms summed so far were measured from the wrong maximum. By what factor are they all too large?",
        "M' = max(M, max_j s_j);  l' = l e^(M − M') + Σ_j e^(s_j − M');  lse = M + log l, from M = −∞ and l = 0",
        "load row n of h once; for each block: its rows of W, with masks; s = the sums of w x, −inf where there is no token; the new maximum; the sum rescaled plus the new terms; after the loop store the maximum plus the log of the sum",
    ],
    minutes=25,
    difficulty=5,
    lines=12,
)
