"""The exercise on the kernel: a replay that reads what each unit decided from two bits, in Triton."""

from typing import Any

import torch

import kernels
from labkit.course import Exercise, Mistake, call, launched

tl: Any = kernels.need()[1] if kernels.WHERE != "nowhere" else None


def replay_gates(u, pieces, y, n, below, high, BLOCK: "tl.constexpr"):
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    U = tl.load(u + e, mask=e < n, other=0.0)
    word = tl.load(pieces + e // 16, mask=e < n, other=0)
    code = (word >> 2 * (e % 16)) & 3
    V = tl.where(code == 0, below * U, tl.where(code == 1, U, high))
    tl.store(y + e, V, mask=e < n)


def replay_by_pointers(u, pieces, y, n, below, high, BLOCK: "tl.constexpr"):
    first = tl.program_id(0) * BLOCK
    lane = tl.arange(0, BLOCK)
    there = first + lane < n
    U = tl.load(u + first + lane, mask=there)
    code = tl.load(pieces + (first + lane) // 16, mask=there) >> (first + lane) % 16 * 2
    slope = tl.where((code & 3) == 1, 1.0, below)
    tl.store(y + first + lane, tl.where((code & 2) == 2, high, slope * U), mask=there)


def replay_one_bit(u, pieces, y, n, below, high, BLOCK: "tl.constexpr"):
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    U = tl.load(u + e, mask=e < n, other=0.0)
    word = tl.load(pieces + e // 16, mask=e < n, other=0)
    code = (word >> (e % 16)) & 3
    V = tl.where(code == 0, below * U, tl.where(code == 1, U, high))
    tl.store(y + e, V, mask=e < n)


def replay_from_the_top(u, pieces, y, n, below, high, BLOCK: "tl.constexpr"):
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    U = tl.load(u + e, mask=e < n, other=0.0)
    word = tl.load(pieces + e // 16, mask=e < n, other=0)
    code = (word >> (30 - 2 * (e % 16))) & 3
    V = tl.where(code == 0, below * U, tl.where(code == 1, U, high))
    tl.store(y + e, V, mask=e < n)


def replay_with_neighbours(u, pieces, y, n, below, high, BLOCK: "tl.constexpr"):
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    U = tl.load(u + e, mask=e < n, other=0.0)
    word = tl.load(pieces + e // 16, mask=e < n, other=0)
    code = word >> 2 * (e % 16)
    V = tl.where(code == 0, below * U, tl.where(code == 1, U, high))
    tl.store(y + e, V, mask=e < n)


def replay_other_words(u, pieces, y, n, below, high, BLOCK: "tl.constexpr"):
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    U = tl.load(u + e, mask=e < n, other=0.0)
    word = tl.load(pieces + e // 32, mask=e < n, other=0)
    code = (word >> 2 * (e % 16)) & 3
    V = tl.where(code == 0, below * U, tl.where(code == 1, U, high))
    tl.store(y + e, V, mask=e < n)


def replay_words_of_the_first_block(u, pieces, y, n, below, high, BLOCK: "tl.constexpr"):
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    U = tl.load(u + e, mask=e < n, other=0.0)
    word = tl.load(pieces + tl.arange(0, BLOCK) // 16, mask=e < n, other=0)
    code = (word >> 2 * (e % 16)) & 3
    V = tl.where(code == 0, below * U, tl.where(code == 1, U, high))
    tl.store(y + e, V, mask=e < n)


def replay_decides_anew(u, pieces, y, n, below, high, BLOCK: "tl.constexpr"):
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    U = tl.load(u + e, mask=e < n, other=0.0)
    V = tl.where(U <= 0.0, below * U, tl.minimum(U, high))
    tl.store(y + e, V, mask=e < n)


def replay_open_above(u, pieces, y, n, below, high, BLOCK: "tl.constexpr"):
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    U = tl.load(u + e, mask=e < n, other=0.0)
    word = tl.load(pieces + e // 16, mask=e < n, other=0)
    code = (word >> 2 * (e % 16)) & 3
    V = tl.where(code == 0, below * U, U)
    tl.store(y + e, V, mask=e < n)


def replay_dead_above(u, pieces, y, n, below, high, BLOCK: "tl.constexpr"):
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    U = tl.load(u + e, mask=e < n, other=0.0)
    word = tl.load(pieces + e // 16, mask=e < n, other=0)
    code = (word >> 2 * (e % 16)) & 3
    V = tl.where(code == 0, below * U, tl.where(code == 1, U, 0.0))
    tl.store(y + e, V, mask=e < n)


def replay_dead_below(u, pieces, y, n, below, high, BLOCK: "tl.constexpr"):
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    U = tl.load(u + e, mask=e < n, other=0.0)
    word = tl.load(pieces + e // 16, mask=e < n, other=0)
    code = (word >> 2 * (e % 16)) & 3
    V = tl.where(code == 0, 0.0, tl.where(code == 1, U, high))
    tl.store(y + e, V, mask=e < n)


def replay_constant_below(u, pieces, y, n, below, high, BLOCK: "tl.constexpr"):
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    U = tl.load(u + e, mask=e < n, other=0.0)
    word = tl.load(pieces + e // 16, mask=e < n, other=0)
    code = (word >> 2 * (e % 16)) & 3
    V = tl.where(code == 0, below, tl.where(code == 1, U, high))
    tl.store(y + e, V, mask=e < n)


def replay_codes_shifted_by_one(u, pieces, y, n, below, high, BLOCK: "tl.constexpr"):
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    U = tl.load(u + e, mask=e < n, other=0.0)
    word = tl.load(pieces + e // 16, mask=e < n, other=0)
    code = (word >> 2 * (e % 16)) & 3
    V = tl.where(code == 1, below * U, tl.where(code == 2, U, high))
    tl.store(y + e, V, mask=e < n)


def replay_codes_reversed(u, pieces, y, n, below, high, BLOCK: "tl.constexpr"):
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    U = tl.load(u + e, mask=e < n, other=0.0)
    word = tl.load(pieces + e // 16, mask=e < n, other=0)
    code = (word >> 2 * (e % 16)) & 3
    V = tl.where(code == 2, below * U, tl.where(code == 1, U, high))
    tl.store(y + e, V, mask=e < n)


def replay_first_block(u, pieces, y, n, below, high, BLOCK: "tl.constexpr"):
    e = tl.arange(0, BLOCK)
    U = tl.load(u + e, mask=e < n, other=0.0)
    word = tl.load(pieces + e // 16, mask=e < n, other=0)
    code = (word >> 2 * (e % 16)) & 3
    V = tl.where(code == 0, below * U, tl.where(code == 1, U, high))
    tl.store(y + e, V, mask=e < n)


def replay_unmasked(u, pieces, y, n, below, high, BLOCK: "tl.constexpr"):
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    U = tl.load(u + e)
    word = tl.load(pieces + e // 16)
    code = (word >> 2 * (e % 16)) & 3
    V = tl.where(code == 0, below * U, tl.where(code == 1, U, high))
    tl.store(y + e, V)


def launch_replay(kernel, u, pieces, below, high, BLOCK):
    n = len(u)
    # Behind each tensor is memory that belongs to none, so that what leaves it is always seen.
    inside, y = (u.new_full((n + BLOCK,), torch.nan)[:n] for _ in range(2))
    words = pieces.new_full((len(pieces) + BLOCK,), -1)[: len(pieces)]
    inside.copy_(u)
    words.copy_(pieces)
    kernel[(-(-n // BLOCK),)](inside, words, y, n, below, high, BLOCK)
    u.copy_(inside)  # a kernel that writes into what it was given is seen too
    pieces.copy_(words)
    return y.clone()


def packed(codes):
    """(n) codes 0, 1, 2 -> int32 words of sixteen, the first in the lowest two bits."""
    places = torch.zeros(-(-len(codes) // 16) * 16, dtype=torch.int64)
    places[: len(codes)] = codes
    words = (places.view(-1, 16) << 2 * torch.arange(16)).sum(1)
    return torch.where(words < 2**31, words, words - 2**32).to(torch.int32)


def replay_probes(seed):
    g = torch.Generator().manual_seed(seed)
    drawn = []
    for n, below, high, BLOCK in [(19, 0.5, 2.0, 32), (64, -0.25, 3.0, 32), (48, 0.1, 1.5, 128), (101, 0.3, 6.0, 32)]:
        u, codes = 2 * torch.randn(n, generator=g), torch.randint(3, (n,), generator=g)
        drawn.append(call(u, packed(codes), below=below, high=high, BLOCK=BLOCK))
    return drawn


REPLAY_GATES = Exercise(
    id="linear_interpreters.replay_gates",
    reference=replay_gates,
    through=launched(launch_replay),
    alternatives=[replay_by_pointers],
    probes=replay_probes,
    mistakes=[
        Mistake(
            "the codes of one bit",
            replay_one_bit,
            "a code has two bits, so where in its word does the code of element e begin?",
        ),
        Mistake(
            "the codes counted from the top", replay_from_the_top, "the first element of a word has its lowest two bits"
        ),
        Mistake(
            "the code with its neighbours still above it",
            replay_with_neighbours,
            "after the shift the codes of the elements behind e are still in the word; keep two bits",
        ),
        Mistake(
            "the word of another element", replay_other_words, "how many codes of two bits does a word of 32 bits hold?"
        ),
        Mistake(
            "the first block's decisions for every block",
            replay_words_of_the_first_block,
            "the words are counted from the start of the tensor, as the elements are",
        ),
        Mistake(
            "the replay that decides anew",
            replay_decides_anew,
            "this is the unit itself: which of its three pieces an element is on was decided at another input, and lies in `pieces`",
        ),
        Mistake(
            "the saturated unit that lets u pass",
            replay_open_above,
            "above its high corner a unit no longer depends on u; what does it say?",
        ),
        Mistake("the saturated unit without its ceiling", replay_dead_above, "its slope is 0, but it has an offset"),
        Mistake(
            "the unit that is closed below", replay_dead_below, "a leaky unit has a slope under its low corner too"
        ),
        Mistake(
            "the slope taken for a height",
            replay_constant_below,
            "under the low corner the unit is a line with the slope `below`, and no constant",
        ),
        Mistake(
            "the codes counted from one",
            replay_codes_shifted_by_one,
            "0 is under the low corner, 1 between the corners, 2 above",
        ),
        Mistake("the unit upside down", replay_codes_reversed, "0 is under the low corner, 2 above the high one"),
        Mistake(
            "the first block done by every program",
            replay_first_block,
            "what tells a program which elements are its own? tl.program_id(0)",
        ),
        Mistake(
            "the last block taken to be full",
            replay_unmasked,
            "n may end within a block, so every load and store wants mask=e < n",
        ),
    ],
    hints=[
        "Program i owns the elements from i · BLOCK on. In which word, and at which bit of it, is the code of element e?",
        "code = (pieces[e div 16] >> 2 (e mod 16)) & 3;  y = below · u for 0, u for 1, high for 2",
        "e = program · BLOCK + arange; load u at e and pieces at e // 16 with mask=e < n; shift the word right by 2 (e % 16), & 3; tl.where twice; store at y + e with the mask",
    ],
    minutes=15,
    difficulty=4,
    lines=6,
)
